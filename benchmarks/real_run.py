"""Real images, end to end: prepare, train with `ivan train`, measure with `ivan evaluate`, draw the figure.

    python benchmarks/real_run.py ms    --out runs/ms      T1 -> T2, patient 07 to patient 26
    python benchmarks/real_run.py sri24 --out runs/sri24   T1 + PD -> T2, slabs to an unseen slab

The images are read from $IVAN_SHARED/data (default: ../shared/data). Protocol: every volume is divided by its
own 99.5th percentile inside the brain (voxels above 0), reduced by 2x2x2 block means, and sliced axially;
PSNR is over all voxels of the measured slices, background included, data range 1. The measured part is never
seen in training, and nothing is selected by it: the last checkpoint counts. Beside it stands the best
pixelwise table fitted on the training part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
# Beside the defaults of `ivan train`. Chosen on held-out slabs of patient 07 and of SRI24: docs/results.md.
RECIPE = "--patch-size 48 --rotate 9 --zoom 0.06 --normalise none --validate-epochs 0 --checkpoint-minutes 5"
# From one head to another only. Within one, intensities tell the tissue: changing them costs half a decibel.
INTENSITY = "--contrast 0.15 --brightness 0.05 --intensity-on inputs"


@dataclass(frozen=True)
class Experiment:
    """What is trained and measured: modality -> file of each case, and the axial slices that count."""

    folder: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    training: dict[str, dict[str, str]]
    measured: dict[str, dict[str, str]]
    training_slices: list[list[int]]
    measured_slices: list[int]
    steps: int


def _patient(number: str) -> dict[str, str]:
    return {m: f"patient{number}_{m}.nii.gz" for m in ("T1", "T2")}


_SRI24 = {"sri24": {"T1": "T1_spgr.nii.gz", "PD": "PD_erly.nii.gz", "T2": "T2_late.nii.gz"}}

EXPERIMENTS = {
    "ms": Experiment(
        folder="ms_mni_T1_T2_FLAIR",
        sources=("T1",),
        targets=("T2",),
        training={"patient07": _patient("07")},
        measured={"patient26": _patient("26")},
        training_slices=[[8, 72]],
        measured_slices=[20, 70],
        steps=3000,
    ),
    "sri24": Experiment(  # 8 mm between the slabs: four slices of 2 mm on each side are used by neither
        folder="sri24_T1_T2_PD",
        sources=("T1", "PD"),
        targets=("T2",),
        training=_SRI24,
        measured=_SRI24,
        training_slices=[[4, 30], [54, 74]],
        measured_slices=[34, 50],
        steps=1500,
    ),
}


def block_means(volume: np.ndarray, offset: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Means of 2x2x2 blocks of [X, Y, Z], the first starting at voxel `offset` (incomplete ends cut)."""
    volume = volume[tuple(slice(start, None) for start in offset)]
    x, y, z = (size // 2 for size in volume.shape)
    return volume[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


def write_reduced(
    volume: np.ndarray,
    affine: np.ndarray,
    phase: Sequence[int],
    factor: int,
    first: int,
    end: int | None,
    path: Path,
) -> None:
    """Write axial slices `first` to `end` of [X, Y, Z], reduced by `factor` (1, or 2: the block means that
    start at voxel `phase`), where they lie by the `affine` of the unreduced volume."""
    import nibabel as nib

    reduced = block_means(volume, phase).astype(np.float32) if factor > 1 else volume
    own = affine @ np.diag([factor, factor, factor, 1])
    centre = np.array(phase) + (factor - 1) / 2 + np.array([0, 0, factor * first])  # of the first block
    own[:3, 3] = (affine @ [*centre, 1])[:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(reduced[:, :, first:end], own).to_filename(path)


def prepare(experiment: Experiment, shared: Path, out: Path) -> None:
    """Write the reduced volumes to out/train and out/test, and out/split.json for the training part.

    For training, every volume is reduced eight times, with the blocks starting at each of the 2x2x2 voxels.
    """
    from ivan.data import read_volume

    phases = list(itertools.product((0, 1), repeat=3))
    training = []
    for part, cases, offsets in (
        ("train", experiment.training, phases),
        ("test", experiment.measured, phases[:1]),
    ):
        for case, files in cases.items():
            for modality, name in files.items():
                volume = read_volume(shared / "data" / experiment.folder / name)
                scaled = volume.data / np.percentile(volume.data[volume.data > 0], 99.5)
                for number, offset in enumerate(offsets):
                    label = f"{case}_phase{number}" if part == "train" else case
                    path = out / part / modality / f"{label}.nii.gz"
                    write_reduced(scaled, volume.affine, offset, 2, 0, None, path)
        if part == "train":
            labels = [f"{case}_phase{number}" for case in cases for number in range(len(offsets))]
            training = [{"case": c, "slices": s} for c in labels for s in experiment.training_slices]
    (out / "split.json").write_text(json.dumps({"training": training, "validation": []}))


def command(*words: str) -> None:
    """Run one `ivan` command with this interpreter, printed as a user would type it."""
    print("\n$ ivan " + shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "ivan", *words], check=True)


def pixelwise(experiment: Experiment, out: Path) -> dict[str, float]:
    """PSNR in dB of the best pixelwise table, fitted on the training slices, each direction and target."""
    from ivan.data import find_cases, load_case
    from ivan.demo.baseline import PixelTable
    from ivan.metrics import psnr

    names = (*experiment.sources, *experiment.targets)
    seen = load_case(find_cases(out / "train", names)[0], names, normalise="none").slices
    seen = np.concatenate([seen[a:b] for a, b in experiment.training_slices]).transpose(1, 0, 2, 3)
    start, stop = experiment.measured_slices
    test = load_case(find_cases(out / "test", names)[0], names, normalise="none").slices[start:stop]
    test = test.transpose(1, 0, 2, 3)
    result = {}
    forward = [names.index(name) for name in experiment.sources]
    backward = [names.index(name) for name in experiment.targets]
    for word, given, wanted in (("forward", forward, backward), ("inverse", backward, forward)):
        for index in wanted:
            table = PixelTable.fit(seen[given].reshape(len(given), -1), seen[index].ravel())
            result[f"{word} {names[index]}"] = float(
                psnr(test[index], table.predict(test[given]), data_range=1.0)
            )
    return result


def figure(experiment: Experiment, out: Path, path: Path) -> None:
    """Source | prediction | reference | error of one measured slice, forward above inverse."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from ivan.data import find_cases
    from ivan.inference import load_predictor

    predictor = load_predictor(out / "run")
    names = (*experiment.sources, *experiment.targets)
    loaded = predictor.load(find_cases(out / "test", names)[0], names)
    index = sum(experiment.measured_slices) // 2
    rows = []
    for inverse in (False, True):
        given, wanted = predictor.modalities(inverse)
        shown = loaded.slices[index : index + 1]
        prediction = predictor.predict(shown[:, [names.index(name) for name in given]], inverse)
        for channel, name in enumerate(wanted):
            rows.append(
                (
                    " + ".join(given),
                    [shown[0, names.index(name)] for name in given],
                    name,
                    prediction[0, channel],
                    shown[0, names.index(name)],
                    "inverse" if inverse else "forward",
                )
            )
    columns = max(len(row[1]) for row in rows) + 3
    fig, axes = plt.subplots(len(rows), columns, figsize=(2.4 * columns, 2.75 * len(rows)), squeeze=False)
    for line, (given, sources, name, predicted, real, word) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        names_of = given.split(" + ")
        for axis, image, title in zip(line, sources, names_of, strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"source: {title}")
        for axis, image, title in zip(
            line[-3:-1], (predicted, real), (f"{name}, {word}", f"reference: {name}"), strict=True
        ):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title)
        line[-1].imshow(predicted - real, cmap="RdBu_r", vmin=-0.3, vmax=0.3)
        line[-1].set_title("error, -0.3 to 0.3")
    fig.tight_layout()
    fig.savefig(path, dpi=100)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--out", type=Path, required=True, help="folder for data, run and results")
    parser.add_argument("--steps", type=int, default=0, help="training steps (default: the recipe's)")
    parser.add_argument("--options", default="", help="more options for ivan train, replacing the recipe's")
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    args = parser.parse_args()
    experiment, out = EXPERIMENTS[args.experiment], args.out
    shared = Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared"))
    if not args.resume:
        prepare(experiment, shared, out)
    steps = str(args.steps or experiment.steps)
    modalities = [
        word
        for option, names in (("--from", experiment.sources), ("--to", experiment.targets))
        for name in names
        for word in (option, name)
    ]
    other = experiment.training.keys() != experiment.measured.keys()
    started = time.monotonic()
    if args.resume:
        command("train", "--resume", "--out", str(out / "run"))
    else:
        command(
            "train", "--data", str(out / "train"), "--split", str(out / "split.json"), *modalities,
            "--out", str(out / "run"), "--max-steps", steps, "--epochs", steps,
            *shlex.split(RECIPE), *shlex.split(INTENSITY if other else ""), *shlex.split(args.options),
        )  # fmt: skip
    seconds = time.monotonic() - started
    first, end = experiment.measured_slices
    command(
        "evaluate", "--run", str(out / "run"), "--data", str(out / "test"), "--slices", f"{first}:{end}",
        "--out", str(out / "evaluation"),
    )  # fmt: skip
    table = pixelwise(experiment, out)
    for name, value in table.items():
        print(f"best pixelwise table, {name}: {value:.2f} dB")
    figure(experiment, out, out / "figure.png")
    (out / "summary.json").write_text(
        json.dumps({"training_seconds": seconds, "pixelwise_psnr": table}, indent=1)
    )


if __name__ == "__main__":
    main()
