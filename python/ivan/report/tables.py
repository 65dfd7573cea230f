"""The parts of the report that need no script, as escaped HTML: metrics, cards, warnings, settings."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

from .content import Column, MetricRow, MetricTable


def format_number(value: float | None, unit: str = "") -> str:
    """A number as a reader compares it; infinity as a sign, a dash where nothing was measured."""
    if value is None or math.isnan(value):
        return "\u2013"
    if math.isinf(value):
        return "\u221e" if value > 0 else "\u2212\u221e"
    size = abs(value)
    if size >= 10 or unit == "dB":
        return f"{value:.2f}"
    return f"{value:.4f}" if size >= 1e-3 or value == 0 else f"{value:.2e}"


def _score(column: Column, value: float) -> float:
    """The larger, the better."""
    if column.better == "lower":
        return -value
    if column.better == "zero":
        return -abs(value)
    return -abs(value - 1) if column.better == "one" else value


def _best(table: MetricTable) -> dict[tuple[str, str, str, str], float]:
    """Best score of each (case, direction, target) and column, where several methods are compared."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for row in table.rows:
        for column in table.columns:
            value = row.values.get(column.key)
            if value is not None and not math.isnan(value):
                groups.setdefault((row.case, row.direction, row.target, column.key), []).append(
                    _score(column, value)
                )
    return {key: max(scores) for key, scores in groups.items() if len(scores) > 1}


def metric_section(table: MetricTable, shown: Collection[str] = ()) -> str:
    """The sortable table with the protocol of every column below it; empty without rows.

    Names of the cases in `shown` lead to them in the viewer.
    """
    if not table.rows:
        return ""
    best = _best(table)
    wishes = {
        "higher": "higher is better",
        "lower": "lower is better",
        "one": "1 is best",
        "zero": "0 is best",
    }
    heads = ["Case", "Direction", "Target", "Method"]
    cells = [f'<th scope="col"><button type="button">{text}</button></th>' for text in heads]
    for column in table.columns:
        unit = f" [{escape(column.unit)}]" if column.unit else ""
        small = f"<small>{wishes[column.better]}</small>"
        button = f'<button type="button">{escape(column.label)}{unit}</button>'
        cells.append(f'<th scope="col" class="number">{button}{small}</th>')
    lines = [_metric_row(table, row, best, row.case in shown) for row in table.rows]
    said = [(name.capitalize(), str(value)) for name, value in table.protocol.items()]
    said += [(column.label, column.protocol) for column in table.columns]
    protocol = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in said)
    return (
        '<section id="metrics"><h2>Metrics</h2><div class="scroller"><table class="sortable"><thead><tr>'
        f"{''.join(cells)}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        f'<h3>Protocol</h3><dl class="protocol">{protocol}</dl></section>'
    )


def _metric_row(
    table: MetricTable, row: MetricRow, best: Mapping[tuple[str, str, str, str], float], shown: bool
) -> str:
    cells = [f"<td>{escape(text)}</td>" for text in (row.case, row.direction, row.target, row.method)]
    if shown:
        place = urlencode({"case": row.case, "direction": row.direction, "target": row.target})
        cells[0] = f'<td><a href="#{escape(place, quote=True)}">{escape(row.case)}</a></td>'
    for column in table.columns:
        value = row.values.get(column.key)
        known = value is not None and not math.isnan(value)
        key = (row.case, row.direction, row.target, column.key)
        mark = " best" if known and key in best and _score(column, float(value or 0)) == best[key] else ""
        raw = "" if not known else f"{value:.10g}".replace("inf", "Infinity")
        cells.append(f'<td class="number{mark}" data-value="{raw}">{format_number(value, column.unit)}</td>')
    return f'<tr class="{"" if row.method == "iVAN" else "other"}">{"".join(cells)}</tr>'


def headline(table: MetricTable) -> str:
    """Cards: the first column's mean over cases of each direction and target, and the best other method's."""
    if not table.rows or not table.columns:
        return ""
    column = table.columns[0]
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in table.rows:
        value = row.values.get(column.key)
        if value is not None and math.isfinite(value):
            values.setdefault((row.direction, row.target), {}).setdefault(row.method, []).append(value)
    cards = []
    for (direction, target), methods in values.items():
        if "iVAN" not in methods:
            continue
        means = {method: sum(found) / len(found) for method, found in methods.items()}
        own = means.pop("iVAN")
        count = len(methods["iVAN"])
        against = ""
        if means:
            method = max(means, key=lambda m: _score(column, means[m]))
            number = f'<span class="num">{format_number(means[method], column.unit)}</span>'
            against = f'<div class="against">{escape(method)}: {number}</div>'
        cases = "" if count == 1 else f" (mean of {count} cases)"
        what = escape(f"{column.label}, {direction}, {target}{cases}")
        cards.append(
            f'<div class="card"><div class="what">{what}</div><div class="value num">'
            f"{format_number(own, column.unit)} <small>{escape(column.unit)}</small></div>{against}</div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def alert(kind: str, title: str, lines: Sequence[str]) -> str:
    """A coloured box; empty without lines."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    role = ' role="alert"' if kind == "warning" else ""
    return f'<div class="alert {kind}"{role}><strong>{escape(title)}</strong><ul>{items}</ul></div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            pairs.append((f"{prefix}{name}", text))
    return pairs


def facts(anchor: str, title: str, values: Mapping[str, Any]) -> str:
    """A two-column table of settings or versions; empty without entries."""
    if not values:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(text) or '&ndash;'}</td></tr>"
        for name, text in _flat(values)
    )
    return (
        f'<section id="{anchor}"><h2>{title}</h2><div class="scroller"><table class="facts"><tbody>{rows}'
        "</tbody></table></div></section>"
    )
