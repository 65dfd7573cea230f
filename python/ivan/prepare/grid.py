"""The one grid of a case, and a crop to what is not background."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ivan.data.loading import FOREGROUND_LEVEL
from ivan.data.normalise import estimate_scale
from ivan.data.resample import on_grid_of
from ivan.data.volume import MAX_VOXELS, Grid, Volume
from ivan.errors import InputError

CROP_MARGIN = 8.0  # mm


def parse_spacing(text: str) -> tuple[float, float, float] | None:
    """ "" (the reference's own), "1" or "1x1x2" millimetres. Raises InputError."""
    if not text:
        return None
    try:
        numbers = [float(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(math.isfinite(number) and 0.1 <= number <= 20 for number in numbers):
        raise InputError(
            f"--spacing: '{text}' given, expected millimetres from 0.1 to 20, such as 1 or 1x1x2"
        )
    return numbers[0], numbers[1], numbers[2]


def with_spacing(volume: Volume, spacing: tuple[float, float, float] | None) -> Volume:
    """An empty grid over the field of view of `volume` with this spacing along its RAS axes.

    The corners of the field of view (half a voxel beyond the outer centres) stay where they are up to the
    rounding to whole voxels, which is shared by both ends.
    """
    if spacing is None:
        return volume
    old = np.array(volume.voxel_size)
    extent = np.array(volume.data.shape) * old
    size = np.maximum(1, np.rint(extent / spacing)).astype(int)
    if int(np.prod(size.astype(np.float64))) > MAX_VOXELS:
        raise InputError(f"--spacing: {spacing} on {volume.path} needs {size} voxels, more than {MAX_VOXELS}")
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] / old * spacing
    centre = volume.affine[:3, :3] @ ((np.array(volume.data.shape) - 1) / 2) + volume.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((size - 1) / 2)
    grid = Grid("prepared", tuple(int(s) for s in size), affine, has_affine=True)
    return Volume(np.zeros(tuple(size), np.float32), affine, grid, volume.path)


def resample(target: Volume, moving: Volume) -> np.ndarray:
    """`moving` on the grid of `target`, [X, Y, Z] float32; see `ivan.data.resample.on_grid_of`."""
    return on_grid_of(target, moving)[0]


def crop_box(
    images: Mapping[str, np.ndarray], voxel_size: tuple[float, float, float]
) -> tuple[slice, slice, slice]:
    """The box around the foreground of all images (above 5 % of their scale) with a margin of 8 mm."""
    inside: np.ndarray | None = None
    for data in images.values():
        scale = estimate_scale(data)
        mask = data > scale.low + FOREGROUND_LEVEL * (scale.high - scale.low)
        inside = mask if inside is None else inside | mask
    assert inside is not None
    box = []
    for axis in range(3):
        seen = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = math.ceil(CROP_MARGIN / voxel_size[axis])
        first, last = (int(seen[0]), int(seen[-1])) if seen.size else (0, inside.shape[axis] - 1)
        box.append(slice(max(0, first - margin), min(inside.shape[axis], last + 1 + margin)))
    return box[0], box[1], box[2]


def cropped_affine(affine: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """The affine of the voxels in `box`."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.array([part.start for part in box])
    return moved


def moved_by(volume: Volume, world: np.ndarray) -> Volume:
    """The volume with `world` (4x4, RAS mm) applied to where its voxels lie; nothing is interpolated."""
    affine = world @ volume.affine
    return replace(volume, affine=affine, grid=replace(volume.grid, affine=world @ volume.grid.affine))
