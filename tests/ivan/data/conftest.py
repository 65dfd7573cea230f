"""Small synthetic files for the tests of the data layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Save = Callable[..., Path]


@pytest.fixture
def save_nifti(tmp_path: Path) -> Save:
    """`save_nifti("a/b.nii.gz", array, affine)` writes a float32 NIfTI below tmp_path, returns its path."""

    def save(name: str, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
        nib.save(nib.Nifti1Image(np.asarray(data, dtype=np.float32), matrix), path)
        return path

    return save


@pytest.fixture
def volume() -> np.ndarray:
    """`[5, 6, 4]` float32, all values different and positive."""
    return np.random.default_rng(0).permutation(120).reshape(5, 6, 4).astype(np.float32) + 1


@pytest.fixture
def pair(save_nifti: Save) -> Callable[..., None]:
    """`pair("p1", shape)` writes T1/p1.nii.gz and T2/p1.nii.gz with a bright block in the middle slices."""

    def write(name: str, shape: tuple[int, int, int] = (10, 12, 6)) -> None:
        rng = np.random.default_rng(sum(map(ord, name)))
        inside = np.zeros(shape, dtype=np.float32)
        inside[2:-2, 2:-2, 1:-1] = 1  # the first and last axial slices are empty
        for modality, brightness in (("T1", 100), ("T2", 700)):
            save_nifti(f"{modality}/{name}.nii.gz", inside * brightness * rng.uniform(0.5, 1, shape))

    return write
