"""Writing images: all of a file or nothing of it, on the grid of the volume it was made from."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ivan.data.orientation import from_canonical
from ivan.data.volume import SUFFIXES, Volume, image_suffix
from ivan.errors import InputError, RunError


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path` complete or not at all.

    It is written under a temporary name in the same folder (made where absent), flushed to the disk and
    renamed. Whatever fails, the temporary file is removed and an older file of that name stays as it was.

    Raises:
        RunError: the folder or file cannot be written (permission, full disk, ...), naming `path`.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "a folder of this name exists")
        start = os.fsencode(path.name)[:100].decode(errors="ignore")  # a name ends at 255 bytes
        handle, temporary = tempfile.mkstemp(prefix=f".{start}.{_owner()}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are private to the user
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"{path}: cannot be written ({reason}); nothing was left behind; free disk space, or "
            "choose another folder"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _owner() -> str:
    """The machine and process that a temporary file belongs to, as part of its name."""
    return f"{re.sub('[^A-Za-z0-9-]', '-', platform.node())[:40]}+{os.getpid()}"


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files in a folder (not below it) that killed processes of this machine left."""
    for path in Path(folder).glob(".*.part"):
        machine, plus, number = (
            path.name.rsplit(".", 3)[1].rpartition("+") if path.name.count(".") > 3 else ("", "", "")
        )
        if not plus or machine != _owner().rpartition("+")[0] or not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            with contextlib.suppress(OSError):
                path.unlink()
        except (OSError, OverflowError):
            continue  # somebody else's, and alive


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk. Some network file systems cannot sync folders: the file is
    # complete anyway.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_volume(path: str | os.PathLike[str], data_ras: np.ndarray, like: Volume) -> Path:
    """Write a RAS volume on the grid of the volume it was made from.

    The suffix of `path` chooses the format. NIfTI: float32 in `like`'s stored orientation and shape with its
    affine, codes and units (identity affine where `like` has none). `.npy` and `.mat` (array `data`):
    float32 in `like`'s stored order and shape. PNG: 16-bit gray of values from 0 to 1, only where `like` is
    a single image.

    Args:
        path: the file to write; folders are made, an older file is replaced at once.
        data_ras: `[X, Y, Z]`, real and finite, of `like.data`'s shape.
        like: the volume that gives the grid.

    Returns:
        `path`.

    Raises:
        InputError: unknown suffix, wrong shape, or values that are not finite.
        RunError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if not suffix:
        raise InputError(
            f"{path}: cannot write this format, expected a name ending in one of {', '.join(SUFFIXES)}"
        )
    data = np.asarray(data_ras, dtype=np.float32)
    if data.shape != like.data.shape:
        raise InputError(
            f"{path}: volume of shape {data.shape}, expected {like.data.shape} as {like.path} has"
        )
    if not np.isfinite(data).all():
        raise InputError(
            f"{path}: the volume holds NaN or infinite values, expected finite ones; nothing was written"
        )
    if suffix == ".png" and not like.grid.image:
        raise InputError(
            f"{path}: PNG holds one image and no affine, but {like.path} is a volume; write .nii.gz instead"
        )
    stored = from_canonical(data, like.grid.affine, like.grid.image)
    with atomic_file(path) as file:
        _write(file, suffix, data, stored, like)
    return path


def _write(file: IO[bytes], suffix: str, data: np.ndarray, stored: np.ndarray, like: Volume) -> None:
    if suffix in (".nii", ".nii.gz"):
        from ivan.data.nifti import write_nifti

        # A single image has no stored order that NIfTI could express: it is written in RAS order.
        write_nifti(file, data if like.grid.image else stored, like.grid, like.affine, suffix == ".nii.gz")
    elif suffix == ".png":
        from ivan.data.png import write_png

        write_png(file, stored)
    elif suffix == ".npy":
        from ivan.data.arrays import write_npy

        write_npy(file, stored.reshape(like.grid.shape))
    else:
        from ivan.data.arrays import write_mat

        write_mat(file, stored.reshape(like.grid.shape))
