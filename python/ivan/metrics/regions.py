"""Errors inside regions: lesions beside the whole brain."""

from __future__ import annotations

import math

import numpy as np

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, as_tensor

RING = 3  # voxels around a lesion that its contrast is measured against


def region_metrics(
    reference: Array, prediction: Array, region: Array, name: str, data_range: float = 1.0
) -> dict[str, Metric]:
    """PSNR, mean absolute error and bias of the voxels of a region: ``<name>_psnr``, ``_mae``, ``_bias``.

    PSNR as `ivan.metrics.psnr` over the region; MAE ``mean |P - R|`` and bias ``mean (P - R)`` (below 0: too
    dark) in the images' unit.

    Args:
        reference, prediction, region: one shape; non-zero voxels of the region count.

    Raises:
        InputError: other shapes, values not finite, or an empty region.
    """
    r, p, inside = _arrays(reference, prediction, region)
    count = int(inside.sum())
    if not count:
        raise InputError(f"{name}: no voxel inside; expected at least one")
    error = (p - r)[inside]
    mse = float(np.square(error).mean())
    note = f"over {count} voxels of the {name}"
    psnr = math.inf if mse == 0 else 20 * math.log10(data_range) - 10 * math.log10(mse)
    return {
        f"{name}_psnr": Metric(psnr, f"PSNR in dB, data range {data_range:g}, {note}"),
        f"{name}_mae": Metric(float(np.abs(error).mean()), f"mean absolute error {note}"),
        f"{name}_bias": Metric(float(error.mean()), f"mean of prediction - reference {note}"),
    }


def lesion_contrast(reference: Array, prediction: Array, lesions: Array, brain: Array) -> dict[str, Metric]:
    """How much of the lesions' contrast the prediction shows: ``lesion_contrast``.

    The mean over the lesions minus the mean over the brain within `RING` voxels around them, of the
    prediction divided by that of the reference. 1: they show as in the reference; 0: they have vanished;
    below 0: bright for dark. Nothing is returned where there is no such ring, or no contrast in the
    reference.

    Args:
        reference, prediction, lesions, brain: ``[S, H, W]`` or ``[X, Y, Z]``, one shape.
    """
    from scipy.ndimage import binary_dilation

    r, p, inside = _arrays(reference, prediction, lesions)
    around = (
        binary_dilation(inside, iterations=RING) & ~inside & (as_tensor(brain, "brain").cpu().numpy() != 0)
    )
    if not inside.any() or not around.any():
        return {}
    real, made = (float(x[inside].mean() - x[around].mean()) for x in (r, p))
    if abs(real) < 1e-6:
        return {}
    note = f"lesions minus the brain within {RING} voxels around them, prediction / reference"
    return {"lesion_contrast": Metric(made / real, f"contrast, {note}")}


def _arrays(reference: Array, prediction: Array, region: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    named = (("reference", reference), ("prediction", prediction), ("region", region))
    r, p, inside = (as_tensor(array, name).cpu().numpy() for name, array in named)
    if not r.shape == p.shape == inside.shape:
        raise InputError(f"region: shapes {r.shape}, {p.shape}, {inside.shape}; expected one shape")
    return r, p, inside != 0
