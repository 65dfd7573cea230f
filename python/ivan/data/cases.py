"""Which files belong together: the modalities of one case, found by the names of folders and files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ivan.data.naming import FileName, Modalities, guess_modalities, parse, patient_of
from ivan.data.volume import SUFFIXES, image_suffix, stem
from ivan.data.walk import files_below, not_raw
from ivan.errors import InputError


@dataclass(frozen=True)
class Case:
    """One examination: a file for each modality.

    Attributes:
        name: unique among the cases and usable as a file name, such as `sub-01_ses-2`.
        patient: whose examination it is, such as `sub-01`: what a split must keep together.
        files: modality, spelt as it was asked for, to file.
    """

    name: str
    patient: str
    files: Mapping[str, Path]


class CaseList(list[Case]):
    """The cases found, sorted by name, and what to tell the user about the others.

    Attributes:
        skipped: one line for each case left out, naming what it lacks.
        notes: one line for each decision the user should know of.
    """

    def __init__(
        self, cases: Iterable[Case] = (), skipped: Sequence[str] = (), notes: Sequence[str] = ()
    ) -> None:
        super().__init__(sorted(cases, key=lambda case: _natural(case.name)))
        self.skipped = list(skipped)
        self.notes = list(notes)


def find_cases(
    root: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    optional: Sequence[str] = (),
) -> CaseList:
    """Find the cases below a folder that have all of `modalities`.

    A file's modality and case come from the first rule that fits (letters in any case; `T1` and `T1w` are
    the same):

    1. BIDS: `sub-01[/ses-1]/anat/sub-01[_ses-1]..._T1w.nii.gz`. Files are paired by subject and session, and
       by run where there are several.
    2. Modality folders: `T1/case.nii.gz`, also `train/T1/case.nii.gz` and `case/T1/image.nii.gz`.
    3. Modality last: `case_T1.nii.gz`, `case-T1.nii.gz`, `case.T1.nii.gz`; `case/T1.nii.gz`.
    4. Modality first, where nothing fits rules 1 to 3: `T1_case.nii.gz`. Where no two names agree but each
       modality has one file in a folder (`T1_spgr.nii.gz`, `T2_late.nii.gz`), that folder is one case.

    Hidden files are ignored, as are `derivatives`, `sourcedata` and `code` of a BIDS data set.

    Args:
        root: the folder, searched at any depth.
        modalities: those that a case must have.
        optional: those that are attached where present.

    Returns:
        At least one case, with `skipped` naming those left out.

    Raises:
        InputError: no such folder, no complete case, a modality without any file (naming those found), or two
            files for the same modality of a case.
    """
    root = Path(root)
    wanted = Modalities(modalities, optional)
    files = _images(root)
    if not files:
        raise InputError(f"{root}: no image found; expected files ending in {', '.join(SUFFIXES)}")
    named = [found for file in files if (found := parse(file, root, wanted)) is not None]
    leading = [found for found in named if found.rule == "first"]
    named = [found for found in named if found.rule != "first"] or leading
    for modality in modalities:
        if not any(found.modality == modality for found in named):
            present = ", ".join(guess_modalities(files, root)) or "none"
            raise InputError(
                f"{root}: no file of modality '{modality}' among {len(files)} images; modalities "
                f"found: {present}; "
                "use one of these names, or name files MODALITY/case.nii.gz or case_MODALITY.nii.gz"
            )
    groups = _group(named)
    if named is leading and not any(_complete(group, modalities) for group in groups.values()):
        groups = _by_folder(leading, root)
    return _cases(str(root), groups, modalities)


def cases_with_any(
    root: Path, files: Iterable[Path], modalities: Sequence[str], general: Sequence[str] = ()
) -> CaseList:
    """Cases that have at least one of `modalities`, by the rules of `find_cases`; possibly none.

    Nothing stops the others: a case with two files of a modality, and a file whose folder and name disagree,
    are left out with a note.

    Args:
        root: the folder that the names are read from.
        files: the images below it, sorted.
        modalities: those looked for.
        general: names that count only for files that tell none of `modalities`, such as MR.
    """
    wanted = [Modalities(names) for names in (modalities, general) if names]
    named: list[FileName] = []
    notes = []
    for file in files:
        try:
            found = next((found for names in wanted if (found := parse(file, root, names))), None)
        except InputError as error:
            notes.append(f"{error}; left out")
            continue
        if found is not None:
            named.append(found)
    leading = [found for found in named if found.rule == "first"]
    named = [found for found in named if found.rule != "first"] or leading
    groups = _group(named)
    several = len({found.modality for found in named}) > 1
    if named is leading and several and all(len(group) == 1 for group in groups.values()):
        groups = _by_folder(leading, root)
    cases = _cases(str(root), groups, (), tolerant=True)
    cases.notes[:0] = notes
    return cases


def find_cases_in_folders(
    folders: Mapping[str, str | os.PathLike[str]],
    *,
    optional: Mapping[str, str | os.PathLike[str]] | None = None,
) -> CaseList:
    """Pair the files of one folder per modality.

    Files are paired by name (without the modality's own name at its beginning or end); where no names agree,
    by the last number in them; where that fails too and all folders hold equally many files, in sorted
    order, which `notes` then says.

    Args:
        folders: modality to folder; a case needs a file in each.
        optional: modality to folder, attached where a file is present.

    Raises:
        InputError: a folder is missing or empty, nothing can be paired, or two files claim the same place.
    """
    optional = optional or {}
    wanted = Modalities(list(folders), list(optional))
    lists: dict[str, list[Path]] = {}
    for modality, folder in {**folders, **optional}.items():
        lists[modality] = _images(Path(folder))
        if not lists[modality]:
            raise InputError(
                f"{folder}: no image found for {modality}; expected files ending in {', '.join(SUFFIXES)}"
            )
    label = ", ".join(f"{modality}: {folder}" for modality, folder in folders.items())
    required = list(folders)

    def grouped(keys: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[Path]]]:
        groups: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for modality, names in keys.items():
            for key, path in zip(names, lists[modality], strict=True):
                groups[key][modality].append(path)
        return groups

    names = {
        m: [
            wanted.strip(m, "_".join([*p.relative_to(Path({**folders, **optional}[m])).parts[:-1], stem(p)]))
            for p in paths
        ]
        for m, paths in lists.items()
    }
    groups = grouped(names)
    if any(_complete(group, required) for group in groups.values()):
        return _cases(label, groups, required)
    numbers = {
        m: [(re.findall(r"\d+", stem(p)) or [""])[-1].lstrip("0") or "0" for p in paths]
        for m, paths in lists.items()
    }
    if all(len(set(found)) == len(found) for found in numbers.values()):
        first = dict(zip(numbers[required[0]], names[required[0]], strict=True))
        groups = grouped({m: [first.get(number, number) for number in found] for m, found in numbers.items()})
        if any(_complete(group, required) for group in groups.values()):
            found = _cases(label, groups, required)
            found.notes.append("files were paired by the last number in their names, because no names agree")
            return found
    counts = {m: len(paths) for m, paths in lists.items() if m in folders}
    if len(set(counts.values())) > 1 or optional:
        found_counts = ", ".join(f"{count} of {m}" for m, count in counts.items())
        raise InputError(
            f"{label}: no two file names agree and the folders hold {found_counts}; give files of a "
            "case the same name"
        )
    result = _cases(label, grouped(dict.fromkeys(required, names[required[0]])), required)
    result.notes.append("files were paired in sorted order, because no names agree: check that this is right")
    return result


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which case2 comes before case10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _images(root: Path) -> list[Path]:
    """All image files below `root`, sorted; links are followed once."""
    if not root.is_dir():
        state = (
            "is a file, expected a folder of images" if root.exists() else "no such folder; check the path"
        )
        raise InputError(f"{root}: {state}")

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: folder cannot be read ({error.strerror}); change its permissions"
        )

    return sorted(
        (path for path in files_below(root, refuse, not_raw) if image_suffix(path)),
        key=lambda path: _natural(str(path)),
    )


Groups = Mapping[str, Mapping[str, Sequence[Path]]]


def _group(named: Sequence[FileName]) -> Groups:
    groups: dict[str, dict[str, list[FileName]]] = defaultdict(lambda: defaultdict(list))
    for found in named:
        groups[found.case][found.modality].append(found)
    result: dict[str, dict[str, list[Path]]] = {}
    for name, group in groups.items():
        # Runs tell files apart only where a session has several of a modality: one of them often has no run
        # entity.
        by_run = any(len(files) > 1 and len({f.run for f in files}) > 1 for files in group.values())
        for modality, files in group.items():
            for found in files:
                key = f"{name}_run-{found.run}" if by_run and found.run else name
                result.setdefault(key, {}).setdefault(modality, []).append(found.path)
    return result


def _by_folder(leading: Sequence[FileName], root: Path) -> Groups:
    groups: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for found in leading:
        folder = "_".join(found.path.parent.relative_to(root).parts) or root.resolve().name
        groups[folder][found.modality].append(found.path)
    return groups


def _complete(group: Mapping[str, Sequence[Path]], modalities: Iterable[str]) -> bool:
    return all(group.get(modality) for modality in modalities)


def _cases(label: str, groups: Groups, modalities: Sequence[str], *, tolerant: bool = False) -> CaseList:
    cases, skipped, notes = [], [], []
    for name, group in sorted(groups.items(), key=lambda item: _natural(item[0])):
        missing = [modality for modality in modalities if not group.get(modality)]
        if missing:
            skipped.append(f"{name}: no {' and no '.join(missing)}, skipped")
            continue
        if several := [(modality, files) for modality, files in group.items() if len(files) > 1]:
            modality, files = several[0]
            listed = ", ".join(str(file) for file in files[:3])
            said = f"case '{name}' has {len(files)} files for {modality} ({listed}), expected one; "
            remedy = "remove or rename the others, or choose a folder that holds one of them"
            if not tolerant:
                raise InputError(f"{label}: {said}{remedy}")
            notes.append(f"{said}left out, {remedy}")
            continue
        files_of = {modality: files[0] for modality, files in group.items()}
        cases.append(Case(name, patient_of(name, next(iter(files_of.values()))), files_of))
    if not cases and not tolerant:
        some = "; ".join(skipped[:4]) + (f"; and {len(skipped) - 4} more" if len(skipped) > 4 else "")
        raise InputError(
            f"{label}: no case has all of {', '.join(modalities)} ({some}); give the files of a case "
            "the same name"
        )
    return CaseList(cases, skipped, notes)
