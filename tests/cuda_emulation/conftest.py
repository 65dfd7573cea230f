"""The kernels of csrc/cuda on the CPU: every test with `emulator` runs under the race check, and once more
under the sanitizers (test_sanitized.py starts that process, with IVAN_CUDA_EMULATION=asan). The plain build
has the same arithmetic and is quicker: test_gpu_tests.py and the faults of values use it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import emulation
import pytest

VARIANTS = os.environ.get("IVAN_CUDA_EMULATION", "race").split()


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
