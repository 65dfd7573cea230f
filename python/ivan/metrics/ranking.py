"""Does an uncertainty map rank the true error? Rank correlation and sparsification."""

from __future__ import annotations

from typing import Any

import numpy as np

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, as_tensor

_STEPS = 100  # of the sparsification curve: the most uncertain 0, 1, ... 99 % of the voxels removed


def uncertainty_ranking(
    reference: Array, prediction: Array, uncertainty: Array, mask: Array | None = None
) -> dict[str, Metric]:
    """How well `uncertainty` orders the voxels by their error ``|P - R|``.

    * ``uncertainty_spearman``: rank correlation of uncertainty and error. 0 is chance, 1 perfect order.
    * ``uncertainty_aurg``: area under random gain. Remove the most uncertain 0, 1 ... 99 % of the voxels: by
      how much the mean error of those that remain falls, as a share of the mean error of all, mean over the
      steps. 0 is chance, above 0 better.
    * ``uncertainty_ause``: what is missing to the best possible order, that of the true error: the difference
      of the two curves, mean over the steps, in the same unit. 0 is best. (Ilg et al., ECCV 2018.)

    Voxels of equal uncertainty count with the mean error of all of them: a constant map is chance.

    Args:
        reference, prediction, uncertainty, mask: one shape; any units of the uncertainty.

    Raises:
        InputError: other shapes, values not finite, or fewer than two voxels inside the mask.
    """
    from scipy.stats import rankdata

    named = (("reference", reference), ("prediction", prediction), ("uncertainty", uncertainty))
    values = [as_tensor(array, name).cpu().numpy() for name, array in named]
    if len({v.shape for v in values}) > 1:
        raise InputError(f"uncertainty: shapes {', '.join(str(v.shape) for v in values)}, expected one shape")
    inside = np.ones(values[0].shape, bool)
    if mask is not None:
        inside = as_tensor(mask, "mask").cpu().numpy() != 0
        if inside.shape != values[0].shape:
            raise InputError(f"mask: shape {inside.shape}, expected {values[0].shape}")
    if inside.sum() < 2:
        raise InputError(f"mask: {int(inside.sum())} voxels inside; expected at least two to rank")
    error = np.abs(values[1] - values[0])[inside]
    doubt = values[2][inside]
    ranks = [rankdata(x) for x in (error, doubt)]
    spread = ranks[0].std() * ranks[1].std()
    centred = [x - x.mean() for x in ranks]
    spearman = float((centred[0] * centred[1]).mean() / spread) if spread > 0 else 0.0
    mean = error.mean()
    curve, best = (_sparsification(error, order) for order in (doubt, error))
    gain = float((mean - curve).mean() / mean) if mean > 0 else 0.0
    missing = float((curve - best).mean() / mean) if mean > 0 else 0.0
    note = f"against |error| of {error.size} voxels, " + ("no mask" if mask is None else "inside the mask")
    return {
        "uncertainty_spearman": Metric(spearman, f"rank correlation of the uncertainty {note}; 0 is chance"),
        "uncertainty_aurg": Metric(
            gain, f"area under random gain {note}, share of the mean error; 0 is chance"
        ),
        "uncertainty_ause": Metric(
            missing, f"area under sparsification error {note}, share of the mean error"
        ),
    }


def _sparsification(error: np.ndarray, order: np.ndarray) -> Any:
    """Mean error of the voxels that remain when those of highest `order` are removed: `[_STEPS]`."""
    _, group = np.unique(order, return_inverse=True)
    shared = np.bincount(group, weights=error) / np.bincount(group)  # ties share their error
    rising = shared[np.sort(group)]
    kept = np.maximum(1, np.ceil(error.size * (1 - np.arange(_STEPS) / _STEPS)).astype(int))
    return np.cumsum(rising)[kept - 1] / kept
