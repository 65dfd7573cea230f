"""The compiled ops, on CPU and CUDA, with autograd formulas. Each has a twin of its name in ``reference``.

State tensors are float32 or float64 (under ``torch.autocast`` lower precisions are converted to float32).
They may be channel slices ``t[:, a:b]`` of a contiguous tensor; other layouts are copied. Outputs are new and
contiguous. Errors of shape, dtype or device raise ``RuntimeError``; so do differentiating a ``*_backward``
and any forward-mode differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import ivan_fast._dense_block
import ivan_fast._dense_block_coupling
import ivan_fast._fake  # noqa: F401
from ivan_fast import _C
from ivan_fast._autograd import refuse_tangents
from ivan_fast._dense_block_pair import (
    dense_block_pair,
    dense_block_pair_backward,
    dense_block_pair_coupling_backward,
    dense_block_pair_coupling_inverse_backward,
)
from ivan_fast._plu import plu_weight, plu_weight_backward
from ivan_fast._round_state import round_state

__all__ = [
    "affine_coupling_backward",
    "affine_coupling_forward",
    "affine_coupling_inverse",
    "affine_coupling_inverse_backward",
    "affine_coupling_recompute_backward",
    "channel_mix",
    "channel_mix_backward",
    "dense_block",
    "dense_block_backward",
    "dense_block_coupling_backward",
    "dense_block_coupling_inverse_backward",
    "dense_block_cuda_kernel",
    "dense_block_pair",
    "dense_block_pair_backward",
    "dense_block_pair_coupling_backward",
    "dense_block_pair_coupling_inverse_backward",
    "dense_block_workspace",
    "plu_weight",
    "plu_weight_backward",
    "round_state",
    "set_dense_block_cuda_kernel",
    "set_dense_block_workspace",
]

_ops = torch.ops.ivan_fast


def affine_coupling_forward(x: Tensor, h: Tensor, g: Tensor, clamp: float) -> Tensor:
    """``y = x * exp(s) + g`` with ``s = clamp * (2 * sigmoid(h) - 1)``.

    Args:
        x: coupled half of the state ``[N, C2, H, W]``.
        h: what the log scale is made of, ``[N, C2, H, W]``.
        g: shift ``[N, C2, H, W]``.
        clamp: bound of ``|s|``, >= 0; 0.8 in the paper.
    """
    refuse_tangents("affine_coupling_forward", x, h, g)
    return _ops.affine_coupling_forward.default(x, h, g, clamp)


def affine_coupling_inverse(y: Tensor, h: Tensor, g: Tensor, clamp: float) -> Tensor:
    """``x = (y - g) * exp(-s)``, the inverse of :func:`affine_coupling_forward`; all ``[N, C2, H, W]``."""
    refuse_tangents("affine_coupling_inverse", y, h, g)
    return _ops.affine_coupling_inverse.default(y, h, g, clamp)


def affine_coupling_backward(grad_y: Tensor, x: Tensor, h: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    """Gradients ``(grad_x, grad_h)`` of :func:`affine_coupling_forward`; ``grad_g`` is ``grad_y`` itself."""
    refuse_tangents("affine_coupling_backward", grad_y, x, h)
    return _ops.affine_coupling_backward.default(grad_y, x, h, clamp)


def affine_coupling_inverse_backward(
    grad_x: Tensor, x: Tensor, h: Tensor, clamp: float
) -> tuple[Tensor, Tensor]:
    """Gradients ``(grad_y, grad_h)`` of :func:`affine_coupling_inverse`, from its output ``x``.

    ``grad_g`` is ``-grad_y``.
    """
    refuse_tangents("affine_coupling_inverse_backward", grad_x, x, h)
    return _ops.affine_coupling_inverse_backward.default(grad_x, x, h, clamp)


def affine_coupling_recompute_backward(
    y: Tensor, h: Tensor, g: Tensor, grad_y: Tensor, clamp: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Invert and differentiate at once, from the output ``y``: ``(x, grad_x, grad_h)``.

    ``grad_g`` is ``grad_y``. The result is bit for bit that of the inverse followed by the backward.
    """
    refuse_tangents("affine_coupling_recompute_backward", y, h, g, grad_y)
    return _ops.affine_coupling_recompute_backward.default(y, h, g, grad_y, clamp)


def channel_mix(x: Tensor, weight: Tensor) -> Tensor:
    """Invertible 1x1 convolution ``y[n, i, p] = sum_j weight[i, j] * x[n, j, p]``.

    Args:
        x: state ``[N, C, H, W]``.
        weight: ``[C, C]``.
    """
    refuse_tangents("channel_mix", x, weight)
    return _ops.channel_mix.default(x, weight)


def channel_mix_backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients ``(grad_x [N, C, H, W], grad_weight [C, C])`` of :func:`channel_mix`.

    ``grad_weight`` is summed in a fixed order: the same on every run and for every number of threads.
    """
    refuse_tangents("channel_mix_backward", grad_y, x, weight)
    return _ops.channel_mix_backward.default(grad_y, x, weight)


def dense_block(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> Tensor:
    """Dense block of 3x3 convolutions (zero padding 1), each on the input and all earlier outputs.

    On the CPU the hidden activations never exist as tensors: rows stream through a workspace of constant size
    (``IVAN_FAST_WORKSPACE_MB`` MiB over all threads, default 64).
    On CUDA the hidden activations of one tile of the image exist at a time, within the same bound, or none do
    (:func:`set_dense_block_cuda_kernel`). The result is the same, bit for bit, for every number of threads
    and every bound, and as that of :func:`dense_block_backward`.

    Args:
        x: ``[N, in, H, W]``, float32 or float64.
        weights: ``weights[i]`` is ``[growth, in + i * growth, 3, 3]``, the last one ``[out, ...]``; 1 to 16
            of them; the order of input channels is ``[x | h1 | h2 | ...]``.
        biases: ``biases[i]`` is ``[growth]``, the last one ``[out]``.
        negative_slope: of the LeakyReLU after every convolution but the last, and its derivative at 0;
            at least 0.
        compute: ``"strict"``: a direct convolution. ``"fast"``: on the CPU in float32, by Winograd
            F(4x4, 3x3), whose rounding error is about twice as large (1e-6 relative); otherwise, and for
            images of a few pixels, as ``"strict"``.
            ``"bf16"``, ``"fp16"``: every convolution's operands are rounded to that type, sums are kept in
            ``x.dtype``. ``"tf32"`` is ``"strict"`` on the CPU. On CUDA all three, in float32, run on tensor
            cores of the devices that have them for that type (from sm_80; fp16 from sm_75); ``"tf32"`` is
            ``"strict"`` elsewhere.

    Returns:
        ``[N, out, H, W]`` in ``x.dtype``.
    """
    refuse_tangents("dense_block", x, *weights, *biases)
    return _ops.dense_block.default(x, list(weights), list(biases), negative_slope, compute)


def dense_block_backward(
    grad_y: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Recompute :func:`dense_block` and differentiate it: ``(y, grad_x, grad_weights, grad_biases)``.

    ``y`` is a by-product of the recompute. ``y`` and ``grad_x`` do not depend on the number of threads; the
    parameter gradients are the same on every run with the same number of threads and otherwise differ by
    rounding. With ``"bf16"`` and ``"fp16"`` the gradients that enter a convolution are rounded as well.
    """
    refuse_tangents("dense_block_backward", grad_y, x, *weights, *biases)
    return _ops.dense_block_backward.default(grad_y, x, list(weights), list(biases), negative_slope, compute)


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
    """Walk back through ``y2 = x2 * exp(s) + g``, where ``s`` comes from ``h = dense_block(x)``.

    One evaluation of the dense block: every row of h is turned into its gradient as soon as it is there.

    Args:
        y2: coupled half of the state behind the coupling ``[N, out, H, W]``, dtype of ``x`` or float64.
        g, grad_y2: shift, and gradient of ``y2``; as ``y2``.
        x: what h is made of ``[N, in, H, W]``; the rest as in :func:`dense_block`.
        clamp: bound of ``|s|``, >= 0.

    Returns:
        ``(x2, grad_x2, grad_x, grad_weights, grad_biases)``; ``grad_g`` is ``grad_y2``. ``grad_x`` is that of
        h alone.
    """
    refuse_tangents("dense_block_coupling_backward", y2, g, grad_y2, x, *weights, *biases)
    return _ops.dense_block_coupling_backward.default(
        y2, g, grad_y2, x, list(weights), list(biases), clamp, negative_slope, compute
    )


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
    """Walk back through ``x2 = (y2 - g) * exp(-s)``, where ``s`` comes from ``h = dense_block(x)``.

    Args: as of :func:`dense_block_coupling_backward`, with ``x2 [N, out, H, W]`` and its gradient.

    Returns:
        ``(scaled, grad_y2, grad_x, grad_weights, grad_biases)`` with ``scaled = x2 * exp(s) = y2 - g``;
        ``grad_g`` is ``-grad_y2``.
    """
    refuse_tangents("dense_block_coupling_inverse_backward", x2, grad_x2, x, *weights, *biases)
    return _ops.dense_block_coupling_inverse_backward.default(
        x2, grad_x2, x, list(weights), list(biases), clamp, negative_slope, compute
    )


def dense_block_workspace() -> int:
    """Upper bound in bytes of what the dense block ops work in, all threads together."""
    return _C.dense_block_workspace()


def set_dense_block_workspace(size: int) -> None:
    """Set that bound for this process; the default is ``IVAN_FAST_WORKSPACE_MB`` MiB, or 64 MiB.

    Images too wide for it are computed in column strips, at least 32 columns wide. Outputs and ``grad_x``
    stay the same bits.

    Args:
        size: bytes, at least 1.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"set_dense_block_workspace: size is {size}, expected at least 1 byte")
    _C.set_dense_block_workspace(size)


def dense_block_cuda_kernel() -> str | None:
    """What CUDA tensors run in the dense block ops: ``"layerwise"``, ``"fused"``, or None without CUDA."""
    kernel: str | None = _C.build_info()["dense_block_cuda"]
    return kernel


def set_dense_block_cuda_kernel(kernel: str) -> None:
    """Choose that for this process; at first it is ``IVAN_FAST_CUDA_KERNEL``, or ``"layerwise"``.

    Args:
        kernel: ``"layerwise"``: one launch for each convolution. ``"fused"``: in bf16, fp16 or TF32 one
            launch for all convolutions, forward or for the gradient of the input, hidden activations in
            shared memory, where the device has room for them (growth at most 32, at most 16 output
            channels; of the gradient, input channels); everything else level by level. The results are the
            same bits.

    Raises:
        ValueError: another name.
        RuntimeError: this build has no CUDA kernels.
    """
    if kernel not in ("layerwise", "fused"):
        raise ValueError(
            f"set_dense_block_cuda_kernel: kernel is {kernel!r}, expected 'layerwise' or 'fused'"
        )
    _C.select_fused(kernel == "fused")
