"""From images to subjects: volume and slice level figures of one case, each with its protocol."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, as_tensor, choose, not_constant, of_batch, stack
from ivan.metrics.fusion import q_abf, q_piella, q_w
from ivan.metrics.information import entropy, mutual_information, q_mi
from ivan.metrics.pixelwise import nmse, psnr, ssim
from ivan.metrics.sharpness import average_gradient, spatial_frequency
from ivan.metrics.through_plane import through_plane


def foreground_mask(reference: Array, threshold: float = 0.0) -> Any:
    """Where the reference is above `threshold`: bool, same shape; NumPy unless `reference` is a tensor.

    Always taken from the reference: a mask from the prediction would reward predicting nothing.

    Raises:
        InputError: values not finite, or nothing above the threshold.
    """
    values = as_tensor(reference, "reference")
    inside = values > threshold
    if not bool(inside.any()):
        raise InputError(
            f"reference: no value above {threshold:g} (largest {values.max().item():g}); lower threshold="
        )
    return inside if isinstance(reference, Tensor) else inside.numpy()


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


def _slices(array: Array, axis: int, name: str) -> Tensor:
    """A volume (or one image) as ``[S, 1, H, W]`` float64."""
    tensor = as_tensor(array, name)
    if tensor.ndim == 2:
        return tensor[None, None]
    if tensor.ndim != 3:
        raise InputError(f"{name}: {tensor.ndim} dimensions; expected a volume [X, Y, Z] or one image [H, W]")
    if not -3 <= axis < 3:
        raise InputError(f"axis: {axis} for a volume of shape {tuple(tensor.shape)}; expected 0, 1 or 2")
    return tensor.movedim(axis, 0)[:, None]


@dataclass(frozen=True)
class _CountedSlices:
    """The slices of a case that hold something, ``[K, 1, H, W]`` each."""

    reference: Tensor
    prediction: Tensor
    mask: Tensor | None
    counted: int
    skipped: int

    @property
    def words(self) -> str:
        return f"{self.counted} slices ({self.skipped} empty skipped)"


def _counted_slices(reference: Array, prediction: Array, mask: Array | None, axis: int) -> _CountedSlices:
    r, p = _slices(reference, axis, "reference"), _slices(prediction, axis, "prediction")
    if r.shape != p.shape:
        raise InputError(
            f"prediction: {tuple(p.shape)} (slices, 1, height, width), expected {tuple(r.shape)}; "
            "resample to one grid first"
        )
    keep = not_constant(r[:, 0])
    inside = None
    if mask is not None:
        inside = _slices(mask, axis, "mask") != 0
        if inside.shape != r.shape:
            raise InputError(f"mask: {tuple(inside.shape)}, expected {tuple(r.shape)} as the reference")
        keep = keep & inside.flatten(1).any(dim=1)
    counted = int(keep.sum())
    if counted == 0:
        raise InputError(
            f"reference: all {len(keep)} slices are empty (one value each); check the file and the mask"
        )
    picked = None if inside is None else inside[keep]
    return _CountedSlices(r[keep], p[keep].to(r.device), picked, counted, len(keep) - counted)


def _statistics(values: Tensor, name: str, slices: _CountedSlices) -> SliceStatistics:
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
    slices = _counted_slices(reference, prediction, mask, axis)
    values = metric(slices.reference, slices.prediction, mask=slices.mask, **options)
    where = "no mask" if mask is None else "inside the mask"
    said = "".join(f", {key.replace('_', ' ')} {value}" for key, value in options.items())
    return _statistics(values, f"{metric.__name__.upper()}{said}, {where}", slices)


def sharpness_ratios(
    reference: Array, prediction: Array, *, axis: int = -1, variant: str = "default"
) -> dict[str, Metric]:
    """AG and SF of the prediction divided by those of the reference: 1 is as sharp, below 1 is blurred.

    Each is the ratio of two means over the non-empty slices, so nearly flat slices do not decide. The
    slices are never masked: a mask's edge is not an edge of the image. Keys: ``sharpness_ag``,
    ``sharpness_sf``.

    Raises:
        InputError: shapes differ, every slice is empty, or slices below 2x2.
    """
    slices = _counted_slices(reference, prediction, None, axis)

    def ratio(values_p: Tensor, values_r: Tensor) -> float:
        return float(values_p.mean() / values_r.mean())

    ag = ratio(
        average_gradient(slices.prediction, variant=variant),
        average_gradient(slices.reference, variant=variant),
    )
    sf = ratio(spatial_frequency(slices.prediction), spatial_frequency(slices.reference))
    note = f"prediction / reference, means over {slices.words}, no mask"
    return {
        "sharpness_ag": Metric(ag, f"AG variant {variant}, {note}"),
        "sharpness_sf": Metric(sf, f"SF, {note}"),
    }


def synthesis_metrics(
    reference: Array,
    prediction: Array,
    data_range: float,
    mask: Array | None = None,
    variant: str = "wang",
    axis: int = -1,
) -> dict[str, Any]:
    """Everything that a report on one case prints.

    Args:
        reference, prediction: ``[X, Y, Z]``, one image ``[H, W]`` or a batch ``[N, C, H, W]`` of images, on
            one grid and in one unit.
        data_range: span of possible values in that unit; explicit, never the image's own maximum.
        mask: same shape, for example `foreground_mask(reference)`; PSNR, NMSE and SSIM count its pixels only.
        variant: ``wang`` or ``uniform7`` for SSIM; ``notes`` for the formulas of the notes on the paper (NMSE
            and AG; SSIM as ``wang``).
        axis: counts the slices; the last by default (axial slices of RAS volumes). Of a batch it has no
            meaning.

    Returns:
        Metrics by name, each with `Metric.protocol`: ``psnr`` and ``nmse`` over the volume, ``ssim`` mean
        over slices, ``psnr_slices_mean``, ``psnr_slices_std``, the same for ``nmse`` and ``ssim_slices_std``,
        ``sharpness_ag``, ``sharpness_sf``; of at least two slices also ``through_plane_error`` and
        ``through_plane_ratio`` (`through_plane`). `protocols` gives the protocols as text by name. Of a batch
        ``psnr``, ``nmse``, ``ssim``, ``sharpness_ag`` and ``sharpness_sf``, values ``[N, C]`` of each image.

    Raises:
        InputError: shapes differ, values not finite, an empty reference or mask, an unknown variant, or
            slices below the SSIM window (11x11, 7x7 for ``uniform7``).
    """
    choose("variant", variant, ("wang", "uniform7", "notes"))
    ssim_variant = "wang" if variant == "notes" else variant
    formula = "notes" if variant == "notes" else "default"
    if as_tensor(reference, "reference").ndim == 4:
        return _batch_metrics(reference, prediction, data_range, mask, ssim_variant, formula)
    per_psnr = over_slices(psnr, reference, prediction, axis=axis, mask=mask, data_range=data_range)
    per_nmse = over_slices(nmse, reference, prediction, axis=axis, mask=mask, variant=formula)
    result = {
        "psnr": psnr(reference, prediction, data_range=data_range, mask=mask),
        "nmse": nmse(reference, prediction, mask=mask, variant=formula),
        "psnr_slices_mean": per_psnr.mean,
        "psnr_slices_std": per_psnr.std,
        "nmse_slices_mean": per_nmse.mean,
        "nmse_slices_std": per_nmse.std,
    }
    per_ssim = _ssim_over_slices(reference, prediction, data_range, mask, ssim_variant, axis)
    result["ssim"] = per_ssim.mean
    result["ssim_slices_std"] = per_ssim.std
    result |= sharpness_ratios(reference, prediction, axis=axis, variant=formula)
    shape = as_tensor(reference, "reference").shape
    if len(shape) == 3 and shape[axis] > 1 and (mask is None or _touching(mask, axis)):
        result |= through_plane(reference, prediction, data_range=data_range, axis=axis, mask=mask)
    return result


def _touching(mask: Array, axis: int) -> bool:
    """Whether two neighbouring slices have a voxel of the mask in common."""
    inside = as_tensor(mask, "mask").movedim(axis, 0) != 0
    return bool((inside[1:] & inside[:-1]).any())


def _batch_metrics(
    reference: Array, prediction: Array, data_range: float, mask: Array | None, variant: str, formula: str
) -> dict[str, Any]:
    """`synthesis_metrics` of each image of a batch ``[N, C, H, W]``."""
    result = {
        "psnr": psnr(reference, prediction, data_range=data_range, mask=mask),
        "nmse": nmse(reference, prediction, mask=mask, variant=formula),
        "ssim": ssim(reference, prediction, data_range=data_range, mask=mask, variant=variant),
    }
    numpy = not isinstance(reference, Tensor) and not isinstance(prediction, Tensor)
    for name, word, measured in (
        ("sharpness_ag", f"AG variant {formula}", partial(average_gradient, variant=formula)),
        ("sharpness_sf", "SF", spatial_frequency),
    ):
        real, made = (torch.as_tensor(measured(x)) for x in (reference, prediction))
        note = f"{word}, prediction / reference, no mask, each image"
        result[name] = of_batch(made.to(real.device) / real, note, numpy)
    return result


def _ssim_over_slices(
    reference: Array, prediction: Array, data_range: float, mask: Array | None, variant: str, axis: int
) -> SliceStatistics:
    """`over_slices(ssim, ...)` without slices whose mask lies in the border that no window is centred on."""
    border = 5 if variant == "wang" else 3  # half a window
    if mask is not None and min((inside := _slices(mask, axis, "mask")).shape[-2:]) > 2 * border:
        kept = torch.zeros_like(inside)
        kept[..., border:-border, border:-border] = inside[..., border:-border, border:-border]
        mask = kept[0, 0] if as_tensor(reference, "reference").ndim == 2 else kept[:, 0].movedim(0, axis)
    return over_slices(
        ssim, reference, prediction, axis=axis, mask=mask, data_range=data_range, variant=variant
    )


def fusion_metrics(a: Array, b: Array, fused: Array, axis: int | None = None) -> dict[str, Any]:
    """Everything that a report on one fused image (or volume along `axis`) prints, each with its protocol.

    Names: ``entropy``, ``average_gradient``, ``spatial_frequency``, ``mutual_information``, ``q_mi``,
    ``q_abf``, ``q_piella``, ``q_w``.

    Args:
        a, b, fused: gray levels 0..255 of one shape (a colour source: the Y of its YCbCr): an image, a volume
            along `axis`, or a batch ``[N, C, H, W]``, whose results are values ``[N, C]``.

    Raises:
        InputError: as the metrics, or a volume of sources without an image in them.
    """
    three = stack(a, b, fused, names=("a", "b", "fused"), axis=axis)
    if three.kind == "batch":
        return _fusion_metrics(a, b, fused, None)
    xa, xb, xf = (t if three.kind == "volume" else t[0] for t in three.images)
    slices = 0 if three.kind == "volume" else None
    if three.kind == "volume":
        # One choice of slices for all metrics: black slices would dilute EN, AG and SF and flatter Q.
        keep = not_constant(xa) | not_constant(xb)
        if not bool(keep.any()):
            raise InputError(f"a, b: all {len(keep)} slices are empty; expected a volume with an image in it")
        xa, xb, xf = xa[keep], xb[keep], xf[keep]
    return _fusion_metrics(xa, xb, xf, slices)


def _fusion_metrics(xa: Array, xb: Array, xf: Array, slices: int | None) -> dict[str, Any]:
    return {
        "entropy": entropy(xf, axis=slices),
        "average_gradient": average_gradient(xf, axis=slices),
        "spatial_frequency": spatial_frequency(xf, axis=slices),
        "mutual_information": mutual_information(xa, xb, xf, axis=slices),
        "q_mi": q_mi(xa, xb, xf, axis=slices),
        "q_abf": q_abf(xa, xb, xf, axis=slices),
        "q_piella": q_piella(xa, xb, xf, axis=slices),
        "q_w": q_w(xa, xb, xf, axis=slices),
    }
