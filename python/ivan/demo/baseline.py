"""What can be had without a network: the best table from the source values of a pixel to its target value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = {1: 128, 2: 48, 3: 20}  # bins per source: about as many cells as training pixels can fill
TOP = 1.3  # normalised intensity of the last bin
FEWEST = 4  # pixels that a cell needs; emptier cells take the linear fit


@dataclass(frozen=True)
class PixelTable:
    """Mean target of all training pixels with the same (binned) source values: the least-squares best table.

    Attributes:
        bins: bins per source over 0..TOP.
        means: [bins^N] mean target in each cell; NaN in cells with too few pixels.
        line: [1 + N] offset and slopes of the linear fit, used there.
    """

    bins: int
    means: np.ndarray
    line: np.ndarray

    @classmethod
    def fit(cls, sources: np.ndarray, target: np.ndarray) -> PixelTable:
        """Fit on sources [N, pixels] and target [pixels], both normalised, N from 1 to 3."""
        bins = BINS[len(sources)]
        cells = _cells(sources, bins)
        size = bins ** len(sources)
        counts = np.bincount(cells, minlength=size)
        sums = np.bincount(cells, weights=target, minlength=size)
        means = np.where(counts >= FEWEST, sums / np.maximum(counts, 1), np.nan)
        design = np.stack([np.ones(target.size), *sources], axis=1)
        return cls(bins, means, np.linalg.lstsq(design, target, rcond=None)[0])

    def predict(self, sources: np.ndarray) -> np.ndarray:
        """[N, ...] normalised sources -> [...] normalised target."""
        flat = sources.reshape(len(sources), -1)
        table = self.means[_cells(flat, self.bins)]
        linear = self.line[0] + np.tensordot(self.line[1:], flat, axes=1)
        return np.where(np.isnan(table), linear, table).reshape(sources.shape[1:]).astype(np.float32)


def _cells(sources: np.ndarray, bins: int) -> np.ndarray:
    """[N, pixels] -> index of the cell of each pixel."""
    index = np.clip((sources / TOP * bins).astype(np.int64), 0, bins - 1)
    return np.ravel_multi_index(tuple(index), (bins,) * len(sources))
