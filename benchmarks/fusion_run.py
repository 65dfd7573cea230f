"""Fusion, end to end: a network for each built-in target, beside the fixed rules, and taken apart again.

    python benchmarks/fusion_run.py flair --out runs/fusion-flair   T1 + FLAIR, patient 07 to patient 26
    python benchmarks/fusion_run.py ct    --out runs/fusion-ct      T1 + CT template, one slab to another
    python benchmarks/fusion_run.py pet   --out runs/fusion-pet     T1 + PET template
    python benchmarks/fusion_run.py spect --out runs/fusion-spect   T1 + SPECT template

The images are read from $IVAN_SHARED/data (default: ../shared/data). CT, PET and SPECT are group averages smoothed
to about 8 mm: they show that the mapping runs, not how such images should be fused; T1 there is one subject. Trained and
fused slices are of two patients, or of slabs of one head 8 mm apart. Writes OUT/results.json, table.md and figure.png; a
finished network is not trained again.
"""  # noqa: E501

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from real_run import write_reduced
from several_inputs import SHORT

REPO = Path(__file__).resolve().parent.parent
TARGETS = ("laplacian", "wavelet", "unsupervised")
RULES = ("average", "maximum", "laplacian", "wavelet")


@dataclass(frozen=True)
class Pair:
    """Files by modality of the training and of the fused case, and axial slices of 2 mm; `reduce`: files have
    1 mm."""

    folder: str
    training: dict[str, str]
    fused: dict[str, str]
    training_slices: list[list[int]]
    fused_slices: list[int]
    reduce: bool


def _templates(name: str, file: str) -> Pair:
    files = {"T1": "single_subj_T1_colin27.nii.gz", name: file}
    return Pair("templates_2mm", files, files, [[10, 36], [60, 76]], [40, 56], False)


def _patient(number: str) -> dict[str, str]:
    return {name: f"patient{number}_{name}.nii.gz" for name in ("T1", "FLAIR")}


PAIRS = {
    "flair": Pair("ms_mni_T1_T2_FLAIR", _patient("07"), _patient("26"), [[8, 72]], [20, 70], True),
    "ct": _templates("CT", "CT_scct_template.nii.gz"),
    "pet": _templates("PET", "PET_template.nii.gz"),
    "spect": _templates("SPECT", "SPECT_template.nii.gz"),
}


def prepare(pair: Pair, shared: Path, out: Path) -> None:
    """Write out/train (of volumes of 1 mm all eight reductions to 2 mm), out/test (the fused slices alone)
    and out/split.json.

    Every volume is read onto the first modality's grid and divided by its own foreground percentile.
    """
    from ivan.data import Case, load_case

    names = list(pair.training)
    factor = 2 if pair.reduce else 1
    phases = list(itertools.product(range(factor), repeat=3))
    for part, files in (("train", pair.training), ("test", pair.fused)):
        paths = {name: shared / "data" / pair.folder / file for name, file in files.items()}
        loaded = load_case(Case("head", "head", paths), names)
        first, end = pair.fused_slices if part == "test" else (0, None)
        for index, name in enumerate(names):
            volume = loaded.to_volume(loaded.slices[:, index])
            for number, phase in enumerate(phases if part == "train" else phases[:1]):
                path = out / part / name / f"head{number}.nii.gz"
                write_reduced(volume, loaded.reference.affine, phase, factor, first, end, path)
    training = [{"case": f"head{k}", "slices": s} for k in range(len(phases)) for s in pair.training_slices]
    (out / "split.json").write_text(json.dumps({"training": training, "validation": []}))


def run_once(pair: Pair, target: str, steps: int, seed: int, out: Path) -> Any:
    """Train for one target, or take the finished run, and fuse: an `ivan.fusion.measure.FusionResult`."""
    import ivan

    run = out / f"run-{target}"
    if not (run / "report.html").exists():
        if (run / "checkpoint").exists():
            ivan.fit(resume=True, out=str(run), progress=False)
        else:
            ivan.fit(
                data=str(out / "train"), split=str(out / "split.json"), sources=tuple(pair.training),
                task="fusion", fusion_target=target, out=str(run), max_steps=steps, epochs=steps, seed=seed,
                normalise="none", validate_epochs=0, tensorboard=False, progress=False, **SHORT,
            )  # fmt: skip
    return ivan.fuse(data=out / "test", out=out / f"fused-{target}", run=run, progress=False)


def table(rows: list[dict[str, Any]]) -> str:
    """Two Markdown tables: the fused images, and the sources that come back."""
    from ivan.fusion.measure import DECOMPOSITION_COLUMNS, FUSION_COLUMNS

    parts = []
    for columns, wanted, first in (
        (FUSION_COLUMNS, True, ["fused by"]),
        (DECOMPOSITION_COLUMNS, False, ["network of", "source", "from"]),
    ):
        heads = [*first, *(f"{label} [{unit}]" if unit else label for _, label, unit in columns)]
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for row in rows:
            if (row["part"] == "fusion") != wanted:
                continue
            cells = [row["method"]] if wanted else [row["network"], row["part"], row["method"]]
            cells += [f"{float(row['values'][key]):.4g}" for key, _, _ in columns]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def figure(pair: Pair, out: Path, path: Path) -> None:
    """The middle slice: sources and fused images above, the sources that each network gives back below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import nibabel as nib

    names = list(pair.training)
    shown: list[tuple[str, Path]] = [(name, out / "test" / name / "head0.nii.gz") for name in names]
    shown += [
        (f"network, {target}", out / f"fused-{target}" / "fused" / "head0.nii.gz") for target in TARGETS
    ]
    below: list[tuple[str, Path]] = [
        (f"{name} from {target}", out / f"parts-{target}" / "approximate" / name / "head0.nii.gz")
        for target in TARGETS
        for name in names
    ]
    columns = max(len(shown), len(below))
    fig, axes = plt.subplots(2, columns, figsize=(2.1 * columns, 5.2), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, images in zip(axes, (shown, below), strict=True):
        for axis, (title, file) in zip(line, images, strict=False):
            volume = np.asarray(nib.as_closest_canonical(nib.load(file)).dataobj)
            axis.imshow(np.rot90(volume[:, :, volume.shape[2] // 2]), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=100)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", choices=sorted(PAIRS))
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each network")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    pair, out = PAIRS[args.pair], args.out
    import ivan
    from ivan.benchmark.machine import commit
    from ivan.environment import collect
    from ivan.training.files import replace_json

    code, facts = commit(), collect()  # as they are now: the sources may change while it runs
    if not (out / "split.json").exists():
        prepare(pair, Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared")), out)
    rows: list[dict[str, Any]] = []
    for target in TARGETS:
        started = time.process_time()
        found = run_once(pair, target, args.steps, args.seed, out)
        for row in found.to_json()["rows"]:
            if row["method"] in RULES:
                if target == TARGETS[0]:  # the same for each
                    rows.append(row)
                continue
            method = f"network, {target}" if row["part"] == "fusion" else row["method"].split(",")[0]
            rows.append({**row, "method": method, "network": target})
        ivan.decompose(
            out / f"fused-{target}", out / f"parts-{target}", run=out / f"run-{target}", progress=False
        )
        print(f"{target}: {time.process_time() - started:.0f} s of processor time", flush=True)
    protocol = {
        "pair": args.pair, "steps": args.steps, "seed": args.seed, "settings": SHORT,
        "fused slices": pair.fused_slices, "commit": code, "machine": facts["Devices"],
    }  # fmt: skip
    replace_json(out / "results.json", {"protocol": protocol, "rows": rows})
    text = table(rows)
    (out / "table.md").write_text(text, encoding="utf-8")
    figure(pair, out, out / "figure.png")
    print(text)


if __name__ == "__main__":
    main()
