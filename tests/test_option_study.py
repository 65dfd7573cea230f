"""The option study: all its settings are valid, and the unusual ones train at tiny size on a phantom."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

RUN = ("base", "public-loss", "fill-noise", "ssim-0.1", "ema", "channels-4", "context-1")


def test_all_settings_are_valid(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ivan.training import TrainConfig

    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    study = importlib.import_module("option_study")
    base = {"data": "d", "out": "o", "sources": ("T1",), "targets": ("T2",), **study.BASE}
    for name, change in study.OPTIONS.items():
        config = TrainConfig(**{**base, **change}).completed().check()
        assert (config == TrainConfig(**base).completed()) == (
            name == "base"
        )  # each option changes something


def test_runs_are_made_and_measured(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    study = importlib.import_module("option_study")
    rng = np.random.default_rng(0)
    folder = tmp_path / "shared" / "data" / "ms_mni_T1_T2_FLAIR"
    folder.mkdir(parents=True)
    for name in ("T1", "T2"):
        image = nib.Nifti1Image(rng.uniform(100, 900, (26, 26, 22)).astype(np.float32), np.eye(4))
        nib.save(image, folder / f"patient07_{name}.nii.gz")
    monkeypatch.setenv("IVAN_SHARED", str(tmp_path / "shared"))
    small = replace(study.STUDIES["patient07"], training_slices=[[0, 4]], measured_slices=[6, 9])
    monkeypatch.setitem(study.STUDIES, "patient07", small)
    tiny = {"device": "cpu", "threads": 1, "patch_size": 12, "blocks": 1, "growth": 2}
    out = tmp_path / "out"
    study.main(
        ["patient07", "--out", str(out), "--steps", "1", "--seeds", "1", "--options", ",".join(RUN)], tiny
    )
    table = (out / "table.md").read_text()
    for name in RUN:
        result = json.loads((out / "results" / f"{name}-seed0.json").read_text())
        assert set(result["rows"]) == {"forward T2", "inverse T1"}
        assert result["settings"].items() >= study.OPTIONS[name].items()
        assert f"| {name} |" in table
    before = (out / "results" / "base-seed0.json").stat().st_mtime_ns
    study.main(["patient07", "--out", str(out), "--steps", "1", "--seeds", "1", "--options", "base"], tiny)
    assert (out / "results" / "base-seed0.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        study.main(["patient07", "--out", str(out), "--options", "luck"], tiny)
