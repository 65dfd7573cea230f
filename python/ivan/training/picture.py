"""The validation picture: source | prediction | reference | error, one row a modality and direction."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_HEADER = 14
_GAP = 2
_ERROR_AT_WHITE = 0.25


@dataclass(frozen=True)
class Row:
    """One row: arrays [H, W], 0 is black and 1 white; `title` names what was made from what."""

    title: str
    source: np.ndarray
    prediction: np.ndarray
    reference: np.ndarray


def draw(rows: Sequence[Row]) -> np.ndarray:
    """Draw the rows below each other.

    Returns:
        [H, W, 3] uint8. The error |prediction - reference| is drawn in inferno, brightest from 0.25 on.
    """
    from matplotlib import colormaps
    from PIL import Image, ImageDraw

    inferno = colormaps["inferno"]
    strips = []
    for row in rows:
        height, width = row.reference.shape
        scale = max(1, 128 // max(height, width, 1))  # tiny slices are drawn larger
        tiles = [_gray(row.source), _gray(row.prediction), _gray(row.reference)]
        error = np.abs(row.prediction - row.reference) / _ERROR_AT_WHITE
        tiles.append((inferno(np.clip(np.nan_to_num(error, nan=1.0), 0, 1))[..., :3] * 255).astype(np.uint8))
        tiles = [tile.repeat(scale, 0).repeat(scale, 1) for tile in tiles]
        gap = np.zeros((height * scale, _GAP, 3), np.uint8)
        strip = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
        header = Image.new("RGB", (strip.shape[1], _HEADER))
        ImageDraw.Draw(header).text(
            (2, 1), f"{row.title}: source | prediction | reference | error", fill="white"
        )
        strips += [np.asarray(header), strip]
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0))) for s in strips], axis=0)


def png(pixels: np.ndarray) -> bytes:
    """Encode [H, W, 3] uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _gray(image: np.ndarray) -> np.ndarray:
    values = (np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=2)
