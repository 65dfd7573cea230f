"""Records as tables of words: the terminal and the documentation show the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ivan.benchmark.case import JOBS, Case
from ivan.benchmark.implementations import IMPLEMENTATIONS
from ivan.benchmark.kernels import KERNELS

Row = dict[str, Any]
NOT_RUN = "not run"
KERNEL_TITLES = {
    "dense_block": "dense block",
    "dense_block_backward": "dense block, backward (PyTorch: and forward)",
    "dense_block training": "dense block, forward and backward",
    "affine_coupling_forward": "coupling",
    "affine_coupling_recompute_backward": "coupling, inverse and backward",
    "channel_mix": "1x1 convolution",
    "channel_mix_backward": "1x1 convolution, backward",
}


@dataclass
class Table:
    """A title, the heads of the columns, rows of cells, and remarks below."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of(rows: Iterable[Row], what: str) -> list[Row]:
    """The rows of one kind."""
    return [row for row in rows if row["what"] == what]


def shape(row: Row) -> tuple[Any, ...]:
    """Case and threads of a row, as a key."""
    return (*row["case"].items(), row["threads"])


def titles(rows: Iterable[Row]) -> list[str]:
    """The implementations in these rows, in the order of `IMPLEMENTATIONS`."""
    found = {row["implementation"] for row in rows}
    return [name for name in IMPLEMENTATIONS if name in found]


def time_tables(rows: list[Row]) -> list[Table]:
    """One table a case and number of threads: seconds and ratios to eager PyTorch, and a step's memory."""
    timed = of(rows, "time")
    memory = {(r["implementation"], *shape(r)): r for r in of(rows, "memory") if r["job"] == "step"}
    skipped = {(r["implementation"], r["job"], *shape(r)): r["reason"] for r in of(rows, "skip")}
    tables = []
    only_memory = {shape(row) for row in of(rows, "memory")} - {shape(row) for row in timed}
    for key in dict.fromkeys(map(shape, [*timed, *of(rows, "skip")])):
        if key in only_memory:
            continue
        here = [row for row in timed if shape(row) == key]
        missing = [row for row in of(rows, "skip") if shape(row) == key]
        sample = (here or missing)[0]
        case, threads = Case(**sample["case"]), sample["threads"]
        jobs = [job for job in JOBS if any(row["job"] == job for row in [*here, *missing])]
        table = Table(f"{case.label()}, {count(threads)}", ["", *jobs])
        measured = {name for name, *rest in memory if tuple(rest) == key}
        if measured:
            table.head.append("step memory")
        reasons: dict[str, int] = {}
        for name in titles([*here, *missing]):
            cells = [IMPLEMENTATIONS[name].title]
            for job in jobs:
                row = next((r for r in here if r["implementation"] == name and r["job"] == job), None)
                reason = skipped.get((name, job, *key))
                if row is not None:
                    cells.append(_time(row))
                elif reason is not None:
                    cells.append(f"skipped [{reasons.setdefault(reason, len(reasons) + 1)}]")
                elif job not in IMPLEMENTATIONS[name].jobs:
                    cells.append(f"as {IMPLEMENTATIONS[IMPLEMENTATIONS[name].as_in].title}")
                else:
                    cells.append(NOT_RUN)
            if measured:
                found = memory.get((name, *key))
                cells.append(_megabytes(found) if found else NOT_RUN)
            table.rows.append(cells)
        table.notes = [f"[{number}] {reason}" for reason, number in reasons.items()]
        tables.append(table)
    return tables


def kernel_tables(rows: list[Row]) -> list[Table]:
    """Single operations, one table a case and number of threads: milliseconds, ratios to plain PyTorch."""
    found = of(rows, "kernel")
    names = titles(found)
    head = {"eager": "plain PyTorch", "strict": "ours", "fast": "ours, fast"}
    tables = []
    for key in dict.fromkeys(map(shape, found)):
        mine = [row for row in found if shape(row) == key]
        table = Table(
            f"Kernels, {kernel_label(mine[0])}, {count(mine[0]['threads'])}", ["", *(head[n] for n in names)]
        )
        for kernel in KERNELS:
            here = {row["implementation"]: row for row in mine if row["kernel"] == kernel}
            if here:
                cells = [_kernel(here[name]) if name in here else "" for name in names]
                table.rows.append([KERNEL_TITLES.get(kernel, kernel), *cells])
        tables.append(table)
    return tables


def curve(rows: list[Row], along: str) -> list[Row]:
    """The rows of ``time``, ``memory`` or ``skip`` of a step that differ in ``size`` or in ``blocks`` only.

    Of several such families the one with the most different values.
    """
    families: dict[Any, list[Row]] = {}
    for row in rows:
        if row.get("job") != "step":
            continue
        families.setdefault(_fixed(row, along), []).append(row)
    best = max(families.values(), key=lambda family: len({place(r, along) for r in family}), default=[])
    return best if len({place(row, along) for row in best}) > 1 else []


def curve_table(rows: list[Row], what: str, along: str) -> Table:
    """``time`` or activation ``memory`` of a training step against ``size`` or against ``blocks``."""
    measured = curve(of(rows, what), along)
    alike = {_fixed(row, along) for row in measured}
    family = [row for row in [*of(rows, what), *of(rows, "skip")] if _fixed(row, along) in alike]
    places = sorted({place(row, along) for row in measured})
    table = Table(f"{what.capitalize()} of a training step against {along}", [""])
    if not measured:
        return table
    case = Case(**measured[0]["case"])
    table.head += [f"{p[0]}x{p[1]}" if along == "size" else f"{p} blocks at {case.size}" for p in places]
    cell = _memory if what == "memory" else _time
    for name in titles(measured):
        cells = [IMPLEMENTATIONS[name].title]
        for point in places:
            here = [r for r in family if r["implementation"] == name and place(r, along) == point]
            found = next((r for r in here if r["what"] == what), None)
            reason = next((r["reason"] for r in here if r["what"] == "skip"), NOT_RUN)
            cells.append(cell(found) if found else reason.partition(" needed")[0])
        table.rows.append(cells)
    return table


def rich_table(table: Table) -> Any:
    """For the terminal."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable(title=escape(table.title), title_justify="left", caption_justify="left")
    for index, head in enumerate(table.head):
        shown.add_column(escape(head), justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    if table.notes:
        shown.caption = escape("\n".join(table.notes))
    return shown


def markdown(table: Table) -> str:
    """For the documentation."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n\n".join([text, *table.notes])


def _fixed(row: Row, along: str) -> tuple[Any, ...]:
    """Everything of a step but what the curve goes along, as a key."""
    varied = ("height", "width") if along == "size" else ("blocks",)
    return (row.get("job"), row["threads"], *((k, v) for k, v in row["case"].items() if k not in varied))


def place(row: Row, along: str) -> Any:
    """Where a row lies on a curve: (height, width), or the number of blocks."""
    case = row["case"]
    return (case["height"], case["width"]) if along == "size" else case["blocks"]


def count(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def kernel_label(row: Row) -> str:
    """The case of a kernel: how many blocks the network has does not matter to it."""
    return Case(**{**row["case"], "blocks": 8}).label()


def _ratio(row: Row) -> str:
    if row["ratio"] is None or row["implementation"] == "eager":
        return ""
    return f" ({row['ratio']:.2f}x)"


def _time(row: Row) -> str:
    return f"{row['seconds']:.3g} s{_ratio(row)}"


def _kernel(row: Row) -> str:
    return f"{row['seconds'] * 1e3:.3g} ms{_ratio(row)}"


def _megabytes(row: Row) -> str:
    return f"{row['bytes'] / 1e6:,.0f} MB"


def _memory(row: Row) -> str:
    return f"{_megabytes(row)} ({row['bytes'] / Case(**row['case']).pixels:,.0f} B/px)"
