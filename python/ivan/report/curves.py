"""`metrics.jsonl` of a run -> the charts of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

MAX_POINTS = 400
# What each number of metrics.jsonl is called; the training and validation lines of a quantity share a colour.
_LOSSES = {"total": "total", "loss": "total", "forward": "forward", "reverse": "reverse"}
_PSNR = {"psnr_forward": "forward", "psnr_reverse": "reverse", "psnr_inverse": "reverse", "psnr": "forward"}
_SSIM = {"ssim_forward": "forward", "ssim_reverse": "reverse", "ssim": "forward"}
_GROUPS = (("Loss", "", True, _LOSSES), ("PSNR", "dB", False, _PSNR), ("SSIM", "", False, _SSIM))
_COLOURS = {"forward": 0, "reverse": 1, "total": 2}


def _thin(points: list[list[float]]) -> list[list[float]]:
    """At most MAX_POINTS points: means of equal runs, so that a noisy curve keeps its level."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / MAX_POINTS)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [[run[-1][0], sum(p[1] for p in run) / len(run)] for run in runs]


def charts(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts of losses (logarithmic), PSNR and SSIM from records with "step", "split" and numbers.

    Records without a step are left out, and so are numbers that are not finite (or, on the logarithmic scale,
    not positive).
    """
    records = [r for r in history if isinstance(r.get("step"), (int, float))]
    result = []
    for title, unit, log, names in _GROUPS:
        series: dict[tuple[str, str], list[list[float]]] = {}
        for record in records:
            split = str(record.get("split", "train")).replace("validate", "validation")
            for key, name in names.items():
                value = record.get(key)
                if isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 or not log):
                    series.setdefault((name, split), []).append([float(record["step"]), float(value)])
        lines = [
            {
                "name": f"{name}, {split}",
                "dashed": split != "validation" and any(other == (name, "validation") for other in series),
                "colour": _COLOURS[name],
                "points": _thin(sorted(points)),
            }
            for (name, split), points in series.items()
        ]
        if lines:
            result.append({"title": title, "unit": unit, "log": log, "series": lines})
    return result
