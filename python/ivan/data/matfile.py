"""Numeric arrays of MATLAB files, versions 5 to 7.2, read so that a damaged file can do no harm.

SciPy's reader trusts lengths inside the file and can crash the process on a damaged one. This one reads
plain numeric arrays only and checks every length first. Format: MATLAB, "MAT-File Format" (level 5).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ivan.data.volume import DEFLATE_RATIO, check_claim
from ivan.errors import InputError

_MATRIX, _COMPRESSED = 14, 15  # types of the elements that hold a variable
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function", 17: "opaque"}
_COMPLEX = 0x0800
_HEAD = 4096  # bytes that always hold a variable's flags, shape and name


class _Damaged(Exception):
    pass


@dataclass(frozen=True)
class _Variable:
    """Flags, shape and name of one variable, and where its numbers begin in its body."""

    flags: int
    shape: tuple[int, ...]
    name: str
    start: int


def read_matrix(path: Path, key: str) -> np.ndarray:
    """Read the numeric array `key`, of any shape and any real numeric type.

    Raises:
        InputError: another kind or version of file, a damaged file, or no numeric array of this name.
    """
    with open(path, "rb") as file:
        order = _check_version(path, file.read(128))
        try:
            names = []
            for head, rest in _variables(file, order, path.stat().st_size):
                variable = _describe(head, order)
                if variable.name == key:
                    return _numbers(path, variable, head, rest, order)
                names.append(variable.name)
        except (_Damaged, struct.error, zlib.error) as error:
            raise InputError(
                f"{path}: damaged or truncated MATLAB file ({error}); save it again with save(..., '-v7')"
            ) from None
    found = ", ".join(sorted(names)[:12]) or "no variable"
    raise InputError(f"{path}: holds {found}, expected an array named '{key}'; rename it and save again")


def _check_version(path: Path, start: bytes) -> str:
    """The byte order, "<" or ">", of a file of level 5."""
    if start.startswith((b"MATLAB 7.3", b"\x89HDF")) or start[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
        raise InputError(f"{path}: MATLAB v7.3 (HDF5), which is not supported; save it with save(..., '-v7')")
    if start[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise InputError(
            f"{path}: not a MATLAB file of version 5 to 7.2, whatever its name says; save it with "
            "save(..., '-v7')"
        )
    return "<" if start[126:128] == b"IM" else ">"


class _Rest:
    """What follows the first bytes of a variable's body of `length` bytes."""

    def __init__(self, length: int, file: IO[bytes] | None = None, inflater: Any = None) -> None:
        self.length, self._file, self._inflater = length, file, inflater

    def read(self, count: int) -> bytes:
        """The next `count` bytes, or fewer where the file ends."""
        if count <= 0:
            return b""
        if self._file is not None:
            return self._file.read(count)
        content: bytes = self._inflater.decompress(self._inflater.unconsumed_tail, count)
        return content

    def check_end(self) -> None:
        """Read compressed data to its end, where the checksum is verified; only padding follows numbers."""
        if self._inflater is None:
            return
        self._inflater.decompress(self._inflater.unconsumed_tail, _HEAD)
        if not self._inflater.eof:
            raise _Damaged("compressed data without an end")


def _variables(file: IO[bytes], order: str, size: int) -> Iterator[tuple[bytes, _Rest]]:
    """The first bytes of each variable's body, and the means to read the rest of it."""
    place = 128
    while place < size:
        file.seek(place)
        kind, length = struct.unpack(order + "II", file.read(8))
        if place + 8 + length > size:
            raise _Damaged(f"element at byte {place} is longer than the file")
        if kind == _MATRIX:
            head = file.read(min(length, _HEAD))
            yield head, _Rest(length, file=file)
        elif kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            start = inflater.decompress(file.read(length), _HEAD + 8)
            inner, inner_length = struct.unpack(order + "II", start[:8])
            if inner != _MATRIX:
                raise _Damaged(f"compressed element of type {inner} at byte {place}")
            yield start[8:], _Rest(inner_length, inflater=inflater)
        else:
            raise _Damaged(f"element of type {kind} at byte {place}")
        place += 8 + length


def _element(content: bytes, place: int, order: str) -> tuple[int, int, int, int]:
    """Type, first byte, length and end of the element at `place`; its bytes may lie beyond `content`."""
    word, length = struct.unpack_from(order + "II", content, place)
    if word >> 16:  # four bytes or fewer sit inside the tag
        if word >> 16 > 4:
            raise _Damaged("small element of more than 4 bytes")
        return word & 0xFFFF, place + 4, word >> 16, place + 8
    return word, place + 8, length, place + 8 + length + (-length % 8)


def _describe(head: bytes, order: str) -> _Variable:
    kind, first, length, place = _element(head, 0, order)
    if kind != 6 or length != 8:
        raise _Damaged("no array flags")
    flags = struct.unpack_from(order + "I", head, first)[0]
    kind, first, length, place = _element(head, place, order)
    if kind != 5 or not 4 <= length <= 128 or length % 4:
        raise _Damaged("no dimensions")
    shape = struct.unpack_from(f"{order}{length // 4}i", head, first)
    kind, first, length, place = _element(head, place, order)
    if kind != 1 or first + length > len(head):
        raise _Damaged("no variable name")
    return _Variable(flags, shape, head[first : first + length].decode("latin-1"), place)


def _numbers(path: Path, variable: _Variable, head: bytes, rest: _Rest, order: str) -> np.ndarray:
    kind = variable.flags & 0xFF
    if kind in _CLASSES or not 6 <= kind <= 15:
        raise InputError(
            f"{path}: '{variable.name}' is of MATLAB class {_CLASSES.get(kind, kind)}, expected a numeric "
            "array; convert it and save again"
        )
    if variable.flags & _COMPLEX:
        raise InputError(
            f"{path}: '{variable.name}' holds complex numbers, expected real ones; convert it first"
        )
    check_claim(path, variable.shape, 1, path.stat().st_size * DEFLATE_RATIO)
    stored, first, length, _ = _element(head, variable.start, order)
    if stored not in _NUMBERS:
        raise _Damaged(f"numbers of unknown type {stored}")
    dtype = np.dtype(order + _NUMBERS[stored])
    expected = int(np.prod(variable.shape, dtype=np.int64)) * dtype.itemsize
    if length != expected or first + length > rest.length:
        raise _Damaged(f"{length} bytes of numbers, {expected} expected")
    content = head[first : first + length]
    content += rest.read(length - len(content))
    if len(content) != length:
        raise _Damaged(f"{len(content)} bytes of numbers, {length} expected")
    rest.check_end()
    return np.frombuffer(content, dtype).reshape(variable.shape, order="F")
