"""Peak memory of a job, measured in a fresh process, and what fits into this machine.

The peak of a process that has done one 16x16 step (model, gradients, optimiser and libraries are in it) is
the baseline; what a job on larger images adds to the peak is its activation memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ivan.benchmark.case import Case
from ivan.benchmark.implementations import IMPLEMENTATIONS
from ivan.errors import RunError

PROBES = (48, 96)
"""Sides of the small images from which memory at other sizes is estimated."""
PROBE_BLOCKS = 8


class MeasurementError(RunError):
    """A measurement that could not be made; the message says why."""


def measure(name: str, cases: list[tuple[Case, str]], threads: int) -> tuple[int, list[int]]:
    """Baseline, and what each (case, job) adds to the peak so far, bytes; all in one fresh process.

    Args:
        name: of the implementation.
        cases: in growing order: a peak hides everything below it. The network is the first case's.
        threads: CPU threads of that process.

    Raises:
        MeasurementError: the process failed.
    """
    order = {
        "name": name,
        "threads": threads,
        "jobs": [{"case": case.as_dict(), "job": job} for case, job in cases],
    }
    done = subprocess.run(
        [sys.executable, "-m", "ivan.benchmark.child", json.dumps(order)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [""]
        killed = "killed, probably out of memory" if done.returncode == -9 else lines[-1]
        raise MeasurementError(f"{name} at {cases[-1][0].size}: {killed or 'failed without a message'}")
    peaks = json.loads(done.stdout.strip().splitlines()[-1])
    return peaks[0], [peak - peaks[0] for peak in peaks[1:]]


def peak(device: str) -> int:
    """Largest memory of this process so far, bytes: its own on the CPU, PyTorch's on a GPU."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        # Not ru_maxrss: a process starts with the peak of the one that started it.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available(device: str) -> int:
    """Bytes that a job may still take on this machine: free memory of the GPU, or of the computer."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import os

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = [total]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
        # A container may allow less than the computer has.
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass  # not Linux, or no limit
    return max(min(free), 0)


@dataclass(frozen=True)
class Slope:
    """A job's activation memory as a line through two measured sizes: ``fixed + per_pixel * pixels``."""

    fixed: float
    per_pixel: float

    def bytes(self, pixels: int) -> int:
        return int(max(self.fixed, 0.0) + self.per_pixel * pixels)


class Estimator:
    """What jobs would take, from measurements of small ones; each implementation is measured once.

    Deeper networks than `PROBE_BLOCKS` are taken to need proportionally more: an upper bound.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._slopes: dict[Any, dict[str, Slope]] = {}

    def bytes(self, name: str, case: Case, job: str) -> int:
        """Estimated activation memory; 0, "just try it", for jobs no larger than the measurements would be.

        Raises:
            MeasurementError: the small jobs fail.
        """
        if case.pixels * case.blocks <= PROBES[-1] ** 2 * PROBE_BLOCKS:
            return 0
        name = IMPLEMENTATIONS[name].memory_as or name
        blocks = min(case.blocks, PROBE_BLOCKS)
        network = case.at(1, batch=1, blocks=blocks)
        key = (name, network)
        if key not in self._slopes:
            self._slopes[key] = self._probe(name, network)
        estimate = self._slopes[key]["step" if job == "step" else "forward"].bytes(case.pixels)
        return estimate * case.blocks // blocks

    def _probe(self, name: str, network: Case) -> dict[str, Slope]:
        small, large = (network.at(side) for side in PROBES)
        jobs = [(case, job) for job in ("forward", "step") for case in (small, large)]
        _, grown = measure(name, jobs, self.threads)
        return {
            job: line(small.pixels, grown[i], large.pixels, grown[i + 1])
            for i, job in ((0, "forward"), (2, "step"))
        }


def line(pixels: int, size: int, more_pixels: int, more_size: int) -> Slope:
    """The line through two measurements; never falling."""
    per_pixel = max(more_size - size, 0) / (more_pixels - pixels)
    return Slope(size - per_pixel * pixels, per_pixel)
