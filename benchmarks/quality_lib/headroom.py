"""What trained weights leave on the table: averages of predictions, and intensities set right afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quality_lib.measure import Predict, directions
from quality_lib.plans import Plan

TURNS = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)]
COLUMNS = {
    "psnr": "as measured",
    "turned": "8 turns and mirrors averaged",
    "linear": "best line through its values",
    "table": "best table of its values",
}
Run = tuple[str, Predict, Predict]  # name, forward, reverse


def over_turns(predict: Predict, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The prediction of slices, and the mean of those for all their quarter turns and mirror images, turned
    back."""
    made = []
    for mirrored, quarters in TURNS:
        turned = np.rot90(slices[..., ::-1] if mirrored else slices, quarters, axes=(-2, -1))
        one = predict(np.ascontiguousarray(turned))
        if one is None:
            return None
        back = np.rot90(one, -quarters, axes=(-2, -1))
        made.append(back[..., ::-1] if mirrored else back)
    return made[0], np.mean(made, axis=0)


def line_through(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """`a made + b` where `made` is not 0, with the a and b of least squares: what only the real image tells
    of scale and offset."""
    columns = np.stack([made.ravel(), made.ravel() != 0], axis=1).astype(np.float64)
    best = np.linalg.lstsq(columns, real.ravel().astype(np.float64), rcond=None)[0]
    return (columns @ best).reshape(made.shape)


def table_through(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The best table from `made` to `real`: about the least error that any change of intensities alone can
    reach."""
    from ivan.demo.baseline import PixelTable

    return PixelTable.fit(made.reshape(1, -1), real.ravel()).predict(made[None])


def headroom(plan: Plan, runs: Sequence[Run], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a run, direction and modality: the PSNR of `COLUMNS`, mean over the measured cases. Of several
    runs of a method also one row for the mean of their predictions.

    Args:
        runs: the name is METHOD-seedN.
    """
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run[0].rpartition("-seed")[0], []).append(run)
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for method, own in methods.items():
        for item in plan.measured:
            for side, (word, given, real, names) in enumerate(directions(plan, item)):
                made = {}
                for name, *predicts in own:
                    say(f"{name}: {item.case.name}, {word}")
                    if (pair := over_turns(predicts[side], given)) is not None:
                        made[name] = pair
                if len(made) > 1:
                    plain, turned = (np.mean(both, axis=0) for both in zip(*made.values(), strict=True))
                    made[f"{method}, {len(made)} seeds averaged"] = plain, turned
                for name, pair in made.items():
                    for index, modality in enumerate(names):
                        values = _figures(*(np.maximum(one[:, index], 0) for one in pair), real[:, index])
                        found.setdefault((name, word, modality), []).append(values)
    return [
        {
            "run": name,
            "direction": word,
            "target": modality,
            "values": {key: statistics.fmean(case[key] for case in cases) for key in COLUMNS},
        }
        for (name, word, modality), cases in found.items()
    ]


def _figures(made: np.ndarray, turned: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The PSNR of `COLUMNS` of a volume, data range 1 [dB]."""
    from ivan.metrics import psnr

    images = {
        "psnr": made,
        "turned": turned,
        "linear": line_through(made, real),
        "table": table_through(made, real),
    }
    return {key: float(psnr(real, image, data_range=1.0)) for key, image in images.items()}


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
