"""Damaged and hostile raw data: what cannot be read is named, and names do no harm."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_phantom import grid, head, write_series
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from ivan.cli import run as ivan
from ivan.prepare import dicom_files, prepare

SMALL = {"shape": (20, 24, 10), "spacing": (8.0, 8.0, 14.0)}
SHAPE = (32, 36, 20)
AFFINE = np.diag([6.0, 6.0, 9.0, 1.0])
AFFINE[:3, 3] = (-93, -105, -85)


def patient(raw: Path, name: str, identity: str = "") -> None:
    """T1 and T2 of a patient as DICOM."""
    for number, contrast in enumerate(("T1", "T2")):
        study = f"1.2.{sum(name.encode())}"
        folder = raw / name / contrast
        write_series(folder, contrast, patient=identity or name, study=study, number=number, **SMALL)


def pair(raw: Path, name: str) -> None:
    """T1 and T2 of a case as NIfTI."""
    for contrast in ("T1", "T2"):
        path = raw / contrast / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(head(grid(SHAPE, AFFINE), contrast), AFFINE), path)


def inner_slice(folder: Path) -> Path:
    """The file of a slice that the volume cannot do without."""
    return next(file for file in folder.iterdir() if pydicom.dcmread(file).InstanceNumber == 5)


def records(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "cases").glob("*.json"))}


def expect_head(path: Path, contrast: str) -> None:
    image = nib.load(path)
    truth = head(grid(image.shape, image.affine), contrast)
    assert np.abs(np.asarray(image.dataobj) - truth).max() <= 1.0


def test_what_cannot_be_read_and_empty_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    for name in ("good", "locked", "empty"):
        patient(raw, name)
    empty, closed = (inner_slice(raw / name / "T2") for name in ("empty", "locked"))
    empty.write_bytes(b"")
    (raw / "empty" / "notes").write_bytes(b"")  # beside no slice: nobody's business
    original = dicom_files._start

    def locked(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(dicom_files, "_start", locked)
    assert ivan(["prepare", str(raw), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"{closed}: cannot be read (Permission denied); left out" in said
    assert f"{empty}: the file is empty (0 bytes)" in said
    assert "notes" not in said
    assert list(records(tmp_path / "out")) == ["good"]


def test_a_folder_that_can_be_listed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the permission to search it, not even the kind of its files is known."""
    patient(tmp_path / "raw", "good")
    patient(tmp_path / "raw", "listed")
    original = Path.is_file

    def is_file(path: Path, **options: bool) -> bool:
        if "listed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, **options)

    monkeypatch.setattr(Path, "is_file", is_file)
    said: list[str] = []
    assert len(dicom_files.dicom_files(tmp_path / "raw", lambda path, line: said.append(line))) == 20
    assert len(said) == 20
    assert all("cannot be read (Permission denied)" in line for line in said)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(tmp_path / "raw", "good")
    patient(tmp_path / "raw", "locked")
    original = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    said: list[str] = []
    found = dicom_files.dicom_files(tmp_path / "raw", lambda path, line: said.append(f"{path}: {line}"))
    assert len(found) == 20
    assert len(said) == 1
    assert f"{tmp_path / 'raw' / 'locked'}: cannot be read (Permission denied)" in said[0]


def test_old_files_without_preamble_and_suffix(tmp_path: Path) -> None:
    patient(tmp_path / "raw", "old")
    for file in (tmp_path / "raw" / "old" / "T2").iterdir():
        buffer = DicomBytesIO()
        buffer.is_little_endian = buffer.is_implicit_VR = True
        write_dataset(buffer, pydicom.dcmread(file))
        file.write_bytes(buffer.getvalue())
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    expect_head(tmp_path / "out" / "T2" / "old.nii.gz", "T2")


def test_one_uid_for_all_series_by_careless_anonymisation(tmp_path: Path) -> None:
    for number, contrast in enumerate(("T1", "T2")):
        write_series(tmp_path / "raw", contrast, number=number, SeriesInstanceUID="1.2.3", **SMALL)
        for file in list((tmp_path / "raw").glob("IM*")):
            file.rename(tmp_path / "raw" / f"{contrast}-{file.name}")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    for contrast in ("T1", "T2"):
        expect_head(tmp_path / "out" / contrast / "anna.nii.gz", contrast)


@pytest.mark.parametrize(
    "tags", [("SeriesDescription",), ("SeriesNumber", "SeriesDescription", "ProtocolName")]
)
def test_slices_of_one_series_that_lost_its_name(tmp_path: Path, tags: tuple[str, ...]) -> None:
    patient(tmp_path / "raw", "anna")
    for number, file in enumerate(sorted((tmp_path / "raw" / "anna" / "T2").iterdir())):
        if number % 3 == 0:
            data = pydicom.dcmread(file)
            for tag in tags:
                if tag in data:
                    delattr(data, tag)
            data.save_as(file)
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    expect_head(tmp_path / "out" / "T2" / "anna.nii.gz", "T2")


@pytest.mark.parametrize("same", [True, False])
def test_a_slice_that_came_twice_under_another_uid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], same: bool
) -> None:
    patient(tmp_path / "raw", "anna")
    folder = tmp_path / "raw" / "anna" / "T2"
    data = pydicom.dcmread(folder / "IM0004")
    data.SOPInstanceUID = generate_uid()
    if not same:
        data.PixelData = bytes(reversed(data.PixelData))
    data.save_as(folder / "again")
    code = ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    if same:
        assert code == 0
        assert "T2: 1 slice came twice with equal pixels: taken once" in said.out
        expect_head(tmp_path / "out" / "T2" / "anna.nii.gz", "T2")
    else:
        assert code == 2
        assert "11 slices at 10 places" in said.err


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """DICOM allows 64 letters, files of other makers more; a file name ends at 255 bytes."""
    for number, identity in enumerate(("X" * 300, "X" * 299, "張" * 64)):
        for contrast in ("T1", "T2"):
            folder = tmp_path / "raw" / str(number) / contrast
            write_series(folder, contrast, patient="p", study=f"1.{number}", **SMALL)
            for file in folder.iterdir():
                data = pydicom.dcmread(file)
                data.SpecificCharacterSet = "ISO_IR 192"
                element = pydicom.DataElement(0x00100020, "LO", identity, validation_mode=0)
                data[0x00100020] = element
                data.save_as(file)
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    found = records(tmp_path / "out")
    assert len(found) == 3
    assert len({record["patient"] for record in found.values()}) == 3


def test_hostile_names_stay_text_in_the_page(tmp_path: Path) -> None:
    hostile = '<img src=x onerror=alert(1)> "q" & #50%20'
    pair(tmp_path / "raw", hostile)
    patient(tmp_path / "raw" / "<b>", "p", "<script>alert(1)</script>")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    text = (tmp_path / "out" / "quality.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("<script>") == 1  # the page's own
    assert "<b>" not in text
    anchors = re.findall(r'<a href="#([^"]*)">', text)
    assert len(anchors) == 2
    assert all(f'<section id="{anchor}">' in text for anchor in anchors)


def test_compressed_pixels_alone_ask_for_a_decoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cut", "unknown", "none", "good"):
        patient(tmp_path / "raw", name)
    file = tmp_path / "raw" / "none" / "T2" / "IM0003"
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1", b"1.2/840.10008.1.2.1"))  # no UID
    file = tmp_path / "raw" / "cut" / "T2" / "IM0003"
    file.write_bytes(file.read_bytes()[:-300])
    data = pydicom.dcmread(tmp_path / "raw" / "unknown" / "T2" / "IM0003")
    data.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # a film: there is no decoder for it
    data.save_as(tmp_path / "raw" / "unknown" / "T2" / "IM0003")
    assert ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    lines = {line.split()[2]: line for line in capsys.readouterr().out.splitlines() if "left out" in line[:9]}
    assert "pip install" not in lines["cut"]
    assert lines["cut"].endswith("copy it again")
    assert "pip install pylibjpeg" in lines["unknown"]
    assert lines["none"].endswith("copy it again")


def test_units_of_nifti_are_honoured(tmp_path: Path) -> None:
    pair(tmp_path / "raw", "a")
    for unit, factor in (("micron", 1e3), ("meter", 1e-3)):
        path = tmp_path / "raw" / "T2" / "a.nii.gz"
        scaled = AFFINE.copy()
        scaled[:3] *= factor
        image = nib.Nifti1Image(head(grid(SHAPE, AFFINE), "T2"), scaled)
        image.header.set_xyzt_units(unit)
        nib.save(image, path)
        prepare(tmp_path / "raw", tmp_path / unit, progress=False)
        expect_head(tmp_path / unit / "T2" / "a.nii.gz", "T2")
        assert records(tmp_path / unit)["a"]["warnings"] == []


def test_an_image_of_which_nothing_is_left_leaves_the_case_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong scale in the header: the whole reference lies in one corner voxel of air."""
    pair(tmp_path / "raw", "good")
    pair(tmp_path / "raw", "vast")
    path = tmp_path / "raw" / "T2" / "vast.nii.gz"
    vast = AFFINE.copy()
    vast[:3] *= 1000
    points = grid(SHAPE, AFFINE)
    nib.save(nib.Nifti1Image(head(points, "T2") * (points[..., 0] > 20), vast), path)
    assert ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    assert "left out vast" in (said := capsys.readouterr().out)
    assert "nothing of it is left on the grid of" in said
    assert list(records(tmp_path / "out")) == ["good"]


def test_a_value_beyond_all_others_is_a_warning(tmp_path: Path) -> None:
    for name in ("good", "burst"):
        pair(tmp_path / "raw", name)
    values = head(grid(SHAPE, AFFINE), "T2")
    values[10, 10, 10] = 3e38
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "raw" / "T2" / "burst.nii.gz")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    found = records(tmp_path / "out")
    assert any("T2: the largest value is 3e+38" in line for line in found["burst"]["warnings"])
    assert found["good"]["warnings"] == []


def test_a_partial_scan_is_a_warning_with_a_remedy(tmp_path: Path) -> None:
    pair(tmp_path / "raw", "a")
    shape = (*SHAPE[:2], 12)
    affine = AFFINE.copy()
    affine[2, 3] += 7 * 9
    nib.save(nib.Nifti1Image(head(grid(shape, affine), "T2"), affine), tmp_path / "raw" / "T2" / "a.nii.gz")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    (line,) = records(tmp_path / "out")["a"]["warnings"]
    assert re.match(r"T2 on T1: covers only \d\d % of the T1 foreground, .*--reference T2", line)
    prepare(tmp_path / "raw", tmp_path / "other", reference="T2", progress=False)
    assert records(tmp_path / "other")["a"]["warnings"] == []


def test_cases_of_an_earlier_call_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair(tmp_path / "raw", "a")
    pair(tmp_path / "raw", "b")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    (tmp_path / "raw" / "T2" / "b.nii.gz").unlink()
    prepare(tmp_path / "raw", tmp_path / "out")
    said = capsys.readouterr().out
    assert "files of 1 earlier case (b) are there, but not in dataset.json" in said
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [entry["case"] for entry in content["training"]] == ["a"]
    assert said.rstrip().endswith("--from T1 --to T2 --out RUN --validation 0")


def test_a_read_only_place_is_known_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(tmp_path / "raw", "a")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "new" / "out")]) == 2
    assert f"no permission to write in {tmp_path}" in capsys.readouterr().err
    (tmp_path / "file").write_bytes(b"")
    assert ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "file" / "out")]) == 2
    assert f"{tmp_path / 'file'} is a file, expected a folder" in capsys.readouterr().err
