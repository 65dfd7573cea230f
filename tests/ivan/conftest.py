"""Tiny data sets and runs for the tests of training, inference, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

# One block of growth 4 on slices of 14 x 16 pixels: a step takes milliseconds.
TINY: dict[str, Any] = {
    "blocks": 1,
    "growth": 4,
    "epochs": 2,
    "log_every": 2,
    "lr": 1e-3,
    "tensorboard": False,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture
def tiny_options() -> list[str]:
    """`TINY` for the command line, one epoch."""
    options = (
        "--blocks 1 --growth 4 --epochs 1 --log-every 2 --no-tensorboard --device cpu --threads 1 --quiet"
    )
    return options.split()


def write_case(root: Path, name: str, seed: int, modalities: tuple[str, ...], affine: np.ndarray) -> None:
    """One case of related contrasts, int16, in MODALITY/case.nii.gz."""
    rng = np.random.default_rng(seed)
    anatomy = np.zeros((16, 14, 3), np.float32)
    anatomy[3:13, 3:12] = rng.uniform(0.3, 1, (10, 9, 3))
    contrasts = {
        "T1": anatomy * 900,
        "T2": np.where(anatomy > 0, (1.3 - anatomy) * 400, 0),
        "PD": anatomy**2 * 300,
        "FLAIR": np.where(anatomy > 0, 500 - 200 * anatomy, 0),
    }
    for modality in modalities:
        folder = root / modality
        folder.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(contrasts[modality].astype(np.int16), affine)
        nib.save(image, folder / f"{name}.nii.gz")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases of T1, T2, PD and FLAIR, stored with x from left to right reversed."""
    root = tmp_path_factory.mktemp("data")
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (10, -5, 3)
    for index in range(3):
        write_case(root, f"sub-{index:02d}", index, ("T1", "T2", "PD", "FLAIR"), affine)
    return root


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished T1 -> T2 run; tests read it and do not change it."""
    from ivan.training import fit

    run = tmp_path_factory.mktemp("runs") / "run"
    return fit(data=str(tiny_data), sources=("T1",), targets=("T2",), out=str(run), progress=False, **TINY)


@pytest.fixture
def train(tiny_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """`fit` on the tiny data: train(name, **settings) -> run folder."""
    from ivan.training import fit

    def start(name: str = "run", resume: bool = False, **settings: Any) -> Path:
        plan = {"data": str(tiny_data), "sources": ("T1",), "targets": ("T2",), **TINY, **settings}
        if resume:
            plan = settings
        return fit(out=str(tmp_path / name), resume=resume, progress=False, **plan)

    return start
