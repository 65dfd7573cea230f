"""One image that cannot be used must not cost the whole case, nor be looked at in vain for ever."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import grid, head, write_series

from ivan.cli import run as ivan
from ivan.data.datalist import read_datalist
from ivan.errors import InputError
from ivan.prepare import case as case_module
from ivan.prepare import job as job_module
from ivan.prepare import prepare

SMALL = {"shape": (20, 24, 10), "spacing": (8.0, 8.0, 14.0)}
SHAPE = (26, 30, 16)
AFFINE = np.diag([8.0, 8.0, 12.0, 1.0])
AFFINE[:3, 3] = (-100, -116, -90)


def nifti(path: Path, contrast: str, affine: np.ndarray = AFFINE, volumes: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = head(grid(SHAPE, AFFINE), contrast)
    nib.save(nib.Nifti1Image(np.stack([values] * volumes, -1) if volumes > 1 else values, affine), path)


def bids(raw: Path, case: str, third: str = "FLAIR", **more: object) -> Path:
    """T1 and T2 of a BIDS subject, and a third image that may be odd: its path."""
    for contrast in ("T1", "T2"):
        nifti(raw / case / "anat" / f"{case}_{contrast}w.nii.gz", contrast)
    path = raw / case / ("dwi" if third == "dwi" else "anat") / f"{case}_{third}.nii.gz"
    nifti(path, "PD", **more)  # type: ignore[arg-type]
    return path


def records(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "cases").glob("*.json"))}


def expect_t1_and_t2(raw: Path, out: Path, lacks: str, said: str) -> None:
    """Every case has T1 and T2, says once why it lacks the third, and is kept by a second call."""
    dataset = prepare(raw, out, progress=False)
    for record in records(out).values():
        assert set(record["bytes"]) == set(record["sources"]) == {"T1", "T2"}
        (warning,) = record["warnings"]
        assert warning.startswith(f"{lacks} left out: ")
        assert said in warning
        assert record["left_out"][lacks]["why"] in warning
    assert json.loads(dataset.read_text())["modality"] == {"0": "T1", "1": "T2"}
    assert len(read_datalist(dataset, ["T1", "T2"])) == len(records(out)) > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "prepare_case", None)  # nothing is left to do
        prepare(raw, out, progress=False)


def test_a_diffusion_series_of_two_weightings(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number, contrast in enumerate(("T1", "T2")):
        write_series(raw / contrast, contrast, number=number, **SMALL)
    for volume in range(2):
        write_series(
            raw / f"b{volume}",
            "T2",
            number=3,
            description="ep2d_diff_DWI",
            SeriesInstanceUID="1.2.3.4",
            signal=lambda points, volume=volume: head(points, "T2") / (1 + volume),
            **SMALL,
        )
    expect_t1_and_t2(raw, tmp_path / "out", "DWI", "20 slices at 10 places: several volumes")


def test_a_bids_diffusion_image_of_several_volumes(tmp_path: Path) -> None:
    for case in ("sub-01", "sub-02"):
        bids(tmp_path / "raw", case, "dwi", volumes=6)
    expect_t1_and_t2(tmp_path / "raw", tmp_path / "out", "DWI", "it holds 6 volumes")


@pytest.mark.parametrize("far", [4000.0, 0.0])
def test_an_image_of_another_part_of_the_body(tmp_path: Path, far: float) -> None:
    away = AFFINE.copy()
    away[0, 3] += far
    if not far:  # or a wrong scale: the reference lies in one voxel of it
        away[:3] *= 1000
    bids(tmp_path / "raw", "sub-01", affine=away)
    said = "does not overlap" if far else "nothing of it is left on the grid"
    expect_t1_and_t2(tmp_path / "raw", tmp_path / "out", "FLAIR", said)


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """It is taken in as soon as it leads somewhere."""
    path = bids(tmp_path / "raw", "sub-01")
    kept = path.rename(tmp_path / "elsewhere.nii.gz")
    path.symlink_to(tmp_path / "nowhere.nii.gz")
    expect_t1_and_t2(tmp_path / "raw", tmp_path / "out", "FLAIR", "a link that leads nowhere")
    kept.rename(tmp_path / "nowhere.nii.gz")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    assert set(records(tmp_path / "out")["sub-01"]["bytes"]) == {"T1", "T2", "FLAIR"}


def test_what_can_be_read_later_is_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files, but now there is a decoder, or the permission to read them."""
    path = bids(tmp_path / "raw", "sub-01")
    original = case_module.read_volume

    def refuse(image: Path):
        if image == path:
            raise InputError(f"{image}: no permission to read the file; change its permissions")
        return original(image)

    monkeypatch.setattr(case_module, "read_volume", refuse)
    expect_t1_and_t2(tmp_path / "raw", tmp_path / "out", "FLAIR", "no permission")
    monkeypatch.setattr(case_module, "read_volume", original)
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    record = records(tmp_path / "out")["sub-01"]
    assert set(record["bytes"]) == {"T1", "T2", "FLAIR"}
    assert record["left_out"] == {}


def test_modalities_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where the case lacks one of them: the reference and another one are enough, fewer are not."""
    bids(tmp_path / "raw", "sub-01", volumes=2)
    command = ["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    names = ["--modality", "T1", "--modality", "FLAIR"]
    assert ivan([*command, *names, "--modality", "T2"]) == 0
    assert "prepared sub-01 (1 of 1" in (said := capsys.readouterr().out)
    assert "; FLAIR left out: " in said
    assert said.splitlines()[-1].endswith("--from T1 --to T2 --out RUN --validation 0")
    for chosen in (names, ["--reference", "FLAIR"], ["--modality", "FLAIR"]):
        assert ivan([*command, *chosen]) == 2
        assert "none of 1 cases could be used (sub-01: " in (error := capsys.readouterr().err)
        assert "it holds 2 volumes" in error


def test_where_all_others_are_left_out_each_reason_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bids(tmp_path / "raw", "sub-01", volumes=2)
    bids(tmp_path / "raw", "sub-02")
    nifti(tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T2w.nii.gz", "T2", volumes=3)
    assert ivan(["prepare", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out sub-01")]
    assert "it holds 2 volumes" in line
    assert "it holds 3 volumes" in line
    assert list(records(tmp_path / "out")) == ["sub-02"]


def test_an_image_of_an_earlier_call_that_is_left_out_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bids(tmp_path / "raw", "sub-01")
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    nifti(path, "PD", volumes=2)
    prepare(tmp_path / "raw", tmp_path / "out")
    old = tmp_path / "out" / "FLAIR" / "sub-01.nii.gz"
    assert f"note: {old}: of an earlier call, and not in dataset.json" in capsys.readouterr().out
