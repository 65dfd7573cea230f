"""A metric over the slices of a volume, without the empty ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, as_tensor, not_constant


@dataclass(frozen=True)
class SliceStatistics:
    """One metric over the slices of a volume.

    Attributes:
        mean, std: over the counted slices, population standard deviation; both may be ``inf`` (PSNR of equal
            slices).
        values: each counted slice's value, in order.
        counted, skipped: numbers of slices; skipped ones have a constant reference or no pixel inside the
            mask.
    """

    mean: Metric
    std: Metric
    values: tuple[float, ...]
    counted: int
    skipped: int


def as_slices(array: Array, axis: int, name: str) -> Tensor:
    """A volume (or one image) as ``[S, 1, H, W]`` float64. Raises InputError for anything else."""
    tensor = as_tensor(array, name)
    if tensor.ndim == 2:
        return tensor[None, None]
    if tensor.ndim != 3:
        raise InputError(f"{name}: {tensor.ndim} dimensions; expected a volume [X, Y, Z] or one image [H, W]")
    if not -3 <= axis < 3:
        raise InputError(f"axis: {axis} for a volume of shape {tuple(tensor.shape)}; expected 0, 1 or 2")
    return tensor.movedim(axis, 0)[:, None]


@dataclass(frozen=True)
class CountedSlices:
    """The slices of a case that hold something, ``[K, 1, H, W]`` each."""

    reference: Tensor
    prediction: Tensor
    mask: Tensor | None
    counted: int
    skipped: int

    @property
    def words(self) -> str:
        return f"{self.counted} slices ({self.skipped} empty skipped)"


def counted_slices(reference: Array, prediction: Array, mask: Array | None, axis: int) -> CountedSlices:
    """The slices whose reference is not constant and, with a mask, has a pixel inside it.

    Raises:
        InputError: shapes differ, or every slice is empty.
    """
    r, p = as_slices(reference, axis, "reference"), as_slices(prediction, axis, "prediction")
    if r.shape != p.shape:
        raise InputError(
            f"prediction: {tuple(p.shape)} (slices, 1, height, width), expected {tuple(r.shape)}; "
            "resample to one grid first"
        )
    keep = not_constant(r[:, 0])
    inside = None
    if mask is not None:
        inside = as_slices(mask, axis, "mask") != 0
        if inside.shape != r.shape:
            raise InputError(f"mask: {tuple(inside.shape)}, expected {tuple(r.shape)} as the reference")
        keep = keep & inside.flatten(1).any(dim=1)
    counted = int(keep.sum())
    if counted == 0:
        raise InputError(
            f"reference: all {len(keep)} slices are empty (one value each); check the file and the mask"
        )
    picked = None if inside is None else inside[keep]
    return CountedSlices(r[keep], p[keep].to(r.device), picked, counted, len(keep) - counted)


def _statistics(values: Tensor, name: str, slices: CountedSlices) -> SliceStatistics:
    values = values.flatten()
    mean = values.mean().item()
    # inf - inf is NaN: equal values, all infinite ones included, have no spread; some infinite ones have an
    # infinite one.
    if bool((values == values[0]).all()):
        std = 0.0
    else:
        std = math.inf if math.isinf(mean) else values.std(correction=0).item()
    return SliceStatistics(
        Metric(mean, f"{name}, mean over {slices.words}"),
        Metric(std, f"{name}, population standard deviation over {slices.words}"),
        tuple(values.tolist()),
        slices.counted,
        slices.skipped,
    )


def over_slices(
    metric: Callable[..., Any],
    reference: Array,
    prediction: Array,
    *,
    axis: int = -1,
    mask: Array | None = None,
    **options: Any,
) -> SliceStatistics:
    """`metric` (`psnr`, `nmse` or `ssim`) of each slice of a volume along `axis`, without the empty ones.

    Args:
        metric: a function of (reference, prediction, mask=..., **options) for batches ``[N, C, H, W]``.
        reference, prediction, mask: ``[X, Y, Z]`` or one image ``[H, W]``.
        options: passed on, such as ``data_range=1.0``.

    Raises:
        InputError: every slice is empty, or what `metric` raises.
    """
    slices = counted_slices(reference, prediction, mask, axis)
    values = metric(slices.reference, slices.prediction, mask=slices.mask, **options)
    where = "no mask" if mask is None else "inside the mask"
    said = "".join(f", {key.replace('_', ' ')} {value}" for key, value in options.items())
    return _statistics(values, f"{metric.__name__.upper()}{said}, {where}", slices)
