"""Hostile and damaged image files: one line that names the file, what was found and what to do."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.io
from PIL import Image

from ivan.data import find_cases, load_case, read_volume
from ivan.errors import InputError

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(1, 1000, (8, 9, 7)).astype(np.int16)


def nifti(data: np.ndarray = VOXELS, affine: np.ndarray | None = None, **fields: object) -> bytes:
    """Bytes of a NIfTI-1 file; `fields` overwrite its header afterwards, unchecked."""
    buffer = io.BytesIO()
    nib.Nifti1Image(data, np.eye(4) if affine is None else affine).to_stream(buffer)
    content = buffer.getvalue()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[348:]


def with_values(*values: float) -> np.ndarray:
    data = VOXELS.astype(np.float32)
    data.flat[: len(values)] = values
    return data


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_claiming(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


def mat(compressed: bool = True, **arrays: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=compressed)
    return buffer.getvalue()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    content = png(RNG.integers(0, 255, (8, 8)).astype(np.uint8))
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def flipped(content: bytes, place: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 1
    return bytes(damaged)


DIM = np.array([3, 8, 9, 7, 1, 1, 1, 1], dtype=np.int16)


def dim(*values: int) -> np.ndarray:
    return np.array([*values, *[1] * (8 - len(values))], dtype=np.int16)


gz = gzip.compress
GRAY = RNG.integers(0, 255, (8, 8)).astype(np.uint8)
COLOUR = RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)
NIFTI2_HUGE = nib.Nifti2Header()
NIFTI2_HUGE.set_data_dtype(np.float32)
NIFTI2_HUGE["dim"] = [3, 2**40, 2**40, 2**40, 1, 1, 1, 1]
NIFTI2_HUGE["magic"] = b"n+2\0\r\n\x1a\n"

# name -> (file name, content, words of the message)
FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("a.nii.gz", b"", ["the file is empty", "copy or convert"]),
    "truncated gzip": ("a.nii.gz", gz(nifti())[:-200], ["truncated gzip", "again"]),
    "gzip cut inside the header": ("a.nii.gz", gz(nifti())[:30], ["truncated gzip"]),
    "gzip checksum": ("a.nii.gz", flipped(gz(nifti()), -8), ["damaged or truncated gzip", "CRC"]),
    "gzip with data missing": ("a.nii.gz", gz(nifti()[:-100]), ["after decompression", "truncated"]),
    "text named .nii.gz": ("a.nii.gz", b"this is no image" * 50, ["no gzip data", "name"]),
    "text in gzip": ("a.nii.gz", gz(b"this is no image" * 50), ["not a NIfTI file", "dcm2niix"]),
    "text named .nii": ("a.nii", b"this is no image" * 50, ["not a NIfTI file"]),
    "gzip named .nii": ("a.nii", gz(nifti()), ["gzip data", ".gz"]),
    "short .nii": ("a.nii", nifti()[:100], ["not a NIfTI file"]),
    "truncated .nii": ("a.nii", nifti()[:-100], ["8x9x7 voxels", "truncated"]),
    "header pair": ("a.nii", nifti(magic=b"ni1"), [".hdr/.img pair", "single-file"]),
    "huge extents": (
        "a.nii.gz",
        gz(nifti(dim=dim(3, 32767, 32767, 32767))),
        ["32767x32767x32767", "damaged"],
    ),
    "huge NIfTI-2": ("a.nii", NIFTI2_HUGE.binaryblock + bytes(64), ["1099511627776x", "damaged"]),
    "more than the file holds": (
        "a.nii.gz",
        gz(nifti(dim=dim(3, 500, 500, 500))),
        ["more than the file can hold"],
    ),
    "negative extent": ("a.nii", nifti(dim=dim(3, 8, -9, 7)), ["8x-9x7", "at least 1"]),
    "zero extent": ("a.nii", nifti(dim=dim(3, 8, 0, 7)), ["8x0x7", "at least 1"]),
    "no axes": ("a.nii", nifti(dim=dim(0)), ["0 axes"]),
    "too many axes": ("a.nii", nifti(dim=dim(99, 8, 9, 7)), ["axes, expected 2 to 7"]),
    "unknown data type": ("a.nii", nifti(datatype=4242), ["data type code 4242"]),
    "offset beyond the file": ("a.nii", nifti(vox_offset=1e30), ["header places the data at byte 1e+30"]),
    "offset is NaN": ("a.nii.gz", gz(nifti(vox_offset=np.nan)), ["header places the data at byte nan"]),
    "several volumes": (
        "a.nii.gz",
        gz(nifti(RNG.random((4, 4, 4, 3)).astype("f4"))),
        ["4x4x4x3", "holds 3 volumes"],
    ),
    "complex numbers": ("a.nii", nifti(VOXELS.astype(np.complex64)), ["complex64", "real number"]),
    "colours": (
        "a.nii",
        nifti(np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])),
        ["RGB colours"],
    ),
    "NaN": ("a.nii.gz", gz(nifti(with_values(np.nan, np.nan))), ["2 NaN and 0 infinite", "nan_to_num"]),
    "infinity": ("a.nii.gz", gz(nifti(with_values(np.inf, -np.inf, np.nan))), ["1 NaN and 2 infinite"]),
    "beyond float32": ("a.nii", nifti(VOXELS * 1e300), ["0 NaN and 504 infinite"]),
    "infinite slope": ("a.nii", nifti(scl_slope=np.inf), ["slope inf"]),
    "all zero": ("a.nii.gz", gz(nifti(np.zeros_like(VOXELS))), ["all voxels are zero", "contrast"]),
    "constant": ("a.nii.gz", gz(nifti(np.full_like(VOXELS, 7))), ["every voxel has the value 7"]),
    "singular affine": (
        "a.nii",
        nifti(sform_code=1, srow_x=[1, 0, 0, 0], srow_y=[2, 0, 0, 0], srow_z=[0, 0, 1, 0]),
        ["affine is singular", "fslorient"],
    ),
    "affine of NaN": (
        "a.nii",
        nifti(sform_code=1, srow_x=[np.nan, 0, 0, 0]),
        ["affine is singular or not finite"],
    ),
    "affine beyond reason": ("a.nii", nifti(sform_code=1, srow_x=[1e30, 0, 0, 0]), ["affine is singular"]),
    ".npy is text": ("a.npy", b"1 2 3\n" * 9, ["not a .npy file"]),
    ".npy of objects": (
        "a.npy",
        npy(np.array([{}, []], dtype=object), allow_pickle=True),
        ["Python objects"],
    ),
    ".npy truncated": ("a.npy", npy(VOXELS)[:-10], ["damaged or truncated .npy"]),
    ".npy claims too much": (
        "a.npy",
        npy_claiming("(100000, 100000, 100000)"),
        ["damaged or truncated .npy"],
    ),
    ".npy header is code": ("a.npy", npy_claiming("__import__('os')"), ["damaged or truncated .npy"]),
    ".npy of one axis": ("a.npy", npy(np.arange(9.0)), ["shape 9", "3 axes"]),
    ".npy of strings": ("a.npy", npy(np.array([["a", "b"]])), ["<U1", "real numbers"]),
    ".npy of complex numbers": ("a.npy", npy(np.ones((3, 3), dtype=complex)), ["complex128", "real numbers"]),
    ".npy without values": ("a.npy", npy(np.zeros((0, 4))), ["0x4", "at least 1"]),
    ".mat without data": ("a.mat", mat(image=VOXELS, other=1), ["holds image, other", "'data'", "rename"]),
    ".mat v7.3": ("a.mat", b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600), ["v7.3", "-v7"]),
    ".mat is text": ("a.mat", b"this is no matlab file " * 20, ["not a MATLAB file of version 5"]),
    ".mat truncated": ("a.mat", mat(data=RNG.random((40, 40)))[:-500], ["MATLAB file", "save it again"]),
    ".mat of complex numbers": ("a.mat", mat(data=np.ones((3, 3)) * 1j), ["complex numbers"]),
    ".mat of a cell": ("a.mat", mat(data=np.array([1, "a"], dtype=object)), ["class cell"]),
    ".mat with an element longer than the file": (
        "a.mat",
        mat(compressed=False, data=VOXELS)[:132] + b"\xff\xff\xff\x7f" + bytes(99),
        ["damaged or truncated MATLAB", "longer than the file"],
    ),
    ".mat with an element of length 0": ("a.mat", mat(data=VOXELS)[:128] + bytes(64), ["element of type 0"]),
    ".mat checksum": (
        "a.mat",
        flipped(mat(data=RNG.random((40, 40))), -1),
        ["damaged", "incorrect data check"],
    ),
    ".mat of a struct": ("a.mat", mat(data={"x": 1}), ["class struct", "numeric array"]),
    ".mat of text": ("a.mat", mat(data="abc"), ["class char"]),
    ".png is text": ("a.png", b"this is no image", ["not a PNG image"]),
    ".png is a JPEG's name": ("a.png", b"\xff\xd8\xff\xe0" + bytes(200), ["not a PNG image"]),
    ".png truncated": (
        "a.png",
        png(RNG.integers(0, 255, (64, 64)).astype(np.uint8))[:-2000],
        ["truncated PNG"],
    ),
    ".png in colour": ("a.png", png(COLOUR), ["colour image", "one channel"]),
    ".png with holes": ("a.png", png(np.stack([GRAY] * 4, axis=-1)), ["transparent", "alpha"]),
    ".png huge": ("a.png", png_claiming(2**31 - 1, 2**31 - 1), ["2147483647x2147483647"]),
    ".png larger than its data": ("a.png", png_claiming(20000, 20000), ["more than the file can hold"]),
    ".png black": ("a.png", png(np.zeros((8, 8), dtype=np.uint8)), ["all voxels are zero"]),
    "DICOM": ("a.dcm", b"\0" * 128 + b"DICM", ["suffix '.dcm' is not supported", "dcm2niix"]),
    "no suffix": ("image", b"abc", ["suffix", "expected one of .nii.gz"]),
}


def one_line(error: InputError, path: Path, words: list[str]) -> None:
    message = str(error)
    assert str(path) in message
    for word in words:
        assert word in message, message
    assert "\n" not in message
    assert error.exit_code == 2


@pytest.mark.parametrize("name", FILES)
def test_bad_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    file_name, content, words = FILES[name]
    path = tmp_path / file_name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    one_line(caught.value, path, words)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    captured = capfd.readouterr()
    assert captured.out + captured.err + caplog.text == ""  # nothing from the libraries below either


def test_small_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """A header that stays below the claim's limit, followed by a bomb: it is not unpacked into memory."""
    import tracemalloc

    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(nifti())
        for _ in range(200):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    assert np.array_equal(read_volume(path).data, VOXELS)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in (
        (tmp_path, ["is a folder"]),
        (tmp_path / "absent.nii.gz", ["no such file"]),
        (tmp_path / ("x" * 300 + ".nii"), ["x.nii"]),
        (tmp_path / "pipe.nii", ["not an ordinary file"]),
    ):
        if path.name == "pipe.nii":
            os.mkfifo(path)
        with pytest.raises(InputError) as caught:
            read_volume(path)
        one_line(caught.value, path, words)
    path = tmp_path / "secret.nii"
    path.write_bytes(nifti())
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(InputError, match="no permission to read"):
        read_volume(path)


def test_one_slice_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gz(nifti(VOXELS[:, :, :1])))
    assert read_volume(tmp_path / "a.nii.gz").data.shape == (8, 9, 1)


def test_constant_images_where_they_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gz(nifti(np.zeros_like(VOXELS))))
    assert read_volume(tmp_path / "a.nii.gz", allow_constant=True).data.max() == 0


def test_name_with_line_breaks_stays_one_line(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines.nii"
    path.write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def _mismatched(root: Path) -> None:
    (root / "a_T1.nii").write_bytes(nifti(affine=np.diag([1.0, 1, 1, 1])))
    far = np.eye(4)
    far[:3, 3] = 900
    (root / "a_T2.nii").write_bytes(nifti(affine=far))


def _unpaired(root: Path) -> None:
    (root / "a_T1.nii").write_bytes(nifti())
    (root / "b_T2.nii").write_bytes(nifti())


def _wrong_name(root: Path) -> None:
    (root / "a_T1.nii").write_bytes(nifti())
    (root / "a_FLAIR.nii").write_bytes(nifti())


def _shapes(root: Path) -> None:
    (root / "a_T1.npy").write_bytes(npy(VOXELS))
    (root / "a_T2.npy").write_bytes(npy(VOXELS[1:]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_mismatched, ["a_T2.nii", "covers 0 %", "register"]),
        (_unpaired, ["no case has all of T1, T2", "a: no T2", "same name"]),
        (_wrong_name, ["no file of modality 'T2'", "FLAIR, T1"]),
        (_shapes, ["a_T2.npy", "7x9x7", "8x9x7", "no affine"]),
        (lambda root: None, ["no image found", ".nii.gz"]),
    ],
)
def test_bad_folder(tmp_path: Path, make: Callable[[Path], None], words: list[str]) -> None:
    make(tmp_path)
    with pytest.raises(InputError) as caught:
        _ = [load_case(case, ["T1", "T2"]) for case in find_cases(tmp_path, ["T1", "T2"])]
    one_line(caught.value, tmp_path, words)


def test_every_truncation_of_every_format_is_one_line(tmp_path: Path) -> None:
    """Cut anywhere, a file is refused (or reads as it was, where only its tail is missing)."""
    whole = {
        "a.nii": nifti(),
        "a.nii.gz": gz(nifti()),
        "a.npy": npy(VOXELS),
        "a.mat": mat(data=VOXELS),
        "a.png": png(GRAY),
    }
    for name, content in whole.items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = read_volume(path).data
        refused = 0
        for length in range(0, len(content), max(1, len(content) // 60)):
            path.write_bytes(content[:length])
            try:
                assert np.array_equal(read_volume(path).data, expected), (name, length)
            except InputError:
                refused += 1
        assert refused > 55, name


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """Random bytes written over headers: an image or an InputError, nothing else."""
    rng = np.random.default_rng(1)
    for name, content, header in (
        ("a.nii", nifti(), 352),
        ("a.npy", npy(VOXELS), 128),
        ("a.mat", mat(data=VOXELS), 200),
        ("b.mat", mat(compressed=False, data=VOXELS), 250),
        ("a.png", png(GRAY), 60),
    ):
        path = tmp_path / name
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, header, rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged)
            with contextlib.suppress(InputError):
                assert np.isfinite(read_volume(path).data).all()
