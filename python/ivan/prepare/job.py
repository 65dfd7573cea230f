"""`prepare`: every case of a raw folder, with progress, restart, split and quality-control page."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ivan.data.cases import Case
from ivan.data.datalist import write_datalist
from ivan.data.writing import atomic_file, remove_leftovers
from ivan.errors import InputError
from ivan.prepare.case import Settings, finished, image_path, prepare_case, signature
from ivan.prepare.choose import chosen_lines
from ivan.prepare.contrast import parse_rules
from ivan.prepare.find import find_raw
from ivan.prepare.grid import parse_spacing
from ivan.prepare.page import write_page

_MARK = "prepare.json"


def prepare(
    raw: str | Path,
    out: str | Path,
    *,
    modalities: Sequence[str] = (),
    reference: str = "",
    rules: Sequence[str] = (),
    spacing: str = "",
    register: bool = False,
    crop: bool = False,
    fill_missing: bool = False,
    validation: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Pair, reorient, resample, check and split the images of a raw folder.

    Writes OUT/MODALITY/case.nii.gz (float32, RAS, one grid a case), OUT/dataset.json (for
    `ivan train --data`), OUT/quality.html, and a record of each case. A second call with the same arguments
    keeps the cases that are there and makes the others: after a kill, a full disk, or with new patients.

    Args:
        raw: folder of DICOM series, NIfTI files or a BIDS data set; it is only read.
        out: folder for the results: new, empty, or that of an earlier call.
        modalities: those to take, the reference first; empty: all that can be told. A single one is taken
            alone: new patients, for `ivan synthesize`.
        reference: the modality whose grid all get; empty: the first of `modalities`, else T1.
        rules: `PATTERN=NAME` texts that name DICOM series by description or folder; `none` leaves them out.
        spacing: "1" or "1x1x2" mm; empty: the reference's own.
        register: rigid registration to the reference (SimpleITK).
        crop: crop each case to its foreground and 8 mm.
        fill_missing: interpolate missing slices instead of leaving the case out.
        validation, test: shares of the patients, drawn by the patients' names and the seed.
        seed: of the draw.
        progress: show progress on standard output.

    Returns:
        OUT/dataset.json.

    Raises:
        InputError: nothing to prepare, bad arguments, or no case that could be used.
        RunError: a result cannot be written; the cases before it are whole.
    """
    raw, out = Path(raw), Path(out)
    settings = Settings(parse_spacing(spacing), register, crop, fill_missing)
    named = parse_rules(rules)
    _check_shares(validation, test)
    _check_out(raw, out)
    if register:
        from ivan.prepare.register import require_simpleitk

        require_simpleitk()
    report = _Progress(progress)
    with report:
        found = find_raw(
            raw,
            modalities,
            reference=reference,
            rules=named,
            advance=report.headers,
            fill_missing=fill_missing,
        )
        skipped = list(found.skipped)
        _begin(out, raw, found.modalities, settings)
        records = []
        report.start(len(found.cases))
        for case in found.cases:
            try:
                signed = signature(case, settings)
                kept = finished(case, out, settings, signed)
                records.append(kept or prepare_case(case, out, settings, signed))
                report.case(case.name, "kept" if kept else "prepared", records[-1]["warnings"])
            except InputError as error:  # one bad case must not cost the others
                skipped.append(f"{case.name}: {error}")
                report.said.add(skipped[-1])
                report.case(case.name, "left out", [str(error)])
    if not records:
        raise InputError(f"{raw}: none of {len(found.cases)} cases could be used ({skipped[-1]})")
    found.modalities = [name for name in found.modalities if any(name in r["bytes"] for r in records)]
    skipped += _left_from_before(out, records)
    parts = split_patients(records, validation, test, seed)
    chosen = {part: [_case(out, item) for item in items] for part, items in parts.items()}
    write_datalist(out / "dataset.json", chosen, found.modalities, f"ivan prepare, from {raw}")
    warnings = _one_patient(records, validation + test)
    made = {record["case"] for record in records}
    choices = chosen_lines(
        [(case.name, one) for case in found.cases if case.name in made for one in case.choices]
    )
    write_page(out, parts, skipped, settings, warnings, choices)
    report.end(records, parts, [*choices, *skipped], out, warnings)
    return out / "dataset.json"


def _check_shares(validation: float, test: float) -> None:
    for name, share in (("--validation", validation), ("--test", test)):
        if not 0 <= share < 1:
            raise InputError(f"{name}: {share} given, expected a share of the patients from 0 to below 1")
    if validation + test >= 1:
        raise InputError(f"--validation, --test: {validation} and {test} leave no patient for training")


def _check_out(raw: Path, out: Path) -> None:
    if not str(out) or str(out) == ".":
        raise InputError("--out: no folder given for the results; name a new one")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the results; choose another --out")
    inner, outer = out.resolve(), raw.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(f"--out: {out} and {raw} lie in each other; choose a folder beside the raw one")
    there = next(path for path in (inner, *inner.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out: {there} is a file, expected a folder; choose another one")
    if not os.access(there, os.W_OK | os.X_OK):  # known before an hour of reading
        raise InputError(f"--out: no permission to write in {there}; choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise InputError(
            f"{out}: not empty and not of an earlier 'ivan prepare'; choose a new folder with --out"
        )


def _one_patient(records: Sequence[dict[str, Any]], held: float) -> list[str]:
    """A warning where all cases are of one patient, as after an anonymisation that names all alike."""
    patients = {record["patient"] for record in records}
    if held == 0 or len(records) < 2 or len(patients) > 1:
        return []
    return [
        f"all {len(records)} cases are of one patient ('{patients.pop()}'), so all are for training: parts "
        "never share a patient; if they are of several, give each a PatientID of its own (DICOM; or an empty "
        "one and a first folder for each patient) or a name of its own (files)"
    ]


def _left_from_before(out: Path, records: Sequence[dict[str, Any]]) -> list[str]:
    """Lines where the folder holds cases or images of an earlier call: they are in no list any more."""
    lines = []
    listed = {record["case"] for record in records}
    if old := sorted(path.stem for path in (out / "cases").glob("*.json") if path.stem not in listed):
        names = ", ".join(old[:4]) + (" ..." if len(old) > 4 else "")
        lines.append(
            f"{out}: files of {len(old)} earlier case{'s' * (len(old) != 1)} ({names}) are there, but not "
            "in dataset.json: not in the raw folder any more, or left out now; delete them if they are not "
            "needed"
        )
    for record in records:
        for modality in record["left_out"]:
            if (path := image_path(out, modality, record["case"])).is_file():
                lines.append(
                    f"{path}: of an earlier call, and not in dataset.json: {modality} is left out now; "
                    "delete it if it is not needed"
                )
    return lines


def _begin(out: Path, raw: Path, modalities: Sequence[str], settings: Settings) -> None:
    """The mark that makes a folder ours, before anything else is in it."""
    for folder in (out, out / "cases", out / "quality", *(out / name for name in modalities)):
        remove_leftovers(folder)
    content = {"raw": str(raw.resolve()), "modalities": list(modalities), **asdict(settings)}
    with atomic_file(out / _MARK) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def split_patients(
    records: Sequence[dict[str, Any]], validation: float, test: float, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Records by part; whole patients, at least one for training and one in each part that is asked for.

    A patient's rank is the hash of the seed and the name: further patients change little of an earlier draw.
    """
    patients = sorted(
        {record["patient"] for record in records},
        key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest(),
    )
    spare = len(patients) - 1
    held_test = min(max(1, round(test * len(patients))), spare) if test else 0
    held_validation = min(max(1, round(validation * len(patients))), spare - held_test) if validation else 0
    part_of = dict.fromkeys(patients, "training")
    part_of |= dict.fromkeys(patients[:held_test], "test")
    part_of |= dict.fromkeys(patients[held_test : held_test + held_validation], "validation")
    parts: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for record in records:
        parts[part_of[record["patient"]]].append(record)
    return parts


def _case(out: Path, record: dict[str, Any]) -> Case:
    files = {name: image_path(out, name, record["case"]) for name in record["bytes"]}
    return Case(record["case"], record["patient"], files)


class _Progress:
    """A bar with the time left on a terminal, one line a case elsewhere, nothing where it is not wanted."""

    def __init__(self, show: bool) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True) if show else None
        self.bar: Any = None
        self.task: Any = None
        self.done = self.made = self.total = 0
        self.said: set[str] = set()  # why cases were left out, as it was said at once
        self.started = time.monotonic()

    def __enter__(self) -> _Progress:
        if self.console and self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task("reading headers", total=None)
        return self

    def __exit__(self, *details: object) -> None:
        if self.bar:
            self.bar.stop()

    def headers(self, done: int, total: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=done, total=total)

    def start(self, total: int) -> None:
        self.total, self.started = total, time.monotonic()
        if self.bar:
            self.bar.update(self.task, description="preparing", completed=0, total=total)
        elif self.console:
            self._say(f"{total} case{'s' * (total != 1)} found")

    def case(self, name: str, what: str, lines: Sequence[str]) -> None:
        self.done += 1
        self.made += what != "kept"
        if self.bar:
            self.bar.update(self.task, completed=self.done)
        left = int((time.monotonic() - self.started) / max(1, self.made) * (self.total - self.done))
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self._say(
            f"{what} {name} ({self.done} of {self.total}, {clock})" + "".join(f"; {line}" for line in lines)
        )

    def end(
        self,
        records: Sequence[Any],
        parts: dict[str, list[Any]],
        skipped: Sequence[str],
        out: Path,
        warnings: Sequence[str],
    ) -> None:
        for line in warnings:
            self._say(f"warning: {line}")
        for line in skipped:
            if line not in self.said:
                self._say(f"note: {line}")
        counts = ", ".join(f"{len(items)} {part}" for part, items in parts.items() if items)
        warned = sum(bool(record["warnings"]) for record in records)
        lost = f", {self.total - len(records)} left out" if self.total > len(records) else ""
        cases = f"{len(records)} case" + "s" * (len(records) != 1)
        self._say(f"{cases} ({counts}), {warned} with warnings{lost}: look at {out / 'quality.html'}")
        data = shlex.quote(str(out / "dataset.json"))
        source = records[0]["reference"]
        most = Counter(name for record in records for name in record["bytes"] if name != source)
        if most:
            target = most.most_common(1)[0][0]
            usable = [item for item in parts["training"] if {source, target} <= set(item["bytes"])]
            alone = not parts["validation"] and len({item["patient"] for item in usable}) == 1
            options = " --validation 0" if alone else ""  # nobody is left to be drawn for it
            self._say(
                f"train with: ivan train --data {data} --from {source} --to {target} --out RUN{options}"
            )
        else:
            self._say(f"synthesise with: ivan synthesize --run RUN --data {data} --out OUT")

    def _say(self, line: str) -> None:
        if self.console:
            self.console.print(line, markup=False)
