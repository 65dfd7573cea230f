"""The dense block ops beyond their kernels: shapes, autograd formulas, autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ivan_fast import reference
from ivan_fast._autograd import register_autocast, register_raising_formula
from ivan_fast._fake import check_dtype, check_state

_ops = torch.ops.ivan_fast


def empty_like_output(
    op: str, x: Tensor, weights: list[Tensor], biases: list[Tensor], compute: str
) -> Tensor:
    """What the op returns, empty; refuses what the compiled op refuses."""
    check_state(op, "x", x, x.dim() == 4)
    torch._check(
        len(weights) > 0 and len(weights) == len(biases),
        lambda: f"{op}: {len(weights)} weights and {len(biases)} biases, expected equally many, at least 1",
    )
    torch._check(
        compute in reference.COMPUTE_MODES,
        lambda: f"{op}: compute is {compute!r}, expected one of {', '.join(reference.COMPUTE_MODES)}",
    )
    growth = weights[0].shape[0]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        outputs = growth if i + 1 < len(weights) else weight.shape[0]
        expected = (outputs, x.shape[1] + i * growth, 3, 3)
        for name, t, shape in ((f"weights[{i}]", weight, expected), (f"biases[{i}]", bias, expected[:1])):
            check_dtype(op, x, name, t)
            torch._check(
                t.shape == shape,
                lambda name=name, t=t, shape=shape: (
                    f"{op}: {name} has shape {tuple(t.shape)}, expected {tuple(shape)}"
                ),
            )
    return x.new_empty((x.shape[0], weights[-1].shape[0], x.shape[2], x.shape[3]))


def check_gradient(op: str, x: Tensor, y: Tensor, name: str, grad: Tensor) -> None:
    """The gradient of an output `y` of the op, whose input is `x`."""
    check_dtype(op, x, name, grad)
    torch._check(
        grad.shape == y.shape,
        lambda: f"{op}: {name} has shape {tuple(grad.shape)}, expected {tuple(y.shape)}",
    )


def like(t: Tensor) -> Tensor:
    """New and contiguous, as every output is."""
    return torch.empty(t.shape, dtype=t.dtype, device=t.device)


@torch.library.register_fake("ivan_fast::dense_block")
def _(x: Tensor, weights: list[Tensor], biases: list[Tensor], negative_slope: float, compute: str) -> Tensor:
    return empty_like_output("dense_block", x, weights, biases, compute)


@torch.library.register_fake("ivan_fast::dense_block_backward")
def _(
    grad_y: Tensor,
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    negative_slope: float,
    compute: str,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    y = empty_like_output("dense_block_backward", x, weights, biases, compute)
    check_gradient("dense_block_backward", x, y, "grad_y", grad_y)
    return y, like(x), [like(w) for w in weights], [like(b) for b in biases]


def _setup(ctx: Any, inputs: tuple[Tensor, list[Tensor], list[Tensor], float, str], output: Tensor) -> None:
    x, weights, biases, ctx.negative_slope, ctx.compute = inputs
    ctx.depth = len(weights)
    ctx.save_for_backward(x, *weights, *biases)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], None, None]:
    x, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.depth], parameters[ctx.depth :]
    _, grad_x, grad_weights, grad_biases = _ops.dense_block_backward(
        grad_y, x, weights, biases, ctx.negative_slope, ctx.compute
    )
    return grad_x, grad_weights, grad_biases, None, None


torch.library.register_autograd("ivan_fast::dense_block", _backward, setup_context=_setup)
register_raising_formula("dense_block_backward")
register_autocast("dense_block")
register_autocast("dense_block_backward")
