"""The quality-control page: `quality.html`, one self-contained file with one overlay a case."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ivan.data.writing import atomic_file
from ivan.prepare.case import Settings, overlay_path
from ivan.report.tables import alert, facts
from ivan.report.write import asset, fill

_HEADS = (
    ("Case", ""),
    ("Part", ""),
    ("Modalities", ""),
    ("Voxels", ""),
    ("Spacing, mm", ""),
    ("Outline", "least Dice"),
    ("Similarity", "least NMI"),
    ("Off by, mm", "largest"),
    ("Moved by, mm", "registration"),
    ("Warnings", ""),
)


def write_page(
    out: Path, parts: Mapping[str, Sequence[Mapping[str, Any]]], skipped: Sequence[str], settings: Settings
) -> Path:
    """Write OUT/quality.html.

    Args:
        out: the prepared folder, whose `quality/` holds the overlays.
        parts: training, validation, test -> records of `prepare_case`.
        skipped: one line for everything left out.
        settings: shown at the end.

    Raises:
        RunError: it cannot be written.
    """
    rows = [(part, record) for part, records in parts.items() for record in records]
    warned = [(record["case"], line) for _, record in rows for line in record["warnings"]]
    counts = ", ".join(f"{len(records)} {part}" for part, records in parts.items() if records)
    page = fill(
        (files("ivan.prepare") / "page" / "quality.html").read_text(encoding="utf-8"),
        {
            "css": asset("report.css"),
            "js": asset("table.js"),
            "summary": escape(f"{len(rows)} cases: {counts}. {len(warned)} warnings, {len(skipped)} notes."),
            "alerts": alert("warning", "Warnings", [f"{case}: {line}" for case, line in warned])
            + alert("note", "Left out, and why", skipped),
            "table": _table(rows),
            "figures": "".join(_figure(out, part, record) for part, record in rows),
            "details": facts(
                "settings", "Settings", {k: v if v is not None else "" for k, v in asdict(settings).items()}
            ),
        },
    )
    with atomic_file(out / "quality.html") as file:
        file.write(page.encode())
    return out / "quality.html"


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    heads = "".join(
        f'<th scope="col"><button type="button">{name}</button>'
        + (f"<small>{unit}</small>" if unit else "")
        + "</th>"
        for name, unit in _HEADS
    )
    return (
        f'<div class="scroller"><table class="sortable"><thead><tr>{heads}</tr></thead><tbody>'
        + "".join(_row(part, record) for part, record in rows)
        + "</tbody></table></div>"
    )


def _row(part: str, record: Mapping[str, Any]) -> str:
    matches, motions = record["match"].values(), record["registration"].values()
    numbers = (
        min((match["outline"] for match in matches), default=None),
        min((match["similarity"] for match in matches), default=None),
        max((match["shift"] for match in matches), default=None),
        max((motion["shift_mm"] for motion in motions), default=None),
        len(record["warnings"]),
    )
    texts = (
        part,
        ", ".join(record["bytes"]),
        "x".join(map(str, record["shape"])),
        " x ".join(f"{size:g}" for size in record["spacing"]),
    )
    anchor = f'<a href="#{escape(record["case"], quote=True)}">{escape(record["case"])}</a>'
    cells = f"<td>{anchor}</td>" + "".join(f"<td>{escape(text)}</td>" for text in texts)
    for number in numbers:
        raw = "" if number is None else f"{number:g}"
        cells += f'<td class="number" data-value="{raw}">{raw or "&ndash;"}</td>'
    return f"<tr>{cells}</tr>"


def _figure(out: Path, part: str, record: Mapping[str, Any]) -> str:
    picture = base64.b64encode(overlay_path(out, record["case"]).read_bytes()).decode("ascii")
    name = escape(record["case"], quote=True)
    lines = [*record["warnings"], *record["notes"]]
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    sources = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in record["sources"].items()
    )
    return (
        f'<section id="{name}"><h3>{name} <small>{escape(part)}</small></h3>'
        f'<img class="overlay" alt="overlays of case {name}" src="data:image/png;base64,{picture}">'
        f'<ul>{said}</ul><dl class="protocol">{sources}</dl></section>'
    )
