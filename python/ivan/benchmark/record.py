"""The JSON that measurements are kept in: one record a run, a flat list of rows.

``{"schema": 1, "note": str, "machine": {...}, "rows": [...]}``; a row's ``what`` says what else it has:

- ``time``: implementation, job, case, threads, seconds (median), fastest, slowest, rounds, ratio (median of
  eager / this, or None), gflops, difference (of the outputs from eager's, relative 2-norm, or None)
- ``kernel``: the same with kernel instead of job, without difference
- ``memory``: implementation, job, case, threads, bytes (added to the baseline), baseline
- ``skip``: implementation, job, case, threads, reason
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ivan.benchmark.case import JOBS, Case
from ivan.errors import InputError, IvanError

SCHEMA = 1
_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_COMMON: dict[str, Any] = {"implementation": str, "case": dict, "threads": int}
_TIMES: dict[str, Any] = {
    "seconds": _NUMBER, "fastest": _NUMBER, "slowest": _NUMBER, "rounds": int,
    "ratio": _MAYBE, "gflops": _NUMBER,
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "time": {**_COMMON, "job": str, **_TIMES, "difference": _MAYBE},
    "kernel": {**_COMMON, "kernel": str, **_TIMES},
    "memory": {**_COMMON, "job": str, "bytes": int, "baseline": int},
    "skip": {**_COMMON, "job": str, "reason": str},
}
"""The fields of each kind of row, and their types."""
MACHINE = (
    "machine", "system", "processor", "cores", "memory_gb", "isa", "threads", "fma_gflops", "device",
    "precision", "python",
    "torch", "ivan_fast", "compiler", "commit", "load", "taken",
)  # fmt: skip


def new(machine: dict[str, Any], rows: list[dict[str, Any]], note: str = "") -> dict[str, Any]:
    """A record of these rows, checked."""
    return checked({"schema": SCHEMA, "note": note, "machine": machine, "rows": rows}, "benchmark")


def save(record: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a record, through a temporary name. Raises InputError or RunError."""
    from ivan.training.files import replace_json

    replace_json(Path(path), record)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a record. Raises InputError: not there, not JSON, or not of this form."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of --json") from None
    except ValueError:
        raise InputError(f"{path}: is not JSON; expected a file of --json") from None
    return checked(record, str(path))


def checked(record: Any, name: str) -> dict[str, Any]:
    """`record`, or InputError that names the first thing wrong with it."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise InputError(f"{name}: schema is {found!r}, expected {SCHEMA}; measure again with this version")
    machine, rows = record.get("machine"), record.get("rows")
    if not isinstance(machine, dict) or (missing := [key for key in MACHINE if key not in machine]):
        lacks = "no machine" if not isinstance(machine, dict) else f"machine lacks {', '.join(missing)}"
        raise InputError(f"{name}: {lacks}; measure again with this version")
    if not isinstance(rows, list) or not isinstance(record.get("note"), str):
        raise InputError(f"{name}: no rows or no note; measure again with this version")
    for index, row in enumerate(rows):
        _check_row(row, f"{name}: row {index}")
    return record


def _check_row(row: Any, name: str) -> None:
    fields = ROWS.get(str(row.get("what"))) if isinstance(row, dict) else None
    if fields is None:
        raise InputError(f"{name} is none of {', '.join(ROWS)}; measure again with this version")
    if odd := set(row) ^ {"what", *fields}:
        raise InputError(f"{name} ({row['what']}) has {', '.join(sorted(odd))} too much or too little")
    for field, kind in fields.items():
        if not isinstance(row[field], kind) or isinstance(row[field], bool):
            raise InputError(f"{name}: {field} is {row[field]!r}, a value of another type was expected")
    if "job" in row and row["job"] not in JOBS:
        raise InputError(f"{name}: job is {row['job']!r}, expected one of {', '.join(JOBS)}")
    try:
        Case(**row["case"])
    except (TypeError, IvanError) as error:
        raise InputError(f"{name}: case is not one ({error})") from None
