"""Autograd formulas of the compiled ops, raising ones for their ``*_backward``, their autocast rule."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

_ops = torch.ops.ivan_fast


def refuse_tangents(op: str, *tensors: Tensor) -> None:
    """The formulas are those of reverse mode only: torch would drop a tangent here without a word."""
    if forward_ad._current_level < 0:  # outside torch.autograd.forward_ad.dual_level and torch.func.jvp
        return
    for t in tensors:
        if forward_ad.unpack_dual(t).tangent is not None:
            raise RuntimeError(
                f"ivan_fast::{op} has no forward-mode derivative: it works only with plain PyTorch, "
                'use backend="reference" (ivan_fast.reference)'
            )


def _forward_setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    x, h, _, ctx.clamp = inputs
    ctx.save_for_backward(x, h)


def _forward_backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, h = ctx.saved_tensors
    grad_x = grad_h = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        grad_x, grad_h = _ops.affine_coupling_backward(grad_y, x, h, ctx.clamp)
    return grad_x, grad_h, grad_y, None


def _inverse_setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    _, h, _, ctx.clamp = inputs
    ctx.save_for_backward(output, h)


def _inverse_backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
    x, h = ctx.saved_tensors
    grad_y, grad_h = _ops.affine_coupling_inverse_backward(grad_x, x, h, ctx.clamp)
    return grad_y, grad_h, -grad_y if ctx.needs_input_grad[2] else None, None


def _mix_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _mix_backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    return _ops.channel_mix_backward(grad_y, x, weight)


def register_raising_formula(op: str) -> None:
    """Make differentiating ``ivan_fast::<op>``, itself a gradient, an error rather than silently wrong."""

    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            f"ivan_fast::{op} cannot be differentiated: double backward works only with plain PyTorch, "
            'use backend="reference" (ivan_fast.reference)'
        )

    torch.library.register_autograd(f"ivan_fast::{op}", backward)


def register_autocast(op: str) -> None:
    """The state stays float32: under autocast, inputs of lower precision are converted, on every device."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"ivan_fast::{op}", device, torch.float32)


torch.library.register_autograd(
    "ivan_fast::affine_coupling_forward", _forward_backward, setup_context=_forward_setup
)
torch.library.register_autograd(
    "ivan_fast::affine_coupling_inverse", _inverse_backward, setup_context=_inverse_setup
)
torch.library.register_autograd("ivan_fast::channel_mix", _mix_backward, setup_context=_mix_setup)

for _op in (
    "affine_coupling_backward",
    "affine_coupling_inverse_backward",
    "affine_coupling_recompute_backward",
    "channel_mix_backward",
):
    register_raising_formula(_op)

for _op in (
    "affine_coupling_forward",
    "affine_coupling_inverse",
    "affine_coupling_backward",
    "affine_coupling_inverse_backward",
    "affine_coupling_recompute_backward",
    "channel_mix",
    "channel_mix_backward",
):
    register_autocast(_op)
