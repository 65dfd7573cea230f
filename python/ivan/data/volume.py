"""One image file as a float32 volume in RAS order, and what is needed to write another on its grid."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ivan.data.orientation import canonical_affine, to_canonical
from ivan.errors import InputError

# Longest first: ".nii.gz" before ".gz".
SUFFIXES = (".nii.gz", ".nii", ".mat", ".npy", ".png")
# 512 x 512 x 2048 voxels, 2 GiB as float32. A larger claim is far more often a damaged header than an image.
DEFLATE_RATIO = 1032  # deflate cannot expand a byte into more
MAX_VOXELS = 1 << 29


@dataclass(frozen=True, eq=False)
class Grid:
    """How a file stores its voxels.

    Attributes:
        format: `"nifti"`, `"npy"`, `"mat"` or `"png"`.
        shape: the array's shape in the file, with all trailing ones.
        affine: `[4, 4]` float64, stored voxel indices to RAS+ world coordinates in mm; identity where the
            file has none.
        has_affine: False where the file does not say where its voxels lie.
        image: True for a single image `[H, W]` (rows from the top), False for voxels `[X, Y, Z]`.
        colour: True for a file of colours, of which the values are the Y from 0 to 1.
        header: the NIfTI header (its units and codes are written back), None otherwise.
    """

    format: str
    shape: tuple[int, ...]
    affine: np.ndarray
    has_affine: bool
    image: bool = False
    header: Any = None
    colour: bool = False


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in RAS order: the first axis runs to the right, the second to anterior, the third to superior.

    Attributes:
        data: `[X, Y, Z]` float32, finite, in the file's units after its slope and intercept (PNG: 0 to 1, the
            fraction of the full scale). A single image has Z = 1 and its axial slice is the image as stored.
        affine: `[4, 4]` float64, indices of `data` to RAS+ world coordinates in mm.
        grid: how the file stores it.
        path: the file it was read from.
    """

    data: np.ndarray
    affine: np.ndarray
    grid: Grid
    path: Path = field(default=Path())

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along the axes of `data`, in mm (1 where the file does not say)."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)


def image_suffix(path: str | os.PathLike[str]) -> str:
    """Return the one of `SUFFIXES` that `path` ends with, in any case of letters, or an empty string."""
    name = os.fspath(path).lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem(path: str | os.PathLike[str]) -> str:
    """Return the file's name without folder and image suffix (`a/case.nii.gz` -> `case`)."""
    name = Path(path).name
    suffix = image_suffix(name)
    return name[: len(name) - len(suffix)] if suffix else name


def read_volume(path: str | os.PathLike[str], *, allow_constant: bool = False, luma: bool = False) -> Volume:
    """Read one volume or slice and turn it to RAS order.

    NIfTI-1 and -2 (`.nii`, `.nii.gz`; slope and intercept applied; trailing axes of length 1 dropped),
    MATLAB up to v7.2 (`.mat`, array `data`), NumPy (`.npy`, never unpickled) and gray PNG of 1 to 16 bits.
    Two-dimensional arrays of `.npy`, `.mat` and PNG are single images `[H, W]`; three-dimensional ones are
    voxels `[X, Y, Z]` taken as RAS. Claimed sizes are compared with the file's size before anything is
    allocated.

    Args:
        path: the file.
        allow_constant: accept an image whose values are all equal; otherwise that is an error.
        luma: take the Y (0 to 1) of colour PNG and RGB24 NIfTI; otherwise colours are an error.

    Raises:
        InputError: the file cannot be read, is damaged, is not what its suffix says, holds more than one
            volume, colours, complex numbers, NaN or infinity, or no contrast. One line, naming the file and
            the remedy.
    """
    path = Path(path)
    suffix = image_suffix(path)
    check_file(path)
    if not suffix:
        raise InputError(
            f"{path}: suffix {path.suffix!r} is not supported, expected one of {', '.join(SUFFIXES)}; "
            "convert it first (DICOM: dcm2niix)"
        )
    try:
        stored, grid = _reader(suffix, luma)(path)
    except MemoryError:
        raise InputError(f"{path}: the image does not fit into memory; crop or downsample it first") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); expected a readable {suffix} file"
        ) from None
    _refuse_non_finite(path, stored)
    if not allow_constant:
        refuse_constant(path, stored)
    data = np.ascontiguousarray(to_canonical(stored, grid.affine, grid.image))
    return Volume(data, canonical_affine(stored.shape, grid.affine, grid.image), grid, path)


def check_file(path: Path) -> None:
    """Raise InputError unless `path` is a non-empty, readable, ordinary file."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected an image file ({', '.join(SUFFIXES)})")
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise InputError(f"{path}: is not an ordinary file (a device or pipe); expected an image file")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({error}); check the path and its permissions") from None
    if size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or convert it again")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read the file; change its permissions")


def check_claim(path: Path, shape: tuple[int, ...], itemsize: float, available: float) -> None:
    """Refuse a claimed array before it is allocated.

    Args:
        path: the file, for the message.
        shape: the shape that its header claims.
        itemsize: bytes per voxel.
        available: the most bytes that the file can hold (its size, times DEFLATE_RATIO where compressed).
    """
    voxels = 1
    for extent in shape:  # Python integers: the product of hostile numbers must not wrap around
        voxels *= int(extent)
    label = "x".join(str(int(extent)) for extent in shape) or "no axes"
    if voxels <= 0 or any(int(extent) <= 0 for extent in shape):
        raise InputError(
            f"{path}: its header claims the shape {label}; expected every extent to be at least 1; the "
            "header is damaged"
        )
    if voxels > MAX_VOXELS:
        raise InputError(
            f"{path}: its header claims {label} voxels, more than the supported {MAX_VOXELS}; "
            "the header is damaged, or the image must be cropped or downsampled first"
        )
    if voxels * itemsize > available:
        raise InputError(
            f"{path}: its header claims {label} voxels ({voxels * itemsize:.0f} bytes), more than the "
            "file can hold "
            f"({os.path.getsize(path)} bytes on disk); it is truncated or damaged, copy it again"
        )


def squeeze_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing axes of length 1 beyond the third; refuse anything that is not one volume or slice."""
    kept = list(shape)
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    if not 2 <= len(kept) <= 3:
        label = "x".join(map(str, shape)) or "a single number"
        many = f"; it holds {kept[3]} volumes, extract one first" if len(kept) > 3 else ""
        raise InputError(f"{path}: shape {label}, expected one volume (3 axes) or one slice (2 axes){many}")
    return tuple(kept)


def as_float32(path: Path, array: np.ndarray) -> np.ndarray:
    """Convert a real array to float32, or refuse its dtype."""
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: values of type {array.dtype}, expected real numbers; convert the image first"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, dtype=np.float32)


def refuse_constant(path: Path, data: np.ndarray) -> None:
    """Raise InputError where all values are equal."""
    if data.min() == data.max():
        value = float(data.flat[0])
        what = "all voxels are zero" if value == 0 else f"every voxel has the value {value:g}"
        raise InputError(
            f"{path}: {what}, expected an image with contrast; check the export or remove the case"
        )


def _refuse_non_finite(path: Path, stored: np.ndarray) -> None:
    finite = int(np.isfinite(stored).sum())
    if finite != stored.size:
        nans = int(np.isnan(stored).sum())
        raise InputError(
            f"{path}: {nans} NaN and {stored.size - finite - nans} infinite values among {stored.size} "
            "voxels, expected finite float32 numbers; replace them first (numpy.nan_to_num, fslmaths -nan)"
        )


def _reader(suffix: str, luma: bool) -> Callable[[Path], tuple[np.ndarray, Grid]]:
    if suffix in (".nii", ".nii.gz"):
        from ivan.data.nifti import read_nifti

        return partial(read_nifti, luma=luma)
    if suffix == ".png":
        from ivan.data.png import read_png

        return partial(read_png, luma=luma)
    from ivan.data.arrays import read_mat, read_npy

    return read_mat if suffix == ".mat" else read_npy
