"""Training a fusion network without any target: what the fused image must keep of its two sources."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.pixelwise import ssim_map
from ivan.variables import VariableAugmentation

_WINDOW = 7  # of the structure term


def fusion_terms(fused: Tensor, sources: Tensor) -> dict[str, Tensor]:
    """How far fused images are from what they should keep; each a scalar, 0 is best.

    * ``intensity``: mean ``|F - max(A, B)|``: bright structures of either source stay (bone of CT, uptake of
      PET).
    * ``gradient``: mean ``|dF - d|``, d the stronger one of the sources' first differences, along rows and
      columns.
    * ``structure``: 1 minus the mean over 7x7 windows of ``lam SSIM(A, F) + (1 - lam) SSIM(B, F)`` with
      ``lam = var_A / (var_A + var_B)``, 1/2 where both are 0, as Piella's Q weighs them.

    Args:
        fused: ``[B, K, H, W]``, K images of the same two sources (copies).
        sources: ``[B, 2, H, W]`` in about 0..1.

    Raises:
        InputError: not two sources, or images below 7x7.
    """
    if sources.shape[1] != 2:
        raise InputError(f"sources: {sources.shape[1]} modalities; expected 2 to fuse")
    if min(sources.shape[2:]) < _WINDOW:
        found = "x".join(map(str, sources.shape[2:]))
        raise InputError(f"sources: {found} pixels; the structure term needs at least {_WINDOW}x{_WINDOW}")
    a, b = sources[:, :1], sources[:, 1:]
    intensity = (fused - torch.maximum(a, b)).abs().mean()
    gradient = fused.new_zeros(())
    for axis in (2, 3):
        da, db = a.diff(dim=axis), b.diff(dim=axis)
        gradient = (
            gradient + (fused.diff(dim=axis) - torch.where(da.abs() >= db.abs(), da, db)).abs().mean() / 2
        )
    va, vb = (_variance(x) for x in (a, b))
    total = va + vb
    lam = torch.where(total > 0, va / total.clamp_min(1e-12), torch.full_like(total, 0.5))
    kept = lam * _similarity(a, fused) + (1 - lam) * _similarity(b, fused)
    return {"intensity": intensity, "gradient": gradient, "structure": 1 - kept.mean()}


def _variance(x: Tensor) -> Tensor:
    mean = F.avg_pool2d(x, _WINDOW, 1)
    return (F.avg_pool2d(x * x, _WINDOW, 1) - mean * mean).clamp_min(0)


def _similarity(source: Tensor, fused: Tensor) -> Tensor:
    """SSIM ``[B, K, H-6, W-6]`` of ``[B, 1, H, W]`` with each of ``[B, K, H, W]``."""
    flat = source.expand_as(fused).flatten(0, 1)
    values = ssim_map(flat, fused.flatten(0, 1), 1.0, "uniform7")
    return values.reshape(*fused.shape[:2], *values.shape[1:])


def fusion_loss(
    model: Any,
    sources: Tensor,
    aug: VariableAugmentation,
    weight: float = 1.0,
    intensity_weight: float = 1.0,
    gradient_weight: float = 1.0,
    structure_weight: float = 1.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """``weight * (weighted terms of f(X)) + |f^-1(the fused image alone) - sources|^2``.

    Every copy of the fused image is judged by `fusion_terms` (dummies of ``fill="zero"`` and ``"noise"`` are
    not). The reverse term takes the mean over copies, which is what is published, fills the channels with it
    again and asks f^-1 for the sources: it trains the approximate decomposition. (From the whole state they
    come back exactly, whatever the weights are.)

    Args:
        model: f with ``aug.channels`` channels.
        sources: ``[B, 2 (2K + 1), H, W]``: two modalities, with context K those of the neighbours too.
        aug: ``VariableAugmentation(sources, 1)``.
        weight: of the forward term.
        intensity_weight, gradient_weight, structure_weight: of its parts; at least one above 0.
        generator: of the noise of ``fill="noise"``.

    Returns:
        Scalars ``total``, ``forward``, ``reverse``, and ``intensity``, ``gradient``, ``structure`` without
        weights.

    Raises:
        InputError: bad weights, or as `fusion_terms`.
    """
    weights = {"intensity": intensity_weight, "gradient": gradient_weight, "structure": structure_weight}
    if not all(math.isfinite(w) and w >= 0 for w in (weight, *weights.values())) or not sum(weights.values()):
        raise InputError(f"fusion weights: {weight}, {weights}; expected finite numbers from 0, not all 0")
    if generator is None and aug.fill == "noise":
        generator = torch.default_generator
    state = model(aug.augment_sources(sources, generator))
    used = aug.channels if aug.fill == "copy" else aug.targets
    terms = fusion_terms(state[:, :used], sources[:, :2])
    forward = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
    published = aug.augment_targets(aug.collapse_targets(state), generator)
    reverse = F.mse_loss(aug.collapse_sources(model.inverse(published)), sources)
    return {"total": weight * forward + reverse, "forward": forward, "reverse": reverse, **terms}
