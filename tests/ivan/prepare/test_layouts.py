"""What `ivan prepare` looks into and pairs: BIDS, folders that disagree with names, series to choose from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import axial_affine, grid, head, write_series

from ivan.errors import InputError
from ivan.prepare import prepare
from ivan.prepare.find import find_raw

SHAPE, SPACING = (20, 24, 10), (8.0, 8.0, 14.0)
SMALL = {"shape": SHAPE, "spacing": SPACING}


def nifti(path: Path, contrast: str = "T1") -> None:
    affine = np.diag([-1.0, -1, 1, 1]) @ axial_affine(SHAPE, SPACING)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(head(grid(SHAPE, affine), contrast), affine), path)


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """A BIDS data set of two people with T1w and T2w."""
    root = tmp_path / "bids"
    for subject in ("sub-01", "sub-02"):
        for contrast in ("T1", "T2"):
            nifti(root / subject / "anat" / f"{subject}_{contrast}w.nii.gz", contrast)
    (root / "dataset_description.json").write_text("{}")
    return root


def cases(root: Path, **options: object) -> dict[str, list[str]]:
    return {case.name: sorted(case.images) for case in find_raw(root, **options).cases}  # type: ignore[arg-type]


@pytest.mark.parametrize("below", [False, True])
def test_bids_keeps_sources_and_derivatives_apart(bids: Path, below: bool) -> None:
    """The same people as DICOM in sourcedata would be further patients, in training and in validation."""
    for number, subject in enumerate(("sub-01", "sub-02")):
        for contrast in ("T1", "T2"):
            write_series(
                bids / "sourcedata" / subject / contrast,
                contrast,
                patient=f"P{number}",
                study=f"1.{number}",
                **SMALL,
            )
        nifti(bids / "derivatives/x" / subject / "anat" / f"{subject}_space-T1w_FLAIR.nii.gz")
        nifti(bids / "derivatives/x" / subject / "dwi" / f"{subject}_ADC.nii.gz")
    expected = {"sub-01": ["T1", "T2"], "sub-02": ["T1", "T2"]}
    found = cases(bids.parent if below else bids)
    assert {name.removeprefix("bids_"): images for name, images in found.items()} == expected


def test_sourcedata_alone_is_named(bids: Path) -> None:
    write_series(bids / "sourcedata" / "a", "T1", **SMALL)
    for subject in bids.glob("sub-*"):
        shutil.rmtree(subject)
    with pytest.raises(InputError, match="sourcedata of a BIDS data set: not searched, name such a folder"):
        find_raw(bids)
    assert cases(bids / "sourcedata", modalities=["T1"]) == {"anna": ["T1"]}


def test_maps_in_a_bids_folder_of_diffusion(bids: Path) -> None:
    nifti(bids / "sub-01" / "dwi" / "sub-01_ADC.nii.gz")
    assert cases(bids)["sub-01"] == ["ADC", "T1", "T2"]


def test_mri_is_a_modality_only_where_nothing_says_more(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        for contrast in ("T1", "T2"):
            nifti(tmp_path / "named" / "MRI" / f"{name}_{contrast}.nii.gz", contrast)
        for modality in ("MR", "CT"):
            nifti(tmp_path / "plain" / modality / f"{name}.nii.gz")
    assert cases(tmp_path / "named") == {"p1": ["T1", "T2"], "p2": ["T1", "T2"]}
    assert cases(tmp_path / "plain") == {"p1": ["CT", "MR"], "p2": ["CT", "MR"]}


@pytest.mark.parametrize("modalities", [[], ["T1", "T2"]])
def test_a_name_against_its_folder_costs_that_file_only(tmp_path: Path, modalities: list[str]) -> None:
    for contrast in ("T1", "T2"):
        nifti(tmp_path / contrast / "a.nii.gz", contrast)
    nifti(tmp_path / "T1" / "b_T2.nii.gz", "T2")
    found = find_raw(tmp_path, modalities)
    assert [case.name for case in found.cases] == ["a"]
    (line,) = found.skipped
    assert "b_T2.nii.gz: its folder says T1 and its name says T2; rename one of them; left out" in line


def test_one_file_a_modality_in_a_folder_of_each_patient(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        nifti(tmp_path / name / "T1_spgr.nii.gz")
        nifti(tmp_path / name / "T2_late.nii.gz", "T2")
    assert cases(tmp_path) == {"p1": ["T1", "T2"], "p2": ["T1", "T2"]}


@pytest.mark.parametrize("several", [False, True])
def test_one_patient_id_for_all_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], several: bool
) -> None:
    for number in range(3):
        for contrast in ("T1", "T2"):
            folder = tmp_path / "raw" / str(number) / contrast
            who = f"ANON{number}" if several else "ANON"
            write_series(folder, contrast, patient=who, study=f"1.{number}", **SMALL)
    data = prepare(tmp_path / "raw", tmp_path / "out")
    said = "all 3 cases are of one patient ('ANON'), so all are for training"
    assert (f"warning: {said}" in capsys.readouterr().out) == (not several)
    page = (tmp_path / "out" / "quality.html").read_text()
    assert (said.replace("'", "&#x27;") in page) == (not several)
    assert bool(json.loads(data.read_text()).get("validation")) == several  # one patient is never divided


def test_a_choice_among_several_series_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once for all cases with the same choice; a copy of a series is no choice."""
    for name in ("anna", "ben"):
        who = {"patient": name, "study": f"1.{len(name)}"}
        raw = tmp_path / "raw" / name
        write_series(raw / "1", "T1", number=4, description="t1_mprage", **SMALL, **who)
        write_series(raw / "2", "T1", number=7, description="t1_se", **SMALL, **who)
        write_series(raw / "3", "T2", number=5, description="t2_tse", **SMALL, **who)
        write_series(raw / "4", "T2", number=5, description="t2_tse", **SMALL, **who)
    prepare(tmp_path / "raw", tmp_path / "out")
    line = "T1: t1_mprage taken, not t1_se (anna, ben); where another is meant, leave this one out"
    assert capsys.readouterr().out.count(f"note: {line}") == 1
    page = (tmp_path / "out" / "quality.html").read_text()
    assert page.count(line) == 1
    assert page.count("2 series are T1: series 4 (t1_mprage) taken, not series 7 (t1_se)") == 2
    assert "series are T2" not in page
    prepare(tmp_path / "raw", tmp_path / "other", rules=["mprage=none"])
    assert "series 4 (t1_mprage): left out by --map" in capsys.readouterr().out
    record = json.loads((tmp_path / "other" / "cases" / "anna.json").read_text())
    assert "series 7" in record["sources"]["T1"]


@pytest.mark.parametrize("odd", ["several volumes", "a gap"])
def test_a_complete_series_is_taken_before_one_that_is_none(tmp_path: Path, odd: str) -> None:
    raw = tmp_path / "raw"
    write_series(raw / "1", "T1", number=1, **SMALL)
    write_series(raw / "2", "T2", number=2, **SMALL)
    if odd == "a gap":
        write_series(raw / "3", "T2", number=3, shape=(20, 24, 14), spacing=(8.0, 8.0, 10.0), drop=[6])
    else:
        for phase in range(4):  # 40 slices, so that the one volume of 10 would count as a scout
            write_series(
                raw / f"3_{phase}",
                "T2",
                number=3,
                SeriesInstanceUID="1.2.3.77",
                signal=lambda points, phase=phase: head(points, "T2") * (1 - phase / 5),  # type: ignore[misc]
                **SMALL,
            )
    prepare(raw, tmp_path / "out", progress=False)
    record = json.loads((tmp_path / "out" / "cases" / "anna.json").read_text())
    assert "series 2" in record["sources"]["T2"]
    assert "Taken among several series" not in (tmp_path / "out" / "quality.html").read_text()
