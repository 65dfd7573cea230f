"""How long `ivan synthesize` takes for one volume, and its peak memory, with the paper's network.

    python benchmarks/volume.py --out runs/volume                    256x256x150, two threads
    python benchmarks/volume.py --out runs/volume --shape 64x64x20   smaller

A smooth head-like volume and a network that was trained for one step on it (time does not depend on the
weights), forward and inverse, each in a process of its own; the command's own line for the volume (reading,
network, writing) beside the whole command (start of Python and PyTorch too) and the processors' time, which
other jobs on the machine change little. Writes benchmarks/results/volume.json, or the file that --json names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

REPO = Path(__file__).resolve().parent.parent


def write_head(path: Path, shape: tuple[int, int, int], contrast: float) -> None:
    """An ellipsoid of smooth structure on a black background, int16, 1 mm."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt((x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2)
    waves = 0.5 + 0.25 * np.sin(9 * contrast * x + 4 * y) * np.cos(7 * z - 5 * contrast * y)
    head = np.where(radius < 1, 900 * waves, 0).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(head, np.diag([-1.0, 1.0, 1.0, 1.0])), path)


def ivan(*words: str) -> tuple[dict[str, float], str]:
    """Run one command: (its seconds, seconds of processors and peak memory in MB; standard output)."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "ivan", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    # A process starts with the peak of the one it came from: of a child that stays below, nothing is known.
    known = usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if process.returncode:
        raise SystemExit(f"ivan {words[0]}: exit code {process.returncode}")
    return {
        "command_seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": round(usage.ru_maxrss * 1024 / 1e6) if known else math.nan,
    }, output


def measure(out: Path, shape: tuple[int, int, int], threads: int, network: list[str]) -> dict[str, Any]:
    """The measurements of both directions."""
    from ivan.environment import collect

    for name, contrast in (("T1", 1.0), ("T2", 1.7)):
        write_head(out / "data" / name / "head.nii.gz", shape, contrast)
    run = out / "run"
    fixed = ["--device", "cpu", "--threads", str(threads)]
    if not run.exists():
        ivan(
            "train", "--data", str(out / "data"), "--from", "T1", "--to", "T2", "--out", str(run),
            "--validation", "0", "--max-steps", "1", "--patch-size", "32", "--no-tensorboard", "--quiet",
            *fixed, *network,
        )  # fmt: skip
    directions = {}
    for direction, flags in (("forward", []), ("inverse", ["--inverse"])):
        used, said = ivan(
            "synthesize",
            "--run",
            str(run),
            "--data",
            str(out / "data"),
            "--out",
            str(out / direction),
            *fixed,
            *flags,
        )
        own = re.search(r"\(([\d.]+) s\)", said)
        assert own is not None, said
        directions[direction] = {"volume_seconds": float(own[1]), **used}
    made, load = collect(), os.getloadavg()[0]
    return {
        "shape": list(shape),
        "threads": threads,
        "network": " ".join(network) or "8 blocks, growth 32, float32, compute fast",
        "directions": directions,
        "processor": f"{made['Devices']['processor']}, {made['Devices']['cores']} cores",
        "instruction set": made["Kernels"].get("cpu_isa", made["Kernels"]),
        "torch": made["Versions"]["torch"],
        "load after": round(load, 2),
        "commit": _commit(),
    }


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(words, cwd=REPO, capture_output=True, text=True).stdout.strip() or "unknown"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the volume, the run and the results"
    )
    parser.add_argument("--shape", default="256x256x150", help="voxels, as 256x256x150")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--network", default="", help="options of the network for ivan train (default: the paper's)"
    )
    parser.add_argument("--json", type=Path, default=REPO / "benchmarks" / "results" / "volume.json")
    args = parser.parse_args(arguments)
    x, y, z = (int(size) for size in args.shape.split("x"))
    found = measure(args.out, (x, y, z), args.threads, args.network.split())
    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
