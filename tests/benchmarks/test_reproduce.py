"""`make reproduce`: the whole way on small heads, the comparison, and what is said without the images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def script(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    return importlib.import_module("reproduce")


@pytest.mark.parametrize("twice", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_whole_way_repeats_to_the_last_digit(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    twice: bool,
) -> None:
    """Two steps on random heads of the shape that the protocol's slices need; the second time to the same
    digits."""
    folder = tmp_path / "shared" / "data" / "ms_mni_T1_T2_FLAIR"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for patient in ("07", "26"):
        for name in ("T1", "T2"):
            head = (rng.uniform(0.2, 1, (60, 64, 150)) * 500).astype(np.int16)
            nib.save(
                nib.Nifti1Image(head, np.diag([-1.0, 1, 1, 1])), folder / f"patient{patient}_{name}.nii.gz"
            )
    monkeypatch.setenv("IVAN_SHARED", str(tmp_path / "shared"))
    monkeypatch.setattr(script, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(script, "RECIPE", script.RECIPE.replace("4 --growth 16", "1 --growth 4"))
    assert script.main(["--out", str(tmp_path / "a"), "--steps", "2", "--record"]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["numbers"].keys() == {"forward T2", "inverse T1"}
    assert record["made with"]["processor"]
    assert (tmp_path / "a" / "evaluation" / "report.html").is_file()
    assert (tmp_path / "a" / "synthesised" / "T2" / "patient26.nii.gz").is_file()
    assert script.main(["--out", str(tmp_path / "a"), "--steps", "2"]) == 2  # a folder that holds a run
    if not twice:
        return
    capsys.readouterr()
    assert script.main(["--out", str(tmp_path / "b"), "--steps", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("  same") == 4, said
    assert "\nreproduced" in said


def test_missing_images_are_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IVAN_SHARED", str(tmp_path / "nowhere"))
    assert script.main(["--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "patient07_T1.nii.gz: absent" in error
    assert "set IVAN_SHARED" in error
    assert not (tmp_path / "run").exists()


def test_numbers_beyond_the_tolerance_are_told(script: ModuleType) -> None:
    record: dict[str, Any] = {
        "numbers": {"forward T2": {"psnr": 24.0, "ssim": 0.9}},
        "tolerance": {"psnr": 0.5, "ssim": 0.02},
    }
    for psnr, ssim, verdicts in (
        (24.0, 0.9, ["same", "same"]),
        (24.4, 0.9, ["agrees", "same"]),
        (23.4, 0.9, ["DIFFERS", "same"]),
        (float("nan"), 0.93, ["DIFFERS", "DIFFERS"]),
    ):
        lines, good = script.compare({"forward T2": {"psnr": psnr, "ssim": ssim}}, record)
        assert [line.split()[-1] for line in lines] == verdicts
        assert good == ("DIFFERS" not in verdicts)
    assert not script.compare({}, record)[1]


def test_the_record_is_of_this_recipe(script: ModuleType) -> None:
    record = json.loads(script.RECORD.read_text())
    assert record["recipe"] == script.RECIPE
    assert record["steps"] == script.STEPS
    assert record["tolerance"] == script.TOLERANCE
    assert record["why"] == script.WHY
