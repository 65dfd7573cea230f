"""Several series of one modality: one that is a volume is taken before one that is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_phantom import head, write_series
from pydicom.uid import generate_uid

from ivan.cli import run as ivan
from ivan.prepare import prepare

SMALL = {"shape": (20, 24, 10), "spacing": (8.0, 8.0, 14.0)}
MANY = {"shape": (20, 24, 14), "spacing": (8.0, 8.0, 10.0)}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """T1 of 10 slices as series 1, T2 of 10 as series 2."""
    for number, contrast in enumerate(("T1", "T2"), start=1):
        write_series(tmp_path / "raw" / contrast, contrast, number=number, **SMALL)
    return tmp_path / "raw"


def twice(folder: Path, contrast: str, number: int, **more: Any) -> None:
    """A series of two volumes that differ, such as the inversions of an MP2RAGE."""
    uid = generate_uid()
    for volume in range(2):
        write_series(
            folder / str(volume),
            contrast,
            number=number,
            SeriesInstanceUID=uid,
            signal=lambda points, volume=volume: head(points, contrast) / (1 + volume),
            **more,
        )


def chosen(raw: Path, modality: str, **options: Any) -> tuple[int, list[str]]:
    """The number of the series that is taken, and what is said of the choice."""
    out = raw.parent / "out"
    prepare(raw, out, progress=False, **options)
    record = json.loads((out / "cases" / "anna.json").read_text())
    assert set(record["bytes"]) == {"T1", "T2"}
    return int(record["sources"][modality].split("series ")[1].split(" ")[0]), record["notes"]


@pytest.mark.parametrize("modality", ["T1", "T2"])
@pytest.mark.parametrize("size", [SMALL, MANY])
def test_a_series_of_two_volumes_comes_after_a_single_one(
    raw: Path, modality: str, size: dict[str, Any]
) -> None:
    twice(raw / "two", modality, 3, **size)
    number, notes = chosen(raw, modality)
    assert number == ("T1", "T2").index(modality) + 1
    assert notes[0].startswith(
        f"2 series are {modality}: series {number} ({modality}w tse) taken, not series 3"
    )
    assert notes[1].startswith(f"{modality}: {raw}/two/")
    assert "several volumes" in notes[1]
    assert len(notes) == 2


def test_a_complete_series_comes_before_one_with_a_slice_missing(raw: Path) -> None:
    write_series(raw / "long", "T2", number=3, drop=(5,), **MANY)
    number, notes = chosen(raw, "T2")
    assert number == 2
    assert "1 of 14 slices missing, after slice 5" in notes[1]
    assert chosen(raw, "T2", fill_missing=True)[0] == 3  # with which it is as good as any


def test_a_sound_derived_series_comes_before_a_faulty_acquisition(raw: Path) -> None:
    shutil.rmtree(raw / "T2")
    twice(raw / "acquired", "T2", 3, **SMALL)
    write_series(raw / "derived", "T2", number=4, ImageType=["DERIVED", "SECONDARY"], **SMALL)
    assert chosen(raw, "T2")[0] == 4


@pytest.mark.parametrize("same", [True, False])
def test_copies_of_slices_are_no_fault(raw: Path, same: bool) -> None:
    """Known by their pixels: a slice that was sent twice, or another one at its place."""
    write_series(raw / "long", "T2", number=3, **MANY)
    for name in ("IM0004", "IM0007"):
        data = pydicom.dcmread(raw / "long" / name)
        data.SOPInstanceUID = generate_uid()
        if not same:
            data.PixelData = bytes(reversed(data.PixelData))
        data.save_as(raw / "long" / f"{name}-again")
    number, notes = chosen(raw, "T2")
    assert number == (3 if same else 2)
    assert len(notes) == (1 if same else 2)


@pytest.mark.parametrize("fault", ["missing", "two volumes"])
def test_a_scout_does_not_stand_in_for_a_faulty_series(
    raw: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three slices are no T1 to learn from: the fault is said, and can be mended."""
    shutil.rmtree(raw / "T1")
    if fault == "missing":
        write_series(raw / "T1", "T1", drop=(4,), **MANY)
    else:
        twice(raw / "T1", "T1", 1, **MANY)
    write_series(raw / "scout", "T1", number=0, shape=(20, 24, 3), spacing=(8.0, 8.0, 50.0))
    assert ivan(["prepare", str(raw), "--out", str(raw.parent / "out")]) == 2
    said = "1 of 14 slices missing" if fault == "missing" else "several volumes"
    assert said in capsys.readouterr().err


def test_where_every_series_is_faulty_the_reason_is_given(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(raw / "T2")
    twice(raw / "a", "T2", 3, **SMALL)
    write_series(raw / "b", "T2", number=4, drop=(3,), **MANY)
    assert ivan(["prepare", str(raw), "--out", str(raw.parent / "out")]) == 2
    assert "1 of 14 slices missing, after slice 3" in capsys.readouterr().err
