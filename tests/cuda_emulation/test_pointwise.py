"""Coupling and channel mix kernels against their float64 twins: sizes, alignments, strides, thread orders."""

from __future__ import annotations

import ctypes

import pytest
import torch

from ivan_fast import reference

CLAMP = 0.8
DTYPES = {torch.float32: 0, torch.float64: 1}
OPS = ("forward", "inverse", "backward", "inverse_backward", "recompute_backward")
# Arguments of the twins, in the order of their signatures.
INPUTS = {
    "forward": ("state", "h", "g"),
    "inverse": ("state", "h", "g"),
    "backward": ("grad", "state", "h"),
    "inverse_backward": ("grad", "state", "h"),
    "recompute_backward": ("state", "h", "g", "grad"),
}
OUTPUTS = {
    "forward": ("out",),
    "inverse": ("out",),
    "backward": ("grad_state", "grad_h"),
    "inverse_backward": ("grad_state", "grad_h"),
    "recompute_backward": ("out", "grad_state", "grad_h"),
}


def placed(values, offset, gap):
    """The samples of `values`, `gap` elements apart, beginning `offset` elements after an aligned address and
    ending with the storage: one element further is another's memory. Returns a view and its batch stride."""
    batch, inner = values.shape[0], values[0].numel() if values.shape[0] else 0
    stride = inner + gap
    size = offset + max(batch - 1, 0) * stride + inner
    storage = torch.full((size,), float("nan"), dtype=values.dtype)
    for n in range(batch):
        storage[offset + n * stride : offset + n * stride + inner] = values[n].flatten()
    return storage[offset:], stride


def close(result, truth, dtype):
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(result.double(), truth, rtol=tolerance, atol=tolerance)


def run_coupling(emulator, op, dtype, batch, inner, offsets=(0, 0, 0, 0), gaps=(0, 0, 0, 0), out_offset=0):
    tensors = {name: torch.randn(batch, inner, 1, 1, dtype=dtype) for name in ("state", "h", "g", "grad")}
    tensors["h"] *= 3
    outputs = {
        name: torch.full((out_offset + batch * inner,), float("nan"), dtype=dtype) for name in OUTPUTS[op]
    }
    arguments = []
    for name, offset, gap in zip(("state", "h", "g", "grad"), offsets, gaps, strict=True):
        view, stride = placed(tensors[name], offset, gap)
        arguments += [view, stride] if name in INPUTS[op] else [None, 0]
    for name in ("out", "grad_state", "grad_h"):
        arguments.append(outputs[name][out_offset:] if name in outputs else None)
    emulator.call("affine_coupling", OPS.index(op), DTYPES[dtype], batch, inner, CLAMP, *arguments)
    twin = getattr(reference, f"affine_coupling_{op}")
    truths = twin(*(tensors[name].double() for name in INPUTS[op]), CLAMP)
    for name, truth in zip(OUTPUTS[op], truths if isinstance(truths, tuple) else (truths,), strict=True):
        close(outputs[name][out_offset:].reshape(truth.shape), truth, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_coupling_sizes(emulator, op, dtype):
    for batch, inner in ((1, 1), (1, 4), (2, 3), (3, 8), (2, 257), (1, 1031), (5, 64)):
        run_coupling(emulator, op, dtype, batch, inner)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["forward", "inverse_backward", "recompute_backward"])
def test_coupling_alignments(emulator, op, dtype):
    """Every operand begins anywhere, and samples lie any distance apart."""
    for shift in range(4):
        run_coupling(emulator, op, dtype, 2, 37, (shift,) * 4, (shift,) * 4, shift)
        run_coupling(emulator, op, dtype, 3, 40, (shift, 0, 4, 8), (4, 8, shift, 0), 0)
        run_coupling(emulator, op, dtype, 2, 37, (0, 1, 2, 3), (1, 3, shift, 2), shift)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_of_threads_does_not_matter(emulator, seed):
    emulator.schedule(seed)
    run_coupling(emulator, "recompute_backward", torch.float32, 2, 1029, (1, 0, 2, 3))
    run_mix(emulator, torch.float32, 2, 3, 1500, 1, 2)


def run_mix(emulator, dtype, batch, channels, pixels, offset=0, gap=0, out_offset=0):
    x, grad_y = (torch.randn(batch, channels, pixels, 1, dtype=dtype) for _ in range(2))
    weight = torch.randn(channels, channels, dtype=dtype)
    size = batch * channels * pixels
    y, grad_x = (torch.full((out_offset + size,), float("nan"), dtype=dtype) for _ in range(2))
    grad_weight = torch.full((channels, channels), float("nan"), dtype=dtype)
    (x_view, x_stride), (grad_view, grad_stride) = placed(x, offset, gap), placed(grad_y, offset, gap + 1)
    sizes = (DTYPES[dtype], batch, channels, pixels)
    emulator.call("channel_mix", *sizes, x_view, x_stride, weight, y[out_offset:])
    close(y[out_offset:].reshape(x.shape), reference.channel_mix(x.double(), weight.double()), dtype)
    partials = emulator.library.channel_mix_partials(*map(ctypes.c_int64, (batch, channels, pixels)))
    partial = torch.full((partials, channels, channels), float("nan"), dtype=torch.float64)
    arguments = (grad_view, grad_stride, x_view, x_stride, weight, grad_x[out_offset:], grad_weight, partial)
    emulator.call("channel_mix_backward", *sizes, *arguments)
    truths = reference.channel_mix_backward(grad_y.double(), x.double(), weight.double())
    close(grad_x[out_offset:].reshape(x.shape), truths[0], dtype)
    bound = (1e-6 if dtype == torch.float32 else 1e-14) * torch.einsum(
        "nip,njp->ij", grad_y.double().abs().flatten(2), x.double().abs().flatten(2)
    )
    assert ((grad_weight - truths[1]).abs() <= bound + 1e-300).all()
    return y, grad_x, grad_weight


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 8, 9])
def test_mix_sizes(emulator, channels, dtype):
    for batch, pixels in ((1, 1), (2, 5), (3, 64), (1, 1028 if channels == 9 else 1027)):
        run_mix(emulator, dtype, batch, channels, pixels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_mix_alignments(emulator, channels, dtype):
    for offset in range(4):
        for gap in (0, 1, 4):
            run_mix(emulator, dtype, 2, channels, 41, offset, gap, offset)
            run_mix(emulator, dtype, 2, channels, 44, offset, gap, (offset + gap) % 4)


def test_empty_batch_gives_a_zero_weight_gradient(emulator):
    run_mix(emulator, torch.float32, 0, 3, 7)
    run_mix(emulator, torch.float32, 2, 3, 0)
