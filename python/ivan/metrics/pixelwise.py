"""Metrics of synthesis: how far a prediction is from its reference. Array shapes: `ivan.metrics.arrays`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, Stack, choose, not_constant, stack, stack_mask
from ivan.metrics.windows import GAUSSIAN_11, UNIFORM_7, in_chunks, window_means

_PAIR = ("reference", "prediction")


def _check_range(data_range: float) -> float:
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(
            f"data_range: {data_range}; expected the images' span, for example 1.0 for [0, 1] or 255"
        )
    return float(data_range)


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``[B, H, W]`` over each image or its masked pixels: ``[B]``; NaN where the mask is empty."""
    if mask is None:
        return values.mean(dim=(1, 2))
    return (values * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))


def _need_mask_everywhere(mask: Tensor | None, what: str) -> None:
    if mask is not None and not bool(mask.any(dim=2).any(dim=1).all()):
        raise InputError(f"mask: no pixel inside {what}; drop these images or widen the mask")


def _words(mask: Tensor | None) -> str:
    return "no mask" if mask is None else "inside the mask"


def psnr(reference: Array, prediction: Array, *, data_range: float, mask: Array | None = None) -> Any:
    """Peak signal-to-noise ratio in dB, ``10 log10(data_range^2 / MSE)``; ``inf`` for equal images, never
    NaN.

    A volume has one MSE over all its voxels, not a mean of slice values (`over_slices` gives that): black
    slices would have infinite PSNR.

    Args:
        reference, prediction: ``[H, W]``, ``[X, Y, Z]`` or ``[N, C, H, W]``, any real dtype, finite.
        data_range: the span of possible values (1.0 for images in [0, 1]); never taken from the images.
        mask: same shape; only its non-zero pixels count.

    Raises:
        InputError: shapes differ, values are not finite, data_range is not positive, or the mask is empty.
    """
    span = _check_range(data_range)
    pair = stack(reference, prediction, names=_PAIR, pooled=True)
    inside = stack_mask(mask, reference, pooled=True)
    _need_mask_everywhere(inside, "one of the images")
    r, p = pair.images
    values = 20 * math.log10(span) - 10 * torch.log10(_masked_mean((r - p).square(), inside))
    return _finish_pooled(pair, values, f"PSNR in dB, data range {span:g}, {_words(inside)}")


def nmse(reference: Array, prediction: Array, *, mask: Array | None = None, variant: str = "default") -> Any:
    """Normalised mean squared error, ``sum (R - P)^2 / sum R^2``: 0 is perfect, 1 as bad as a black
    prediction.

    Where the denominator is 0 the value is 0 for equal images, else ``inf``.

    Args:
        reference, prediction, mask: as for `psnr`.
        variant: ``default``, or ``notes`` which divides by the *prediction's* energy, ``sum P^2``: it rewards
            predictions that are too bright, so it is there only to compare with numbers printed that way.

    Raises:
        InputError: as `psnr`, or an unknown variant.
    """
    choose("variant", variant, ("default", "notes"))
    pair = stack(reference, prediction, names=_PAIR, pooled=True)
    inside = stack_mask(mask, reference, pooled=True)
    _need_mask_everywhere(inside, "one of the images")
    r, p = pair.images
    error = _masked_mean((r - p).square(), inside)
    energy = _masked_mean((p if variant == "notes" else r).square(), inside)
    values = torch.where(error == 0, error, error / energy)  # x / 0 is inf; 0 / 0 never survives
    divisor = "prediction (variant notes)" if variant == "notes" else "reference"
    return _finish_pooled(pair, values, f"NMSE over the {divisor}'s energy, {_words(inside)}")


def _finish_pooled(pair: Stack, values: Tensor, protocol: str) -> Any:
    if pair.kind == "volume":
        return Metric(values.item(), f"{protocol}, all voxels of the volume")
    return pair.finish(values, protocol)


_PROFILE = {"wang": GAUSSIAN_11, "uniform7": UNIFORM_7}


def ssim_map(r: Tensor, p: Tensor, span: float, variant: str) -> Tensor:
    """SSIM of every window inside images ``[B, H, W]``: ``[B, H', W']``, differentiable, in their dtype."""
    products = torch.cat([r, p, r * r, p * p, r * p])
    mean_r, mean_p, mean_rr, mean_pp, mean_rp = window_means(products, _PROFILE[variant]).chunk(5)
    # scikit-image's default divides by n - 1, Wang's weights describe a population.
    count = len(_PROFILE[variant]) ** 2
    unbias = count / (count - 1) if variant == "uniform7" else 1.0
    var_r = unbias * (mean_rr - mean_r * mean_r)
    var_p = unbias * (mean_pp - mean_p * mean_p)
    covariance = unbias * (mean_rp - mean_r * mean_p)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    numerator = (2 * mean_r * mean_p + c1) * (2 * covariance + c2)
    return numerator / ((mean_r * mean_r + mean_p * mean_p + c1) * (var_r + var_p + c2))


def ssim(
    reference: Array,
    prediction: Array,
    *,
    data_range: float,
    variant: str = "wang",
    axis: int | None = None,
    mask: Array | None = None,
) -> Any:
    """Structural similarity (Wang et al., IEEE TIP 13(4), 2004), mean over all windows inside the image.

    Args:
        reference, prediction: as for `psnr`; a volume is averaged over its slices along `axis`, without those
            whose reference is constant (or outside the mask).
        data_range: as for `psnr`.
        variant: ``wang``, Gaussian 11x11 window, sigma 1.5, population covariance, K1 0.01, K2 0.03
            (scikit-image with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``; MONAI); or
            ``uniform7``, uniform 7x7 window and sample covariance (scikit-image's default, what the public
            iVAN code prints).
        mask: same shape; the mean then runs over the windows *centred* on its non-zero pixels.

    Raises:
        InputError: as `psnr`, an unknown variant, images smaller than the window, or a volume without `axis`.
    """
    choose("variant", variant, tuple(_PROFILE))
    span = _check_range(data_range)
    pair = stack(reference, prediction, names=_PAIR, axis=axis)
    pair.need(f"SSIM ({variant})", len(_PROFILE[variant]))
    inside = stack_mask(mask, reference, axis=axis)
    keep = not_constant(pair.images[0])
    border = len(_PROFILE[variant]) // 2
    images: tuple[Tensor, ...] = pair.images
    if inside is not None:
        centres = inside[:, border : pair.height - border, border : pair.width - border]
        held = centres.any(dim=2).any(dim=1)
        keep = keep & held
        if pair.kind != "volume":
            _need_mask_everywhere(centres, f"an image without its {border}-pixel border")
        images = (*images, inside)

    def values(r: Tensor, p: Tensor, m: Tensor | None = None) -> Tensor:
        similarity = ssim_map(r, p, span, variant)
        cropped = None if m is None else m[:, border : r.shape[1] - border, border : r.shape[2] - border]
        return _masked_mean(similarity, cropped)

    return pair.finish(
        in_chunks(values, images), f"SSIM variant {variant}, data range {span:g}, {_words(inside)}", keep=keep
    )
