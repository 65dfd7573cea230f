"""Which options make the network better: one change at a time against the recipe of the real run, several
seeds.

    python benchmarks/option_study.py patient07 --out runs/study       T1 -> T2 within one patient
    python benchmarks/option_study.py sri24     --out runs/study-sri24 T1 + PD -> T2 within one atlas head
    options: --options ssim-0.1,ema  --steps 1000  --seeds 0,1,2  --blocks 4 --growth 16  --threads 1

Trained on slabs of one head, measured on slabs that lie 8 mm or more away (docs/results.md), so that nothing
is chosen on patient 26. Equal numbers of steps; the processor time beside them says what a change costs. All
options run with the first seed, then all with the next. Every option is compared with `base` of the same
seed; a difference below its spread over seeds is noise. Finished runs are not repeated, stopped ones are
continued; `--results FILE` keeps them where another day can add to them.
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
    "ssim-0.3": {"ssim_weight": 0.3},
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
    "half-blocks": {"blocks": 0.5, "growth": 1.5},  # factors: both cost 1.1 times the convolutions of base
    "twice-blocks": {"blocks": 2.0, "growth": 0.75},
}
SHAPE = ("blocks", "growth")
# Axial slices of 2 mm: four between the slabs are used by neither.
PATIENT07 = dataclasses.replace(
    EXPERIMENTS["ms"],
    measured=EXPERIMENTS["ms"].training,
    training_slices=[[8, 24], [46, 72]],
    measured_slices=[28, 42],
)
STUDIES = {"patient07": PATIENT07, "sri24": EXPERIMENTS["sri24"]}


def settings_of(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    """What `ivan.fit` is given for one option beside `shape`, whose factors become numbers."""
    change = dict(OPTIONS[name])
    for key in SHAPE:
        if key in change:
            change[key] = round(shape[key] * change[key])
    return {**BASE, **shape, **change}


def run_once(
    experiment: Experiment, name: str, seed: int, steps: int, out: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Train one setting, or continue it, and measure it."""
    import ivan

    run = out / "runs" / f"{name}-seed{seed}"
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
    return {
        "option": name,
        "seed": seed,
        "processor_seconds": seconds,
        "change": {key: settings[key] for key in OPTIONS[name]},
        "rows": {f"{row.direction} {row.target}": row.values for row in found.cases},
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and spread over seeds of the PSNR, and of its difference to `base` of the same seed."""
    by_option: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        by_option.setdefault(run["option"], {})[run["seed"]] = run
    base = by_option.get("base", {})
    rows = list(runs[0]["rows"])
    heads = [f"{row} [dB] | to base" for row in rows]
    lines = [f"| option | seeds | {' | '.join(heads)} | processor time [s] |"]
    lines.append("|" + "---|" * (3 + 2 * len(rows)))
    for name, seeds in by_option.items():
        cells = []
        for row in rows:
            values = {seed: run["rows"][row]["psnr"] for seed, run in seeds.items()}
            steps = [
                value - base[seed]["rows"][row]["psnr"] for seed, value in values.items() if seed in base
            ]
            cells += [
                spread(list(values.values()), ""),
                spread(steps, "+") if name != "base" and steps else "-",
            ]
        seconds = statistics.fmean(run["processor_seconds"] for run in seeds.values())
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], sign: str) -> str:
    """Mean ± standard deviation, the latter only of several."""
    more = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{more}"


def kept(path: Path, protocol: dict[str, Any]) -> dict[str, Any]:
    """The record at `path`, or a new one; one of another protocol is refused."""
    if not path.exists():
        return {"protocol": protocol, "runs": []}
    record = dict(json.loads(path.read_text(encoding="utf-8")))
    if record.get("protocol") != protocol:
        raise SystemExit(
            f"option_study: {path} holds runs of {record.get('protocol')}, expected {protocol}; "
            "give --results another file"
        )
    return record


def main(arguments: list[str] | None = None, more: dict[str, Any] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--options", default=",".join(OPTIONS), help="settings to run, by name")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", default="0,1,2", help="one run each of every option")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--growth", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as PyTorch chooses")
    parser.add_argument("--results", type=Path, help="file of the finished runs (default: OUT/results.json)")
    args = parser.parse_args(arguments)
    names = args.options.split(",")
    if strange := [name for name in names if name not in OPTIONS]:
        parser.error(f"--options: '{strange[0]}' given, expected some of {', '.join(OPTIONS)}")
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds: '{args.seeds}' given, expected whole numbers, such as 0,1,2")
    from ivan.benchmark.machine import commit
    from ivan.environment import collect
    from ivan.training.files import replace_json

    facts, code = collect(), commit()  # as they are now: the sources may change while it runs
    machine = {**facts["Devices"], "torch": facts["Versions"]["torch"]}
    experiment = STUDIES[args.study]
    if not (args.out / "data" / "split.json").exists():
        prepare(experiment, Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared")), args.out / "data")
    shape = {"blocks": args.blocks, "growth": args.growth, "threads": args.threads, **(more or {})}
    protocol = {"study": args.study, "steps": args.steps, **{key: shape[key] for key in SHAPE}}
    path = args.results or args.out / "results.json"
    for seed in seeds:
        for name in names:
            record = kept(path, protocol)
            if any(run["option"] == name and run["seed"] == seed for run in record["runs"]):
                continue
            run = run_once(experiment, name, seed, args.steps, args.out, settings_of(name, shape))
            run |= {"commit": code, "machine": machine}
            record = kept(path, protocol)  # another process may have added to it
            record["runs"].append(run)
            replace_json(path, record)
            found = ", ".join(f"{row} {values['psnr']:.2f} dB" for row, values in run["rows"].items())
            print(f"{name}, seed {seed}: {found}, {run['processor_seconds']:.0f} s", flush=True)
    text = table(kept(path, protocol)["runs"])
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
