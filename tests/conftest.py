"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where pytest-xdist shares the tests out: those of a file have fixtures in common and stay together, and
    so do all that run the emulated kernels under the race check, which the first of them builds. Tests marked
    gpu are skipped without a CUDA device."""
    without = None if torch.cuda.is_available() else pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if without is not None and item.get_closest_marker("gpu"):
            item.add_marker(without)
        raced = item.path.parent.name == "cuda_emulation" and "emulator" in getattr(item, "fixturenames", ())
        group = "race check" if raced else item.path.relative_to(REPO).as_posix()
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real images: $IVAN_SHARED, else `shared` beside the checkout."""
    path = Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: set IVAN_SHARED to the folder with data/ and reference/")
    return path


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
