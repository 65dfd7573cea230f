"""Inputs unlike the training images and clipped predictions are told, ordinary ones are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ivan.data import find_cases
from ivan.data.profile import Profile, unusual
from ivan.evaluation import evaluate
from ivan.inference import load_predictor, synthesize
from ivan.suspicion import clipping_lines

USUAL = Profile((0.2, 0.4, 0.5, 0.7, 0.9), 0.4, (1.0, 1.0, 2.0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Profile((0.25, 0.42, 0.55, 0.72, 0.95), 0.45, (1.0, 1.2, 2.0)), []),
        (
            Profile((0.2, 0.4, 0.9, 0.95, 1.0), 0.4, (1.0, 1.0, 2.0)),
            ["50th foreground percentile"],
        ),
        (
            Profile((0.2, 0.4, 0.5, 0.7, 0.9), 0.9, (1.0, 1.0, 2.0)),
            ["90 % of it is foreground"],
        ),
        (Profile((0.2, 0.4, 0.5, 0.7, 0.9), 0.4, (1.0, 1.0, 6.0)), ["voxels of 1x1x6 mm"]),
    ],
)
def test_what_is_unusual(given: Profile, said: list[str]) -> None:
    lines = unusual("T1 of x", given, [USUAL])
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line
        assert "\n" not in line
    assert unusual("T1 of x", given, []) == []
    assert Profile.from_json(json.loads(json.dumps(given.to_json()))) == given


def test_a_new_case_of_the_same_kind_is_not_suspicious(tiny_run: Path, tiny_data: Path) -> None:
    predictor = load_predictor(tiny_run, device="cpu")
    assert set(predictor.profiles) == {"T1", "T2"}
    for case in find_cases(tiny_data, ["T1", "T2"]):
        assert predictor.suspicions(predictor.load(case, ["T1"]), ["T1"]) == []


def test_strange_input_is_told_by_synthesize_and_evaluate(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "strange"
    shutil.copytree(tiny_data, data)
    path = data / "T1" / "sub-00.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj, np.float32)
    strange = np.where(values > 0, 900 - 700 * (values > 500), 20)  # two levels, and a bright background
    nib.save(nib.Nifti1Image(strange.astype(np.float32), image.affine), path)
    synthesize(tiny_run, data, tmp_path / "out", device="cpu", progress=False)
    assert "T1 of sub-00 looks unlike the training images" in capsys.readouterr().err
    result = evaluate(run=tiny_run, data=data, device="cpu", direction="forward", out=tmp_path / "evaluation")
    assert any(line.startswith("T1 of sub-00 looks unlike") for line in result.warnings)
    report = (tmp_path / "evaluation" / "report.html").read_text()
    assert "T1 of sub-00 looks unlike the training images" in report
    assert "T1 of sub-00 looks unlike" in (tmp_path / "evaluation" / "metrics.json").read_text()


def test_clipped_values_are_counted(tiny_run: Path) -> None:
    predictor = load_predictor(tiny_run, device="cpu")
    clipped: dict[str, float] = {}
    slices = np.random.default_rng(0).uniform(-2, 2, (3, 1, 14, 16)).astype(np.float32)
    made = predictor.predict(slices, clipped=clipped)
    assert made.min() == 0
    assert 0 < clipped["T2"] < 1
    assert clipped["T2"] == pytest.approx((made == 0).mean(), abs=0.1)
    assert "set to 0" in clipping_lines("x", clipped)[0]
    assert clipping_lines("x", {"T2": 0.001}) == []
