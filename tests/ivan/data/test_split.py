"""Splits: by patient, the same for a seed, and split files that are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ivan.data import Case, CaseRange, make_split
from ivan.errors import InputError

# Ten patients, two sessions each.
CASES = [Case(f"sub-{p:02d}_ses-{s}", f"sub-{p:02d}", {"T1": Path("x")}) for p in range(10) for s in (1, 2)]


def patients(ranges):
    return {item.case.patient for item in ranges}


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.5, 5), (0.01, 1), (0.99, 9)])
def test_whole_patients(share, count):
    split = make_split(CASES, validation=share)
    assert len(patients(split.validation)) == count
    assert not patients(split.training) & patients(split.validation)
    assert len(split.training) + len(split.validation) == len(CASES)


def test_depends_on_the_seed_alone():
    first = make_split(CASES, seed=1)
    assert patients(make_split(CASES[::-1], seed=1).validation) == patients(first.validation)
    others = {frozenset(patients(make_split(CASES, seed=seed).validation)) for seed in range(10)}
    assert len(others) > 3


def test_no_validation():
    split = make_split(CASES, validation=0)
    assert len(split.training) == len(CASES)
    assert split.validation == []


def test_file_with_slice_ranges_round_trips(tmp_path):
    content = {
        "training": ["sub-01_ses-1", {"case": "sub-02_ses-1", "slices": [0, 70]}, {"case": "sub-03_ses-1"}],
        "validation": [{"case": "sub-02_ses-1", "slices": [70, None]}],
    }
    (tmp_path / "split.json").write_text(json.dumps(content))
    split = make_split(CASES, file=tmp_path / "split.json")
    named = {case.name: case for case in CASES}
    assert split.training == [
        CaseRange(named["sub-01_ses-1"]),
        CaseRange(named["sub-02_ses-1"], 0, 70),
        CaseRange(named["sub-03_ses-1"]),
    ]
    assert split.validation == [CaseRange(named["sub-02_ses-1"], 70, None)]
    split.save(tmp_path / "again.json")
    assert make_split(CASES, file=tmp_path / "again.json") == split


def test_bounds():
    case = CASES[0]
    assert CaseRange(case).bounds(9) == (0, 9)
    assert CaseRange(case, 2, 5).bounds(9) == (2, 5)
    with pytest.raises(InputError, match=r"\[2, 10\] asked for, but the case has 9"):
        CaseRange(case, 2, 10).bounds(9)


def entry(start, stop, case="sub-01_ses-1"):
    return {"case": case, "slices": [start, stop]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ([], "holds list"),
        ({"train": []}, "holds train, expected the lists"),
        ({"training": [], "validation": []}, '"training" is empty'),
        ({"training": "sub-01_ses-1"}, "of type str, expected a list"),
        (
            {"training": ["sub-99"]},
            "case 'sub-99', which the data does not have with every modality asked for; it has sub-00_ses-1",
        ),
        ({"training": [7]}, "entry 7 in"),
        ({"training": [{"name": "x"}]}, "entry {'name': 'x'} in"),
        ({"training": [entry(5, 5)]}, "0 <= start < stop"),
        ({"training": [entry(-1, 5)]}, "0 <= start < stop"),
        ({"training": [entry(0, True)]}, "0 <= start < stop"),
        ({"training": [{"case": "sub-01_ses-1", "slices": []}]}, "0 <= start < stop"),
        ({"training": ["sub-01_ses-1", "sub-01_ses-1"]}, "twice"),
        ({"training": [entry(0, 9)], "validation": [entry(8, 12)]}, "patient 'sub-01' is in training"),
        ({"training": ["sub-01_ses-1"], "validation": ["sub-01_ses-2"]}, "patient 'sub-01' is in training"),
    ],
)
def test_refused_files(tmp_path, content, words):
    path = tmp_path / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as caught:
        make_split(CASES, file=path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_refused_arguments(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        make_split(CASES, file=tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"one patient \(sub-00\).*split file"):
        make_split(CASES[:2])
    with pytest.raises(InputError, match="validation 1"):
        make_split(CASES, validation=1.0)
    with pytest.raises(InputError, match="no cases"):
        make_split([])
