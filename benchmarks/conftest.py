"""Hooks of the pytest-benchmark suites; `suite.py` says what can be chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from suite import DEVICE, THREADS, fma_gflops

from ivan.benchmark.machine import describe


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(THREADS)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # the computer's name is nobody's business
    machine_info["ivan"] = {**describe(DEVICE), "fma_gflops": fma_gflops()}
