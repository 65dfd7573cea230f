"""Rounding of a float64 state: shape, and a gradient as if there were no rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ivan_fast._autograd import refuse_tangents


def round_state(x: Tensor, steps: Tensor) -> Tensor:
    """``float32(round(x / step) * step)``, halves to even; the gradient passes straight through.

    Args:
        x: ``[N, ...]``, float64.
        steps: one for each sample ``[N]``, float64, positive; a constant: no gradient.

    Returns:
        ``[N, ...]``, float32. ``|x / step|`` beyond 2^51 is not rounded to whole steps.
    """
    refuse_tangents("round_state", x, steps)
    return torch.ops.ivan_fast.round_state.default(x, steps)


@torch.library.register_fake("ivan_fast::round_state")
def _(x: Tensor, steps: Tensor) -> Tensor:
    torch._check(x.dim() >= 1, lambda: "round_state: x has shape (), expected [N, ...]")
    torch._check(x.dtype == torch.float64, lambda: f"round_state: x must be float64; found {x.dtype}")
    torch._check(steps.dtype == x.dtype, lambda: f"round_state: steps is {steps.dtype} but x is {x.dtype}")
    torch._check(
        steps.shape == x.shape[:1],
        lambda: f"round_state: steps has shape {tuple(steps.shape)}, expected {tuple(x.shape[:1])}",
    )
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    if ctx.needs_input_grad[1]:
        raise RuntimeError("round_state: steps are constants, but their gradient is wanted")
    return grad.to(torch.float64), None


torch.library.register_autograd("ivan_fast::round_state", _backward)
