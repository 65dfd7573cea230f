"""Robust intensity scaling of one volume, recorded so that it can be undone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ivan.errors import InputError


@dataclass(frozen=True)
class Scale:
    """The linear map that sends `low` to 0 and `high` to 1, without clipping.

    Attributes:
        low: intensity (in the file's units) that becomes 0.
        high: intensity that becomes 1; always greater than `low`.
    """

    low: float
    high: float

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return `(array - low) / (high - low)` as float32; values beyond [0, 1] are kept."""
        return ((array - np.float32(self.low)) / np.float32(self.high - self.low)).astype(
            np.float32, copy=False
        )

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Return `array * (high - low) + low` as float32: the inverse of `apply`."""
        return (array * np.float32(self.high - self.low) + np.float32(self.low)).astype(
            np.float32, copy=False
        )


def estimate_scale(data: np.ndarray, percentile: float = 99.5) -> Scale:
    """Scale of a volume from a percentile of its foreground, robust to a few very bright voxels.

    Where no value is negative, `low` is 0 and `high` the percentile of the values above 0. Otherwise (CT in
    Hounsfield units, z-scored images) `low` is the mirrored percentile of all values (0.5 for 99.5) and
    `high` the percentile of the values above `low`.

    Args:
        data: any shape, any real dtype, finite.
        percentile: in (50, 100].

    Returns:
        The scale, in the units of `data`.

    Raises:
        InputError: all values are equal, or `percentile` is out of range.
    """
    if not 50 < percentile <= 100:
        raise InputError(f"percentile {percentile}: expected a number above 50 and at most 100, such as 99.5")
    values = np.asarray(data).ravel()
    if values.size == 0:
        raise InputError(
            "no voxels to estimate an intensity scale from: expected a volume with at least one voxel"
        )
    smallest, largest = float(values.min()), float(values.max())
    if not smallest < largest:
        raise InputError(
            f"every voxel has the value {smallest:g}: expected an image with contrast; check the file"
        )
    low = 0.0 if smallest >= 0 else float(np.percentile(values, 100 - percentile))
    foreground = values[values > low]
    high = float(np.percentile(foreground, percentile)) if foreground.size else largest
    if not np.float32(high) > np.float32(low):
        low, high = smallest, largest
    return Scale(low, high)
