"""The script, and a small folder of images with IXI's names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def quality(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    return importlib.import_module("quality")


@pytest.fixture
def ixi(tmp_path: Path, quality: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven subjects of three modalities with IXI's names; the protocol is shrunk to 3 + 1 + 2 of them."""
    from quality_lib import plans

    monkeypatch.setattr(plans, "IXI_SUBJECTS", (3, 1, 2))
    monkeypatch.setattr(plans, "IXI_SLICES", 3)
    rng = np.random.default_rng(0)
    folder = tmp_path / "IXI"
    folder.mkdir()
    for number in (2, 12, 13, 14, 15, 16, 17):
        head = np.zeros((13, 14, 6))
        head[2:11, 2:12, 2:5] = rng.uniform(0.2, 1, (9, 10, 3))
        for name, values in (("T1", head), ("T2", np.where(head > 0, 1.2 - head, 0)), ("PD", head**2)):
            path = folder / f"IXI{number:03d}-Guys-{800 + number:04d}-{name}.nii.gz"
            nib.save(nib.Nifti1Image((values * 700).astype(np.int16), np.eye(4)), path)
    return folder


@pytest.fixture
def tiny() -> list[str]:
    """Options of a run that takes no time."""
    return ["--minutes", "0.0005", "--blocks", "1", "--growth", "2", "--patch", "12", "--threads", "1"]
