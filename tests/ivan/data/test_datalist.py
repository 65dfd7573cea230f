"""Data set files: MONAI's datalist form as others write it, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivan.data.datalist import kept_apart, read_datalist
from ivan.errors import InputError


def test_datalists_of_others_and_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    image = ["T1/anna.nii.gz", "T2/anna.nii.gz"]
    path.write_text(json.dumps({"modality": {"0": "t1", "1": "T2"}, "training": [{"image": image}]}))
    (case,) = read_datalist(path, ["T1", "T2"])
    assert (case.name, case.patient, set(case.files)) == ("anna", "anna", {"T1", "T2"})
    for content, said in (
        ("[", "not a JSON file"),
        ("{}", "training"),
        ('{"training": 3}', "training"),
        ('{"training": [3]}', "expected"),
        ('{"training": [{"image": ["a"], "modality": ["T1", "T2"]}]}', "as many"),
        ('{"training": [{"image": ["a.nii"], "modality": ["T1"], "case": "../x"}]}', "file's name"),
        (
            '{"modality": "T1", "training": [{"image": "a.nii"}, {"image": "b/a.nii"}]}',
            "twice",
        ),
        ('{"training": [{"image": ["a.nii"], "modality": ["T2"]}]}', "no case has all of T1"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            read_datalist(path, ["T1"])
    with pytest.raises(InputError, match="cannot be read"):
        read_datalist(tmp_path / "absent.json", ["T1"])


def test_the_test_part_is_kept_apart_unless_a_part_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    entries = [{"image": [f"T1/{name}.nii.gz", f"T2/{name}.nii.gz"]} for name in ("anna", "ben", "cleo")]
    content = {"modality": ["T1", "T2"], "training": entries[:2], "test": entries[2:]}
    path.write_text(json.dumps(content))
    assert kept_apart(path) == {"cleo"}
    assert kept_apart(f"{path}:test") == kept_apart(tmp_path) == frozenset()
    path.write_text(json.dumps({**content, "test": []}))
    assert kept_apart(path) == frozenset()
