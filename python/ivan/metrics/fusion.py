"""Structure and edge metrics of fusion, independent of the scale. Array shapes: `ivan.metrics.arrays`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ivan.metrics.arrays import Array, not_constant, stack
from ivan.metrics.windows import UNIFORM_8, in_chunks, window_means

_NAMES = ("a", "b", "fused")
_WINDOW = 8


def _window_mean(images: Tensor) -> Tensor:
    """Means ``[B, H-7, W-7]`` over all 8x8 windows of ``[B, H, W]``."""
    return window_means(images, UNIFORM_8)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance of each window; a flat window has variance exactly 0.

    Gray levels are integers, so their window sums are exact. Fractions are not: below the rounding of the
    mean of squares the variance is noise, which would decide between the flat and the structured formula by
    chance.
    """
    mean, mean_square = _window_mean(x), _window_mean(x * x)
    variance = mean_square - mean * mean
    noise = 64 * torch.finfo(x.dtype).eps * mean_square
    return mean, torch.where(variance > noise, variance, torch.zeros_like(variance))


def _q0(x: Tensor, y: Tensor) -> Tensor:
    """Wang and Bovik's index of each window, ``[B, H-7, W-7]``, without constants."""
    (mx, vx), (my, vy) = _moments(x), _moments(y)
    one = torch.ones_like(mx)
    covariance = _window_mean(x * y) - mx * my
    # A flat window has no structure to correlate: rounding in its covariance must not count.
    covariance = torch.where((vx > 0) & (vy > 0), covariance, torch.zeros_like(covariance))
    means = mx * mx + my * my
    luminance = torch.where(means > 0, 2 * mx * my / torch.where(means > 0, means, one), one)
    spread = vx + vy
    structure = torch.where(spread > 0, 2 * covariance / torch.where(spread > 0, spread, one), one)
    return luminance * structure


def q_0(reference: Array, prediction: Array, *, axis: int | None = None) -> Any:
    """Universal image quality index Q_0 (Wang and Bovik, 2002), mean over 8x8 windows of stride 1: -1..1.

    ``4 cov mx my / ((vx + vy)(mx^2 + my^2))`` without stabilising constants. Where both variances are 0:
    ``2 mx my / (mx^2 + my^2)``, and 1 where the means are 0 too.

    Args:
        reference, prediction: ``[H, W]``, a volume with `axis`, or ``[N, C, H, W]``; at least 8x8; any scale.

    Raises:
        InputError: shapes differ, images below 8x8, values not finite, or a volume without `axis`.
    """
    pair = stack(reference, prediction, names=("reference", "prediction"), axis=axis)
    pair.need("Q_0", _WINDOW)
    values = in_chunks(lambda x, y: _q0(x, y).mean(dim=(1, 2)), pair.images)
    return pair.finish(values, "Q_0, 8x8 windows", keep=not_constant(pair.images[0]))


def _piella(a: Array, b: Array, fused: Array, axis: int | None, weighted: bool) -> Any:
    three = stack(a, b, fused, names=_NAMES, axis=axis)
    three.need("Q (Piella)", _WINDOW)

    def values(xa: Tensor, xb: Tensor, xf: Tensor) -> Tensor:
        va, vb = _moments(xa)[1], _moments(xb)[1]
        total = va + vb
        lam = torch.where(total > 0, va / torch.where(total > 0, total, torch.ones_like(total)), 0.5)
        local = lam * _q0(xa, xf) + (1 - lam) * _q0(xb, xf)
        if not weighted:
            return local.mean(dim=(1, 2))
        return _weighted_mean(local, torch.maximum(va, vb))

    keep = not_constant(three.images[0]) | not_constant(three.images[1])
    name = "Q_w (Piella), weighted by the larger variance" if weighted else "Q (Piella)"
    return three.finish(in_chunks(values, three.images), f"{name}, 8x8 windows", keep=keep)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``[B, H, W]`` by weights of that shape: ``[B]``; equal weights where an image's are all 0."""
    weights = torch.where(weights.sum(dim=(1, 2), keepdim=True) > 0, weights, torch.ones_like(weights))
    return (values * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


def q_piella(a: Array, b: Array, fused: Array, *, axis: int | None = None) -> Any:
    """Fusion quality Q (Piella and Heijmans, 2003): mean over windows of ``lam Q_0(A,F) + (1-lam) Q_0(B,F)``.

    ``lam = var_A / (var_A + var_B)``, 1/2 where both are 0. The notes on the paper print this formula under
    the label Q_ab/f; the measure commonly known by that name is `q_abf`.

    Args:
        a, b, fused: one shape, at least 8x8, any scale. In a volume, slices where both sources are constant
            are skipped.

    Raises:
        InputError: as `q_0`.
    """
    return _piella(a, b, fused, axis, weighted=False)


def q_w(a: Array, b: Array, fused: Array, *, axis: int | None = None) -> Any:
    """Weighted fusion quality Q_w (Piella and Heijmans, 2003): `q_piella` with weights ``max(var_A, var_B)``.

    Args and errors: as `q_piella`.
    """
    return _piella(a, b, fused, axis, weighted=True)


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Edge magnitude and orientation in (-pi/2, pi/2] of ``[B, H, W]``, zero-padded to the same size."""
    kx = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    ky = x.new_tensor([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    # conv2d correlates: against a convolution both components change sign; magnitude and atan(sy / sx) stay.
    kernels = torch.stack([kx, ky])[:, None]
    s = F.conv2d(x[:, None], kernels, padding=1)
    # Integers cancel exactly; fractions leave a rounding error whose sign would turn an edge by pi.
    noise = 8 * torch.finfo(x.dtype).eps * F.conv2d(x[:, None].abs(), kernels.abs(), padding=1)
    s = torch.where(s.abs() > noise, s, torch.zeros_like(s))
    sx, sy = s[:, 0], s[:, 1]
    flat = sx == 0
    angle = torch.where(flat, math.pi / 2, torch.atan(sy / torch.where(flat, torch.ones_like(sx), sx)))
    return torch.sqrt(sx * sx + sy * sy), angle


def _edge_preservation(source: tuple[Tensor, Tensor], fused: tuple[Tensor, Tensor]) -> Tensor:
    (g, angle), (g_f, angle_f) = source, fused
    larger = torch.maximum(g, g_f)
    # Equal magnitudes are perfectly preserved (1), both 0 included.
    strength = torch.where(larger > 0, torch.minimum(g, g_f) / torch.where(larger > 0, larger, 1.0), 1.0)
    alignment = 1 - (angle - angle_f).abs() / (math.pi / 2)
    q_strength = 0.9994 / (1 + torch.exp(-15 * (strength - 0.5)))
    q_alignment = 0.9879 / (1 + torch.exp(-22 * (alignment - 0.8)))
    return q_strength * q_alignment


def q_abf(a: Array, b: Array, fused: Array, *, axis: int | None = None) -> Any:
    """Edge-based fusion quality Q^{AB/F} (Xydeas and Petrovic, 2000): 0 to 0.9748, its value for F = A = B.

    Sobel strength g and orientation; strength ratio G (1 where equal) and alignment
    ``Al = 1 - |angle - angle_F| / (pi/2)`` pass through sigmoids, ``0.9994 / (1 + exp(-15 (G - 0.5)))`` and
    ``0.9879 / (1 + exp(-22 (Al - 0.8)))``; their product is averaged with weights g over both sources.
    Sources without any edge weigh all pixels alike.

    Args:
        a, b, fused: one shape, any scale. In a volume, slices where both sources are constant are skipped.

    Raises:
        InputError: shapes differ, values not finite, or a volume without `axis`.
    """
    three = stack(a, b, fused, names=_NAMES, axis=axis)

    def values(xa: Tensor, xb: Tensor, xf: Tensor) -> Tensor:
        edges_a, edges_b, edges_f = _sobel(xa), _sobel(xb), _sobel(xf)
        quality = torch.cat(
            [_edge_preservation(edges_a, edges_f), _edge_preservation(edges_b, edges_f)], dim=1
        )
        return _weighted_mean(quality, torch.cat([edges_a[0], edges_b[0]], dim=1))

    keep = not_constant(three.images[0]) | not_constant(three.images[1])
    return three.finish(in_chunks(values, three.images), "Q^AB/F, Sobel with zero padding", keep=keep)
