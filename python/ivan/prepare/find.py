"""Cases in a folder of DICOM series, NIfTI files or BIDS, paired by patient and session."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ivan.data.cases import cases_with_any
from ivan.data.volume import image_suffix
from ivan.data.walk import files_below, not_raw
from ivan.errors import InputError
from ivan.prepare.choose import Choice, choose
from ivan.prepare.contrast import GENERAL, KNOWN, NO_IMAGES, Rule, modality_of
from ivan.prepare.dicom import Header, read_headers
from ivan.prepare.dicom_files import dicom_files
from ivan.prepare.series import Stack, sort_series

Image = Stack | Path
_LONGEST_NAME = 48  # letters of up to 4 bytes: file names, with what is added, end at 255 bytes


@dataclass(frozen=True)
class RawCase:
    """One examination as it lies in the raw folder.

    Attributes:
        name: usable as a file name, unique.
        patient: what a split must keep together.
        images: modality -> NIfTI file or stack of DICOM slices.
        notes: what the user should know of the choice of these images.
        choices: those among series of which another may be the right one.
    """

    name: str
    patient: str
    images: Mapping[str, Image]
    notes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()

    def files(self) -> list[Path]:
        """All files that the case is made from."""
        found: list[Path] = []
        for image in self.images.values():
            found += image.files if isinstance(image, Stack) else [image]
        return found


@dataclass
class Found:
    """What a raw folder holds.

    Attributes:
        cases: sorted by name.
        modalities: those taken, the reference first.
        skipped: one line for each series, file or case left out.
    """

    cases: list[RawCase] = field(default_factory=list)
    modalities: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)  # modalities of all DICOM series, also of those not asked for


def find_raw(
    root: Path,
    modalities: Sequence[str] = (),
    *,
    reference: str = "",
    rules: Sequence[Rule] = (),
    advance: Callable[[int, int], None] | None = None,
    fill_missing: bool = False,
) -> Found:
    """Find the cases below `root` that have the reference modality and at least one other.

    Where `modalities` names a single one, it is enough: new patients, whose other modality is to be made.

    Args:
        root: folder with DICOM series, NIfTI files in the layouts of `ivan.data.find_cases`, or both.
        modalities: those to take; empty: all that can be told.
        reference: the modality that gives the grid; empty: the first of `modalities`, else T1, else the first
            by name.
        rules: the user's names for series.
        advance: called with (headers read, headers).
        fill_missing: series with missing slices can be used.

    Raises:
        InputError: no such folder, nothing to read in it, or no case with two modalities.
    """
    if not root.is_dir():
        state = "is a file, expected a folder" if root.exists() else "no such folder; check the path"
        raise InputError(f"{root}: {state}")
    found = Found()
    cases = _dicom_cases(root, set(modalities), rules, found, advance, fill_missing)
    cases += _nifti_cases(root, modalities, reference, found)
    if not cases and not found.seen:
        more = f" ({found.skipped[0]})" if found.skipped else "; it holds no DICOM and no NIfTI file"
        if apart := sorted(name for name in not_raw(root) if (root / name).is_dir()):
            more += f"; {', '.join(apart)} of a BIDS data set: not searched, name such a folder itself"
        raise InputError(
            f"{root}: no image of a known modality found{more}; name them with --modality or --map"
        )
    present = {name for case in cases for name in case.images} | found.seen
    if missing := [
        name for name in (*modalities, *([reference] if reference else [])) if name not in present
    ]:
        raise InputError(
            f"{root}: no image of modality '{missing[0]}'; found {', '.join(sorted(present))}; use one of "
            "these "
            "names, or say which series it is with --map"
        )
    ordered = list(modalities) or sorted(present)
    first = reference or (modalities[0] if modalities else "T1" if "T1" in present else ordered[0])
    found.modalities = [first, *(name for name in ordered if name != first)]
    needed = min(2, len(found.modalities)) if modalities else 2
    names: set[str] = set()
    for case in sorted(cases, key=lambda case: _natural(case.name)):
        if case.name in names:
            raise InputError(
                f"{root}: case '{case.name}' was found twice (as DICOM and NIfTI); keep one of them"
            )
        names.add(case.name)
        images = {name: case.images[name] for name in found.modalities if name in case.images}
        if first not in images or len(images) < needed:
            lacks = f"no {first}" if first not in images else f"only {first}"
            why = ", so there is nothing to pair" if needed > 1 else ""
            found.skipped.append(f"{case.name}: {lacks}{why}; left out")
            continue
        found.cases.append(replace(case, images=images))
    if not found.cases:
        another, hint = "", ""
        if needed > 1:
            another = " and another modality"
            hint = "; patients with one modality are taken where one --modality is given"
        raise InputError(
            f"{root}: no case has {first}{another} ({'; '.join(found.skipped[-4:])}); "
            f"check --modality, --reference and --map{hint}"
        )
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _dicom_cases(
    root: Path,
    wanted: set[str],
    rules: Sequence[Rule],
    found: Found,
    advance: Callable[[int, int], None] | None,
    fill_missing: bool,
) -> list[RawCase]:
    problems: dict[tuple[Path, str], list[Path]] = {}  # folder and complaint -> files

    def skip(path: Path, said: str) -> None:
        problems.setdefault((path.parent, said), []).append(path)

    paths = dicom_files(root, skip)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if advance:
            advance(done, len(paths))

    headers = read_headers(paths, skip, step) if paths else []
    for (folder, said), files in problems.items():
        which = str(files[0]) if len(files) == 1 else f"{folder}: {len(files)} files ({files[0].name} ...)"
        found.skipped.append(f"{which}: {said}")
    result = sort_series(headers)
    found.skipped += result.notes
    studies: dict[str, dict[str, dict[str, list[Stack]]]] = {}
    names = _patient_names({_patient(stack.header, root) for stack in result.stacks})
    for stack in result.stacks:
        if what := NO_IMAGES.get(stack.header.kind):
            found.skipped.append(f"{stack.label}: {what}, no image; left out")
            continue
        folders = "/".join(stack.header.path.relative_to(root).parts[:-1])
        name = modality_of(stack, rules, folders)
        if name:
            found.seen.add(name)
        if len(stack.frames) < 2:
            found.skipped.append(f"{stack.label}: one slice only (a localiser?); left out")
        elif name == "":
            found.skipped.append(f"{stack.label}: left out by --map")
        elif name is None:
            found.skipped.append(
                f"{stack.label}: modality unknown; left out, name it with --map 'PATTERN=NAME'"
            )
        elif not wanted or name in wanted:
            patient = names[_patient(stack.header, root)]
            study = stack.header.study or str(stack.header.path.parent)
            studies.setdefault(patient, {}).setdefault(study, {}).setdefault(name, []).append(stack)
    cases = []
    for patient, by_study in studies.items():
        ordered = sorted(by_study.items(), key=lambda item: (_study_time(item[1]), item[0]))
        if len(ordered) > 1 and all(len(series) == 1 for _, series in ordered):
            merged = {name: stacks for _, series in ordered for name, stacks in series.items()}
            if len(merged) == len(ordered):  # MR and CT are studies of their own: together they are one case
                ordered = [("", merged)]
        for number, (_, series) in enumerate(ordered, start=1):
            name = patient + (f"_ses-{number}" if len(ordered) > 1 else "")
            chosen = [
                choose(modality, stacks, fill_missing=fill_missing) for modality, stacks in series.items()
            ]
            images = {choice.modality: choice.taken for choice in chosen}
            notes = tuple(choice.note for choice in chosen if choice.others)
            notes += tuple(f"{choice.modality}: {fault}" for choice in chosen for fault in choice.faults)
            open_ones = tuple(choice for choice in chosen if choice.rivals)
            cases.append(RawCase(name, patient, images, notes, open_ones))
    return cases


def _patient(header: Header, root: Path) -> str:
    """Who it is: PatientID; where that is empty, the first folder."""
    folders = header.path.relative_to(root).parts[:-1]
    return header.patient or (folders[0] if folders else root.resolve().name)


def _patient_names(identities: Iterable[str]) -> dict[str, str]:
    """A file name for each patient. Letters of all scripts stay; two patients never get one name."""
    plain = {text: re.sub(r"(?:[^\w+-]|_)+", "-", text).strip("-") or "patient" for text in identities}
    plain = {text: name[:_LONGEST_NAME].strip("-") for text, name in plain.items()}
    taken = Counter(name.casefold() for name in plain.values())
    return {
        text: name
        if name == text or taken[name.casefold()] == 1
        else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        for text, name in plain.items()
    }


def _study_time(series: Mapping[str, Sequence[Stack]]) -> str:
    return min(stack.header.study_time for stacks in series.values() for stack in stacks)


def _nifti_cases(root: Path, modalities: Sequence[str], reference: str, found: Found) -> list[RawCase]:
    files = sorted(
        path for path in files_below(root, ignored=not_raw) if image_suffix(path) in (".nii", ".nii.gz")
    )
    if not files:
        return []
    names = list(dict.fromkeys([*(modalities or KNOWN), *([reference] if reference else [])]))
    general = [name for name in GENERAL if not modalities and name not in names]
    listed = cases_with_any(root, files, names, general)
    found.skipped += listed.notes
    if not listed and not listed.notes:
        found.skipped.append(
            f"{root}: {len(files)} NIfTI files of no known modality; name them with --modality"
        )
    return [RawCase(case.name, case.patient, case.files) for case in listed]
