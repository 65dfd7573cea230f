"""Odd raw folders: links, names in capitals or with spaces, and cases that cannot be used among good ones."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import grid, head, write_series

from ivan.cli import run as ivan
from ivan.prepare import prepare

SMALL = {"shape": (40, 48, 18), "spacing": (4.0, 4.0, 8.0)}
AFFINE = np.diag([6.0, 6.0, 9.0, 1.0])
AFFINE[:3, 3] = (-93, -105, -85)


def patient(raw: Path, name: str) -> None:
    """T1 and T2 of a patient as DICOM, on different grids."""
    write_series(raw / name / "s1", "T1", patient=name, study=f"1.2.{len(name)}", number=1, **SMALL)
    write_series(
        raw / name / "s2",
        "T2",
        patient=name,
        study=f"1.2.{len(name)}",
        number=2,
        shape=(32, 36, 24),
        spacing=(5.0, 5.0, 6.0),
    )


def nifti(path: Path, contrast: str, affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(head(grid(shape, affine), contrast), affine), path)


def records(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "cases").glob("*.json"))}


def pair(root: Path, name: str = "good", suffix: str = ".nii.gz") -> None:
    """T1 and T2 of one case in modality folders."""
    for contrast in ("T1", "T2"):
        nifti(root / contrast / f"{name}.nii.gz", contrast, AFFINE, (32, 36, 20))
        (root / contrast / f"{name}.nii.gz").rename(root / contrast / f"{name}{suffix}")


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_linked_folders_are_followed(tmp_path: Path, kind: str) -> None:
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    raw.mkdir()
    if kind == "nifti":
        pair(elsewhere)
        for contrast in ("T1", "T2"):
            (raw / contrast).symlink_to(elsewhere / contrast)
    else:
        patient(elsewhere, "anna")
        (raw / "anna").symlink_to(elsewhere / "anna")
    (elsewhere / "loop").symlink_to(elsewhere)  # a link to its own parent must not hang
    (raw / "loop").symlink_to(raw)
    prepare(raw, tmp_path / "out", progress=False)
    assert list(records(tmp_path / "out")) == ["good" if kind == "nifti" else "anna"]


def test_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "räw folder"
    pair(raw)
    pair(raw, "SHOUTED", ".NII.GZ")
    pair(raw, "patient é 1")
    prepare(raw, tmp_path / "öut put")
    assert list(records(tmp_path / "öut put")) == ["SHOUTED", "good", "patient é 1"]
    last = capsys.readouterr().out.splitlines()[-1]  # can be copied to a shell
    data = str(tmp_path / "öut put" / "dataset.json")
    assert shlex.split(last.removeprefix("train with: "))[:4] == ["ivan", "train", "--data", data]


def test_of_two_patients_one_is_trained_on_and_nobody_is_left_to_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    pair(raw, "anna")
    pair(raw, "ben")
    prepare(raw, tmp_path / "out", test=0.2)
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert {part: len(content[part]) for part in ("training", "test")} == {"training": 1, "test": 1}
    assert "validation" not in content
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --out RUN --validation 0")


def test_one_bad_case_does_not_cost_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    for name in ("good", "broken", "flat"):
        pair(raw, name)
    (raw / "T1" / "broken.nii.gz").unlink()
    (raw / "T1" / "broken.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    header = nib.load(raw / "T1" / "flat.nii.gz")
    flat = nib.Nifti1Image(np.asarray(header.dataobj), None, header.header)
    flat.header["sform_code"], flat.header["qform_code"], flat.header["pixdim"][1] = 0, 1, 0
    flat.to_filename(tmp_path / "flat.nii")  # nibabel itself mends the header of what it writes
    content = bytearray((tmp_path / "flat.nii").read_bytes())
    content[80:84] = np.float32(0).tobytes()
    (raw / "T1" / "flat.nii.gz").unlink()
    (raw / "T1" / "flat.nii").write_bytes(content)
    for suffix in ("", "_acq-high"):  # BIDS with two T1 of a session
        nifti(raw / "sub-01" / "anat" / f"sub-01{suffix}_T1w.nii.gz", "T1", AFFINE, (32, 36, 20))
    nifti(raw / "sub-01" / "anat" / "sub-01_T2w.nii.gz", "T2", AFFINE, (32, 36, 20))
    assert ivan(["prepare", str(raw), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert list(records(tmp_path / "out")) == ["good"]
    assert "broken.nii.gz: a link that leads nowhere" in said
    assert "flat.nii: voxel sizes 0 x 6 x 9 mm" in said
    assert "case 'sub-01' has 2 files for T1" in said
    assert "1 case (1 training), 0 with warnings, 2 left out" in said
    assert said.count("leads nowhere") == 1  # said once


def test_like_problems_of_many_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    patient(raw, "anna")
    write_series(raw / "ben" / "s1", "T1", patient="ben", study="1.9", **SMALL)
    import pydicom

    for file in (raw / "ben" / "s1").iterdir():
        data = pydicom.dcmread(file)
        data.PixelSpacing = [0, 0]
        data.save_as(file)
    assert ivan(["prepare", str(raw), "--out", str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "pixel spacing" in line]
    assert len(lines) == 1
    assert "18 files" in lines[0]


def test_a_folder_without_images_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    assert ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 2
    assert "holds no DICOM and no NIfTI file" in capsys.readouterr().err


def test_patients_whose_names_differ_in_odd_letters_stay_apart(tmp_path: Path) -> None:
    """A file name cannot hold every letter of a PatientID; two patients must not become one by that."""
    raw = tmp_path / "raw"
    identities = ("张三", "李四", "A 1", "A/1", "A_1")
    for number, identity in enumerate(identities):
        for contrast in ("T1", "T2"):
            write_series(
                raw / str(number) / contrast,
                contrast,
                patient=identity,
                study=f"1.2.{number}",
                SpecificCharacterSet="ISO_IR 192",
                **SMALL,
            )
    prepare(raw, tmp_path / "out", progress=False)
    found = records(tmp_path / "out")
    assert {"张三", "李四"} < set(found)
    assert len(found) == len({record["patient"] for record in found.values()}) == len(identities)
    assert not any("_ses-" in name for name in found)


def test_an_acquired_series_is_taken_before_one_computed_from_it(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    patient(raw, "anna")
    common = {"patient": "anna", "study": "1.2.4"}
    write_series(
        raw / "anna" / "mpr",
        "T1",
        number=7,
        ImageType=["DERIVED", "SECONDARY", "MPR"],
        shape=(40, 48, 30),
        spacing=(4.0, 4.0, 4.8),
        **common,
    )
    write_series(
        raw / "anna" / "scout", "T1", number=0, shape=(40, 48, 5), spacing=(4.0, 4.0, 30.0), **common
    )
    prepare(raw, tmp_path / "out", progress=False)
    record = records(tmp_path / "out")["anna"]
    assert record["shape"] == [40, 48, 18]
    assert record["notes"] == [
        "3 series are T1: series 1 (T1w tse) taken, not series 7 (T1w tse), series 0 (T1w tse); "
        "--map 'PATTERN=none' leaves one out"
    ]
    page = (tmp_path / "out" / "quality.html").read_text()
    assert "3 series are T1" in page  # below its picture
    assert "Taken among several series" not in page  # obvious: one is computed, one is a scout


def test_a_name_that_begins_like_a_modality_stops_nothing(tmp_path: Path) -> None:
    """Without --modality all known names are tried; adc-map.nii.gz is none of them."""
    raw = tmp_path / "raw"
    pair(raw)
    nifti(raw / "good" / "adc-map.nii.gz", "PD", AFFINE, (32, 36, 20))
    prepare(raw, tmp_path / "out", progress=False)
    assert set(records(tmp_path / "out")["good"]["bytes"]) == {"T1", "T2"}
