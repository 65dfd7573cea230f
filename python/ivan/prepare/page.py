"""The quality-control page: `quality.html`, one self-contained file with one overlay a case."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ivan.data.writing import atomic_file
from ivan.prepare.case import Settings, overlay_path
from ivan.report.tables import alert, facts
from ivan.report.write import asset, fill

_NUMBER = ' class="number"'
_HEADS = (  # name, below it, attributes
    ("Case", "", ""),
    ("Part", "", ""),
    ("Warnings", "", _NUMBER),
    ("Modalities", "", ""),
    ("Voxels", "", ""),
    ("Spacing, mm", "", ""),
    ("Cover, %", "least", _NUMBER),
    ("Outline", "least Dice", _NUMBER),
    ("Similarity", "least NMI", _NUMBER),
    ("Off by, mm", "most", _NUMBER),
    ("Turned, °", "most", _NUMBER),
    ("Moved, mm", "registration", _NUMBER),
)


def write_page(
    out: Path,
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    skipped: Sequence[str],
    settings: Settings,
    warnings: Sequence[str] = (),
    choices: Sequence[str] = (),
) -> Path:
    """Write OUT/quality.html.

    Args:
        out: the prepared folder, whose `quality/` holds the overlays.
        parts: training, validation, test -> records of `prepare_case`.
        skipped: one line for everything left out.
        settings: shown at the end.
        warnings: those of all cases together, which come first.
        choices: one line for each choice among several series of a modality.

    Raises:
        RunError: it cannot be written.
    """
    rows = [(part, record) for part, records in parts.items() for record in records]
    warned = [f"{record['case']}: {line}" for _, record in rows for line in record["warnings"]]
    warned[:0] = warnings
    counts = ", ".join(f"{len(records)} {part}" for part, records in parts.items() if records)
    page = fill(
        (files("ivan.prepare") / "page" / "quality.html").read_text(encoding="utf-8"),
        {
            "css": asset("report.css"),
            "js": asset("table.js"),
            "summary": escape(
                f"{_count(rows, 'case')}: {counts}. {_count(warned, 'warning')}, "
                f"{_count([*choices, *skipped], 'note')}."
            ),
            "alerts": alert("warning", "Warnings", warned)
            + alert("note", "Taken among several series", choices)
            + alert("note", "Left out, and why", skipped),
            "table": _table(rows),
            "figures": "".join(
                _figure(out, f"case-{number}", *row) for number, row in enumerate(rows, start=1)
            ),
            "details": facts(
                "settings", "Settings", {k: v if v is not None else "" for k, v in asdict(settings).items()}
            ),
        },
    )
    with atomic_file(out / "quality.html") as file:
        file.write(page.encode())
    return out / "quality.html"


def _count(items: Sized, name: str) -> str:
    return f"{len(items)} {name}{'s' * (len(items) != 1)}"


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    heads = "".join(
        f'<th scope="col"{kind}><button type="button">{name}</button>'
        + (f"<small>{unit}</small>" if unit else "")
        + "</th>"
        for name, unit, kind in _HEADS
    )
    return (
        f'<div class="scroller"><table class="sortable"><thead><tr>{heads}</tr></thead><tbody>'
        + "".join(_row(f"case-{number}", *row) for number, row in enumerate(rows, start=1))
        + "</tbody></table></div>"
    )


def _row(anchor: str, part: str, record: Mapping[str, Any]) -> str:
    """A line of the table. `anchor` leads to the case's picture: a name may hold what no address can."""
    matches, motions = record["match"].values(), record["registration"].values()
    numbers = (
        (min((100 * match["cover"] for match in matches), default=None), ".0f"),
        (min((match["outline"] for match in matches), default=None), ".2f"),
        (min((match["similarity"] for match in matches), default=None), ".2f"),
        (max((match["shift"] for match in matches), default=None), ".1f"),
        (max((match["angle"] for match in matches), default=None), ".0f"),
        (max((motion["shift_mm"] for motion in motions), default=None), ".1f"),
    )
    texts = (
        ", ".join(record["bytes"]),
        "x".join(map(str, record["shape"])),
        " x ".join(f"{size:g}" for size in record["spacing"]),
    )
    count = len(record["warnings"])
    cells = f'<td><a href="#{anchor}">{escape(record["case"])}</a></td><td>{escape(part)}</td>'
    cells += f'<td class="number" data-value="{count}">{count}</td>'
    cells += "".join(f"<td>{escape(text)}</td>" for text in texts)
    for number, form in numbers:
        shown = "&ndash;" if number is None else format(number, form)
        cells += f'<td class="number" data-value="{"" if number is None else number}">{shown}</td>'
    return f"<tr>{cells}</tr>"


def _figure(out: Path, anchor: str, part: str, record: Mapping[str, Any]) -> str:
    picture = base64.b64encode(overlay_path(out, record["case"]).read_bytes()).decode("ascii")
    name = escape(record["case"], quote=True)
    lines = [*record["warnings"], *record["notes"]]
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    sources = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in record["sources"].items()
    )
    return (
        f'<section id="{anchor}"><h3>{name} <small>{escape(part)}</small></h3>'
        f'<img class="overlay" alt="overlays of case {name}" src="data:image/png;base64,{picture}">'
        f'<ul>{said}</ul><dl class="protocol">{sources}</dl></section>'
    )
