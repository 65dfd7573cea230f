"""What a file's name and folders say: its modality, its case and its patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ivan.data.volume import image_suffix, stem
from ivan.errors import InputError

_BIDS = re.compile(
    r"^(?P<subject>sub-[A-Za-z0-9+]+)(?P<entities>(?:_[A-Za-z0-9]+-[A-Za-z0-9+.]+)*)_(?P<suffix>[A-Za-z0-9]+)$"
)
_DATA_TYPES = ("dwi", "pet")  # BIDS folders of all that belongs to such a scan: dwi/sub-01_ADC.nii.gz
_SEPARATORS = "_-. "
# What may follow a patient's name: a session or time point, a run, an acquisition.
_VISIT = re.compile(r"[_-](?:ses|session|visit|timepoint|tp|run|acq)[-_]?[0-9A-Za-z]+$", re.IGNORECASE)
_SLICE = re.compile(r"[_-](?:slice|sl|s|z)?[-_]?\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class FileName:
    """What one file's name says. `rule` is `"bids"`, `"folder"`, `"last"` or `"first"`."""

    path: Path
    modality: str
    case: str
    rule: str
    run: str = ""


class Modalities:
    """The modalities asked for, recognised in any case of letters and with or without BIDS' trailing `w`."""

    def __init__(self, required: Sequence[str], optional: Sequence[str] = ()) -> None:
        names = [*required, *optional]
        if not required:
            raise InputError("no modality was named; expected at least one, such as T1")
        self._names: dict[str, str] = {}
        for name in names:
            if not name or re.search(r"[/\\\0\s]", name):
                raise InputError(
                    f"modality {name!r}: expected a plain name without slashes and spaces, such as T1 or PD"
                )
            if name.lower() in self._names:
                raise InputError(f"modality '{name}' was named twice; expected each modality once")
            self._names[name.lower()] = name
        for name in names:  # aliases never hide a name that was asked for
            alias = name.lower()[:-1] if name.lower().endswith("w") else f"{name.lower()}w"
            self._names.setdefault(alias, name)
        # Longest first: of T1-post and post, the name that says more.
        self._alternatives = "|".join(
            re.escape(name) for name in sorted(self._names, key=len, reverse=True) if name
        )
        separators = re.escape(_SEPARATORS)
        self._last = re.compile(
            rf"^(?P<case>.+?)[{separators}]+(?P<modality>{self._alternatives})$", re.IGNORECASE
        )
        self._first = re.compile(
            rf"^(?P<modality>{self._alternatives})[{separators}]+(?P<case>.+)$", re.IGNORECASE
        )

    def match(self, text: str) -> str | None:
        """The modality that `text` names, spelt as it was asked for, or None."""
        return self._names.get(text.lower())

    def last(self, name: str) -> tuple[str, str] | None:
        """`(case, modality)` of `case_MODALITY`, or None."""
        found = self._last.match(name)
        return (found["case"], self._names[found["modality"].lower()]) if found else None

    def first(self, name: str) -> tuple[str, str] | None:
        """`(case, modality)` of `MODALITY_case`, or None."""
        found = self._first.match(name)
        return (found["case"], self._names[found["modality"].lower()]) if found else None

    def strip(self, modality: str, name: str) -> str:
        """`name` without `modality` at its end or beginning; empty where it is nothing else."""
        if self.match(name) == modality:
            return ""
        for found in (self.last(name), self.first(name)):
            if found and found[1] == modality:
                return found[0]
        return name


def parse(path: Path, root: Path, wanted: Modalities) -> FileName | None:
    """Modality and case of a path below `root` by the rules of `find_cases`; None where none fits."""
    folders = path.relative_to(root).parts[:-1]
    name = stem(path)
    bids = _BIDS.match(name)
    if bids and (modality := wanted.match(bids["suffix"])):
        entities = dict(part.split("-", 1) for part in bids["entities"].split("_") if part)
        case = bids["subject"] + (f"_ses-{entities['ses']}" if "ses" in entities else "")
        return _agreeing(FileName(path, modality, case, "bids", entities.get("run", "")), folders, wanted)
    for depth in range(len(folders) - 1, -1, -1):
        if modality := wanted.match(folders[depth]):
            own = wanted.last(name)
            if (own and own[1] != modality) or (wanted.match(name) not in (None, modality)):
                raise _disagreement(path, modality, own[1] if own else str(wanted.match(name)))
            parts = [*folders[:depth], *folders[depth + 1 :], wanted.strip(modality, name)]
            case = "_".join(part for part in parts if part) or root.resolve().name
            return FileName(path, modality, case, "folder")
    if modality := wanted.match(name):
        return FileName(path, modality, "_".join(folders) or root.resolve().name, "last")
    if found := wanted.last(name):
        return FileName(path, found[1], found[0], "last")
    if found := wanted.first(name):
        return FileName(path, found[1], found[0], "first")
    return None


def _agreeing(found: FileName, folders: Sequence[str], wanted: Modalities) -> FileName:
    for depth, folder in enumerate(folders, start=1):
        if depth == len(folders) and folder in _DATA_TYPES:
            continue
        if (other := wanted.match(folder)) and other != found.modality:
            raise _disagreement(found.path, other, found.modality)
    return found


def _disagreement(path: Path, folder: str, name: str) -> InputError:
    return InputError(f"{path}: its folder says {folder} and its name says {name}; rename one of them")


def patient_of(case: str, path: Path) -> str:
    """The patient of a case.

    `sub-XX` of a BIDS name; otherwise the case's name without session, visit, run (`_ses-1`, `_tp2`,
    `-visit3`). Of `.png`, `.npy` and `.mat` a final slice number goes too (`p07_012`, `p07_slice12` ->
    `p07`) where a digit remains before it, so that slices of one patient stay together.
    """
    if subject := re.match(r"^sub-[A-Za-z0-9+]+", case):
        return subject.group()
    patient = case
    if image_suffix(path) in (".png", ".npy", ".mat"):
        shorter = _SLICE.sub("", patient)
        if re.search(r"\d", shorter):
            patient = shorter
    while shorter := _VISIT.sub("", patient):
        if shorter == patient:
            break
        patient = shorter
    return patient


def guess_modalities(files: Sequence[Path], root: Path) -> list[str]:
    """Up to 12 names that look like modalities, for a message: folders and ends (or beginnings) of names."""
    names = [re.split(r"[_\-. ]+", stem(path)) for path in files]
    ends = {parts[-1].lower() for parts in names}
    starts = {parts[0].lower() for parts in names}
    # Where no end repeats and the beginnings differ, modalities may stand first: T1_spgr, T2_late.
    leading = len(ends) == len(files) and len(starts) > 1
    counts: dict[str, int] = {}
    spelt: dict[str, str] = {}
    for path, parts in zip(files, names, strict=True):
        folders = path.relative_to(root).parts[:-1]
        guesses = {folder for folder in folders[-1:] if not re.match(r"^(sub-|ses-|anat$)", folder)}
        if len(parts) > 1 or not folders:
            guesses |= {parts[-1], parts[0]} if leading else {parts[-1]}
        for guess in guesses:
            if re.search(r"[A-Za-z]", guess) and len(guess) <= 20:
                counts[guess.lower()] = counts.get(guess.lower(), 0) + 1
                spelt.setdefault(guess.lower(), guess)
    common = sorted(counts, key=lambda guess: (-counts[guess], guess))[:12]
    return sorted((spelt[guess] for guess in common), key=str.lower)
