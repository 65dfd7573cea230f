"""Data set files in MONAI's datalist form: `dataset.json` names the images of every case and its part.

    {"modality": {"0": "T1", "1": "T2"},
     "training": [{"case": "sub-01", "patient": "sub-01", "modality": ["T1", "T2"],
                   "image": ["T1/sub-01.nii.gz", "T2/sub-01.nii.gz"]}, ...],
     "validation": [...], "test": [...]}

`monai.data.load_decathlon_datalist` reads it too. Paths are relative to the file's folder. An entry may lack
"case" (the name of its first image serves), "patient" (told from the case's name) and "modality" (that at the
top serves).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ivan.data.cases import Case, CaseList
from ivan.data.naming import Modalities, patient_of
from ivan.data.volume import stem
from ivan.data.writing import atomic_file
from ivan.errors import InputError

PARTS = ("training", "validation", "test")


def is_datalist(path: str | os.PathLike[str]) -> bool:
    """Whether `--data` names a data set file (`dataset.json` or `dataset.json:test`), not a folder."""
    return _divide(path)[0].suffix.lower() == ".json"


def _divide(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """(file, part) of `dataset.json:test`; the part is empty where none is named."""
    text = os.fspath(path)
    base, colon, part = text.rpartition(":")
    return (Path(base), part) if colon and base.lower().endswith(".json") else (Path(text), "")


def read_datalist(
    path: str | os.PathLike[str], modalities: Sequence[str], *, optional: Sequence[str] = ()
) -> CaseList:
    """The cases of a data set file that have all of `modalities`.

    Args:
        path: the file; `dataset.json:validation` takes one part, otherwise all are taken.
        modalities: those that a case must have; letters in any case, `T1` and `T1w` are the same.
        optional: those that are attached where present.

    Raises:
        InputError: no such file, not this form, a case named twice, or no case with all of them.
    """
    file, part = _divide(path)
    content = _load(file)
    if part and part not in content:
        raise InputError(
            f"{path}: has no part '{part}', only {', '.join(p for p in PARTS if p in content)}; name one of "
            "these, or keep patients apart for it (ivan prepare --test 0.2)"
        )
    wanted = Modalities(modalities, optional)
    cases: dict[str, Case] = {}
    skipped = []
    for entry in (e for p in PARTS if p in content and part in ("", p) for e in content[p]):
        name, patient, files = _entry(file, entry, content.get("modality"))
        chosen = {known: image for m, image in files.items() if (known := wanted.match(m))}
        missing = [m for m in modalities if m not in chosen]
        if missing:
            skipped.append(f"{name}: no {' and no '.join(missing)}, skipped")
        elif name in cases:
            raise InputError(f"{file}: names case '{name}' twice; remove one entry, or give them other names")
        else:
            cases[name] = Case(name, patient, chosen)
    if not cases:
        reasons = "; ".join(skipped[:4]) or "it names none"
        raise InputError(
            f"{path}: no case has all of {', '.join(modalities)} ({reasons}); check --from and --to"
        )
    return CaseList(cases.values(), skipped)


def parts_of(content: Any, path: Path) -> dict[str, list[str]] | None:
    """Part -> case names where parsed JSON is a data set file; None where it is anything else (a split)."""
    if not isinstance(content, dict):
        return None
    entries = [e for part in PARTS if isinstance(content.get(part), list) for e in content[part]]
    if not entries or not all(isinstance(e, dict) and "image" in e for e in entries):
        return None
    return {
        part: [_entry(path, e, content.get("modality"))[0] for e in content[part]]
        for part in PARTS
        if part in content
    }


def file_of(path: str | os.PathLike[str]) -> Path:
    """The folder or file that `--data` names, without the part of a data set file."""
    return _divide(path)[0]


def split_in(path: str | os.PathLike[str]) -> Path | None:
    """The data set file where it divides its cases itself: it has a validation part, and none was chosen."""
    file, part = _divide(path)
    return file if is_datalist(path) and not part and "validation" in _load(file) else None


def kept_apart(path: str | os.PathLike[str]) -> frozenset[str]:
    """Names of the cases in the `test` part of a data set file, where no part was chosen; else none."""
    file, part = _divide(path)
    if not is_datalist(path) or part:
        return frozenset()
    return frozenset((parts_of(_load(file), file) or {}).get("test", ()))


def write_datalist(
    path: Path, parts: Mapping[str, Sequence[Case]], modalities: Sequence[str], description: str
) -> None:
    """Write a data set file; image paths become relative to its folder. Raises RunError."""
    entries = {part: [_plain(path.parent, case) for case in cases] for part, cases in parts.items() if cases}
    content = {
        "description": description,
        "modality": {str(index): name for index, name in enumerate(modalities)},
        "numTraining": len(parts.get("training", ())),
        "numTest": len(parts.get("test", ())),
        **entries,
    }
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def _plain(folder: Path, case: Case) -> dict[str, Any]:
    images = [Path(os.path.relpath(image, folder)).as_posix() for image in case.files.values()]
    return {"case": case.name, "patient": case.patient, "modality": list(case.files), "image": images}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: data set file cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not a JSON file ({error}); expected the dataset.json of ivan prepare"
        ) from None
    lists = [content[part] for part in PARTS if part in content] if isinstance(content, dict) else []
    if not lists or not all(isinstance(entries, list) for entries in lists):
        raise InputError(f'{path}: expected the lists "training" and "validation" of a MONAI datalist')
    return dict(content)


def _entry(path: Path, entry: Any, common: Any) -> tuple[str, str, dict[str, Path]]:
    """(case, patient, modality -> file) of one entry."""
    if not isinstance(entry, dict):
        raise InputError(f'{path}: entry {str(entry)[:80]}, expected {{"image": [...], "modality": [...]}}')
    images = entry.get("image")
    images = [images] if isinstance(images, str) else images
    names = entry.get("modality", common)
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=str)]
    names = [names] if isinstance(names, str) else names
    texts = (
        isinstance(images, list)
        and isinstance(names, list)
        and all(isinstance(t, str) for t in [*images, *names])
    )
    if not texts or not images or len(images) != len(names) or len(set(names)) != len(names):
        raise InputError(
            f'{path}: entry {str(entry)[:80]}, expected a list "image" of files and a list "modality" of '
            "as many "
            "different names"
        )
    files = {name: path.parent / image for name, image in zip(names, images, strict=True)}
    case = entry.get("case") or stem(images[0])
    patient = entry.get("patient") or patient_of(str(case), Path(images[0]))
    if not isinstance(case, str) or "/" in case or "\0" in case or case in (".", ".."):
        raise InputError(f"{path}: case {str(case)[:80]!r}, expected a name that can be a file's name")
    return case, str(patient), files
