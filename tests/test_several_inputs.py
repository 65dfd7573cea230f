"""The script that compares several inputs with one, on a small head instead of the real images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.mark.parametrize("name", ["sri24", "templates"])
def test_several_inputs(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    script = importlib.import_module("several_inputs")
    task = script.TASKS[name]
    rng = np.random.default_rng(0)
    folder = tmp_path / "shared" / "data" / task.folder
    folder.mkdir(parents=True)
    size = 2 if task.reduce else 1
    affine = np.diag([-1.0, 1, 1, 1])
    for file in task.files.values():
        image = rng.uniform(0.2, 1, (14 * size, 14 * size, 78 * size)) * 500
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / file)
    monkeypatch.setenv("IVAN_SHARED", str(tmp_path / "shared"))
    monkeypatch.setattr(script, "SHORT", {"blocks": 1, "growth": 2, "patch_size": 8, "device": "cpu"})
    out = tmp_path / "out"
    script.main([name, "--out", str(out), "--steps", "1", "--seeds", "1"])
    results = json.loads((out / "results.json").read_text())
    assert len(results["rows"]) == 3
    assert all(np.isfinite(row["psnr"][0]) and np.isfinite(row["pixelwise_table"]) for row in results["rows"])
    assert all(row["processor_seconds"][0] >= 0 for row in results["rows"])
    assert len(list((out / "train" / task.target).iterdir())) == (8 if task.reduce else 1)
    written = nib.load(out / "test" / task.target / "head.nii.gz")
    assert written.shape == (14, 14, 78)
    # The first voxel's centre: that of the first block of 2x2x2, x counted from the left.
    corner = affine @ [13 if size == 1 else 26.5, 0 if size == 1 else 0.5, 0 if size == 1 else 0.5, 1]
    assert np.allclose(written.affine[:3, 3], corner[:3])
