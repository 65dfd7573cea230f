"""Results of finished runs as files: one small JSON each, of one experiment and budget in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ivan.errors import InputError

_KEYS = {"plan", "protocol", "method", "seed", "parameters", "training", "settings", "machine", "rows"}


def read(path: Path) -> dict[str, Any]:
    """One finished run. Raises InputError where the file is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected the result of a run, remove or replace it"
        ) from None
    if not isinstance(found, dict) or not found.keys() >= _KEYS:
        raise InputError(f"{path}: is not the result of a run; move it to another folder")
    return found


def collect(results: Path) -> list[dict[str, Any]]:
    """All finished runs of a folder, by method and seed.

    Raises:
        InputError: a damaged file, or runs that cannot stand in one table: of two experiments, sizes or
            budgets.
    """
    files = sorted(results.glob("*-seed*.json"))
    found = [read(path) for path in files]
    for path, run in zip(files[1:], found[1:], strict=True):
        same(path, run, found[0]["plan"], found[0]["settings"], str(files[0].name))
    return sorted(found, key=lambda run: (run["method"], run["seed"]))


def same(path: Path, run: dict[str, Any], plan: str, settings: dict[str, Any], asked: str) -> None:
    """Raise InputError where a run is of another experiment, size or budget than those of `asked`."""
    if run["plan"] != plan:
        raise InputError(f"{path}: is of another experiment than {asked}; choose a new --out or --results")
    for part, value in json.loads(json.dumps(settings)).items():
        if run["settings"].get(part) != value:
            raise InputError(
                f"{path}: was made with {part} {run['settings'].get(part)}, {asked} with {value}; give the "
                "same options, or choose a new --out or --results"
            )
