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
    shape = {"blocks": 4, "growth": 16}
    plain = TrainConfig(**{**base, **shape}).completed()
    for name in study.OPTIONS:
        config = TrainConfig(**{**base, **study.settings_of(name, shape)}).completed().check()
        assert (config == plain) == (name == "base")  # each option changes something
    assert study.settings_of("half-blocks", shape).items() >= {"blocks": 2, "growth": 24}.items()


def test_options_are_compared_with_base_of_the_same_seed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    study = importlib.import_module("option_study")

    def run(option: str, seed: int, psnr: float) -> dict[str, object]:
        return {
            "option": option,
            "seed": seed,
            "processor_seconds": 9.0,
            "rows": {"forward T2": {"psnr": psnr}},
        }

    runs = [
        run("base", 0, 20.0),
        run("ema", 0, 21.0),
        run("base", 1, 30.0),
        run("ema", 1, 31.5),
        run("base", 2, 25.0),
    ]
    base, ema = study.table(runs).splitlines()[2:]
    assert base == "| base | 3 | 25.00 ± 5.00 | - | 9 |"
    assert ema == "| ema | 2 | 26.25 ± 7.42 | +1.25 ± 0.35 | 9 |"


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
    out, kept = tmp_path / "out", tmp_path / "kept.json"
    common = ["patient07", "--out", str(out), "--results", str(kept), "--steps", "1", "--seeds", "0"]
    study.main([*common, "--options", ",".join(RUN)], tiny)
    record = json.loads(kept.read_text())
    assert record["protocol"] == {"study": "patient07", "steps": 1, "blocks": 1, "growth": 2}
    assert [run["option"] for run in record["runs"]] == list(RUN)
    for run in record["runs"]:
        assert set(run["rows"]) == {"forward T2", "inverse T1"}
        assert run["change"] == study.OPTIONS[run["option"]]
        assert f"| {run['option']} |" in (out / "table.md").read_text()
    before = kept.stat().st_mtime_ns
    study.main([*common, "--options", "base"], tiny)
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="give --results another file"):
        study.main([*common[:-4], "--steps", "2", "--seeds", "0", "--options", "base"], tiny)
    with pytest.raises(SystemExit):
        study.main([*common, "--options", "luck"], tiny)
