"""The largest square image that a training step fits into a given memory, extrapolated from measured ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ivan.benchmark.case import Case
from ivan.benchmark.tables import Row, curve, of

BUDGETS = (8, 16, 24, 80)
"""GB (10^9 bytes)."""


@dataclass(frozen=True)
class Fit:
    """Memory of a whole process that trains, as a line in the number of pixels: least squares.

    Attributes:
        fixed: bytes without any pixel: libraries, model, optimiser, workspace.
        per_pixel: bytes.
        points: pixels of the measured sizes it comes from.
    """

    fixed: float
    per_pixel: float
    points: tuple[int, ...]

    def largest_side(self, budget: float, multiple: int = 8) -> int:
        """Side of the largest square slice within `budget` bytes, a multiple of `multiple`; 0 if none."""
        pixels = max(budget - self.fixed, 0) / self.per_pixel
        return math.isqrt(int(pixels)) // multiple * multiple


def fit(rows: list[Row], name: str) -> Fit | None:
    """The fit of one implementation's curve against size; None with fewer than two sizes."""
    mine: list[dict[str, Any]] = [r for r in of(rows, "memory") if r["implementation"] == name]
    points = {Case(**r["case"]).pixels: r["baseline"] + r["bytes"] for r in curve(mine, "size")}
    if len(points) < 2:
        return None
    count = len(points)
    mean_x, mean_y = sum(points) / count, sum(points.values()) / count
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points.items())
    per_pixel = covariance / sum((x - mean_x) ** 2 for x in points)
    if per_pixel <= 0:  # workspace hides everything at such sizes
        return None
    return Fit(max(mean_y - per_pixel * mean_x, 0.0), per_pixel, tuple(sorted(points)))
