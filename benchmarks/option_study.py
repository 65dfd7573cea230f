"""Which options make the network better: one change at a time against the recipe of the real run, several
seeds.

    python benchmarks/option_study.py patient07 --out runs/study       T1 -> T2 within one patient
    python benchmarks/option_study.py sri24     --out runs/study-sri24 T1 + PD -> T2 within one atlas head
    options: --options ssim-0.1,ema  --steps 1500  --seeds 3  --blocks 4 --growth 16  --threads 1

Trained on slabs of one head, measured on slabs that lie 8 mm or more away (docs/results.md), so that nothing
is chosen on patient 26. Equal numbers of steps; the processor time beside them says what a change costs.
Finished runs are not repeated, stopped ones are continued. A difference below the spread over seeds is noise.
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

from real_run import EXPERIMENTS, Experiment, prepare

REPO = Path(__file__).resolve().parent.parent
BASE: dict[str, Any] = {  # beside the defaults of `ivan train`
    "patch_size": 48,
    "rotate": 9.0,
    "zoom": 0.06,
    "normalise": "none",
    "validate_epochs": 0,
    "checkpoint_minutes": 2.0,
    "tensorboard": False,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "norm-l1": {"norm": "l1"},
    "supervise-mean": {"supervise": "mean"},
    "public-loss": {"reverse_from": "prediction", "supervise": "mean"},
    "public-recipe": {"recipe": "public"},
    "fill-zero": {"fill": "zero"},
    "fill-noise": {"fill": "noise"},
    "weight-0.5": {"weight": 0.5},
    "weight-2": {"weight": 2.0},
    "ssim-0.03": {"ssim_weight": 0.03},
    "ssim-0.1": {"ssim_weight": 0.1},
    "ema": {"ema": 0.999},
    "lr-1e-3": {"lr": 1e-3},
    "lr-4e-3": {"lr": 4e-3},
    "lr-4e-3-ema": {"lr": 4e-3, "ema": 0.995},
    "no-warmup": {"warmup_steps": 0},
    "step-schedule": {"schedule": "step"},
    "no-clip": {"clip": 0.0},
    "clip-0.25": {"clip": 0.25},
    "rotation-start": {"mix_start": "rotation"},
    "plain-start": {"mix_start": "rotation", "last_scale": 1.0},
    "last-scale-0.02": {"last_scale": 0.02},
    "no-affine": {"rotate": 0.0, "zoom": 0.0},
    "intensity": {"contrast": 0.15, "brightness": 0.05},
    "patch-32": {"patch_size": 32},
    "whole-slices": {"patch_size": 0},
    "channels-4": {"channels": 4},
    "context-1": {"context": 1},
    "blocks-4-growth-48": {"blocks": 4, "growth": 48},
    "blocks-16-growth-20": {"blocks": 16, "growth": 20},
}
# Axial slices of 2 mm: four between the slabs are used by neither.
PATIENT07 = dataclasses.replace(
    EXPERIMENTS["ms"],
    measured=EXPERIMENTS["ms"].training,
    training_slices=[[8, 24], [46, 72]],
    measured_slices=[28, 42],
)
STUDIES = {"patient07": PATIENT07, "sri24": EXPERIMENTS["sri24"]}


def run_once(
    experiment: Experiment, name: str, seed: int, steps: int, out: Path, more: dict[str, Any]
) -> dict[str, Any]:
    """Train one setting and measure it; what an earlier call finished is read."""
    import ivan
    from ivan.training.files import replace_json

    path = out / "results" / f"{name}-seed{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    run = out / "runs" / f"{name}-seed{seed}"
    settings = {**BASE, **more, **OPTIONS[name]}
    started = time.process_time()
    if (run / "checkpoint").exists():
        ivan.fit(resume=True, out=str(run), progress=False)
    else:
        ivan.fit(
            data=str(out / "data" / "train"), split=str(out / "data" / "split.json"),
            sources=experiment.sources, targets=experiment.targets, out=str(run), max_steps=steps,
            epochs=steps, seed=seed, progress=False, **settings,
        )  # fmt: skip
    seconds = time.process_time() - started
    first, end = experiment.measured_slices
    found = ivan.evaluate(run=run, data=out / "data" / "test", slices=(first, end))
    rows = {f"{row.direction} {row.target}": row.values for row in found.cases}
    result = {
        "option": name,
        "seed": seed,
        "steps": steps,
        "processor_seconds": seconds,
        "settings": settings,
        "rows": rows,
    }
    replace_json(path, result)
    return result


def main(arguments: list[str] | None = None, more: dict[str, Any] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--options", default=",".join(OPTIONS), help="settings to run, by name")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--growth", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as PyTorch chooses")
    args = parser.parse_args(arguments)
    names = args.options.split(",")
    if strange := [name for name in names if name not in OPTIONS]:
        parser.error(f"--options: '{strange[0]}' given, expected some of {', '.join(OPTIONS)}")
    experiment = STUDIES[args.study]
    if not (args.out / "data" / "split.json").exists():
        prepare(experiment, Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared")), args.out / "data")
    shape = {"blocks": args.blocks, "growth": args.growth, "threads": args.threads, **(more or {})}
    lines: list[str] = []
    for name in names:
        found = [run_once(experiment, name, seed, args.steps, args.out, shape) for seed in range(args.seeds)]
        cells = []
        for row in found[0]["rows"]:
            values = [run["rows"][row]["psnr"] for run in found]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}")
        if not lines:
            lines = [
                "| option | "
                + " | ".join(f"{row} [dB]" for row in found[0]["rows"])
                + " | processor time [s] |"
            ]
            lines.append("|" + "---|" * (2 + len(cells)))
            print("\n".join(lines))
        seconds = statistics.fmean(run["processor_seconds"] for run in found)
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
