"""The kernels of csrc/cuda on the CPU: every test with `emulator` runs plain and under the race check, and
once more under the sanitizers (test_sanitized.py starts that process, with IVAN_CUDA_EMULATION=asan)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import emulation
import pytest

VARIANTS = os.environ.get("IVAN_CUDA_EMULATION", "plain race").split()


@pytest.fixture(scope="session", params=VARIANTS)
def loaded(request: pytest.FixtureRequest) -> emulation.Emulator:
    if emulation.compiler() is None:
        pytest.skip("no C++ compiler")
    return emulation.load(request.param)


@pytest.fixture
def emulator(loaded: emulation.Emulator) -> Iterator[emulation.Emulator]:
    yield loaded
    loaded.schedule(0)
    loaded.device()
