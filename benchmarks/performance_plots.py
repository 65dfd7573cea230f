"""Time and memory of a training step against size and against depth, as PNG figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from ivan.benchmark.case import Case
from ivan.benchmark.implementations import IMPLEMENTATIONS
from ivan.benchmark.tables import curve, of, place, titles
from ivan.training.files import replace_file

UNITS = {"time": ("seconds", 1.0, "seconds"), "memory": ("bytes", 1e9, "GB")}
COLOURS = {name: f"C{index}" for index, name in enumerate(IMPLEMENTATIONS)}


def draw(measured: dict[str, Any], folder: Path) -> list[Path]:
    """Write performance_size.png and performance_depth.png, without what has one point only."""
    written = []
    for along, label, name in (
        ("size", "side of the slice, pixels", "size"),
        ("blocks", "invertible blocks", "depth"),
    ):
        fig, axes = plt.subplots(1, 2, figsize=(10, 4))
        for axis, what in zip(axes, UNITS, strict=True):
            _panel(axis, of(measured["rows"], what), what, along)
            axis.set_xlabel(label)
        if measured["note"]:
            fig.suptitle(measured["note"], fontsize=9)
        fig.tight_layout()
        image = io.BytesIO()
        fig.savefig(image, format="png", dpi=100, metadata={"Software": None})
        plt.close(fig)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"performance_{name}.png", image.getvalue())
        written.append(folder / f"performance_{name}.png")
    return written


def _panel(axis: Any, rows: list[dict[str, Any]], what: str, along: str) -> None:
    """Lines of one quantity, both axes logarithmic."""
    key, scale, unit = UNITS[what]
    family = curve(rows, along)
    ticks: set[float] = set()
    for name in titles(family):
        points = sorted((_x(row, along), row[key] / scale) for row in family if row["implementation"] == name)
        ticks.update(x for x, _ in points)
        if len(points) > 1:
            title = IMPLEMENTATIONS[name].title
            axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=title)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sorted(ticks), [f"{tick:.0f}" for tick in sorted(ticks)])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_ylabel(f"{'time' if what == 'time' else 'memory'} of a training step, {unit}")
    axis.set_title(_fixed(family, along) if family else "not run")
    axis.grid(alpha=0.3)
    if ticks:
        axis.legend(fontsize=7)


def _x(row: dict[str, Any], along: str) -> float:
    where = place(row, along)
    return float((where[0] * where[1]) ** 0.5) if along == "size" else float(where)


def _fixed(family: list[dict[str, Any]], along: str) -> str:
    """What all points of a panel share."""
    case, threads = Case(**family[0]["case"]), family[0]["threads"]
    shared = f"{case.blocks} blocks" if along == "size" else case.size
    return f"{shared}, {threads} thread{'s' if threads > 1 else ''}"
