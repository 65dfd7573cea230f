"""On what a measurement was made: it is worth little without that."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import ivan_fast
from ivan.environment import collect

PACKAGE = Path(__file__).resolve()


def describe(device: str = "cpu", dtype: str = "float32") -> dict[str, Any]:
    """Machine, software, precision and load, as plain values; what cannot be known is None."""
    facts = collect()
    cuda = torch.device(device).type == "cuda"
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": facts["Devices"]["processor"],
        "cores": os.cpu_count(),
        "memory_gb": facts["Devices"]["memory GB"],
        "isa": ivan_fast.build_info()["cpu_isa"],
        "threads": torch.get_num_threads(),
        "fma_gflops": None,  # of all threads; the repository's benchmarks measure it
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "precision": dtype,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ivan_fast": facts["Versions"]["ivan_fast"],
        "compiler": ivan_fast.build_info()["compiler"],
        "commit": commit(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "taken": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """The git commit of this code, ``+`` behind it if the sources differ; None for an installed package."""
    root = PACKAGE.parents[3]
    if not (root / "csrc").is_dir():  # not the checkout: perhaps an environment inside somebody else's
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "csrc", "ivan_fast", "python", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
