"""The dense block's backward with the coupling in its stream: shapes, autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from ivan_fast._autograd import register_autocast, register_raising_formula
from ivan_fast._dense_block import empty_like_output, like
from ivan_fast._fake import check_dtype

Walked = tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]


def check_halves(op: str, halves: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
    """Tensors of the coupled half of the state, against the dense block's input and output."""
    state = next(iter(halves.values()))
    for name, t in halves.items():
        torch._check(
            t.shape == y.shape,
            lambda name=name, t=t: f"{op}: {name} has shape {tuple(t.shape)}, expected {tuple(y.shape)}",
        )
        check_dtype(op, state, name, t)
        torch._check(
            t.dtype in (x.dtype, torch.float64),
            lambda name=name, t=t: (
                f"{op}: {name} is {t.dtype} but x is {x.dtype}; the state is of the dtype of x or float64"
            ),
        )


def _walked(
    op: str, halves: dict[str, Tensor], x: Tensor, weights: list[Tensor], biases: list[Tensor], compute: str
) -> Walked:
    """What both ops return, empty; refuses what the compiled ops refuse."""
    check_halves(op, halves, x, empty_like_output(op, x, weights, biases, compute))
    state = next(iter(halves.values()))
    return like(state), like(state), like(x), [like(w) for w in weights], [like(b) for b in biases]


@torch.library.register_fake("ivan_fast::dense_block_coupling_backward")
def _(
    y2: Tensor,
    g: Tensor,
    grad_y2: Tensor,
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    clamp: float,
    negative_slope: float,
    compute: str,
) -> Walked:
    halves = {"y2": y2, "g": g, "grad_y2": grad_y2}
    return _walked("dense_block_coupling_backward", halves, x, weights, biases, compute)


@torch.library.register_fake("ivan_fast::dense_block_coupling_inverse_backward")
def _(
    x2: Tensor,
    grad_x2: Tensor,
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    clamp: float,
    negative_slope: float,
    compute: str,
) -> Walked:
    halves = {"x2": x2, "grad_x2": grad_x2}
    return _walked("dense_block_coupling_inverse_backward", halves, x, weights, biases, compute)


for _op in ("dense_block_coupling_backward", "dense_block_coupling_inverse_backward"):
    register_raising_formula(_op)
    register_autocast(_op)
