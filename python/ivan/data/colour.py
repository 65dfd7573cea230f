"""Colour images (PET, SPECT): luma for the network, chroma kept for the result.

Full-range BT.601 YCbCr, as JPEG uses it: ``Y = 0.299 R + 0.587 G + 0.114 B``, ``Cb = (B - Y) / 1.772``,
``Cr = (R - Y) / 1.402``; R, G, B and Y from 0 to 1, Cb and Cr from -0.5 to 0.5. (MATLAB's ``rgb2ycbcr``
squeezes the same values into 16..235.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ivan.data.cases import Case
from ivan.data.orientation import from_canonical, to_canonical
from ivan.data.volume import Grid, Volume, image_suffix
from ivan.data.writing import atomic_file
from ivan.errors import InputError

RED, GREEN, BLUE = 0.299, 0.587, 0.114
RGB24 = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y of colours ``[..., 3]`` from 0 to 1: ``[...]`` float32."""
    weights = np.array([RED, GREEN, BLUE])
    return np.asarray(rgb, np.float64).dot(weights).astype(np.float32)


def chroma(rgb: np.ndarray) -> np.ndarray:
    """(Cb, Cr) of colours ``[..., 3]`` from 0 to 1: ``[..., 2]`` float64 from -0.5 to 0.5."""
    rgb = np.asarray(rgb, np.float64)
    y = rgb.dot(np.array([RED, GREEN, BLUE]))
    return np.stack([(rgb[..., 2] - y) / 1.772, (rgb[..., 0] - y) / 1.402], axis=-1)


def recolour(y: np.ndarray, cb_cr: np.ndarray) -> np.ndarray:
    """Colours ``[..., 3]`` from 0 to 1 with luma ``[...]`` and chroma ``[..., 2]``; what leaves 0..1 is
    clipped.

    Without clipping the inverse of `luma` and `chroma`. Where a bright luma meets a strong chroma no such
    colour exists, and clipping changes both a little.
    """
    y = np.asarray(y, np.float64)
    blue, red = y + 1.772 * cb_cr[..., 0], y + 1.402 * cb_cr[..., 1]
    green = (y - RED * red - BLUE * blue) / GREEN
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 1)


def read_colours(path: str | os.PathLike[str]) -> tuple[np.ndarray, Volume] | None:
    """The colours of a PNG or NIfTI file, or None where it is gray or all its values are.

    Returns:
        ``[X, Y, Z, 3]`` float32 from 0 to 1 in RAS order, and the volume of its luma, which has its grid.

    Raises:
        InputError: as `ivan.data.read_volume`.
    """
    from ivan.data.volume import read_volume

    path = Path(path)
    suffix = image_suffix(path)
    if suffix not in (".png", ".nii", ".nii.gz"):
        return None
    volume = read_volume(path, allow_constant=True, luma=True)  # checks all that can be wrong with the file
    stored: np.ndarray | None
    if suffix == ".png":
        from ivan.data.png import png_colours

        stored = png_colours(path)
    else:
        stored = _nifti_colours(path, volume.grid)
    if stored is None or (stored == stored[..., :1]).all():
        return None
    channels = [to_canonical(stored[..., c], volume.grid.affine, volume.grid.image) for c in range(3)]
    return np.ascontiguousarray(np.stack(channels, axis=-1)), volume


def one_in_colour(case: Case, sources: Sequence[str]) -> tuple[str, np.ndarray, Volume] | None:
    """The source of a case that is in colour, and what `read_colours` says of it; None where all are gray.

    Raises:
        InputError: two are, or a file cannot be read.
    """
    found = [(name, *read) for name in sources if (read := read_colours(case.files[name])) is not None]
    if len(found) > 1:
        names = " and ".join(name for name, _, _ in found)
        raise InputError(
            f"{case.name}: {names} are both in colour; expected at most one, whose colours are kept"
        )
    return found[0] if found else None


def _nifti_colours(path: Path, grid: Grid) -> np.ndarray | None:
    import nibabel as nib

    if not grid.colour:
        return None
    voxels = np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
    return stored_colours(voxels, (*grid.shape, 1)[:3])


def stored_colours(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """RGB24 voxels, or bytes ``[..., 3]``, of a volume of `shape` as ``[*shape, 3]`` float32 from 0 to 1."""
    if voxels.dtype.fields is not None:
        voxels = np.stack([voxels[name] for name in "RGB"], axis=-1)
    return voxels.reshape(*shape, 3).astype(np.float32) / np.float32(255)


def write_colours(path: str | os.PathLike[str], rgb: np.ndarray, like: Volume) -> Path:
    """Write colours ``[X, Y, Z, 3]`` from 0 to 1 on a grid: 8-bit RGB PNG, or NIfTI of type RGB24.

    Raises:
        InputError: another format, another shape than `like` has, or a volume as PNG.
        RunError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if rgb.shape != (*like.data.shape, 3):
        raise InputError(
            f"{path}: colours of shape {rgb.shape}, expected {(*like.data.shape, 3)} as {like.path}"
        )
    if suffix not in (".png", ".nii", ".nii.gz") or (suffix == ".png" and not like.grid.image):
        raise InputError(
            f"{path}: cannot hold these colours; expected .png for an image, .nii.gz for a volume"
        )
    levels = np.rint(np.clip(np.asarray(rgb, np.float64), 0, 1) * 255).astype(np.uint8)
    planes = [from_canonical(levels[..., c], like.grid.affine, like.grid.image) for c in range(3)]
    with atomic_file(path) as file:
        if suffix == ".png":
            from PIL import Image

            Image.fromarray(np.ascontiguousarray(np.stack(planes, axis=-1))).save(file, format="PNG")
        else:
            from ivan.data.nifti import write_nifti

            if like.grid.image:  # as for gray images: RAS order, which NIfTI can express
                planes = [levels[..., c] for c in range(3)]
            voxels: Any = np.zeros(planes[0].shape, RGB24)
            for name, plane in zip("RGB", planes, strict=True):
                voxels[name] = plane
            write_nifti(file, voxels, like.grid, like.affine, suffix == ".nii.gz")
    return path
