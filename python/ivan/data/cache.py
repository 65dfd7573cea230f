"""Decoded cases kept for the whole run: in memory, or as mapped files that later runs use too."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ivan.data.cases import Case
from ivan.data.loading import load_case
from ivan.data.normalise import Scale
from ivan.data.profile import Profile, profiles_of
from ivan.data.writing import atomic_file
from ivan.errors import InputError

_FORM = 3  # raise it whenever what is stored changes its meaning


@dataclass(eq=False)
class CachedCase:
    """One decoded case.

    Attributes:
        case: the case.
        slices: `[S, M, H, W]` float32, normalised; a mapped file where cached on disk.
        coverage: `[S]` share of foreground pixels in each slice's sources.
        box: per slice the foreground's bounding box `[S, 4]` (top, bottom, left, right; half-open; zeros for
            none).
        scales: modality to scale.
        notes: what was done on reading.
        profiles: modality to what it looks like.
    """

    case: Case
    slices: np.ndarray
    coverage: np.ndarray
    box: np.ndarray
    scales: dict[str, Scale]
    notes: list[str]
    profiles: dict[str, Profile]


def decode(
    case: Case, modalities: Sequence[str], sources: Sequence[str], options: dict[str, Any]
) -> CachedCase:
    """Read a case's files once. `options` go to `load_case`; the foreground is that of `sources`."""
    loaded = load_case(case, modalities, **options)
    mask = loaded.foreground(sources)
    box = np.zeros((len(mask), 4), dtype=np.int64)
    for index, one in enumerate(mask):
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        if rows.size:
            box[index] = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    coverage = mask.mean(axis=(1, 2))
    return CachedCase(case, loaded.slices, coverage, box, loaded.scales, loaded.notes, profiles_of(loaded))


def decode_on_disk(
    case: Case, modalities: Sequence[str], sources: Sequence[str], options: dict[str, Any], folder: Path
) -> CachedCase:
    """Like `decode`, from the cache folder where it holds this case already, and into it otherwise.

    An entry is found by the files' paths, sizes and times of change and by all options, so changed data or
    options never meet an old entry. Entries are written whole or not at all.
    """
    key = _key(case, modalities, sources, options)
    array_path, record_path = folder / f"{key}.npy", folder / f"{key}.json"
    stored = _open(case, array_path, record_path)
    if stored is not None:
        return stored
    damaged = array_path.exists() and record_path.exists()
    decoded = decode(case, modalities, sources, options)
    with atomic_file(array_path) as file:
        np.save(file, decoded.slices, allow_pickle=False)
    record = {
        "case": case.name,
        "shape": decoded.slices.shape,
        "coverage": decoded.coverage.tolist(),
        "box": decoded.box.tolist(),
        "scales": {modality: asdict(scale) for modality, scale in decoded.scales.items()},
        "notes": decoded.notes,
        "profiles": {modality: profile.to_json() for modality, profile in decoded.profiles.items()},
        "crc32": _checksum(decoded.slices),
    }
    with atomic_file(record_path) as file:  # last: its presence says that the array is complete
        file.write(json.dumps(record).encode())
    decoded.slices = np.load(array_path, mmap_mode="r", allow_pickle=False)
    if damaged:
        decoded.notes = [*decoded.notes, f"{array_path}: damaged cache entry, decoded again"]
    return decoded


def _checksum(slices: np.ndarray) -> int:
    """CRC-32 of the values, slice by slice: reading the file once at start is cheap beside a silent flip."""
    value = 0
    for one in slices:
        value = zlib.crc32(np.ascontiguousarray(one).data, value)
    return value


def _key(case: Case, modalities: Sequence[str], sources: Sequence[str], options: dict[str, Any]) -> str:
    files = []
    for modality in modalities:
        path = Path(case.files[modality]) if modality in case.files else None
        try:
            state = path.stat() if path else None
        except OSError:
            state = None  # decoding says what is wrong with the file
        files.append(
            (
                modality,
                str(path.resolve()) if path else "",
                state and state.st_size,
                state and state.st_mtime_ns,
            )
        )
    text = json.dumps([_FORM, case.name, files, list(sources), sorted(options.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _open(case: Case, array_path: Path, record_path: Path) -> CachedCase | None:
    """The stored entry; None where there is none or it is damaged (it is then decoded anew and replaced)."""
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        slices = np.load(array_path, mmap_mode="r", allow_pickle=False)
        if list(slices.shape) != record["shape"] or slices.dtype != np.float32:
            return None
        if _checksum(slices) != record["crc32"]:
            return None
        scales = {modality: Scale(**scale) for modality, scale in record["scales"].items()}
        coverage, box = np.array(record["coverage"]), np.array(record["box"], dtype=np.int64)
        profiles = {modality: Profile.from_json(profile) for modality, profile in record["profiles"].items()}
        return CachedCase(case, slices, coverage, box, scales, list(record["notes"]), profiles)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def default_memory_limit() -> int:
    """Half of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def check_memory(used: int, limit: int, done: int, total: int) -> None:
    """Raise InputError where the decoded slices so far need more than `limit` bytes."""
    if used > limit:
        raise InputError(
            f"decoded slices of {done} of {total} cases need {used / 2**30:.1f} GiB of memory, the limit is "
            f"{limit / 2**30:.1f} GiB; cache them on disk (cache 'disk' and a folder), or use fewer "
            "cases or slices"
        )
