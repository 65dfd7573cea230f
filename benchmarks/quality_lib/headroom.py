"""What trained weights leave on the table: averages of predictions, and intensities set right afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quality_lib.measure import Predict
from quality_lib.plans import Plan

TURNS = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)]
BINS = 100  # of predicted values between 0 and 1
COLUMNS = {
    "psnr": "as measured",
    "turned": "8 turns and mirrors averaged",
    "linear": "best line through its values",
    "table": "best table of its values",
}
Run = tuple[str, Predict, Predict]  # name, forward, reverse


def over_turns(predict: Predict) -> Predict:
    """The mean of the predictions for all quarter turns and mirror images of the slices, turned back."""

    def averaged(slices: np.ndarray) -> np.ndarray | None:
        total: Any = 0.0
        for mirrored, quarters in TURNS:
            turned = np.rot90(slices[..., ::-1] if mirrored else slices, quarters, axes=(-2, -1))
            made = predict(np.ascontiguousarray(turned))
            if made is None:
                return None
            back = np.rot90(made, -quarters, axes=(-2, -1))
            total = total + (back[..., ::-1] if mirrored else back)
        return np.asarray(total / len(TURNS), np.float32)

    return averaged


def over_runs(predicts: Sequence[Predict]) -> Predict:
    """The mean of the predictions of several runs."""

    def averaged(slices: np.ndarray) -> np.ndarray | None:
        made = [predict(slices) for predict in predicts]
        present = [one for one in made if one is not None]
        return np.mean(present, axis=0, dtype=np.float32) if len(present) == len(made) else None

    return averaged


def line_through(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """`a made + b` where `made` is not 0, with the a and b of least squares: what only the
    real image tells of scale and offset."""
    columns = np.stack([made.ravel(), made.ravel() != 0], axis=1).astype(np.float64)
    best = np.linalg.lstsq(columns, real.ravel().astype(np.float64), rcond=None)[0]
    return (columns @ best).reshape(made.shape)


def table_through(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """For every value of `made` (in `BINS`, those above 1 in one of them) the mean of `real` where it stands:
    about the least error that any change of intensities alone can reach."""
    where = np.minimum((made * BINS).astype(int), BINS).ravel()
    sums = np.bincount(where, real.ravel().astype(np.float64))
    means = sums / np.maximum(np.bincount(where), 1)
    return np.asarray(means[where].reshape(made.shape))


def psnr(made: np.ndarray, real: np.ndarray) -> float:
    """Of a volume, data range 1 [dB]."""
    error = float(np.square(made - real, dtype=np.float64).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def headroom(plan: Plan, runs: Sequence[Run], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a run, direction and modality: the PSNR of `COLUMNS`, mean over the measured cases. Of several
    runs of a method also one row for the mean of their predictions.

    Args:
        runs: the name is METHOD-seedN.
    """
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run[0].rpartition("-seed")[0], []).append(run)
    rows = []
    for method, own in methods.items():
        chosen = list(own)
        if len(own) > 1:
            forward, reverse = (over_runs([run[side] for run in own]) for side in (1, 2))
            chosen.append((f"{method}, {len(own)} seeds averaged", forward, reverse))
        for name, forward, reverse in chosen:
            say(name)
            rows += _rows(plan, name, forward, reverse)
    return rows


def _rows(plan: Plan, name: str, forward: Predict, reverse: Predict) -> list[dict[str, Any]]:
    count = len(plan.sources)
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for item in plan.measured:
        _, slices = plan.load(item)
        x, y = slices[:, :count], slices[:, count:]
        for word, predict, given, real, names in (
            ("forward", forward, x, y, plan.targets),
            ("reverse", reverse, y, x, plan.sources),
        ):
            made, turned = predict(given), over_turns(predict)(given)
            if made is None or turned is None:
                continue
            for index, modality in enumerate(names):
                truth, own = real[:, index], np.maximum(made[:, index], 0)
                values = {
                    "psnr": psnr(own, truth),
                    "turned": psnr(np.maximum(turned[:, index], 0), truth),
                    "linear": psnr(line_through(own, truth), truth),
                    "table": psnr(table_through(own, truth), truth),
                }
                into = found.setdefault((word, modality), {key: [] for key in COLUMNS})
                for key, value in values.items():
                    into[key].append(value)
    return [
        {
            "run": name,
            "direction": word,
            "target": modality,
            "values": {key: statistics.fmean(all_) for key, all_ in values.items()},
        }
        for (word, modality), values in found.items()
    ]


def markdown(rows: Sequence[dict[str, Any]], protocol: str) -> str:
    """The rows as a table."""
    lines = [
        "| direction | target | run | " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * (3 + len(COLUMNS)),
    ]
    for row in sorted(rows, key=lambda row: (row["direction"], row["target"])):
        cells = [f"{row['values'][key]:.2f} dB" for key in COLUMNS]
        lines.append(f"| {row['direction']} | {row['target']} | {row['run']} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{protocol}. PSNR of the volume, data range 1, background included, mean over cases. The last two "
        "columns look at the real image: what no knowledge of intensities could exceed.",
    ]
    return "\n".join(lines) + "\n"
