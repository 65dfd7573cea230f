"""Do several inputs beat one? The same short training with each set of sources, measured on an unseen slab.

    python benchmarks/several_inputs.py sri24     --out runs/inputs-sri24       T1, PD, T1 + PD -> T2
    python benchmarks/several_inputs.py templates --out runs/inputs-templates   T1, T2, T1 + T2 -> PET

The images are read from $IVAN_SHARED/data (default: ../shared/data). `templates` are group averages smoothed
to about 4 to 8 mm (MNI templates as distributed with SPM): they show that the mapping runs, not how well PET
can be synthesised.
One head each: training and measured slabs lie 8 mm or more apart in the same volumes. Equal steps, which is
equal work here: each of these mappings is a network of two channels. PSNR over the measured slab, background
included, data range 1, last checkpoint; beside it the best pixelwise table of the same sources.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_run import write_reduced

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Task:
    """Files by modality, sets of sources, the target, and axial slices (after reduction) of 2 mm."""

    folder: str
    files: dict[str, str]
    reduce: bool
    inputs: tuple[tuple[str, ...], ...]
    target: str
    training: list[list[int]]
    measured: list[int]


TASKS = {
    "sri24": Task(
        "sri24_T1_T2_PD",
        {"T1": "T1_spgr.nii.gz", "PD": "PD_erly.nii.gz", "T2": "T2_late.nii.gz"},
        True,
        (("T1",), ("PD",), ("T1", "PD")),
        "T2",
        [[4, 30], [54, 74]],
        [34, 50],
    ),
    "templates": Task(
        "templates_2mm",
        {"T1": "avg152_T1.nii.gz", "T2": "avg152_T2.nii.gz", "PET": "PET_template.nii.gz"},
        False,
        (("T1",), ("T2",), ("T1", "T2")),
        "PET",
        [[10, 36], [60, 76]],
        [40, 56],
    ),
}
SHORT = {  # minutes, not hours: the defaults of `ivan train` with a smaller network on patches
    "blocks": 4,
    "growth": 16,
    "patch_size": 48,
    "threads": 1,
}


def prepare(task: Task, shared: Path, out: Path) -> None:
    """Write out/{train,test}/MODALITY/*.nii.gz at 2 mm on the first modality's grid, and out/split.json.

    Reduced volumes are reduced eight times for training, the 2x2x2 blocks starting at each of the voxels.
    """
    from ivan.data import Case, load_case

    names = list(task.files)
    files = {name: shared / "data" / task.folder / file for name, file in task.files.items()}
    loaded = load_case(Case("head", "head", files), names)
    factor = 2 if task.reduce else 1
    phases = list(itertools.product(range(factor), repeat=3))
    parts = [("test", "head", phases[0]), *(("train", f"head{k}", phase) for k, phase in enumerate(phases))]
    for index, name in enumerate(names):
        volume = loaded.to_volume(loaded.slices[:, index])
        for part, case, phase in parts:
            path = out / part / name / f"{case}.nii.gz"
            write_reduced(volume, loaded.reference.affine, phase, factor, 0, None, path)
    training = [{"case": case, "slices": s} for _, case, _ in parts[1:] for s in task.training]
    (out / "split.json").write_text(json.dumps({"training": training, "validation": []}))


def table_psnr(task: Task, sources: tuple[str, ...], out: Path) -> float:
    """PSNR in dB of the best pixelwise table of these sources."""
    from ivan.data import find_cases, load_case
    from ivan.demo.baseline import PixelTable
    from ivan.metrics import psnr

    names = [*sources, task.target]
    heads = [load_case(case, names).slices for case in find_cases(out / "train", names)]
    slabs = [head[a:b].swapaxes(0, 1) for head in heads for a, b in task.training]  # of sizes one apart
    seen = np.concatenate([slab.reshape(len(names), -1) for slab in slabs], axis=1)
    (case,) = find_cases(out / "test", names)
    test = load_case(case, names).slices[slice(*task.measured)].transpose(1, 0, 2, 3)
    table = PixelTable.fit(seen[:-1], seen[-1])
    return float(psnr(test[-1], table.predict(test[:-1]), data_range=1.0))


def run_once(task: Task, sources: tuple[str, ...], seed: int, steps: int, out: Path) -> dict[str, float]:
    """Train (or take the finished run of an earlier call): forward PSNR in dB, seconds of processor time."""
    import ivan

    run = out / f"{'+'.join(sources)}-seed{seed}"
    spent = out / f"{run.name}.seconds"
    settings = dict(
        data=str(out / "train"), split=str(out / "split.json"), sources=sources, targets=(task.target,),
        out=str(run), max_steps=steps, epochs=steps, seed=seed, validate_epochs=0, tensorboard=False, **SHORT,
    )  # fmt: skip
    if not (run / "report.html").exists():
        started = time.process_time()
        before = float(spent.read_text()) if spent.exists() else 0.0
        try:
            if (run / "checkpoint").exists():
                ivan.fit(resume=True, out=str(run), progress=False)
            else:
                ivan.fit(progress=False, **settings)
        finally:
            spent.write_text(str(before + time.process_time() - started))
    result = ivan.evaluate(run=run, data=out / "test", direction="forward", slices=tuple(task.measured))
    return {"psnr": float(result.cases[0].values["psnr"]), "processor_seconds": float(spent.read_text())}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results.json")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs for each set of sources")
    args = parser.parse_args(arguments)
    task, out = TASKS[args.task], args.out
    if not (out / "split.json").exists():
        prepare(task, Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared")), out)
    from ivan.benchmark.machine import commit
    from ivan.environment import collect

    code = commit()  # now: the sources may change while it runs
    rows = []
    for sources in task.inputs:
        found = [run_once(task, sources, seed, args.steps, out) for seed in range(args.seeds)]
        psnr = [one["psnr"] for one in found]
        spread = f" +- {statistics.stdev(psnr):.2f}" if len(psnr) > 1 else ""
        table = table_psnr(task, sources, out)
        name = f"{' + '.join(sources)} -> {task.target}"
        seconds = [round(one["processor_seconds"]) for one in found]
        rows.append({"mapping": name, "psnr": psnr, "processor_seconds": seconds, "pixelwise_table": table})
        print(
            f"{name:16} {statistics.mean(psnr):6.2f}{spread} dB, pixelwise table {table:.2f} dB", flush=True
        )
    protocol = {"steps": args.steps, "settings": SHORT, "measured slices": task.measured, "commit": code}
    protocol |= {"processor": collect()["Devices"]["processor"]}
    (out / "results.json").write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
