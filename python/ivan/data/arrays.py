"""Arrays without a grid: NumPy `.npy` and MATLAB `.mat` (array `data`)."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from ivan.data.volume import Grid, as_float32, check_claim, squeeze_shape
from ivan.errors import InputError

MAT_KEY = "data"


def read_npy(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a `.npy` file: `[H, W]` or `[X, Y, Z]` float32 and its grid. Pickled objects are never loaded."""
    with open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InputError(f"{path}: not a .npy file, whatever its name says; save it with numpy.save")
    try:
        # Mapped, not read: the shape is checked against the file's size before any memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        if "Python objects in dtype" in str(error):
            raise InputError(
                f"{path}: holds Python objects, expected an array of numbers; save it as a numeric array"
            ) from None
        raise InputError(f"{path}: damaged or truncated .npy file ({error}); save it again") from None
    check_claim(path, array.shape or (1,), array.dtype.itemsize, path.stat().st_size)
    return _grid("npy", path, array)


def read_mat(path: Path) -> tuple[np.ndarray, Grid]:
    """Read the array `data` of a MATLAB file up to v7.2: `[H, W]` or `[X, Y, Z]` float32 and its grid."""
    from ivan.data.matfile import read_matrix

    return _grid("mat", path, read_matrix(path, MAT_KEY))


def _grid(name: str, path: Path, array: np.ndarray) -> tuple[np.ndarray, Grid]:
    shape = squeeze_shape(path, array.shape)
    values = as_float32(path, array).reshape(shape)
    image = True
    if len(shape) == 3 and 1 in (shape[0], shape[2]):  # [H, W, 1] and [1, H, W] are single images too
        values = values[:, :, 0] if shape[2] == 1 else values[0]
    elif len(shape) == 3:
        image = False
    return values, Grid(name, array.shape, np.eye(4), has_affine=False, image=image)


def write_npy(file: IO[bytes], stored: np.ndarray) -> None:
    """Write a float32 array in the stored shape."""
    np.save(file, np.ascontiguousarray(stored), allow_pickle=False)


def write_mat(file: IO[bytes], stored: np.ndarray) -> None:
    """Write a float32 array in the stored shape as `data` of a compressed MATLAB v5 file."""
    import scipy.io

    scipy.io.savemat(file, {MAT_KEY: np.ascontiguousarray(stored)}, do_compression=True)
