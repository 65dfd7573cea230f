"""The state beside a fused image: it belongs to that image, and what cannot be had without it is said."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ivan.cli import run as ivan


def fuse(run: Path, data: Path, out: Path, more: str = "") -> int:
    return ivan(f"fuse --run {run} --data {data} --out {out} --device cpu --quiet {more}".split())


def test_without_a_state_only_approximate_sources(
    fusion_run: Path, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert fuse(fusion_run, volumes, out) == 0
    assert len(list((out / "state").iterdir())) == 2
    assert fuse(fusion_run, volumes, out, "--no-state") == 0  # the old states are of other files
    assert list((out / "state").iterdir()) == []
    capsys.readouterr()
    assert fuse(fusion_run, out, tmp_path / "back", "--inverse") == 0
    assert "c0 and 1 more have no state" in capsys.readouterr().err
    assert not (tmp_path / "back" / "exact").exists()
    assert (tmp_path / "back" / "approximate" / "CT" / "c1.nii.gz").is_file()


def test_a_rule_in_the_same_folder_removes_the_states(
    fusion_run: Path, volumes: Path, tmp_path: Path
) -> None:
    assert fuse(fusion_run, volumes, tmp_path) == 0
    assert ivan(f"fuse --data {volumes} --from MRI --from CT --out {tmp_path} --quiet".split()) == 0
    assert list((tmp_path / "state").iterdir()) == []


def test_another_image_beside_a_state_is_told(
    fusion_run: Path, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuse(fusion_run, volumes, tmp_path / "out") == 0
    path = tmp_path / "out" / "fused" / "c1.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 0.5, image.affine), path)
    capsys.readouterr()
    assert fuse(fusion_run, tmp_path / "out", tmp_path / "back", "--inverse") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is not the file" in line]
    assert len(said) == 1
    assert str(path) in said[0]


def test_units_that_png_cannot_hold(tmp_path: Path, tiny_options: list[str]) -> None:
    """An image of CT numbers beside a PNG: it comes back in CT numbers, as an array."""
    rng = np.random.default_rng(3)
    for name in ("MRI", "CT"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for case in ("a", "b"):
        Image.fromarray(rng.integers(1, 256, (16, 14), np.uint8)).save(tmp_path / "data/MRI" / f"{case}.png")
        np.save(tmp_path / "data" / "CT" / f"{case}.npy", rng.uniform(-1000, 2000, (16, 14)))
    run = tmp_path / "run"
    line = f"train --task fusion --data {tmp_path / 'data'} --from MRI --from CT --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    assert fuse(run, tmp_path / "data", tmp_path / "out") == 0
    assert fuse(run, tmp_path / "out", tmp_path / "back", "--inverse") == 0
    made = np.load(tmp_path / "back" / "exact" / "CT" / "a.npy").squeeze()
    given = np.load(tmp_path / "data" / "CT" / "a.npy")
    assert np.abs(made - given).max() < 0.1
    assert (tmp_path / "back" / "exact" / "MRI" / "a.png").is_file()
    assert not (tmp_path / "back" / "exact" / "CT" / "a.png").exists()
