"""`write_report`: one self-contained HTML page."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from .content import CaseResult, MetricTable
from .curves import charts
from .images import case_payload, chosen_slices, drawn_pixels
from .tables import alert, facts, headline, metric_section

# Pixels of all sprite sheets together: about 11 MB as base64 of PNG at the noise of MR images.
PIXEL_BUDGET = 12_000_000
_FEWEST_SLICES = 6
_SIMULATED = (
    "{}: computed from tissue maps by a signal equation, not measured. "
    "The numbers below say nothing about real scans."
)
_CURVES = '<section id="curves"><h2>Training curves</h2><div class="charts" id="charts"></div></section>'


def asset(name: str) -> str:
    """The text of a file of `page/`."""
    return (files("ivan.report") / "page" / name).read_text(encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no infinity or NaN: None instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _json(value: Any) -> str:
    """JSON that cannot end its <script> element or start a comment in it."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _viewer_payload(
    cases: Sequence[CaseResult], simulated: Sequence[str]
) -> tuple[list[dict[str, Any]], str]:
    """Cases for the viewer within the pixel budget, and a sentence about what was left out."""
    costs = [drawn_pixels(case) for case in cases]
    counts = [len(chosen_slices(case, sys.maxsize)) for case in cases]
    kept, spent = 0, 0
    for cost, count in zip(costs, counts, strict=True):
        spent += cost * min(count, _FEWEST_SLICES)
        if kept and spent > PIXEL_BUDGET:
            break
        kept += 1
    limit = _most_slices(costs[:kept], counts[:kept])
    payloads = [case_payload(case, limit, simulated) for case in cases[:kept]]
    left_out = []
    if kept < len(cases):
        left_out.append(f"The viewer shows the first {kept} of {len(cases)} cases to keep this file small.")
    if any(count > limit for count in counts[:kept]):
        left_out.append(f"At most {limit} slices of a case are shown, evenly spread.")
    return payloads, " ".join(left_out)


def _most_slices(costs: Sequence[int], counts: Sequence[int]) -> int:
    """How many slices of each case fit the budget, where case i has `counts[i]` of `costs[i]` pixels."""
    limit = max(counts, default=0)
    while (
        limit > _FEWEST_SLICES
        and sum(cost * min(count, limit) for cost, count in zip(costs, counts, strict=True)) > PIXEL_BUDGET
    ):
        limit -= 1
    return limit


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace every {{name}} once; what was filled in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match.group(1)], template)


def write_report(
    out_file: Path | str,
    *,
    title: str,
    summary: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    cases: Sequence[CaseResult] = (),
    metrics: MetricTable | None = None,
    environment: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    simulated: Sequence[str] = (),
) -> Path:
    """Write a report that a browser opens from disk, without network: one HTML file with everything inside.

    Args:
        out_file: the file to write; replaced in one step.
        title: what was done, e.g. "T1 + PD to T2".
        summary: paragraphs under the title.
        config: settings of the run, nested mappings allowed.
        history: records of metrics.jsonl, see `ivan.report.curves.charts`.
        cases: images for the slice viewer, 8 bits each in the page; the file stays below about 15 MB.
        metrics: the table, see `MetricTable`.
        environment: versions, processor, threads; None: those of this process.
        notes, warnings: one line each; warnings stand above the images.
        simulated: modalities whose images were computed from a model, not measured; labelled wherever shown.

    Returns:
        The path written.

    Raises:
        InputError: a case whose images do not fit each other.
        RunError: the file cannot be written.
    """
    if environment is None:
        from ivan.environment import collect

        environment = collect()
    table = metrics or MetricTable()
    payloads, left_out = _viewer_payload(cases, simulated)
    curves = charts(history)
    label = [_SIMULATED.format(", ".join(simulated))] if simulated else []
    details = facts("configuration", "Configuration", config or {}) + facts(
        "environment", "Environment", environment
    )
    sections = [
        ("viewer", "Images", bool(payloads)),
        ("metrics", "Metrics", bool(table.rows)),
        ("curves", "Training curves", bool(curves)),
        ("configuration", "Configuration", bool(config)),
        ("environment", "Environment", bool(environment)),
    ]
    viewer = fill(
        asset("viewer.html"), {"note": f'<p class="hint">{escape(left_out)}</p>' if left_out else ""}
    )
    page = fill(
        asset("report.html"),
        {
            "title": escape(title),
            "css": asset("report.css"),
            "summary": "".join(f"<p>{escape(paragraph)}</p>" for paragraph in summary),
            "nav": "".join(
                f'<a href="#{anchor}">{name}</a>' for anchor, name, present in sections if present
            ),
            "alerts": alert("simulated", "Simulated contrast", label)
            + alert("warning", "Warnings", warnings),
            "notes": alert("note", "Notes", notes),
            "headline": headline(table),
            "viewer": viewer if payloads else "",
            "metrics": metric_section(table, [payload["name"] for payload in payloads]),
            "curves": _CURVES if curves else "",
            "details": f'<div class="pair">{details}</div>' if details else "",
            "data": _json({"cases": payloads, "charts": curves}),
            "js": "\n".join(asset(name) for name in ("viewer.js", "charts.js", "table.js")),
        },
    )
    return _write(Path(out_file), page)


def _write(path: Path, text: str) -> Path:
    from ivan.data import atomic_file

    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))
    return path
