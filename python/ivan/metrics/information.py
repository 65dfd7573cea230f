"""Histogram metrics of fusion, on gray images of 0..255. Array shapes: `ivan.metrics.arrays`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.arrays import Array, not_constant, stack

_LEVELS = 256


def _gray_levels(images: Tensor, name: str, check_range: bool) -> Tensor:
    """Images ``[B, H, W]`` as integers 0..255 (rounded), ``[B, H*W]`` int64.

    Raises:
        InputError: values outside 0..255, or (`check_range`) fractions in 0..1: two bins of a histogram.
    """
    low, high = float(images.amin()), float(images.amax())
    if low < 0 or high > 255:
        raise InputError(
            f"{name}: values {low:g}..{high:g}; expected gray levels 0..255, rescale the image first"
        )
    if check_range and high <= 1 and bool((images != images.round()).any()):
        raise InputError(
            f"{name}: values {low:g}..{high:g}; expected gray levels 0..255, multiply a [0, 1] image by 255"
        )
    return images.round().to(torch.int64).flatten(1)


def _entropy_of_counts(counts: Tensor) -> Tensor:
    """Entropy in bits of histograms ``[B, K]``: ``[B]``."""
    p = counts.to(torch.float64)
    p = p / p.sum(dim=1, keepdim=True)
    nats = 0.0 - torch.special.xlogy(p, p).sum(dim=1)  # a constant image has 0, not -0
    return nats / torch.log(torch.tensor(2.0, dtype=torch.float64, device=p.device))


def _histograms(levels: Tensor, bins: int) -> Tensor:
    """Counts ``[B, bins]`` of levels ``[B, K]``."""
    return torch.stack([torch.bincount(row, minlength=bins) for row in levels])


def _entropies(levels_a: Tensor, levels_f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H(A), H(F) and H(A, F) in bits, ``[B]`` each."""
    h_a = _entropy_of_counts(_histograms(levels_a, _LEVELS))
    h_f = _entropy_of_counts(_histograms(levels_f, _LEVELS))
    joint = [torch.bincount(row) for row in levels_a * _LEVELS + levels_f]
    h_af = torch.cat([_entropy_of_counts(row[None]) for row in joint])
    return h_a, h_f, h_af


def entropy(image: Array, *, axis: int | None = None, check_range: bool = True) -> Any:
    """Entropy (EN) in bits, ``-sum p log2 p`` over 256 integer bins: 0 (constant image) to 8.

    Args:
        image: gray levels 0..255, ``[H, W]``, a volume with `axis`, or ``[N, C, H, W]``; fractions are
            rounded.
        check_range: refuse fractions in 0..1, which are rather an image that was not multiplied by 255 than
            gray levels that dark.

    Raises:
        InputError: values outside 0..255, a fractional image in [0, 1], or a volume without `axis`.
    """
    single = stack(image, names=("image",), axis=axis)
    levels = _gray_levels(single.images[0], "image", check_range)
    return single.finish(_entropy_of_counts(_histograms(levels, _LEVELS)), "EN in bits, 256 integer bins")


def _prepare(
    a: Array, b: Array, fused: Array, axis: int | None, check_range: bool
) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    three = stack(a, b, fused, names=("a", "b", "fused"), axis=axis)
    named = zip(three.images, ("a", "b", "fused"), strict=True)
    levels = [_gray_levels(images, name, check_range) for images, name in named]
    keep = not_constant(three.images[0]) | not_constant(three.images[1])
    return three, levels[0], levels[1], levels[2], keep


def mutual_information(
    a: Array, b: Array, fused: Array, *, axis: int | None = None, check_range: bool = True
) -> Any:
    """Mutual information (MI) of fusion in bits: ``I(A, F) + I(B, F)`` from 256-bin histograms.

    Values in nats, which other tools print, are 1.4427 times smaller.

    Args:
        a, b, fused: gray levels 0..255 of one shape; in a volume, slices where both sources are constant are
            skipped.
        check_range: as `entropy`.

    Raises:
        InputError: as `entropy`, or shapes that differ.
    """
    three, la, lb, lf, keep = _prepare(a, b, fused, axis, check_range)
    total = torch.zeros(la.shape[0], dtype=torch.float64, device=la.device)
    for levels in (la, lb):
        h_x, h_f, h_xf = _entropies(levels, lf)
        total = total + (h_x + h_f - h_xf)
    return three.finish(total, "MI in bits, 256 integer bins", keep=keep)


def q_mi(a: Array, b: Array, fused: Array, *, axis: int | None = None, check_range: bool = True) -> Any:
    """Normalised mutual information of fusion, Q_MI (Hossny et al., 2008).

    ``2 [I(A,F)/(H(A)+H(F)) + I(B,F)/(H(B)+H(F))]``, 0..2; independent of the logarithm's base. Where a source
    and the fused image are both constant (0/0) each determines the other and that source's term counts as its
    largest value, 1.

    Args and errors: as `mutual_information`.
    """
    three, la, lb, lf, keep = _prepare(a, b, fused, axis, check_range)
    total = torch.zeros(la.shape[0], dtype=torch.float64, device=la.device)
    for levels in (la, lb):
        h_x, h_f, h_xf = _entropies(levels, lf)
        both = h_x + h_f
        total = total + torch.where(both > 0, 2 * (both - h_xf) / both, torch.ones_like(both))
    return three.finish(total, "Q_MI (0..2), 256 integer bins", keep=keep)
