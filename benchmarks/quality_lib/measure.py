"""Volume-level figures of every method, forward and reverse, in the same units."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ivan.errors import InputError
from quality_lib.methods import Method
from quality_lib.plans import Plan

if TYPE_CHECKING:
    from ivan.data import CaseRange

CLEARED = ("psnr", "ssim")  # also measured with the background of the predictions set to 0
FIGURES = ("psnr", "ssim", "nmse", "sharpness_ag", "sharpness_sf", "psnr_slices_mean", "through_plane_error")
TV_WEIGHTS = (0.01, 0.02, 0.04, 0.08)
Predict = Callable[[np.ndarray], "np.ndarray | None"]


def measure(plan: Plan, forward: Predict, reverse: Predict) -> list[dict[str, Any]]:
    """One row a case, direction and modality: `ivan.metrics.synthesis_metrics`, data range 1, no mask.

    `psnr_cleared` and `ssim_cleared` are those of predictions that were set to 0 wherever all given images
    are: what a method leaves in an empty background, where nobody looks, does not count in them.

    Args:
        forward, reverse: slices [S, N or M, H, W] to [S, M or N, H, W], or None for no such direction.
    """
    from ivan.metrics import synthesis_metrics

    rows = []
    for item in plan.measured:
        for predict, (word, given, real, names) in zip(
            (forward, reverse), directions(plan, item), strict=True
        ):
            made = predict(given)
            if made is None:
                continue
            made = np.maximum(made, 0)  # magnitude images
            empty = (given == 0).all(axis=1)  # [S, H, W]
            for index, name in enumerate(names):
                values = synthesis_metrics(real[:, index], made[:, index], 1.0, axis=0)
                numbers = {key: float(values[key]) for key in FIGURES if key in values}
                made[:, index][empty] = 0
                cleared = synthesis_metrics(real[:, index], made[:, index], 1.0, axis=0)
                numbers |= {f"{key}_cleared": float(cleared[key]) for key in CLEARED}
                rows.append({"case": item.case.name, "direction": word, "target": name, "values": numbers})
    return rows


def directions(plan: Plan, item: CaseRange) -> list[tuple[str, np.ndarray, np.ndarray, tuple[str, ...]]]:
    """Forward and reverse of a measured case: (word, given, real, modalities of `real`), slices
    [S, N or M, H, W]."""
    count = len(plan.sources)
    _, slices = plan.load(item)
    x, y = slices[:, :count], slices[:, count:]
    return [("forward", x, y, plan.targets), ("reverse", y, x, plan.sources)]


def check(plan: Plan) -> None:
    """Measure the real images against themselves: what cannot be read or measured is said before training.

    Raises:
        InputError: a file that cannot be read, or slices that are empty or below the SSIM window.
    """
    from ivan.metrics import synthesis_metrics

    for item in plan.measured:
        _, slices = plan.load(item)
        for index, name in enumerate((*plan.sources, *plan.targets)):
            try:
                synthesis_metrics(slices[:, index], slices[:, index], 1.0, axis=0)
            except InputError as error:
                raise InputError(f"{name} of {item.case.name}, which is measured: {error}") from None


def predictors(method: Method, pixels: int = 1 << 17) -> tuple[Predict, Predict]:
    """The two directions of a trained method on arrays."""

    def wrap(function: Callable[[torch.Tensor], torch.Tensor | None]) -> Predict:
        def predict(slices: np.ndarray) -> np.ndarray | None:
            batch = max(1, pixels // (slices.shape[2] * slices.shape[3]))
            parts = []
            with torch.no_grad():
                for start in range(0, len(slices), batch):
                    made = function(torch.from_numpy(np.ascontiguousarray(slices[start : start + batch])))
                    if made is None:
                        return None
                    parts.append(made.float().numpy())
            return np.concatenate(parts)

        return predict

    return wrap(method.forward_predict), wrap(method.reverse_predict)


def tables(plan: Plan, smooth: bool) -> tuple[Predict, Predict]:
    """The best pixelwise table of each direction, fitted on the training slices; None for four or more
    inputs.

    With `smooth`, total variation (Chambolle's algorithm of scikit-image) is applied to its image, with the
    weight of `TV_WEIGHTS` that gives the smallest squared error on (at most 40 of) the training slices.
    """
    count = len(plan.sources)
    seen = np.concatenate(
        [
            plan.load(item)[1].transpose(0, 2, 3, 1).reshape(-1, count + len(plan.targets))
            for item in plan.training
        ]
    )
    seen = seen.T

    def direction(given: slice, wanted: slice) -> Predict:
        from ivan.demo.baseline import BINS, PixelTable

        inputs, outputs = seen[given], seen[wanted]
        if len(inputs) not in BINS:
            return lambda slices: None
        fitted = [PixelTable.fit(inputs, output) for output in outputs]

        def plain(slices: np.ndarray) -> np.ndarray:
            return np.stack([table.predict(slices.swapaxes(0, 1)) for table in fitted], axis=1)

        if not smooth:
            return plain
        weight = _tv_weight(plan, plain, given, wanted)
        return lambda slices: _tv(plain(slices), weight)

    return direction(slice(0, count), slice(count, None)), direction(slice(count, None), slice(0, count))


def _tv(images: np.ndarray, weight: float) -> np.ndarray:
    from skimage.restoration import denoise_tv_chambolle

    return np.stack([[denoise_tv_chambolle(one, weight=weight) for one in each] for each in images])


def _tv_weight(plan: Plan, plain: Callable[[np.ndarray], np.ndarray], given: slice, wanted: slice) -> float:
    """The weight with the least error on about 40 training slices, of cases that may differ in size."""
    errors = dict.fromkeys(TV_WEIGHTS, 0.0)
    for item in plan.training[:4]:
        slices = plan.load(item)[1]
        slices = slices[:: max(1, len(slices) // 10)]
        made, real = plain(slices[:, given]), slices[:, wanted]
        for weight in TV_WEIGHTS:
            errors[weight] += float(np.square(_tv(made, weight) - real).sum())
    return min(errors, key=errors.__getitem__)
