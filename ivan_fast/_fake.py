"""Shapes of every op's outputs without computing them, for torch.compile, meta tensors and fake tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def _state(t: Tensor) -> Tensor:
    """Every output that has the shape of the state is new and contiguous."""
    return torch.empty(t.shape, dtype=t.dtype, device=t.device)


def check_state(op: str, name: str, t: Tensor, right_dims: bool) -> None:
    """The compiled ops' own checks of their first argument: what they refuse must not trace."""
    torch._check(right_dims, lambda: f"{op}: {name} has shape {tuple(t.shape)}, expected [N, C, H, W]")
    torch._check(
        t.dtype in (torch.float32, torch.float64),
        lambda: f"{op}: {name} must be float32 or float64, found {t.dtype}",
    )


def check_dtype(op: str, first: Tensor, name: str, t: Tensor) -> None:
    torch._check(
        t.dtype == first.dtype, lambda: f"{op}: {name} is {t.dtype}, expected {first.dtype} as the state is"
    )


def _alike(op: str, state_name: str, first: Tensor, **others: Tensor) -> None:
    check_state(op, state_name, first, first.dim() >= 2)
    for name, t in others.items():
        check_dtype(op, first, name, t)
        torch._check(
            t.shape == first.shape,
            lambda name=name, t=t: f"{op}: {name} has shape {tuple(t.shape)}, expected {tuple(first.shape)}",
        )


def _square(op: str, x: Tensor, weight: Tensor) -> None:
    check_state(op, "x", x, x.dim() >= 2)
    check_dtype(op, x, "weight", weight)
    torch._check(
        weight.shape == (x.shape[1], x.shape[1]),
        lambda: f"{op}: weight has shape {tuple(weight.shape)}, expected [C, C] for x of {tuple(x.shape)}",
    )


@torch.library.register_fake("ivan_fast::affine_coupling_forward")
def _(x: Tensor, h: Tensor, g: Tensor, clamp: float) -> Tensor:
    _alike("affine_coupling_forward", "x", x, h=h, g=g)
    return _state(x)


@torch.library.register_fake("ivan_fast::affine_coupling_inverse")
def _(y: Tensor, h: Tensor, g: Tensor, clamp: float) -> Tensor:
    _alike("affine_coupling_inverse", "y", y, h=h, g=g)
    return _state(y)


@torch.library.register_fake("ivan_fast::affine_coupling_backward")
def _(grad_y: Tensor, x: Tensor, h: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    _alike("affine_coupling_backward", "x", x, grad_y=grad_y, h=h)
    return _state(x), _state(x)


@torch.library.register_fake("ivan_fast::affine_coupling_inverse_backward")
def _(grad_x: Tensor, x: Tensor, h: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    _alike("affine_coupling_inverse_backward", "x", x, grad_x=grad_x, h=h)
    return _state(x), _state(x)


@torch.library.register_fake("ivan_fast::affine_coupling_recompute_backward")
def _(y: Tensor, h: Tensor, g: Tensor, grad_y: Tensor, clamp: float) -> tuple[Tensor, Tensor, Tensor]:
    _alike("affine_coupling_recompute_backward", "y", y, h=h, g=g, grad_y=grad_y)
    return _state(y), _state(y), _state(y)


@torch.library.register_fake("ivan_fast::channel_mix")
def _(x: Tensor, weight: Tensor) -> Tensor:
    _square("channel_mix", x, weight)
    return _state(x)


@torch.library.register_fake("ivan_fast::channel_mix_backward")
def _(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    _square("channel_mix_backward", x, weight)
    _alike("channel_mix_backward", "x", x, grad_y=grad_y)
    return _state(x), _state(weight)
