"""The numbers of `ivan fuse` against the files it wrote, and what it says where it has none."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ivan.cli import run as ivan
from ivan.data.colour import chroma

AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def colours_of(path: Path) -> np.ndarray:
    """RGB24 voxels ``[X, Y, Z, 3]`` from 0 to 1."""
    voxels = np.asarray(nib.load(path).dataobj)
    return np.stack([voxels[name] for name in "RGB"], -1) / 255


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        nib.save(nib.Nifti1Image(values, AFFINE), path)


def test_numbers_of_png_are_those_of_the_files(tmp_path: Path) -> None:
    """8 bits are integers: the angle of an edge between equal neighbours must not come from float32."""
    from ivan.metrics import fusion_metrics

    rng = np.random.default_rng(0)
    rows = np.arange(40)[:, None]
    blocks = np.kron(rng.integers(0, 255, (5, 6)), np.ones((8, 8), int)) + 5 * (rows % 3 == 0)
    mri, ct = np.minimum(blocks, 255).astype(np.uint8), np.minimum(blocks[::-1] // 2 + rows, 255)
    save(tmp_path / "d/MRI/a.png", mri)
    save(tmp_path / "d/CT/a.png", ct.astype(np.uint8))
    line = f"fuse --data {tmp_path / 'd'} --from MRI --from CT --out {tmp_path / 'o'} --baselines --quiet"
    assert ivan(line.split()) == 0
    for row in json.loads((tmp_path / "o/metrics.json").read_text())["rows"]:
        fused = np.asarray(Image.open(tmp_path / "o" / row["method"] / "a.png"), float) / 257
        expected = fusion_metrics(mri, ct, fused)
        for name, value in row["values"].items():
            assert value == pytest.approx(float(expected[name]), rel=1e-9), (row["method"], name)


def test_where_nothing_could_be_measured_it_says_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MRI", "CT"):
        save(tmp_path / "d" / name / "a.png", np.arange(63, dtype=np.uint8).reshape(7, 9))
    line = f"fuse --data {tmp_path / 'd'} --from MRI --from CT --out {tmp_path / 'o'} --quiet"
    assert ivan(line.split()) == 2
    assert "images of 7x9 pixels" in (error := capsys.readouterr().err)
    assert "fused images are written, but not one could be measured" in error
    assert (tmp_path / "o/fused/a.png").exists()


@pytest.mark.parametrize("shape", [(12, 10, 4, 3), (12, 10, 4, 1, 3)])
def test_colours_along_a_further_axis_may_come_first(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Then they give the grid, whose header claims the further axis."""
    rng = np.random.default_rng(3)
    pet = rng.integers(90, 170, shape).astype(np.uint8)
    save(tmp_path / "d/PET/a.nii.gz", pet)
    save(tmp_path / "d/MRI/a.nii.gz", rng.uniform(90, 170, shape[:3]).astype(np.float32))
    names = "--from PET --from MRI --method average"
    line = f"fuse --data {tmp_path / 'd'} {names} --out {tmp_path / 'o'} --quiet"
    assert ivan(line.split()) == 0
    assert nib.load(tmp_path / "o/fused/a.nii.gz").shape == shape[:3]
    fused, given = colours_of(tmp_path / "o/fused/a.nii.gz"), pet.reshape(12, 10, 4, 3) / 255
    inside = ((fused > 0) & (fused < 1)).all(-1)
    assert inside.mean() > 0.5
    assert np.abs(chroma(fused) - chroma(given))[inside].max() < 2 / 255
