"""Which cases and slices are for training and which for validation: never one patient in both by chance."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ivan.data.cases import Case
from ivan.data.datalist import parts_of
from ivan.data.writing import atomic_file
from ivan.errors import InputError


@dataclass(frozen=True)
class CaseRange:
    """A case, or its slices `start <= s < stop` along the plane's RAS axis (`stop` None: to the end)."""

    case: Case
    start: int = 0
    stop: int | None = None

    def bounds(self, count: int) -> tuple[int, int]:
        """`(start, stop)` within `count` slices, or InputError where the range is empty or reaches beyond."""
        stop = count if self.stop is None else self.stop
        if not 0 <= self.start < stop <= count:
            raise InputError(
                f"{self.case.name}: slices [{self.start}, {stop}] asked for, but the case has "
                f"{count} slices; expected 0 <= start < stop <= {count}; correct the split file or --slices"
            )
        return self.start, stop

    def overlaps(self, other: CaseRange) -> bool:
        """Whether both ranges contain a slice of the same number."""
        return (other.stop is None or self.start < other.stop) and (
            self.stop is None or other.start < self.stop
        )


@dataclass(frozen=True)
class Split:
    """Lists of case ranges for training and validation; validation may be empty."""

    training: list[CaseRange]
    validation: list[CaseRange]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split in the form that `make_split(file=...)` reads."""
        content = {
            "training": [_entry(r) for r in self.training],
            "validation": [_entry(r) for r in self.validation],
        }
        with atomic_file(path) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")


def make_split(
    cases: Sequence[Case],
    *,
    file: str | os.PathLike[str] | None = None,
    validation: float = 0.2,
    seed: int = 0,
) -> Split:
    """Divide cases into training and validation.

    Without a file, whole patients are drawn: `validation` of them, at least one and not all; 0 means none.
    The draw depends on the patients' names and the seed alone, not on the order of `cases`.

    A file is JSON, `{"training": ["sub-02", {"case": "sub-01", "slices": [0, 70]}], "validation": [...]}`;
    slices are half-open ranges along the chosen plane. Cases it does not name are left out. The same patient
    may be in both lists only with ranges that do not overlap.

    Raises:
        InputError: one patient only, a number out of range, or a file that is damaged, names unknown cases or
            shares slices of a patient between training and validation.
    """
    if not cases:
        raise InputError("no cases to split, expected at least one")
    if file is not None:
        return _read_split(Path(file), cases)
    if not 0 <= validation < 1:
        raise InputError(
            f"validation {validation}: expected a share of the patients from 0 to below 1, such as 0.2"
        )
    patients = sorted({case.patient for case in cases})
    if validation == 0:
        return Split([CaseRange(case) for case in cases], [])
    if len(patients) == 1:
        raise InputError(
            f"all cases are of one patient ({patients[0]}), expected at least two for training and "
            "validation; give a split file with slice ranges (--split), or no validation (--validation 0)"
        )
    random.Random(seed).shuffle(patients)
    count = min(max(1, round(validation * len(patients))), len(patients) - 1)
    held_out = set(patients[:count])
    return Split(
        [CaseRange(case) for case in cases if case.patient not in held_out],
        [CaseRange(case) for case in cases if case.patient in held_out],
    )


def _entry(item: CaseRange) -> Any:
    if item.start == 0 and item.stop is None:
        return item.case.name
    return {"case": item.case.name, "slices": [item.start, item.stop]}


def _read_split(path: Path, cases: Sequence[Case]) -> Split:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: split file cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{path}: not a JSON file ({error}); expected {{"training": [...], "validation": [...]}}'
        ) from None
    if (parts := parts_of(content, path)) is not None:  # the dataset.json of ivan prepare
        known = {case.name for case in cases}
        content = {
            part: [name for name in parts.get(part, []) if name in known]
            for part in ("training", "validation")
        }
    if (
        not isinstance(content, dict)
        or not set(content) <= {"training", "validation"}
        or "training" not in content
    ):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f'{path}: holds {found or "nothing"}, expected the lists "training" and "validation"'
        )
    named = {case.name: case for case in cases}
    lists: dict[str, list[CaseRange]] = {}
    for part in ("training", "validation"):
        entries = content.get(part, [])
        if not isinstance(entries, list):
            raise InputError(
                f'{path}: "{part}" is of type {type(entries).__name__}, expected a list of cases'
            )
        lists[part] = [_range(path, part, entry, named) for entry in entries]
    if not lists["training"]:
        raise InputError(f'{path}: "training" is empty, expected at least one case')
    _check_disjoint(path, lists["training"], lists["validation"])
    return Split(lists["training"], lists["validation"])


def _range(path: Path, part: str, entry: Any, named: dict[str, Case]) -> CaseRange:
    name: Any = entry
    slices: Any = [0, None]
    if isinstance(entry, dict) and set(entry) <= {"case", "slices"}:
        name, slices = entry.get("case"), entry.get("slices", slices)
    if not isinstance(name, str):
        raise InputError(
            f'{path}: entry {str(entry)[:80]} in "{part}", expected "sub-01" or '
            f'{{"case": "sub-01", "slices": [0, 70]}}'
        )
    if name not in named:
        known = ", ".join(sorted(named)[:8]) + (", ..." if len(named) > 8 else "")
        raise InputError(
            f"{path}: \"{part}\" names case '{name}', which the data does not have with every "
            f"modality asked for; it has {known}"
        )
    good = isinstance(slices, list) and len(slices) == 2 and _is_index(slices[0])
    good = good and (slices[1] is None or (_is_index(slices[1]) and slices[0] < slices[1]))
    if not good:
        raise InputError(
            f"{path}: slices {str(slices)[:60]} of case '{name}', expected [start, stop] with 0 <= "
            "start < stop"
        )
    return CaseRange(named[name], slices[0], slices[1])


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_disjoint(path: Path, training: list[CaseRange], validation: list[CaseRange]) -> None:
    for kind, items, others in (("training", training, training), ("validation", validation, validation)):
        for position, item in enumerate(items):
            if any(
                item.case.name == other.case.name and item.overlaps(other) for other in others[position + 1 :]
            ):
                raise InputError(
                    f"{path}: \"{kind}\" names slices of case '{item.case.name}' twice; remove one entry"
                )
    by_patient: dict[str, list[CaseRange]] = {}
    for item in training:
        by_patient.setdefault(item.case.patient, []).append(item)
    for item in validation:
        for other in by_patient.get(item.case.patient, []):
            if item.overlaps(other):
                raise InputError(
                    f"{path}: patient '{item.case.patient}' is in training ({other.case.name}) and "
                    "validation "
                    f"({item.case.name}) with the same slices; give ranges that do not overlap, or one "
                    "list only"
                )
