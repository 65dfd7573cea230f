"""The script that measures fusion, on small heads instead of the real images."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.mark.parametrize("name", ["flair", "ct"])
def test_fusion_run(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    script = importlib.import_module("fusion_run")
    pair = dataclasses.replace(script.PAIRS[name], fused_slices=[40, 44])
    monkeypatch.setitem(script.PAIRS, name, pair)
    size = 2 if pair.reduce else 1
    rng = np.random.default_rng(0)
    folder = tmp_path / "shared" / "data" / pair.folder
    folder.mkdir(parents=True)
    affine = np.diag([-1.0, 1, 1, 1])
    for file in {*pair.training.values(), *pair.fused.values()}:
        image = rng.uniform(0.2, 1, (14 * size, 12 * size, 78 * size)) * 500
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / file)
    monkeypatch.setenv("IVAN_SHARED", str(tmp_path / "shared"))
    monkeypatch.setattr(script, "SHORT", {"blocks": 1, "growth": 2, "patch_size": 8, "device": "cpu"})
    out = tmp_path / "out"
    script.main([name, "--out", str(out), "--steps", "1"])
    first, end = pair.fused_slices
    test = nib.load(out / "test" / "T1" / "head0.nii.gz")
    assert test.shape == (14, 12, end - first)
    # The first voxel's centre: x counted from the left, z from the first slice that is fused.
    corner = affine @ [14 * size - 1 - (size - 1) / 2, (size - 1) / 2, size * first + (size - 1) / 2, 1]
    assert np.allclose(test.affine[:3, 3], corner[:3])
    assert len(list((out / "train" / "T1").iterdir())) == size**3
    rows = json.loads((out / "results.json").read_text())["rows"]
    methods = [row["method"] for row in rows if row["part"] == "fusion"]
    assert sorted(methods) == sorted([*script.RULES, *(f"network, {target}" for target in script.TARGETS)])
    taken_apart = [row for row in rows if row["part"] != "fusion"]
    assert len(taken_apart) == len(script.TARGETS) * 2 * 2
    for row in taken_apart:
        assert (float(row["values"]["largest_error"]) < 1e-4) == (row["method"] == "exact"), row
    text = (out / "table.md").read_text()
    assert text.count("\n|") == 2 * 2 + 7 + 12 - 1
    assert (out / "figure.png").stat().st_size > 10_000
