"""Memory layouts and sizes that the ops accept, and the errors for what they do not."""

from __future__ import annotations

import pytest
import torch

from ivan_fast import ops

CLAMP = 0.8


def slice_of_channels(t):
    """The same values as a slice of the channels of a bigger tensor: a batch stride of its own."""
    return torch.cat([torch.full_like(t, 7.0), t, torch.full_like(t[:, :1], 9.0)], 1)[:, t.shape[1] : -1]


def odd_offset(t):
    """The same values, starting one element into their storage: no 16-byte alignment."""
    storage = torch.empty(t.numel() + 1, dtype=t.dtype, device=t.device)
    return storage[1:].view(t.shape).copy_(t)


def channels_last(t):
    return t.to(memory_format=torch.channels_last)


def every_other_column(t):
    return torch.stack([t, torch.zeros_like(t)], -1).flatten(-2)[..., ::2]


@pytest.mark.parametrize("layout", [slice_of_channels, odd_offset, channels_last, every_other_column])
@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (2, 3, 5, 7)])
def test_layout_does_not_matter(case, device, layout, shape):
    tensors = case.inputs(shape, device=device)
    expected = case.op(*tensors)
    for position, t in enumerate(tensors):
        if t.dim() == 4:
            arranged = (*tensors[:position], layout(t), *tensors[position + 1 :])
            assert torch.equal(arranged[position], t)
            for result, value in zip(case.op(*arranged), expected, strict=True):
                assert torch.equal(result, value)
                assert result.is_contiguous()


def test_inputs_are_left_alone(case, device):
    tensors = case.inputs(device=device)
    before = [t.clone() for t in tensors]
    results = case.op(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    pointers = {t.data_ptr() for t in tensors}
    assert all(result.data_ptr() not in pointers for result in results)


def test_transposed_weight(device):
    x, weight = torch.randn(2, 3, 4, 5, device=device), torch.randn(3, 3, device=device)
    assert torch.equal(ops.channel_mix(x, weight.t()), ops.channel_mix(x, weight.t().contiguous()))


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 2, 0, 4), (2, 2, 4, 0), (0, 1, 0, 0)])
def test_empty_tensors(case, device, shape):
    tensors = case.inputs(shape, device=device)
    for result, expected in zip(case.op(*tensors), case.twin(*tensors), strict=True):
        assert result.shape == expected.shape
        assert torch.equal(result, expected)  # grad_weight is all zero


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 9), (2, 3, 2, 3, 4)])
def test_any_number_of_spatial_dimensions(case, shape):
    tensors = case.inputs(shape, torch.float64)
    flat = [t if t.shape == (3, 3) else t.reshape(2, 3, 1, -1) for t in tensors]
    if shape == (2, 3) and "weight" in case.tensors:
        flat[-1] = tensors[-1]
    for result, expected in zip(case.op(*tensors), case.op(*flat), strict=True):
        assert torch.equal(result, expected.reshape(result.shape))


def test_wrong_shape_is_named(case):
    tensors = case.inputs((2, 3, 5, 7))
    for position in range(len(tensors)):
        wrong = list(tensors)
        wrong[position] = torch.cat([wrong[position]] * 2, 1)
        with pytest.raises(RuntimeError, match=rf"^{case.name}: \w+ has shape \[.*\]"):
            case.op(*wrong)


def test_wrong_dtype_is_named(case):
    tensors = case.inputs()
    for position in range(len(tensors)):
        mixed = [t.double() if i == position else t for i, t in enumerate(tensors)]
        with pytest.raises(RuntimeError, match=rf"^{case.name}: \w+ is \w+ but \w+ is \w+"):
            case.op(*mixed)
    for dtype in (torch.bfloat16, torch.float16, torch.int32):
        with pytest.raises(RuntimeError, match=rf"^{case.name}: \w+ must be float32 or float64"):
            case.op(*(t.to(dtype) for t in tensors))


@pytest.mark.parametrize("clamp", [-0.1, float("nan"), float("inf")])
def test_wrong_clamp_is_named(clamp):
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(
        RuntimeError, match=r"affine_coupling_forward: clamp is .*, expected a finite number >= 0"
    ):
        ops.affine_coupling_forward(x, x, x, clamp)


def test_too_few_dimensions_are_named():
    x = torch.ones(4)
    with pytest.raises(RuntimeError, match=r"expected \[N, C, H, W\]"):
        ops.affine_coupling_forward(x, x, x, CLAMP)
    with pytest.raises(RuntimeError, match=r"expected \[N, C, H, W\]"):
        ops.channel_mix(x, torch.ones(4, 4))


@pytest.mark.gpu
def test_mixed_devices_are_named(case):
    tensors = case.inputs()
    for position in range(len(tensors)):
        with pytest.raises(RuntimeError, match="device"):
            case.op(*(t.cuda() if i == position else t for i, t in enumerate(tensors)))
