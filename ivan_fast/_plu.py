"""The weight of an invertible 1x1 convolution from its factors: shapes, autograd formula, autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ivan_fast._autograd import refuse_tangents, register_autocast, register_raising_formula

_ops = torch.ops.ivan_fast
_WIDTHS = (torch.float32, torch.float64)


def plu_weight(
    p: Tensor, lower: Tensor, log_s: Tensor, sign_s: Tensor, upper: Tensor, wide: bool = False
) -> tuple[Tensor, Tensor]:
    """``W = P (L + I) (U + diag(sign_s * exp(log_s)))`` and its inverse, in one launch.

    Source: Kingma and Dhariwal, Glow, 2018, equation 10.

    Args:
        p: permutation P ``[C, C]``, C from 1 to 16; a constant: no gradient.
        lower, upper: ``[C, C]``, of which L is the strictly lower, U the strictly upper triangle.
        log_s: ``[C]``. sign_s: ``[C]``, a constant.
        wide: give W as float64: the same values, already rounded to the dtype of the factors.

    Returns:
        ``(W, W^-1)``, ``[C, C]`` each: W in the dtype of the factors (float32 or float64), W^-1 the inverse
        of that very W in float64; not finite where W is singular.
    """
    refuse_tangents("plu_weight", p, lower, log_s, sign_s, upper)
    return _ops.plu_weight.default(p, lower, log_s, sign_s, upper, wide)


def plu_weight_backward(
    grad_weight: Tensor | None,
    grad_inverse: Tensor | None,
    inverse: Tensor | None,
    p: Tensor,
    lower: Tensor,
    log_s: Tensor,
    sign_s: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients ``(grad_lower, grad_log_s, grad_upper)`` of :func:`plu_weight`, in one launch.

    Args:
        grad_weight: ``[C, C]``, float32 or float64, or None for zero.
        grad_inverse: ``[C, C]``, float64, or None for zero; not both None.
        inverse: W^-1, float64, with grad_inverse.
        p, lower, log_s, sign_s, upper: as of :func:`plu_weight`.
    """
    given = [t for t in (grad_weight, grad_inverse, inverse) if t is not None]
    refuse_tangents("plu_weight_backward", *given, p, lower, log_s, sign_s, upper)
    return _ops.plu_weight_backward.default(
        grad_weight, grad_inverse, inverse, p, lower, log_s, sign_s, upper
    )


def _check_sizes(op: str, lower: Tensor, name: str, t: Tensor, dims: int) -> None:
    wanted = (lower.shape[0],) * dims
    torch._check(
        tuple(t.shape) == wanted, lambda: f"{op}: {name} has shape {tuple(t.shape)}, expected {wanted}"
    )


def _check_factors(op: str, p: Tensor, lower: Tensor, log_s: Tensor, sign_s: Tensor, upper: Tensor) -> None:
    torch._check(
        lower.dim() == 2 and lower.shape[0] == lower.shape[1] and 1 <= lower.shape[0] <= 16,
        lambda: f"{op}: lower has shape {tuple(lower.shape)}, expected [C, C] with C from 1 to 16",
    )
    torch._check(
        lower.dtype in _WIDTHS, lambda: f"{op}: lower must be float32 or float64, found {lower.dtype}"
    )
    for name, t, dims in (("p", p, 2), ("log_s", log_s, 1), ("sign_s", sign_s, 1), ("upper", upper, 2)):
        torch._check(
            t.dtype == lower.dtype,
            lambda name=name, t=t: f"{op}: {name} is {t.dtype} but lower is {lower.dtype}",
        )
        _check_sizes(op, lower, name, t, dims)


@torch.library.register_fake("ivan_fast::plu_weight")
def _(
    p: Tensor, lower: Tensor, log_s: Tensor, sign_s: Tensor, upper: Tensor, wide: bool = False
) -> tuple[Tensor, Tensor]:
    _check_factors("plu_weight", p, lower, log_s, sign_s, upper)
    inverse = torch.empty(lower.shape, dtype=torch.float64, device=lower.device)
    return torch.empty(
        lower.shape, dtype=inverse.dtype if wide else lower.dtype, device=lower.device
    ), inverse


@torch.library.register_fake("ivan_fast::plu_weight_backward")
def _(
    grad_weight: Tensor | None,
    grad_inverse: Tensor | None,
    inverse: Tensor | None,
    p: Tensor,
    lower: Tensor,
    log_s: Tensor,
    sign_s: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    op = "plu_weight_backward"
    _check_factors(op, p, lower, log_s, sign_s, upper)
    torch._check(
        grad_weight is not None or grad_inverse is not None,
        lambda: f"{op}: expected grad_weight, grad_inverse or both",
    )
    torch._check(
        (grad_inverse is None) == (inverse is None),
        lambda: f"{op}: grad_inverse and inverse come together, found only one of them",
    )
    for name, t in {"grad_weight": grad_weight, "grad_inverse": grad_inverse, "inverse": inverse}.items():
        if t is not None:
            widths = _WIDTHS if name == "grad_weight" else _WIDTHS[1:]
            torch._check(
                t.dtype in widths,
                lambda name=name, t=t, widths=widths: f"{op}: {name} is {t.dtype}, expected {widths}",
            )
            _check_sizes(op, lower, name, t, 2)
    return tuple(  # type: ignore[return-value]
        torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (lower, log_s, upper)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *inputs[:5])


def _backward(ctx: Any, grad_weight: Tensor | None, grad_inverse: Tensor | None) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
        raise RuntimeError("plu_weight: p and sign_s are constants, but a gradient is wanted of one of them")
    if grad_weight is None and grad_inverse is None:
        return (None,) * 6
    inverse, *factors = ctx.saved_tensors
    grad_lower, grad_log_s, grad_upper = _ops.plu_weight_backward(
        grad_weight, grad_inverse, None if grad_inverse is None else inverse, *factors
    )
    return None, grad_lower, grad_log_s, None, grad_upper, None


torch.library.register_autograd("ivan_fast::plu_weight", _backward, setup_context=_setup)
register_raising_formula("plu_weight_backward")
register_autocast("plu_weight")
register_autocast("plu_weight_backward")
