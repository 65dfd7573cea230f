"""Plain PyTorch twins of every op: same names, same signatures, any float dtype and device, differentiable.

They are what the compiled kernels are tested against, and the explicit ``backend="reference"`` of the modules
(the only one that supports double backward).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ivan_fast._pair import Pair

COMPUTE_MODES = ("strict", "fast", "bf16", "fp16", "tf32")
_OPERAND_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def coupling_log_scale(h: Tensor, clamp: float) -> Tensor:
    """``s = clamp * (2 * sigmoid(h) - 1)`` as its equal ``clamp * tanh(h / 2)``, exact near 0."""
    return clamp * torch.tanh(0.5 * h)


def _log_scale_slope(h: Tensor, clamp: float) -> Tensor:
    """``ds/dh = 2 * clamp * sigmoid(h) * sigmoid(-h)``."""
    return (2.0 * clamp) * torch.sigmoid(h) * torch.sigmoid(-h)


def affine_coupling_forward(x: Tensor, h: Tensor, g: Tensor, clamp: float) -> Tensor:
    """``y = x * exp(s(h)) + g``; all ``[N, C2, H, W]`` (the coupled half of the state)."""
    return x * torch.exp(coupling_log_scale(h, clamp)) + g


def affine_coupling_inverse(y: Tensor, h: Tensor, g: Tensor, clamp: float) -> Tensor:
    """``x = (y - g) * exp(-s(h))``; all ``[N, C2, H, W]``."""
    return (y - g) * torch.exp(-coupling_log_scale(h, clamp))


def affine_coupling_backward(grad_y: Tensor, x: Tensor, h: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    """Gradients ``(grad_x, grad_h)`` of :func:`affine_coupling_forward`; ``grad_g`` is ``grad_y`` itself."""
    grad_x = grad_y * torch.exp(coupling_log_scale(h, clamp))
    return grad_x, grad_x * x * _log_scale_slope(h, clamp)


def affine_coupling_inverse_backward(
    grad_x: Tensor, x: Tensor, h: Tensor, clamp: float
) -> tuple[Tensor, Tensor]:
    """Gradients ``(grad_y, grad_h)`` of :func:`affine_coupling_inverse`, from its output ``x``.

    ``grad_g`` is ``-grad_y``.
    """
    grad_y = grad_x * torch.exp(-coupling_log_scale(h, clamp))
    return grad_y, -grad_x * x * _log_scale_slope(h, clamp)


def affine_coupling_recompute_backward(
    y: Tensor, h: Tensor, g: Tensor, grad_y: Tensor, clamp: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Invert and differentiate at once, from the output ``y``: ``(x, grad_x, grad_h)``.

    ``grad_g`` is ``grad_y``.
    """
    x = affine_coupling_inverse(y, h, g, clamp)
    return (x, *affine_coupling_backward(grad_y, x, h, clamp))


def channel_mix(x: Tensor, weight: Tensor) -> Tensor:
    """Invertible 1x1 convolution ``y[n, i, p] = sum_j weight[i, j] * x[n, j, p]``.

    x and y are ``[N, C, H, W]``, weight is ``[C, C]``.
    """
    pixels = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return torch.matmul(weight, pixels).reshape(x.shape)


def channel_mix_backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients ``(grad_x [N, C, H, W], grad_weight [C, C])`` of :func:`channel_mix`."""
    grad_x = channel_mix(grad_y, weight.t())
    grad_weight = torch.einsum("nip,njp->ij", grad_y.flatten(2), x.flatten(2))
    return grad_x, grad_weight


def plu_weight(
    p: Tensor, lower: Tensor, log_s: Tensor, sign_s: Tensor, upper: Tensor, wide: bool = False
) -> tuple[Tensor, Tensor]:
    """``W = P (L + I) (U + diag(sign_s * exp(log_s)))`` and the inverse of that very W in float64.

    p, lower and upper are ``[C, C]``, log_s and sign_s ``[C]``; `wide` gives W as float64 too.
    """
    left, right = _plu_factors(lower, log_s, sign_s, upper)
    weight = p @ (left @ right)
    inverse, _ = torch.linalg.inv_ex(weight.double())
    return weight.double() if wide else weight, inverse


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
    """Gradients ``(grad_lower, grad_log_s, grad_upper)`` of :func:`plu_weight`; a gradient that is None is 0.

    `inverse`, its result, comes with grad_inverse.
    """
    grad = grad_weight
    if grad_inverse is not None and inverse is not None:
        through_inverse = -(inverse.t() @ grad_inverse @ inverse.t())  # dW^-1 = -W^-1 dW W^-1
        grad = through_inverse if grad is None else grad + through_inverse
    if grad is None:
        raise ValueError("plu_weight_backward: expected grad_weight, or grad_inverse and inverse, or all")
    left, right = _plu_factors(lower, log_s, sign_s, upper)
    grad_product = p.t() @ grad.to(p.dtype)  # of left @ right
    grad_right = left.t() @ grad_product
    grad_log_s = grad_right.diagonal() * right.diagonal()
    return torch.tril(grad_product @ right.t(), -1), grad_log_s, torch.triu(grad_right, 1)


def _plu_factors(lower: Tensor, log_s: Tensor, sign_s: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(lower.shape[0], dtype=lower.dtype, device=lower.device)
    return torch.tril(lower, -1) + identity, torch.triu(upper, 1) + torch.diag(sign_s * torch.exp(log_s))


_TO_INTEGERS = 1.5 * 2.0**52
"""Added to a float64 value and taken away again, rounds to integers; the gradient passes straight through."""


def round_to_steps(x: Tensor, steps: Tensor) -> Tensor:
    """A float64 state ``[N, ...]`` rounded to whole multiples of its sample's step, ``[N]``."""
    step = steps.reshape(-1, *[1] * (x.dim() - 1))
    whole = x / step + _TO_INTEGERS
    return (whole - _TO_INTEGERS) * step if whole.requires_grad else whole.sub_(_TO_INTEGERS).mul_(step)


def round_state(x: Tensor, steps: Tensor) -> Tensor:
    """The same as float32, ``[N, ...]``."""
    return round_to_steps(x, steps).to(torch.float32)


def dense_block(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> Tensor:
    """Dense block of 3x3 convolutions (zero padding 1), each on the input and all earlier outputs.

    Args:
        x: ``[N, in, H, W]``.
        weights: ``weights[i]`` is ``[growth, in + i * growth, 3, 3]``, the last one ``[out, ...]``;
            the order of input channels is ``[x | h1 | h2 | ...]``.
        biases: ``biases[i]`` is ``[growth]``, the last one ``[out]``.
        negative_slope: of the LeakyReLU after every convolution but the last, and its derivative at 0.
        compute: ``"bf16"`` and ``"fp16"`` round every convolution's operands to that type and accumulate in
            ``x.dtype``; ``"strict"``, ``"fast"`` and ``"tf32"`` are PyTorch's convolution as it is.

    Returns:
        ``[N, out, H, W]`` in ``x.dtype``.

    Raises:
        ValueError: unknown ``compute``, or not as many biases as weights.
    """
    if compute not in COMPUTE_MODES:
        raise ValueError(f"dense_block: compute is {compute!r}, expected one of {', '.join(COMPUTE_MODES)}")
    if len(weights) == 0 or len(weights) != len(biases):
        raise ValueError(
            f"dense_block: {len(weights)} weights and {len(biases)} biases, expected equally many, at least 1"
        )
    features = [_operand(x, compute)]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = _conv3x3(features, weight, bias, compute)
        features.append(_operand(F.leaky_relu(hidden, negative_slope), compute))
    return _conv3x3(features, weights[-1], biases[-1], compute)


def dense_block_backward(
    grad_y: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Recompute :func:`dense_block` and differentiate it: ``(y, grad_x, grad_weights, grad_biases)``.

    The block's output ``y`` is a by-product of the recompute. Differentiable where an input requires grad.
    """
    depth = len(weights)
    inputs = [x, *weights, *biases]
    track = torch.is_grad_enabled() and any(t.requires_grad for t in (grad_y, *inputs))
    with torch.enable_grad():
        leaves = [t if track and t.requires_grad else t.detach().requires_grad_() for t in inputs]
        y = dense_block(leaves[0], leaves[1 : 1 + depth], leaves[1 + depth :], negative_slope, compute)
        grads = torch.autograd.grad(y, leaves, grad_y, create_graph=track)
    return (
        y if track else y.detach(),
        grads[0],
        list(grads[1 : 1 + depth]),
        list(grads[1 + depth :]),
    )


def dense_block_coupling_backward(
    y2: Tensor,
    g: Tensor,
    grad_y2: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    clamp: float,
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Walk back through ``y2 = x2 * exp(s(h)) + g`` and through ``h = dense_block(x)`` at once.

    Returns ``(x2, grad_x2, grad_x, grad_weights, grad_biases)``; ``y2``, ``g`` and ``grad_y2`` may be of a
    wider dtype than x.
    """
    h = dense_block(x, weights, biases, negative_slope, compute).to(y2.dtype)
    x2, grad_x2, grad_h = affine_coupling_recompute_backward(y2, h, g, grad_y2, clamp)
    _, grad_x, grad_weights, grad_biases = dense_block_backward(
        grad_h.to(x.dtype), x, weights, biases, negative_slope, compute
    )
    return x2, grad_x2, grad_x, grad_weights, grad_biases


def dense_block_coupling_inverse_backward(
    x2: Tensor,
    grad_x2: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    clamp: float,
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Walk back through ``x2 = (y2 - g) * exp(-s(h))`` and through ``h = dense_block(x)`` at once.

    Returns ``(scaled, grad_y2, grad_x, grad_weights, grad_biases)`` with ``scaled = x2 * exp(s)``, which is
    ``y2 - g``; ``grad_g`` is ``-grad_y2``. ``x2`` and ``grad_x2`` may be wider than x.
    """
    h = dense_block(x, weights, biases, negative_slope, compute).to(x2.dtype)
    scaled = affine_coupling_forward(x2, h, torch.zeros_like(x2), clamp)
    grad_y2, grad_h = affine_coupling_inverse_backward(grad_x2, x2, h, clamp)
    _, grad_x, grad_weights, grad_biases = dense_block_backward(
        grad_h.to(x.dtype), x, weights, biases, negative_slope, compute
    )
    return scaled, grad_y2, grad_x, grad_weights, grad_biases


_PAIR = Pair(
    dense_block,
    dense_block_backward,
    dense_block_coupling_backward,
    dense_block_coupling_inverse_backward,
)
dense_block_pair = _PAIR.forward
dense_block_pair_backward = _PAIR.backward
dense_block_pair_coupling_backward = _PAIR.coupling_backward
dense_block_pair_coupling_inverse_backward = _PAIR.coupling_inverse_backward


def _operand(t: Tensor, compute: str) -> Tensor:
    dtype = _OPERAND_DTYPE.get(compute)
    return t if dtype is None else t.to(dtype).to(t.dtype)


def _conv3x3(features: list[Tensor], weight: Tensor, bias: Tensor, compute: str) -> Tensor:
    return F.conv2d(torch.cat(features, 1), _operand(weight, compute), bias, padding=1)
