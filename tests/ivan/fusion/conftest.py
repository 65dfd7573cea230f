"""Tiny pairs to fuse: gray NIfTI (MRI, CT, a label), gray and colour PNG (MRI, PET)."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ivan.cli import run as ivan

AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases of MRI, CT (bone where MRI is dark) and a label, int16, x stored from right to left."""
    root = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(1)
    for index in range(2):
        soft, bone = np.zeros((18, 16, 3)), np.zeros((18, 16, 3))
        soft[4:14, 4:12] = rng.uniform(0.3, 1, (10, 8, 3))
        bone[2:16, 2:4] = bone[2:16, 12:14] = 1
        for name, values in (
            ("MRI", soft * 800),
            ("CT", bone * 1000),
            ("label", np.maximum(soft, bone) * 900),
        ):
            (root / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(values.astype(np.int16), AFFINE), root / name / f"c{index}.nii.gz")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of a gray MRI and a colour PET, 8-bit PNG; chroma weak enough for any luma from 0.3 to
    0.7."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(2)
    for name in ("MRI", "PET"):
        (root / name).mkdir()
    for index in range(2):
        gray = rng.uniform(0.3, 0.7, (18, 16))
        colours = gray[..., None] + rng.uniform(-0.1, 0.1, (18, 16, 3))
        Image.fromarray(np.rint(gray[::-1] * 255).astype(np.uint8)).save(root / "MRI" / f"s{index}.png")
        Image.fromarray(np.rint(colours * 255).astype(np.uint8)).save(root / "PET" / f"s{index}.png")
    return root


@pytest.fixture(scope="session")
def fusion_run(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network trained on `volumes`."""
    run = tmp_path_factory.mktemp("runs") / "fusion"
    options = "--blocks 1 --growth 4 --epochs 2 --no-tensorboard --device cpu --threads 1 --quiet"
    line = f"train --task fusion --data {volumes} --from MRI --from CT --out {run} {options}"
    assert ivan(line.split()) == 0
    return run
