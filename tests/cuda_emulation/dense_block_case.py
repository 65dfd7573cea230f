"""Dense blocks for the emulation: inputs, calls of the kernels, and the same arithmetic in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import emulation
import torch
import torch.nn.functional as F
from torch import Tensor

OPERANDS = {"strict": 0, "bf16": 1, "fp16": 2, "tf32": 3}
MIB = 1 << 20
CLAMP = 0.8


@dataclass
class Case:
    """``x [N, in, H, W]``, parameters and ``grad_y [N, out, H, W]``, float32 or float64."""

    x: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    grad_y: Tensor

    def to(self, dtype: torch.dtype) -> Case:
        weights, biases = [w.to(dtype) for w in self.weights], [b.to(dtype) for b in self.biases]
        return Case(self.x.to(dtype), weights, biases, self.grad_y.to(dtype))


def make(
    batch: int, in_: int, out: int, growth: int, depth: int, height: int, width: int, seed: int = 0
) -> Case:
    """Normal x and grad_y, Xavier normal weights, small biases; float32."""
    g = torch.Generator().manual_seed(seed)
    weights, biases = [], []
    for i in range(depth):
        outputs = growth if i + 1 < depth else out
        inputs = in_ + i * growth
        weights.append(
            torch.randn(outputs, inputs, 3, 3, generator=g) * (2 / (9 * (inputs + outputs))) ** 0.5
        )
        biases.append(torch.randn(outputs, generator=g) * 0.1)
    x = torch.randn(batch, in_, height, width, generator=g)
    return Case(x, weights, biases, torch.randn(batch, out, height, width, generator=g))


def make_pair(*shape: int) -> tuple[Case, Case]:
    """Two dense blocks of one shape on one input."""
    first, second = make(*shape), make(*shape, seed=1)
    second.x = first.x
    return first, second


def run(
    emulator: emulation.Emulator,
    case: Case,
    compute: str = "strict",
    *,
    limit: int = 64 * MIB,
    slope: float = 0.2,
    backward: bool = True,
    fused: bool = False,
) -> tuple[list[Tensor], int]:
    """``([y] or [y, grad_x, weights' gradients ..., biases' gradients ...], bytes of workspace)``."""
    ys, grads, used = run_nets(
        emulator, (case,), compute, limit=limit, slope=slope, backward=backward, fused=fused
    )
    return [*ys, *grads], used


def run_nets(
    emulator: emulation.Emulator,
    cases: Sequence[Case],
    compute: str = "strict",
    *,
    limit: int = 64 * MIB,
    slope: float = 0.2,
    backward: bool = True,
    fused: bool = False,
) -> tuple[list[Tensor], list[Tensor], int]:
    """One call for several dense blocks: ``(their y, [grad_x, weights' gradients of all, biases' gradients of
    all] or [], bytes of workspace)``."""
    ys = [torch.full_like(c.grad_y, torch.nan, memory_format=torch.contiguous_format) for c in cases]
    options = [int(fused), limit, int(backward), 0, 0]
    grads, used = _call(emulator, cases, compute, options, slope, ys, [None] * 5)
    return ys, grads if backward else [], used


def run_walk(
    emulator: emulation.Emulator,
    cases: Sequence[Case],
    walk: str,
    state: Tensor,
    g: Tensor | None,
    compute: str = "strict",
    limit: int = 64 * MIB,
    fused: bool = False,
    grad: Tensor | None = None,
    slope: float = 0.2,
) -> list[Tensor]:
    """``[out, grad_state, grad_x, gradients of weights and biases]`` of H, or of G and H together.

    The state's gradient is `grad`, or the last case's grad_y. Samples of state, g and grad may lie apart.
    """
    out, grad_state = (
        torch.full_like(state, torch.nan, memory_format=torch.contiguous_format) for _ in range(2)
    )
    kind = {"forward": 1, "inverse": 2}[walk]
    options = [int(fused), limit, 2, kind, int(state.dtype == torch.float64)]
    half = [state, g, grad if grad is not None else cases[-1].grad_y.to(state.dtype), out, grad_state]
    grads, _ = _call(emulator, cases, compute, options, slope, [None] * len(cases), half)
    return [out, grad_state, *grads]


def _call(
    emulator: emulation.Emulator,
    cases: Sequence[Case],
    compute: str,
    options: list[int],
    slope: float,
    ys: Sequence[Tensor | None],
    half: Sequence[Tensor | None],
) -> tuple[list[Tensor], int]:
    case = cases[0]
    shape, depth = case.x.shape, len(case.weights)
    growth = case.weights[0].shape[0] if depth > 1 else 1
    sizes = torch.tensor([shape[0], shape[1], case.weights[-1].shape[0], growth, depth, *shape[2:]])
    strides = [0 if t is None else t.stride(0) for t in half[:3]]
    used = torch.zeros(1, dtype=torch.int64)
    weights, biases = [w for c in cases for w in c.weights], [b for c in cases for b in c.biases]
    grads = [
        torch.full_like(t, torch.nan, memory_format=torch.contiguous_format)
        for t in (case.x, *weights, *biases)
    ]
    emulator.call(
        "dense_block",
        sizes,
        torch.tensor([OPERANDS[compute], *options, len(cases), *strides]),
        int(case.x.dtype == torch.float64),
        slope,
        case.x,
        case.x.stride(0),
        weights,
        biases,
        ys,
        [c.grad_y for c in cases],
        case.grad_y.stride(0),
        grads[0],
        grads[1 : 1 + len(weights)],
        grads[1 + len(weights) :],
        used,
        CLAMP,
        *half,
    )
    return grads, int(used)


def to_tf32(t: Tensor) -> Tensor:
    """10 bits of fraction, to nearest, ties away from zero."""
    bits = t.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "strict": lambda t: t,
    "bf16": lambda t: t.float().bfloat16().to(t.dtype),
    "fp16": lambda t: t.float().half().to(t.dtype),
    "tf32": lambda t: to_tf32(t).to(t.dtype),
}


def truth(case: Case, compute: str = "strict", slope: float = 0.2) -> list[Tensor]:
    """What `run` returns, in float64: every operand of a product is rounded as `compute` says, and no sum."""
    rounded = ROUND[compute]
    case = case.to(torch.float64)
    weights = [rounded(w) for w in case.weights]
    features = [rounded(case.x)]
    for weight, bias in zip(weights[:-1], case.biases[:-1], strict=True):
        v = F.conv2d(torch.cat(features, 1), weight, bias, padding=1)
        features.append(rounded(torch.where(v > 0, v, slope * v)))
    y = F.conv2d(torch.cat(features, 1), weights[-1], case.biases[-1], padding=1)
    sums = [torch.zeros_like(f) for f in features]
    grad = rounded(case.grad_y)
    grad_weights, grad_biases = [], []
    for i in reversed(range(len(weights))):
        inputs = torch.cat(features[: i + 1], 1)
        grad_weights.insert(0, torch.nn.grad.conv2d_weight(inputs, weights[i].shape, grad, padding=1))
        grad_biases.insert(0, grad.sum((0, 2, 3)))
        parts = torch.nn.grad.conv2d_input(inputs.shape, weights[i], grad, padding=1)
        for j, part in enumerate(parts.split([f.shape[1] for f in features[: i + 1]], 1)):
            sums[j] = sums[j] + part
        if i > 0:
            grad = rounded(torch.where(features[i] > 0, sums[i], slope * sums[i]))
    return [y, sums[0], *grad_weights, *grad_biases]


def worst(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest relative error, in the norm, of any result; NaN where any result holds one."""
    assert len(ours) <= len(theirs)
    errors = [(a.double() - b).norm() / b.norm().clamp_min(1e-30) for a, b in zip(ours, theirs, strict=False)]
    return float(torch.stack(errors).max())
