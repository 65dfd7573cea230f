"""Tests that make gpu-check runs on a GPU, here on the emulated kernels: right kernels must pass them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import emulation
import pytest
import test_dense_block_gpu as on_a_gpu
import torch
from dense_block_case import MIB, Case, run_nets, run_walk
from torch import Tensor

Tensors = Sequence[Tensor]
# The large ones take 10 to 20 s each.
SHAPES = [pytest.param(s, marks=[pytest.mark.slow] * (s[-1] == 80)) for s in on_a_gpu.SHAPES]

pytestmark = pytest.mark.skipif(
    os.environ.get("IVAN_CUDA_EMULATION") == "asan", reason="these load the plain kernels: once is enough"
)


class EmulatedOps:
    """The dense block's part of `ivan_fast.ops`, emulated; the clamp is that of dense_block_case."""

    def __init__(self, emulator: emulation.Emulator) -> None:
        self.emulator = emulator
        self.kernel = "layerwise"
        self.limit = 64 * MIB

    def dense_block_cuda_kernel(self) -> str:
        return self.kernel

    def set_dense_block_cuda_kernel(self, kernel: str) -> None:
        self.kernel = kernel

    def dense_block_workspace(self) -> int:
        return self.limit

    def set_dense_block_workspace(self, size: int) -> None:
        self.limit = size

    def _forward(self, x: Tensor, lists: Sequence[Tensors], slope: float, compute: str) -> list[Tensor]:
        outputs = x.new_empty((x.shape[0], lists[0][-1].shape[0], *x.shape[2:]))
        cases = [Case(x, list(w), list(b), outputs) for w, b in zip(lists[::2], lists[1::2], strict=True)]
        fused = self.kernel == "fused"
        return run_nets(
            self.emulator, cases, compute, limit=self.limit, slope=slope, backward=False, fused=fused
        )[0]

    def dense_block(self, x: Tensor, weights: Tensors, biases: Tensors, *how: Any) -> Tensor:
        return self._forward(x, (weights, biases), *how)[0]

    def dense_block_pair(
        self, x: Tensor, wg: Tensors, bg: Tensors, wh: Tensors, bh: Tensors, *how: Any
    ) -> Any:
        return self._forward(x, (wg, bg, wh, bh), *how)

    def _backward(
        self, grads: Tensors, x: Tensor, lists: Sequence[Tensors], slope: float, compute: str
    ) -> tuple[list[Tensor], list[Any]]:
        parts = zip(lists[::2], lists[1::2], grads, strict=True)
        cases = [Case(x, list(w), list(b), grad.contiguous()) for w, b, grad in parts]
        fused = self.kernel == "fused"
        ys, found, _ = run_nets(self.emulator, cases, compute, limit=self.limit, slope=slope, fused=fused)
        return ys, [found[0], *by_net(found[1:], len(cases), len(lists[0]))]

    def dense_block_backward(self, grad: Tensor, x: Tensor, w: Tensors, b: Tensors, *how: Any) -> Any:
        (y,), found = self._backward([grad], x, (w, b), *how)
        return (y, *found)

    def dense_block_pair_backward(
        self, gg: Tensor, gh: Tensor, x: Tensor, wg: Tensors, bg: Tensors, wh: Tensors, bh: Tensors, *how: Any
    ) -> Any:
        return self._backward([gg, gh], x, (wg, bg, wh, bh), *how)[1]

    def _walk(
        self, walk: str, state: Tensor, g: Tensor | None, grad: Tensor, x: Tensor, *rest: Any
    ) -> tuple[Any, ...]:
        *lists, _, slope, compute = rest
        cases = [Case(x, list(w), list(b), grad) for w, b in zip(lists[::2], lists[1::2], strict=True)]
        fused = self.kernel == "fused"
        out, grad_state, grad_x, *found = run_walk(
            self.emulator, cases, walk, state, g, compute, self.limit, fused, grad, slope
        )
        return (out, grad_state, grad_x, *by_net(found, len(cases), len(lists[0])))

    def dense_block_coupling_backward(self, y2: Tensor, g: Tensor, grad: Tensor, *rest: Any) -> Any:
        return self._walk("forward", y2, g, grad, *rest)

    def dense_block_coupling_inverse_backward(self, x2: Tensor, grad: Tensor, *rest: Any) -> Any:
        return self._walk("inverse", x2, None, grad, *rest)

    def dense_block_pair_coupling_backward(self, y2: Tensor, grad: Tensor, *rest: Any) -> Any:
        return self._walk("forward", y2, None, grad, *rest)

    def dense_block_pair_coupling_inverse_backward(self, x2: Tensor, grad: Tensor, *rest: Any) -> Any:
        return self._walk("inverse", x2, None, grad, *rest)


def by_net(gradients: list[Tensor], nets: int, depth: int) -> list[list[Tensor]]:
    """Lists of weights and biases of each net, from all weights, then all biases."""
    lists = [gradients[i * depth : (i + 1) * depth] for i in range(2 * nets)]
    return [lists[kind * nets + net] for net in range(nets) for kind in (0, 1)]


@pytest.fixture(scope="module")
def plain() -> emulation.Emulator:
    if emulation.compiler() is None:
        pytest.skip("no C++ compiler")
    return emulation.load("plain")


@pytest.fixture
def emulated(plain: emulation.Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedOps]:
    """In the place of a CUDA device."""
    ops = EmulatedOps(plain)
    monkeypatch.setattr(on_a_gpu, "ops", ops)
    monkeypatch.setattr(on_a_gpu, "on_gpu", lambda case, device="cuda": case)
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    yield ops
    plain.device()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "test", [on_a_gpu.test_float64, on_a_gpu.test_float32_error_at_most_twice_that_of_pytorch]
)
def test_exact_arithmetic(emulated: EmulatedOps, test: Callable[..., None], shape: tuple[int, ...]) -> None:
    """The same bits as on a GPU: every product and sum is the same, in one order."""
    test(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compute", on_a_gpu.ROUNDED)
def test_rounded_operands(emulated: EmulatedOps, shape: tuple[int, ...], compute: str) -> None:
    """Layer-wise; test_dense_block_kernels.py holds the fused kernel to the same bits."""
    on_a_gpu.test_rounded_operands(shape, compute, "layerwise")


@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_walk_through_a_coupling(emulated: EmulatedOps, compute: str) -> None:
    on_a_gpu.test_walk_through_a_coupling(compute)


@pytest.mark.parametrize("compute", ["strict", "bf16", "tf32"])
@pytest.mark.parametrize("kernel", ["layerwise", "fused"])
def test_pair(emulated: EmulatedOps, compute: str, kernel: str) -> None:
    emulated.kernel = kernel
    on_a_gpu.test_pair_is_two_single_blocks((1, 3, 2, 8, 3, 70, 50), compute, kernel)


def test_the_stand_in_takes_part(emulated: EmulatedOps) -> None:
    before = emulated.emulator.launches()
    on_a_gpu.test_float64((1, 2, 3, 4, 1, 5, 6))
    assert emulated.emulator.launches() > before
    assert not torch.cuda.is_available() or torch.ones(1).cuda().device.type == "cpu"
