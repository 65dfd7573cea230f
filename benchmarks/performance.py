"""Writes the tables and figures of docs/performance.md from benchmarks/results/network.json.

    python benchmarks/performance.py            after `python benchmarks/network.py --plan figures`
    python benchmarks/performance.py --check    only say whether the page agrees with the file (exit 1: no)

Nothing is measured here, and no number of the page is typed: everything between `<!-- begin X -->` and
`<!-- end X -->` is replaced.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import cuda_floor
from performance_plots import draw

from ivan.benchmark import budget, record
from ivan.benchmark.implementations import IMPLEMENTATIONS
from ivan.benchmark.tables import (
    KERNEL_TITLES,
    NOT_RUN,
    Table,
    count,
    curve_table,
    kernel_label,
    kernel_tables,
    markdown,
    of,
    time_tables,
)
from ivan.errors import IvanError
from ivan.training.files import replace_file

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "performance.md"
RESULTS = REPO / "benchmarks" / "results" / "network.json"
IMAGES = REPO / "docs" / "images"
BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def parts(measured: dict[str, Any]) -> dict[str, str]:
    """What stands between each pair of markers."""
    rows = measured["rows"]
    timed = [row for row in rows if row.get("case", {}).get("blocks") == usual_blocks(rows)]
    return {
        "machine": machine_text(measured),
        "times": titled(time_tables(timed)),
        "kernels": titled(kernel_tables(rows)),
        "rates": titled([rate_table(measured)]),
        "memory": titled([curve_table(rows, "memory", "size")]),
        "depth": titled([curve_table(rows, "memory", "blocks"), curve_table(rows, "time", "blocks")]),
        "budget": titled([budget_table(rows)]),
        "cuda": cuda_floor.text(),
    }


def usual_blocks(rows: list[dict[str, Any]]) -> int:
    """Of the network that most was measured of; other depths have a table of their own."""
    counts = [row["case"]["blocks"] for row in rows]
    return max(set(counts), key=counts.count, default=0)


def machine_text(measured: dict[str, Any]) -> str:
    """The lines that say where and when."""
    if not measured["rows"]:
        return f"**{NOT_RUN.capitalize()} yet: {measured['note']}.**"
    m = measured["machine"]
    peak = "not known (no compiler)" if m["fma_gflops"] is None else f"{m['fma_gflops']:.0f} GFLOP/s"
    facts = (
        f"{m['processor']} ({m['machine']}, {m['cores']} cores, {m['memory_gb']} GB)",
        f"instruction set {m['isa']}, multiply-add peak of {count(m['threads'])} {peak}",
        m["precision"],
        f"torch {m['torch']}, Python {m['python']}, compiler {m['compiler']}",
        f"commit {m['commit'] or 'not known'}",
        f"load at the start {m['load']}",
        f"taken {m['taken']}",
    )
    lines = ["; ".join(facts) + "."]
    if measured["note"]:
        lines.append(f"**Note on this run: {measured['note']}.**")
    return "\n\n".join(lines)


def titled(tables: list[Table]) -> str:
    """Markdown of tables that have rows, each below its title."""
    shown = [f"**{table.title}**\n\n{markdown(table)}" for table in tables if table.rows]
    return "\n\n".join(shown) or NOT_RUN.capitalize() + "."


def rate_table(measured: dict[str, Any]) -> Table:
    """Dense block kernels: direct-equivalent GFLOP/s and, where the peak is known, their share of it."""
    peak, threads = measured["machine"]["fma_gflops"], measured["machine"]["threads"]
    rows = [
        r
        for r in of(measured["rows"], "kernel")
        if r["kernel"].startswith("dense") and r["threads"] == threads
    ]
    sizes = list(dict.fromkeys(kernel_label(row) for row in rows))
    table = Table("GFLOP/s, and share of the multiply-add peak", ["", *sizes])
    for kernel, name in dict.fromkeys((row["kernel"], row["implementation"]) for row in rows):
        cells = [f"{KERNEL_TITLES[kernel]}: {IMPLEMENTATIONS[name].title}"]
        for size in sizes:
            found = [
                row["gflops"] for row in rows
                if (row["kernel"], row["implementation"], kernel_label(row)) == (kernel, name, size)
            ]  # fmt: skip
            share = "" if peak is None or not found else f" ({found[0] / peak:.0%})"
            cells.append(f"{found[0]:.0f}{share}" if found else NOT_RUN)
        table.rows.append(cells)
    if peak is None:
        table.notes.append("No compiler was found, so the peak is not known.")
    return table


def budget_table(rows: list[dict[str, Any]]) -> Table:
    """The largest square slice that trains within each budget, and what the extrapolation rests on."""
    names = ("eager", "strict", "fast")
    fits = {name: fit for name in names if (fit := budget.fit(rows, name)) is not None}
    table = Table("Largest slice that trains", ["memory", *(IMPLEMENTATIONS[name].title for name in fits)])
    if not fits:
        return table
    for gigabytes in budget.BUDGETS:
        sides = [fit.largest_side(gigabytes * 1e9) for fit in fits.values()]
        table.rows.append([f"{gigabytes} GB", *(f"{side}x{side}" if side else "none" for side in sides)])
    for name, fit in fits.items():
        points = ", ".join(f"{pixels:,}" for pixels in fit.points)
        table.notes.append(
            f"{IMPLEMENTATIONS[name].title}: {fit.fixed / 1e9:.2f} GB and {fit.per_pixel:,.0f} bytes a "
            f"pixel, the straight line through the process memory measured at {points} pixels."
        )
    return table


def filled(page: str, measured: dict[str, Any]) -> str:
    """The page with everything between its markers replaced. Raises ValueError: wrong markers."""
    texts = parts(measured)
    found = [match[2] for match in BLOCK.finditer(page)]
    if sorted(found) != sorted(texts):
        raise ValueError(f"markers of the page: {', '.join(found)}; expected each of {', '.join(texts)} once")
    return BLOCK.sub(lambda match: f"{match[1]}{texts[match[2]]}\n{match[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    measured = record.load(args.json)
    before = args.page.read_text(encoding="utf-8")
    after = filled(before, measured)
    if args.check:
        print("the page agrees" if after == before else f"{args.page} does not agree with {args.json}")
        return int(after != before)
    replace_file(args.page, after.encode())
    print(f"wrote {args.page}")
    for path in draw(measured, args.images):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (IvanError, OSError, ValueError) as error:
        sys.exit(f"performance.py: {error}")
