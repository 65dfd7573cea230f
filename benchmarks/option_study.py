"""Which options make the network better: one change at a time against the recipe of the real run, several
seeds.

    python benchmarks/option_study.py --out runs/study [--options ssim-0.1,ema] [--steps 1500] [--seeds 3]

T1 -> T2 within patient 07 alone (docs/results.md): trained on slabs of it, measured on slabs that lie 8 mm or
more away, so that nothing is chosen on patient 26. Equal numbers of steps; the seconds beside them say what a
change costs. Finished runs are not repeated, stopped ones are continued. A difference below the spread over
seeds is noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from real_run import EXPERIMENTS, prepare

REPO = Path(__file__).resolve().parent.parent
BASE: dict[str, Any] = {
    "patch_size": 48,
    "last_scale": 0.1,
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 100,
    "rotate": 9.0,
    "zoom": 0.06,
    "contrast": 0.15,
    "brightness": 0.05,
    "normalise": "none",
    "validate_epochs": 0,
    "checkpoint_minutes": 2.0,
    "tensorboard": False,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "norm-l1": {"norm": "l1"},
    "supervise-mean": {"supervise": "mean"},
    "public-loss": {"recipe": "public"},
    "fill-zero": {"fill": "zero"},
    "fill-noise": {"fill": "noise"},
    "weight-0.5": {"weight": 0.5},
    "weight-2": {"weight": 2.0},
    "ssim-0.03": {"ssim_weight": 0.03},
    "ssim-0.1": {"ssim_weight": 0.1},
    "ema": {"ema": 0.999},
    "no-warmup": {"warmup_steps": 0},
    "step-schedule": {"schedule": "step"},
    "no-clip": {"clip": 0.0},
    "clip-0.25": {"clip": 0.25},
    "plain-start": {"last_scale": 1.0},
    "last-scale-0.01": {"last_scale": 0.01},
    "no-affine": {"rotate": 0.0, "zoom": 0.0},
    "no-intensity": {"contrast": 0.0, "brightness": 0.0},
    "whole-slices": {"patch_size": 0},
    "channels-4": {"channels": 4},
    "context-1": {"context": 1},
    "blocks-4-growth-48": {"blocks": 4, "growth": 48},
    "blocks-16-growth-20": {"blocks": 16, "growth": 20},
}
# Axial slices of 2 mm: four between the slabs are used by neither.
TRAINING, MEASURED = [[8, 24], [46, 72]], [28, 42]


def run_once(name: str, seed: int, steps: int, out: Path, more: dict[str, Any]) -> dict[str, Any]:
    """Train one setting and measure it; what an earlier call finished is read."""
    import ivan
    from ivan.training.files import replace_json

    path = out / "results" / f"{name}-seed{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    run = out / "runs" / f"{name}-seed{seed}"
    settings = {**BASE, **more, **OPTIONS[name]}
    started = time.monotonic()
    if (run / "checkpoint").exists():
        ivan.fit(resume=True, out=str(run), progress=False)
    else:
        ivan.fit(
            data=str(out / "data" / "train"), split=str(out / "data" / "split.json"), sources=("T1",),
            targets=("T2",), out=str(run), max_steps=steps, epochs=steps, seed=seed, progress=False,
            **settings,
        )  # fmt: skip
    seconds = time.monotonic() - started
    found = ivan.evaluate(run=run, data=out / "data" / "test", slices=(MEASURED[0], MEASURED[1]))
    rows = {row.direction: row.values for row in found.cases}
    result = {
        "option": name,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "settings": settings,
        "rows": rows,
    }
    replace_json(path, result)
    return result


def main(arguments: list[str] | None = None, more: dict[str, Any] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--options", default=",".join(OPTIONS), help="settings to run, by name")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(arguments)
    names = args.options.split(",")
    if strange := [name for name in names if name not in OPTIONS]:
        parser.error(f"--options: '{strange[0]}' given, expected some of {', '.join(OPTIONS)}")
    patient = EXPERIMENTS["ms"].training
    experiment = dataclasses.replace(EXPERIMENTS["ms"], measured=patient, training_slices=TRAINING)
    if not (args.out / "data" / "split.json").exists():
        prepare(experiment, Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared")), args.out / "data")
    lines = [
        "| option | forward PSNR [dB] | reverse PSNR [dB] | SSIM forward | seconds |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        found = [run_once(name, seed, args.steps, args.out, more or {}) for seed in range(args.seeds)]
        cells = []
        for direction, key, digits in (
            ("forward", "psnr", 2),
            ("inverse", "psnr", 2),
            ("forward", "ssim", 4),
        ):
            values = [run["rows"][direction][key] for run in found]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{spread}")
        seconds = statistics.fmean(run["seconds"] for run in found)
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
