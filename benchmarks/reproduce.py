"""A small run on real images, and its numbers against the committed ones (`make reproduce`).

    python benchmarks/reproduce.py --out runs/reproduce            train, synthesise, evaluate, compare
    python benchmarks/reproduce.py --out runs/reproduce --record   write the record anew

T1 -> T2 and back, trained on patient 07 and measured on patient 26 by the protocol of `real_run.py`, with a
small network, so that it takes minutes on two cores: a check that an installation trains as it should, not a
result. The record is benchmarks/results/reproduce.json. The images are read from $IVAN_SHARED/data (default:
../shared/data). Exit code 0: the numbers agree; 1: they do not, or a command failed; 2: no images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import real_run

RECORD = real_run.REPO / "benchmarks" / "results" / "reproduce.json"
STEPS = 600
# One thread: sums then have one order on every machine with the same instruction set.
RECIPE = f"{real_run.RECIPE} --blocks 4 --growth 16 --threads 1 --device cpu --no-tensorboard"
TOLERANCE = {"psnr": 0.5, "ssim": 0.02}
WHY = (
    "on one processor the numbers repeat to the last digit; other instruction sets, torch versions and "
    "kernels round differently, and hundreds of steps make that a different training of the same quality"
)


class Missing(Exception):
    """The images are not where they were looked for."""


def images(shared: Path) -> None:
    """Raise Missing where an image of the run is absent."""
    experiment = real_run.EXPERIMENTS["ms"]
    folder = shared / "data" / experiment.folder
    for files in (*experiment.training.values(), *experiment.measured.values()):
        for name in files.values():
            if not (folder / name).is_file():
                raise Missing(
                    f"{folder / name}: absent, expected an image of the real data; set IVAN_SHARED to the "
                    "folder that holds data/ (docs/results.md says which images these are)"
                )


def run(out: Path, shared: Path, steps: int) -> tuple[dict[str, dict[str, float]], float]:
    """Prepare, train, synthesise both ways, evaluate: (direction and target -> numbers, seconds)."""
    experiment = real_run.EXPERIMENTS["ms"]
    real_run.prepare(experiment, shared, out)
    started = time.monotonic()
    real_run.command(
        "train", "--data", str(out / "train"), "--split", str(out / "split.json"), "--from", "T1", "--to",
        "T2", "--out", str(out / "run"), "--max-steps", str(steps), "--epochs", str(steps), *RECIPE.split(),
    )  # fmt: skip
    seconds = time.monotonic() - started
    test = ["--run", str(out / "run"), "--data", str(out / "test"), "--device", "cpu"]
    real_run.command("synthesize", *test, "--out", str(out / "synthesised"))
    real_run.command("synthesize", *test, "--out", str(out / "synthesised"), "--inverse")
    first, end = experiment.measured_slices
    real_run.command("evaluate", *test, "--slices", f"{first}:{end}", "--out", str(out / "evaluation"))
    found = json.loads((out / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    return {
        f"{mean['direction']} {mean['target']}": {name: float(mean["values"][name]) for name in TOLERANCE}
        for mean in found["means"]
    }, seconds


def compare(found: dict[str, dict[str, float]], record: dict[str, Any]) -> tuple[list[str], bool]:
    """A line for each number beside the recorded one, and whether all are within the record's tolerance."""
    lines, good = [], found.keys() == record["numbers"].keys()
    for what, numbers in record["numbers"].items():
        for name, expected in numbers.items():
            number, allowed = found.get(what, {}).get(name, float("nan")), record["tolerance"][name]
            near = abs(number - expected) <= allowed  # NaN is not near
            good &= near
            verdict = "same" if number == expected else "agrees" if near else "DIFFERS"
            lines.append(
                f"{what:<12} {name:<5} {number:8.4f}  recorded {expected:8.4f} +- {allowed:g}  {verdict}"
            )
    return lines, good


def about(seconds: float) -> dict[str, Any]:
    """What the numbers were made with."""
    from ivan.benchmark.machine import commit
    from ivan.environment import collect

    made = collect()
    return {
        "commit": commit() or "unknown",
        "processor": f"{made['Devices']['processor']}, {made['Devices']['cores']} cores",
        "versions": {name: made["Versions"][name] for name in ("python", "torch", "numpy")},
        "kernels": made["Kernels"],
        "training_seconds": round(seconds),
    }


def main(arguments: list[str] | None = None) -> int:
    from ivan.training.files import replace_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder for data and run")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps; others are not compared")
    parser.add_argument("--record", action="store_true", help="write the record instead of comparing with it")
    args = parser.parse_args(arguments)
    shared = Path(os.environ.get("IVAN_SHARED", real_run.REPO.parent / "shared"))
    try:
        images(shared)
    except Missing as missing:
        print(f"reproduce: {missing}", file=sys.stderr)
        return 2
    if (args.out / "run").exists():
        print(
            f"reproduce: {args.out}/run exists, expected a new folder; remove it or name another --out",
            file=sys.stderr,
        )
        return 2
    try:
        found, seconds = run(args.out, shared, args.steps)
    except subprocess.CalledProcessError as error:
        print(f"reproduce: ivan {error.cmd[3]} failed with exit code {error.returncode}", file=sys.stderr)
        return 1
    print(f"\ntrained in {seconds:.0f} s; page: {args.out / 'evaluation' / 'report.html'}")
    if args.record:
        content = {
            "steps": args.steps, "recipe": RECIPE, "numbers": found, "tolerance": TOLERANCE, "why": WHY,
            "made with": about(seconds),
        }  # fmt: skip
        replace_json(RECORD, content)
        print(f"wrote {RECORD}")
        return 0
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    lines, good = compare(found, record)
    print(*lines, sep="\n")
    if args.steps != record["steps"]:
        print(f"not judged: {args.steps} steps, the record is of {record['steps']}")
        return 0
    print(f"recorded on: {record['made with']['processor']}, commit {record['made with']['commit']}")
    print("reproduced" if good else f"NOT reproduced; differences are allowed because {record['why']}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
