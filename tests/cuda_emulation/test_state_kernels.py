"""Kernels of the 1x1 convolution's weight and of the state's rounding, against the CPU's and the twins."""

from __future__ import annotations

import pytest
import torch
from test_pointwise import DTYPES, placed

from ivan_fast import ops, reference


def nans(*shape, dtype=torch.float64):
    return torch.full(shape, float("nan"), dtype=dtype)


def factors(channels, dtype):
    p = torch.eye(channels)[torch.randperm(channels)]
    square = (channels, channels)
    made = (
        p,
        torch.randn(square),
        0.3 * torch.randn(channels),
        torch.randn(channels).sign(),
        torch.randn(square),
    )
    return [t.to(dtype) for t in made]


def run_weight(emulator, channels, dtype, wide):
    tensors = factors(channels, dtype)
    weight = nans(channels, channels, dtype=torch.float64 if wide else dtype)
    inverse = nans(channels, channels)
    before = emulator.launches()
    emulator.call("plu_weight", DTYPES[dtype], channels, *tensors, int(wide), weight, inverse)
    assert emulator.launches() == before + 1
    # libm's exp is the device's here, not the CPU kernels' own: a bit of W, which the inverse magnifies
    found, expected = (weight, inverse), ops.plu_weight(*tensors, wide)
    tolerance = 3e-7 if dtype == torch.float32 else 1e-15
    assert (found[0] - expected[0]).norm() <= tolerance * channels * expected[0].norm()
    eye = torch.eye(channels, dtype=torch.float64)
    assert (weight.double() @ inverse - eye).norm() <= 1e-15 * channels * torch.linalg.cond(weight.double())
    return tensors, inverse


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 16])
def test_weight(emulator, channels, dtype):
    for wide in (False, True):
        run_weight(emulator, channels, dtype, wide)


def run_backward(emulator, channels, dtype, grad_dtype, with_weight, with_inverse):
    tensors = factors(channels, dtype)
    inverse = reference.plu_weight(*tensors)[1].contiguous() if with_inverse else None
    grad_weight = torch.randn(channels, channels, dtype=grad_dtype) if with_weight else None
    grad_inverse = torch.randn(channels, channels, dtype=torch.float64) if with_inverse else None
    found = [
        nans(channels, channels, dtype=dtype),
        nans(channels, dtype=dtype),
        nans(channels, channels, dtype=dtype),
    ]
    before = emulator.launches()
    emulator.call(
        "plu_weight_backward",
        *(DTYPES[dtype], channels, *tensors, DTYPES[grad_dtype], grad_weight, grad_inverse, inverse, *found),
    )
    assert emulator.launches() == before + 1
    doubles = [t.double() for t in tensors]
    wanted = reference.plu_weight_backward(grad_weight, grad_inverse, inverse, *doubles)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for one, other in zip(found, wanted, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= tolerance * (other.norm() + 1e-10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 5, 8, 16])
def test_weight_backward(emulator, channels, dtype):
    for grad_dtype in DTYPES:
        run_backward(emulator, channels, dtype, grad_dtype, True, False)
        run_backward(emulator, channels, dtype, grad_dtype, True, True)
    run_backward(emulator, channels, dtype, dtype, False, True)


def run_rounding(emulator, batch, inner, offset=0, gap=0, out_offset=0):
    x = torch.randn(batch, inner, dtype=torch.float64)
    steps = torch.rand(batch, dtype=torch.float64) * 1e-6 + 1e-8
    view, stride = placed(x, offset, gap)
    out = nans(out_offset + batch * inner, dtype=torch.float32)
    before = emulator.launches()
    emulator.call("round_state", batch, inner, view, stride, steps, out[out_offset:])
    assert emulator.launches() == before + (batch * inner > 0)
    assert torch.equal(out[out_offset:].reshape(x.shape), reference.round_state(x, steps))
    assert out[:out_offset].isnan().all()


def test_rounding_of_every_size_and_alignment(emulator):
    for batch, inner in ((1, 1), (1, 3), (2, 4), (3, 257), (1, 1031), (5, 64), (300, 2)):
        run_rounding(emulator, batch, inner)
    for offset in range(3):
        for gap in (0, 1, 2, 37):
            for out_offset in range(5):
                run_rounding(emulator, 2, 37, offset, gap, out_offset)
                run_rounding(emulator, 3, 40, offset, gap, out_offset)
    run_rounding(emulator, 0, 5)
    run_rounding(emulator, 3, 0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_of_threads_does_not_matter(emulator, seed):
    emulator.schedule(seed)
    run_weight(emulator, 5, torch.float32, True)
    run_backward(emulator, 5, torch.float64, torch.float64, True, True)
    run_rounding(emulator, 2, 1029, 1, 1, 1)
