"""The picture of one case: the reference in gray with the other modalities' edges on it."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from ivan.data.normalise import estimate_scale
from ivan.data.planes import volume_to_slices

HEIGHT = 220  # pixels of a tile
_ORANGE = np.array([255, 140, 30], np.float32)
_HEADER = 16


def overlay_png(
    reference: np.ndarray, others: Mapping[str, np.ndarray], name: str, voxel_size: tuple[float, float, float]
) -> bytes:
    """A PNG with one row a modality: the reference alone, then with each other one's edges in orange.

    Tiles are the axial, coronal and sagittal slice through the middle of the foreground, R at the left.

    Args:
        reference: [X, Y, Z] RAS.
        others: the other modalities on the same grid.
        name: of the reference, for the titles.
        voxel_size: mm.
    """
    from PIL import Image, ImageDraw

    centre = _centre(reference)
    rows = [(name, None), *((f"edges of {other} on {name}", data) for other, data in others.items())]
    strips = []
    for title, other in rows:
        tiles = [
            _tile(reference, other, plane, centre, voxel_size) for plane in ("axial", "coronal", "sagittal")
        ]
        strip = np.concatenate(tiles, axis=1)
        header = Image.new("RGB", (strip.shape[1], _HEADER))
        ImageDraw.Draw(header).text((3, 2), title, fill=(220, 228, 236))
        strips += [np.asarray(header), strip]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(strips, axis=0)).quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _centre(reference: np.ndarray) -> tuple[int, int, int]:
    scale = estimate_scale(reference)
    weight = np.clip(reference - scale.low, 0, scale.high - scale.low).astype(np.float64)
    total = weight.sum() or 1.0
    found = [
        float((weight.sum(axis=tuple(a for a in range(3) if a != axis)) * np.arange(size)).sum() / total)
        for axis, size in enumerate(reference.shape)
    ]
    return round(found[0]), round(found[1]), round(found[2])


def _tile(
    reference: np.ndarray,
    other: np.ndarray | None,
    plane: str,
    centre: tuple[int, int, int],
    voxel_size: tuple[float, float, float],
) -> np.ndarray:
    from PIL import Image

    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    across, up = (a for a in range(3) if a != axis)
    number = min(max(centre[axis], 0), reference.shape[axis] - 1)
    cut = volume_to_slices(reference, plane)[number]
    cut = cut if plane == "sagittal" else cut[:, ::-1]
    width = max(1, round(HEIGHT * cut.shape[1] * voxel_size[across] / (cut.shape[0] * voxel_size[up])))

    def drawn(image: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
        return np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BILINEAR))

    scale = estimate_scale(reference)
    gray = np.clip(drawn((cut - scale.low) / (scale.high - scale.low)), 0, 1)
    pixels = np.repeat(gray[..., None] * 255, 3, axis=2)
    if other is not None:
        moved = volume_to_slices(other, plane)[number]
        edges = drawn(moved if plane == "sagittal" else moved[:, ::-1])
        share = _edges(edges)[..., None] * 0.85
        pixels = pixels * (1 - share) + _ORANGE * share
    return np.asarray(pixels.astype(np.uint8))


def _edges(image: np.ndarray) -> np.ndarray:
    """[H, W] from 0 to 1: the strongest tenth of the smoothed gradient."""
    from scipy.ndimage import gaussian_gradient_magnitude

    strength = gaussian_gradient_magnitude(image.astype(np.float64), 1.5)
    if not strength.max() > 0:
        return np.zeros_like(strength)
    level = np.percentile(strength, 90)
    top = np.percentile(strength, 97)
    return np.clip((strength - level) / max(top - level, 1e-12), 0, 1)
