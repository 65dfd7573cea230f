"""Which files of a folder are DICOM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ivan.data.volume import image_suffix
from ivan.data.walk import files_below, not_raw

_SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")
# Group 0008 and one of the elements that a data set without preamble begins with, little endian.
_FIRST_ELEMENTS = tuple(bytes((8, 0, element, 0)) for element in (0x00, 0x01, 0x05, 0x08, 0x12, 0x14, 0x16))


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(132)


def has_magic(path: Path) -> bool:
    """Whether a file has DICOM's magic number after its preamble."""
    return _start(path)[128:] == b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its magic number; old files lack it, but not a suffix or the first element.

    Raises:
        OSError: it cannot be read.
    """
    start = _start(path)
    return start[128:] == b"DICM" or path.suffix.lower() in _SUFFIXES or start[:4] in _FIRST_ELEMENTS


def dicom_files(root: Path, skip: Callable[[Path, str], None] | None = None) -> list[Path]:
    """All DICOM files below a folder, sorted; hidden ones, DICOMDIR indices, and `derivatives`, `sourcedata`
    and `code` of a BIDS data set are left out.

    `skip` is told of folders and files that cannot be read, and of empty files beside slices.
    """
    tell = skip or (lambda path, said: None)
    found, empty = [], []
    for path in files_below(root, lambda error: tell(Path(error.filename), _unreadable(error)), not_raw):
        if path.name.upper() == "DICOMDIR" or image_suffix(path):
            continue
        try:
            if not path.is_file():
                continue
            if is_dicom(path):
                found.append(path)
            elif path.stat().st_size == 0:
                empty.append(path)
        except OSError as error:
            tell(path, _unreadable(error))
    beside = {path.parent for path in found}
    for path in empty:
        if path.parent in beside:
            tell(path, "the file is empty (0 bytes); left out, copy it again if it was a slice")
    return found


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error}); left out, change its permissions or copy it again"
