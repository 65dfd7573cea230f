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
import os
import re
import resource
import subprocess
import sys
import tempfile
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


# The command line, which at its end writes the peak of its own process to the file named first. (The
# ru_maxrss of children will not do: a process starts with the peak of the one that started it.)
CHILD = """
import atexit, pathlib, sys
from ivan.benchmark.memory import peak
from ivan.cli import main
target = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: target.write_text(str(peak("cpu"))))
main()
"""


def ivan(*words: str) -> tuple[dict[str, float], str]:
    """Run one command: (its seconds, seconds of processors and peak memory in MB; standard output)."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "peak")
        command = [sys.executable, "-c", CHILD, str(target), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        seconds, usage = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"ivan {words[0]}: exit code {done.returncode}")
        peak = int(target.read_text())
    return {
        "command_seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_memory_mb": round(peak / 1e6),
    }, done.stdout


def measure(out: Path, shape: tuple[int, int, int], threads: int, network: list[str]) -> dict[str, Any]:
    """The measurements of both directions."""
    from ivan.benchmark.machine import commit
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
        "commit": commit() or "unknown",
    }


def main(arguments: list[str] | None = None) -> None:
    from ivan.training.files import replace_json

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
    replace_json(args.json, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
