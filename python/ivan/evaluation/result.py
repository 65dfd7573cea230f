"""What an evaluation found, and the files that hold it: metrics.json, metrics.csv, report.html."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.evaluation.measure import VIEWED_CASES

if TYPE_CHECKING:
    from ivan.errors import InputError
    from ivan.report import MetricTable

# Key of `synthesis_metrics`, title, unit, what is better ("": a spread, shown beside the number before it).
COLUMNS = (
    ("psnr", "PSNR", "dB", "higher"),
    ("ssim", "SSIM", "", "higher"),
    ("nmse", "NMSE", "", "lower"),
    ("psnr_slices_mean", "PSNR slices", "dB", "higher"),
    ("psnr_slices_std", "+-", "dB", ""),
    ("sharpness_ag", "AG ratio", "", "one"),
    ("sharpness_sf", "SF ratio", "", "one"),
    ("through_plane_error", "through-plane", "", "lower"),
    ("through_plane_ratio", "TP ratio", "", "one"),
    ("brain_psnr", "PSNR brain", "dB", "higher"),
    ("lesion_psnr", "PSNR lesions", "dB", "higher"),
    ("brain_mae", "MAE brain", "", "lower"),
    ("lesion_mae", "MAE lesions", "", "lower"),
    ("lesion_bias", "bias lesions", "", "zero"),
    ("lesion_contrast", "contrast of lesions", "", "one"),
    ("uncertainty_spearman", "rank corr. of uncertainty", "", "higher"),
    ("uncertainty_aurg", "AURG", "", "higher"),
    ("uncertainty_ause", "AUSE", "", "lower"),
)


@dataclass(frozen=True)
class CaseMetrics:
    """One modality of one case.

    Attributes:
        case, target, direction: what was synthesised: "forward" is sources to targets, "inverse" the other
            way. values: metric -> number, as `ivan.metrics.synthesis_metrics`. protocol: metric -> how it was
            measured. in_training: the case is one that the run was trained on.
    """

    case: str
    target: str
    direction: str
    values: dict[str, float]
    protocol: dict[str, str]
    in_training: bool = False


@dataclass
class Evaluation:
    """What `evaluate` returns.

    Attributes:
        cases: one entry a case, modality and direction.
        protocol: what holds for all of them: scaling, data range, mask, slices, weights.
        views: images as a report shows them, of the first cases and of the one with the lowest PSNR.
        warnings: one line for each case skipped or left out, image resampled, input unlike the training
            images, and clipped prediction.
        left_out: what to raise once the others are shown where files could not be used, else None.
    """

    cases: list[CaseMetrics]
    protocol: dict[str, Any]
    views: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: InputError | None = None

    def add(self, rows: Sequence[CaseMetrics], view: Callable[[], Any]) -> None:
        """Add a case's numbers, and its images to `views` if it is one of the first or the worst so far.

        Args:
            rows: of all its modalities and directions. view: makes the images, where they are kept.
        """
        lowest = min((row.values["psnr"] for row in self.cases), default=math.inf)
        if len(self.views) < VIEWED_CASES or min(row.values["psnr"] for row in rows) < lowest:
            self.views[VIEWED_CASES:] = [view()]  # in place of the worst until now
        self.cases += rows

    def means(self) -> list[dict[str, Any]]:
        """Mean over cases for each direction and target, with the number of cases; `counts` has the number
        for those metrics that not all of them have, such as errors inside lesions."""
        groups: dict[tuple[str, str], list[CaseMetrics]] = {}
        for row in self.cases:
            groups.setdefault((row.direction, row.target), []).append(row)
        return [
            {
                "direction": direction,
                "target": target,
                "cases": len(rows),
                "values": _means([row.values for row in rows]),
                "counts": _fewer([row.values for row in rows]),
            }
            for (direction, target), rows in groups.items()
        ]

    def metric_names(self) -> list[str]:
        """Every metric that some row has, in the order of the first ones."""
        return list(dict.fromkeys(name for row in self.cases for name in row.values))

    def protocols(self) -> dict[str, str]:
        """Metric -> how it was measured. Counts that differ among rows are ranges ("36 to 90 slices")."""
        return protocols_of(row.protocol for row in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinite numbers (PSNR of equal images) as the text "inf"."""
        rows = [
            {
                "case": row.case,
                "direction": row.direction,
                "target": row.target,
                "in_training": row.in_training,
                "values": row.values,
                "protocol": row.protocol,
            }
            for row in self.cases
        ]
        content: dict[str, Any] = plain(
            {"protocol": self.protocol, "cases": rows, "means": self.means(), "warnings": self.warnings}
        )
        return content

    def to_csv(self) -> str:
        """One line a case, modality and direction; the protocol of the numbers is in the JSON beside it."""
        text = io.StringIO()
        names = self.metric_names()
        writer = csv.writer(text)
        writer.writerow(["case", "direction", "target", "in_training", *names])
        for row in self.cases:
            values = [f"{row.values[name]:.10g}" if name in row.values else "" for name in names]
            writer.writerow([row.case, row.direction, row.target, str(row.in_training).lower(), *values])
        return text.getvalue()

    def to_table(self) -> MetricTable:
        """The table of a report."""
        from ivan.report import Column, MetricRow, MetricTable

        protocols = self.protocols()
        columns = [
            Column(
                key,
                "PSNR slices, std" if label == "+-" else label,
                protocols[key],
                unit,
                better or "higher",
            )
            for key, label, unit, better in COLUMNS
            if better and key in protocols
        ]
        rows = [MetricRow(row.case, row.target, row.values, row.direction) for row in self.cases]
        return MetricTable(columns, rows, self.protocol)


def write(result: Evaluation, out: Path, run: Path | None = None) -> list[Path]:
    """Write metrics.json, metrics.csv and report.html; older ones are replaced."""
    from ivan.report import write_report
    from ivan.training.files import replace_file, replace_json

    replace_json(out / "metrics.json", result.to_json())
    replace_file(out / "metrics.csv", result.to_csv().encode())
    config, history = run_record(run) if run else ({}, [])
    mean, worst = result.means()[0], min(result.cases, key=lambda row: row.values["psnr"])
    write_report(
        out / "report.html",
        title=f"Evaluation of {run}" if run else "Evaluation",
        summary=[
            f"{mean['target']} ({mean['direction']}): {mean['values']['psnr']:.2f} dB",
            f"Lowest PSNR: {worst.case}, {worst.target} ({worst.direction}), {worst.values['psnr']:.2f} dB",
        ],
        config=config or None,
        history=history,
        cases=result.views,
        metrics=result.to_table(),
        warnings=[
            *(
                ["Some of these cases were trained on."]
                if any(row.in_training for row in result.cases)
                else []
            ),
            *result.warnings,
        ],
    )
    return [out / name for name in ("metrics.json", "metrics.csv", "report.html")]


def run_record(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(config.json, the records of metrics.jsonl) of a run; a half-written line is skipped."""
    from ivan.training.config import TrainConfig

    records = []
    path = run / "metrics.jsonl"
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return TrainConfig.read(run / "config.json").to_json(), records


def protocols_of(rows: Iterable[dict[str, str]]) -> dict[str, str]:
    """Metric -> `common_protocol` of all rows that have it."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for key, text in row.items():
            said.setdefault(key, []).append(text)
    return {key: common_protocol(texts) for key, texts in said.items()}


def common_protocol(texts: Sequence[str]) -> str:
    """One text for several that are alike up to their counts: "over 36 slices", "over 90 slices" -> "over 36
    to 90 slices". The first one where they differ in more."""
    first = re.split(r"(?<![\w.])(\d+)(?![\w.])", texts[0])
    parts = [re.split(r"(?<![\w.])(\d+)(?![\w.])", text) for text in dict.fromkeys(texts)]
    if any(part[::2] != first[::2] for part in parts):
        return texts[0]
    for place in range(1, len(first), 2):
        low, high = (limit(int(part[place]) for part in parts) for limit in (min, max))
        first[place] = str(low) if low == high else f"{low} to {high}"
    return "".join(first)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each number over the rows that have it."""
    found = {name: [row[name] for row in rows if name in row] for row in rows for name in row}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _fewer(rows: list[dict[str, float]]) -> dict[str, int]:
    """How many rows have a number, for the numbers that some rows lack."""
    counts = {name: sum(name in row for row in rows) for row in rows for name in row}
    return {name: count for name, count in counts.items() if count < len(rows)}


def plain(value: Any) -> Any:
    """Values as JSON can hold them: infinite and undefined numbers become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
