"""From images to subjects: volume and slice level figures of one synthesised case, each with its protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, as_tensor, choose, of_batch
from ivan.metrics.pixelwise import nmse, psnr, ssim
from ivan.metrics.sharpness import average_gradient, spatial_frequency
from ivan.metrics.slices import SliceStatistics, as_slices, counted_slices, over_slices
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
    slices = counted_slices(reference, prediction, None, axis)

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
    with_ssim: bool = True,
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
        with_ssim: False leaves SSIM out, for slices that are smaller than its window.

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
        return _batch_metrics(reference, prediction, data_range, mask, ssim_variant, formula, with_ssim)
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
    if with_ssim:
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
    reference: Array,
    prediction: Array,
    data_range: float,
    mask: Array | None,
    variant: str,
    formula: str,
    with_ssim: bool,
) -> dict[str, Any]:
    """`synthesis_metrics` of each image of a batch ``[N, C, H, W]``."""
    result = {
        "psnr": psnr(reference, prediction, data_range=data_range, mask=mask),
        "nmse": nmse(reference, prediction, mask=mask, variant=formula),
    }
    if with_ssim:
        result["ssim"] = ssim(reference, prediction, data_range=data_range, mask=mask, variant=variant)
    numpy = not isinstance(reference, Tensor) and not isinstance(prediction, Tensor)
    for name, word, measured in (
        ("sharpness_ag", f"AG variant {formula}", partial(average_gradient, variant=formula)),
        ("sharpness_sf", "SF", spatial_frequency),
    ):
        real, made = (torch.as_tensor(measured(x)) for x in (reference, prediction))
        note = f"{word}, prediction / reference, no mask, each image"
        made = made.to(real.device)
        both_flat = (made == 0) & (real == 0)  # as sharp as each other, and not 0 / 0
        result[name] = of_batch(torch.where(both_flat, torch.ones_like(real), made / real), note, numpy)
    return result


def _ssim_over_slices(
    reference: Array, prediction: Array, data_range: float, mask: Array | None, variant: str, axis: int
) -> SliceStatistics:
    """`over_slices(ssim, ...)` without slices whose mask lies in the border that no window is centred on."""
    border = 5 if variant == "wang" else 3  # half a window
    if mask is not None and min((inside := as_slices(mask, axis, "mask")).shape[-2:]) > 2 * border:
        kept = torch.zeros_like(inside)
        kept[..., border:-border, border:-border] = inside[..., border:-border, border:-border]
        mask = kept[0, 0] if as_tensor(reference, "reference").ndim == 2 else kept[:, 0].movedim(0, axis)
    return over_slices(
        ssim, reference, prediction, axis=axis, mask=mask, data_range=data_range, variant=variant
    )
