"""Results of many runs as one table and one figure: mean and spread over seeds."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

COLUMNS = (
    ("psnr", "PSNR [dB]", 2),
    ("ssim", "SSIM", 4),
    ("nmse", "NMSE", 4),
    ("sharpness_ag", "AG ratio", 3),
    ("through_plane_error", "through-plane", 4),
    ("psnr_cleared", "PSNR, cleared [dB]", 2),
    ("ssim_cleared", "SSIM, cleared", 4),
)
WORDS = {"wall": "wall-clock", "cpu": "processor time"}


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a method, direction and modality: for each figure mean and spread over seeds of the mean over
    cases."""
    groups: dict[tuple[str, str, str], dict[int, list[dict[str, float]]]] = {}
    for run in runs:
        for row in run["rows"]:
            key = (row["direction"], row["target"], run["method"])
            groups.setdefault(key, {}).setdefault(run["seed"], []).append(row["values"])
    rows = []
    for (direction, target, method), seeds in sorted(groups.items()):
        figures = {}
        for name, _, _ in COLUMNS:
            # A case of one slice has no through-plane error, for example.
            having = [[v[name] for v in cases if name in v] for cases in seeds.values()]
            means = [statistics.fmean(values) for values in having if values]
            if means:
                figures[name] = (statistics.fmean(means), _spread(means))
        rows.append(
            {
                "direction": direction,
                "target": target,
                "method": method,
                "seeds": len(seeds),
                "figures": figures,
            }
        )
    return rows


def _spread(means: list[float]) -> float:
    """Standard deviation over seeds; NaN of one seed, and of infinite values (equal images)."""
    finite = len(means) > 1 and all(math.isfinite(value) for value in means)
    return statistics.stdev(means) if finite else math.nan


def markdown(runs: list[dict[str, Any]]) -> str:
    """The table, and under it what every number was measured with."""
    lines = ["| direction | target | method | seeds | " + " | ".join(label for _, label, _ in COLUMNS) + " |"]
    lines.append("|" + "---|" * (4 + len(COLUMNS)))
    for row in summarise(runs):
        cells = []
        for name, _, digits in COLUMNS:
            mean, spread = row["figures"].get(name, (math.nan, math.nan))
            more = f" ± {spread:.{digits}f}" if math.isfinite(spread) else ""
            cells.append("-" if math.isnan(mean) else f"{mean:.{digits}f}{more}")
        lines.append(
            f"| {row['direction']} | {row['target']} | {row['method']} | {row['seeds']} | "
            f"{' | '.join(cells)} |"
        )
    first = runs[0]
    clock = WORDS[first["settings"]["budget"]["clock"]]
    lines += [
        "",
        f"{first['protocol']}. Volume level, data range 1, background included, mean over cases; mean and "
        "standard deviation over seeds. Predictions below 0 are set to 0; cleared: and wherever all given "
        "images are 0. The last weights count.",
        "",
        f"| method | parameters | steps (mean) | seconds of training ({clock}) | code |",
        "|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        steps = statistics.fmean(run["training"]["steps"] for run in own)
        seconds = statistics.fmean(run["training"]["seconds"] for run in own)
        commits = ", ".join(sorted({run["commit"] or "installed package" for run in own}))
        lines.append(f"| {method} | {own[0]['parameters']:,} | {steps:.0f} | {seconds:.0f} | {commits} |")
    lines.append("")
    for words, own in _machines(runs).items():
        whose = "" if len(own) == len(runs) else f": {', '.join(own)}"
        lines.append(f"{words}{whose}.  ")
    return "\n".join(lines).rstrip() + "\n"


def _machines(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Machine in words -> runs made on it: times of two machines, or of other threads, cannot be compared."""
    found: dict[str, list[str]] = {}
    for run in runs:
        machine = run["machine"]
        threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
        words = f"{machine['processor']}, {threads}, torch {machine['torch']}"
        found.setdefault(words, []).append(f"{run['method']} seed {run['seed']}")
    return found


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """PSNR of each method with its spread, one panel a direction and modality."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = summarise(runs)
    panels = list(dict.fromkeys((row["direction"], row["target"]) for row in rows))
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.4 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        own = [row for row in rows if (row["direction"], row["target"]) == panel]
        own.sort(key=lambda row: row["figures"]["psnr"][0])
        means, spreads = zip(*(row["figures"]["psnr"] for row in own), strict=True)
        spreads = [0 if math.isnan(s) else s for s in spreads]
        # A perfect prediction is infinite and cannot be drawn: a bar beyond the others, with its value.
        finite = [(mean, spread) for mean, spread in zip(means, spreads, strict=True) if math.isfinite(mean)]
        left = min((mean - spread for mean, spread in finite), default=0.0) - 2
        beyond = max((mean + spread for mean, spread in finite), default=0.0) + 2
        shown = [mean if math.isfinite(mean) else beyond for mean in means]
        names = [
            row["method"] if math.isfinite(mean) else f"{row['method']} (inf)"
            for row, mean in zip(own, means, strict=True)
        ]
        axis.barh(names, shown, xerr=spreads, color="#4a7ab5", ecolor="black")
        axis.set_xlim(left=left)
        axis.set_xlabel("PSNR [dB]")
        axis.set_title(f"{panel[0]}: {panel[1]}")
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)
