"""NIfTI-1 and NIfTI-2, plain or gzip: hostile headers are refused before anything is allocated."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ivan.data.volume import DEFLATE_RATIO, Grid, as_float32, check_claim, image_suffix, squeeze_shape
from ivan.errors import InputError

_MILLIMETRES = {1: 1e3, 3: 1e-3}  # unit codes of metres and micrometres; all others are taken as mm
_MAX_OFFSET = 1 << 24  # header extensions beyond 16 MiB are damage


def read_nifti(path: Path, luma: bool = False) -> tuple[np.ndarray, Grid]:
    """Read a NIfTI file; of colours their Y from 0 to 1 where `luma` asks for it.

    Colours are voxels of type RGB24, or three bytes along a fourth or fifth axis (`[X, Y, Z, 3]` uint8).

    Returns:
        `[I, J, K]` float32 in stored order, slope and intercept applied, and the grid with the file's header.

    Raises:
        InputError: see `ivan.data.read_volume`.
    """
    compressed = image_suffix(path) == ".nii.gz"
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped != compressed:
        found, remedy = (
            ("gzip", "add .gz to its name") if zipped else ("no gzip", "name it .nii or compress it")
        )
        raise InputError(
            f"{path}: {found} data, but the name says otherwise; {remedy} if it is NIfTI, or convert it"
        )
    try:
        with _quiet_nibabel(), np.errstate(over="ignore", invalid="ignore"):
            header = _read_header(path, compressed)
            shape, length = _check_header(path, header, compressed, luma)
            if compressed:
                # All of it in one pass, to its end: only there is the checksum verified.
                image = _image_class(header).from_bytes(_inflate(path, length))
            else:
                image = _image_class(header).from_filename(str(path))
            header = image.header  # checked: zero or negative voxel sizes are mended
            colour = luma and holds_colours(header)
            if colour:
                from ivan.data.colour import luma as luma_of
                from ivan.data.colour import stored_colours

                stored = luma_of(stored_colours(np.asarray(image.dataobj), shape))
            else:
                stored = as_float32(path, image.get_fdata(dtype=np.float32, caching="unchanged"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: damaged or truncated gzip data ({error}); copy or download it again"
        ) from None
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise InputError(f"{path}: damaged NIfTI file ({error}); convert or copy it again") from None
    affine = _check_affine(path, header)
    has_affine = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    if colour:
        header.set_data_shape(shape)  # what is written on this grid has no axis of colours
        header["intent_code"] = 0
    claimed = tuple(header.get_data_shape())
    return stored.reshape(shape), Grid("nifti", claimed, affine, has_affine, header=header, colour=colour)


def holds_colours(header: Any) -> bool:
    """Whether voxels are colours: of type RGB24, or bytes of red, green and blue along the last axis."""
    dtype = header.get_data_dtype()
    return dtype.names == ("R", "G", "B") or (dtype == np.uint8 and _three_along_the_last(header))


def _three_along_the_last(header: Any) -> bool:
    return tuple(header.get_data_shape())[3:] in ((3,), (1, 3)) and header.get_slope_inter() in (
        (None, None),
        (1.0, 0.0),
    )


@contextlib.contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """No log lines about header fields: what matters of them becomes an InputError."""
    from nibabel.imageglobals import logger

    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _read_header(path: Path, compressed: bool) -> Any:
    from nibabel import nifti1, nifti2

    opener: Any = gzip.open if compressed else open
    with opener(path, "rb") as file:
        start = file.read(540)
    if start[344:348] == b"n+1\0" and len(start) >= 348:
        return nifti1.Nifti1Header(start[:348], check=False)
    if start[4:8] == b"n+2\0" and len(start) >= 540:
        return nifti2.Nifti2Header(start[:540], check=False)
    if start[344:348] in (b"ni1\0", b"\0\0\0\0") or start[4:8] == b"ni2\0":
        raise InputError(
            f"{path}: half of an .hdr/.img pair, expected a single-file NIfTI; convert it "
            "(mri_convert, nibabel)"
        )
    raise InputError(f"{path}: not a NIfTI file, whatever its name says; convert it first (DICOM: dcm2niix)")


def _check_header(path: Path, header: Any, compressed: bool, luma: bool) -> tuple[tuple[int, ...], int]:
    """Check size, type and position of the data; return the volume's shape and the file's length in bytes."""
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise InputError(f"{path}: its header claims {axes} axes, expected 2 to 7; the header is damaged")
    claimed = tuple(int(extent) for extent in header["dim"][1 : axes + 1])
    try:
        dtype = header.get_data_dtype()
    except Exception:
        raise InputError(
            f"{path}: unknown data type code {int(header['datatype'])}; the header is damaged"
        ) from None
    colours = luma and holds_colours(header)
    if not colours and (dtype.fields is not None or dtype.kind not in "iuf"):
        kind = f"{''.join(dtype.names)} colours" if dtype.names else f"{dtype} values"
        raise InputError(
            f"{path}: holds {kind}, expected one real number per voxel{' or RGB24' if luma else ''}; "
            "convert it first"
        )
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MAX_OFFSET:
        raise InputError(f"{path}: its header places the data at byte {offset:g}; the header is damaged")
    size = path.stat().st_size
    check_claim(path, claimed, dtype.itemsize, (size * DEFLATE_RATIO if compressed else size) - offset)
    if luma and not colours and claimed[3:] in ((3,), (1, 3)):
        raise InputError(
            f"{path}: {dtype} of shape {'x'.join(map(str, claimed))}, expected one volume, or colours, RGB24 "
            "or as bytes (uint8) 0 to 255 without slope; convert it first, or extract one volume"
        )
    shape = squeeze_shape(path, claimed[:3] if colours and dtype.fields is None else claimed)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isinf(slope) or np.isinf(intercept):
        raise InputError(
            f"{path}: slope {slope:g} and intercept {intercept:g} of its header, expected finite numbers"
        )
    sizes = [float(size) for size in header["pixdim"][1:4]]
    # With an sform they do not matter; nibabel would take a size of 0 for 1 mm.
    if int(header["sform_code"]) <= 0 < int(header["qform_code"]) and not all(
        abs(size) > 0 for size in sizes
    ):
        raise InputError(
            f"{path}: voxel sizes {' x '.join(f'{size:g}' for size in sizes)} mm in its header, "
            "expected positive ones; repair the header (fslchpixdim, nibabel)"
        )
    return (*shape, 1)[:3], int(np.prod(claimed)) * dtype.itemsize + max(int(offset), 352)


def _inflate(path: Path, length: int) -> bytes:
    with gzip.open(path, "rb") as file:
        content = file.read(length)
        if len(content) < length:
            raise InputError(
                f"{path}: holds {len(content)} bytes after decompression, its header claims {length}; "
                "it is truncated, copy it again"
            )
        _drain(file)
    return content


def _drain(file: gzip.GzipFile, limit: int = 1 << 26) -> None:
    """Read to the end, where gzip checks its checksum; trailing bytes beyond 64 MiB are left unread."""
    while limit > 0 and (chunk := file.read(1 << 20)):
        limit -= len(chunk)


def _check_affine(path: Path, header: Any) -> np.ndarray:
    from nibabel.orientations import io_orientation

    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except Exception as error:
        raise InputError(
            f"{path}: its affine cannot be read ({error}); repair the header (fslorient)"
        ) from None
    usable = affine.shape == (4, 4) and bool((np.abs(affine) < 1e12).all())  # and not NaN
    if usable:
        columns = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        # Relative to the voxel sizes: micrometres and metres are both fine, parallel or absent axes are not.
        usable = bool((columns > 0).all()) and abs(np.linalg.det(affine[:3, :3] / columns)) > 1e-4
        usable = usable and not np.isnan(io_orientation(affine)).any()
    if not usable:
        raise InputError(
            f"{path}: its affine is singular or not finite, so its axes are unknown; repair the header "
            "(fslorient)"
        )
    affine[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def write_nifti(
    file: IO[bytes], stored: np.ndarray, grid: Grid, affine: np.ndarray, compressed: bool
) -> None:
    """Write float32 voxels, or RGB24 colours, on a grid.

    Args:
        file: open for writing.
        stored: `[I, J, K]` float32 or RGB24 in the grid's stored order.
        grid: shape, affine, units and codes come from its header where it is NIfTI.
        affine: `[4, 4]` of `stored`, used where the grid has no NIfTI header.
        compressed: write gzip (with no name and time in it: equal images give equal bytes).
    """
    import nibabel as nib

    image: Any
    if grid.format == "nifti":
        header = grid.header.copy()
        header.set_data_dtype(stored.dtype)
        header.extensions.clear()  # they describe the acquisition of the source
        header["cal_min"] = header["cal_max"] = 0  # the source's display window
        image = _image_class(header)(stored.reshape(grid.shape), None, header)
    else:
        image = nib.Nifti1Image(stored, affine)
    if compressed:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as zipped:
            image.to_stream(zipped)
    else:
        image.to_stream(file)


def _image_class(header: Any) -> Any:
    import nibabel as nib

    return nib.Nifti2Image if int(header["sizeof_hdr"]) == 540 else nib.Nifti1Image
