"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent


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
