"""Do several inputs beat one? The same short training with each set of sources, measured on an unseen slab.

    python benchmarks/several_inputs.py sri24     --out runs/inputs-sri24       T1, PD, T1 + PD -> T2
    python benchmarks/several_inputs.py templates --out runs/inputs-templates   T1, T2, T1 + T2 -> PET

The images are read from $IVAN_SHARED/data (default: ../shared/data). `templates` are group averages smoothed
to about 4 to 8 mm (MNI templates as distributed with SPM): they show that the mapping runs, not how well PET
can be synthesised.
One head each: training and measured slabs lie 8 mm or more apart in the same volumes. PSNR over the measured
slab, background included, data range 1, last checkpoint; beside it the best pixelwise table of the same
sources.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_run import block_means

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
SHORT = {  # minutes, not hours: the recipe of benchmarks/real_run.py with a smaller network
    "blocks": 4,
    "growth": 16,
    "patch_size": 48,
    "last_scale": 0.1,
    "lr": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 40,
}


def prepare(task: Task, shared: Path, out: Path) -> None:
    """Write out/data/MODALITY/head.nii.gz at 2 mm on the first modality's grid, and out/split.json."""
    import nibabel as nib

    from ivan.data import Case, load_case

    names = list(task.files)
    files = {name: shared / "data" / task.folder / file for name, file in task.files.items()}
    loaded = load_case(Case("head", "head", files), names)
    factor = 2 if task.reduce else 1
    affine = loaded.reference.affine @ np.diag([factor, factor, factor, 1])
    centre = [(factor - 1) / 2] * 3  # of the first block
    affine[:3, 3] = (loaded.reference.affine @ np.array([*centre, 1]))[:3]
    for index, name in enumerate(names):
        volume = loaded.to_volume(loaded.slices[:, index])
        volume = block_means(volume).astype(np.float32) if task.reduce else volume
        path = out / "data" / name / "head.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(volume, affine).to_filename(path)
    split = {"training": [{"case": "head", "slices": s} for s in task.training], "validation": []}
    (out / "split.json").write_text(json.dumps(split))


def table_psnr(task: Task, sources: tuple[str, ...], out: Path) -> float:
    """PSNR in dB of the best pixelwise table of these sources."""
    from ivan.data import find_cases, load_case
    from ivan.demo.baseline import PixelTable
    from ivan.metrics import psnr

    slices = load_case(find_cases(out / "data", [*sources, task.target])[0], [*sources, task.target]).slices
    seen = np.concatenate([slices[a:b] for a, b in task.training]).transpose(1, 0, 2, 3)
    test = slices[slice(*task.measured)].transpose(1, 0, 2, 3)
    table = PixelTable.fit(seen[:-1].reshape(len(sources), -1), seen[-1].ravel())
    return float(psnr(test[-1], table.predict(test[:-1]), data_range=1.0))


def run_once(task: Task, sources: tuple[str, ...], seed: int, steps: int, out: Path) -> float:
    """Train (or take the finished run of an earlier call) and return the forward PSNR in dB."""
    import ivan

    run = out / f"{'+'.join(sources)}-seed{seed}"
    settings = dict(
        data=str(out / "data"), split=str(out / "split.json"), sources=sources, targets=(task.target,),
        out=str(run), max_steps=steps, epochs=steps, seed=seed, validate_epochs=0, tensorboard=False, **SHORT,
    )  # fmt: skip
    if not (run / "report.html").exists():
        if (run / "checkpoint").exists():
            ivan.fit(resume=True, out=str(run), progress=False)
        else:
            ivan.fit(progress=False, **settings)
    result = ivan.evaluate(run=run, data=out / "data", direction="forward", slices=tuple(task.measured))
    return float(result.cases[0].values["psnr"])


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
    rows = []
    for sources in task.inputs:
        found = [run_once(task, sources, seed, args.steps, out) for seed in range(args.seeds)]
        spread = f" +- {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        table = table_psnr(task, sources, out)
        name = f"{' + '.join(sources)} -> {task.target}"
        rows.append({"mapping": name, "psnr": found, "pixelwise_table": table})
        print(f"{name:16} {statistics.mean(found):6.2f}{spread} dB, pixelwise table {table:.2f} dB")
    protocol = {"steps": args.steps, "settings": SHORT, "measured slices": task.measured}
    (out / "results.json").write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
