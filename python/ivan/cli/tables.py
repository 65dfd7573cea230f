"""Tables of numbers on a terminal: several, one below the other, where one would be cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

FILE_WIDTH = 160  # characters of a table that is written to a file or a pipe
Row = tuple[Sequence[str], Sequence[str]]  # what it is about (case, target ...), its numbers


def plain_console() -> Console:
    """Where tables and protocols are printed: no colours for numbers, no line breaks inside a protocol."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=FILE_WIDTH)


def print_table(
    console: Console, keys: Sequence[str], numbers: Sequence[str], sections: Sequence[Sequence[Row]]
) -> None:
    """Print rows under titles, with a rule between sections.

    Where the columns do not fit side by side they make several tables, each beginning with the keys.

    Args:
        keys, numbers: titles of the columns to the left and of those with numbers.
        sections: groups of rows, each a cell for every key and one for every number.
    """
    from rich.table import Table

    rows = [row for section in sections for row in section]
    key_widths = [_width(title, [row[0][i] for row in rows]) for i, title in enumerate(keys)]
    widths = [_width(title, [row[1][i] for row in rows]) for i, title in enumerate(numbers)]
    for start, stop in _parts(widths, console.width - 1 - sum(key_widths)):
        table = Table()
        for title in keys:
            table.add_column(title)
        for title in numbers[start:stop]:
            table.add_column(title, justify="right", no_wrap=True)
        for section in sections:
            table.add_section()
            for about, values in section:
                table.add_row(*about, *values[start:stop])
        console.print(table, markup=False)


def _width(title: str, cells: Sequence[str]) -> int:
    """Characters of a column with its padding and one border."""
    return max(map(len, (title, *cells))) + 3


def _parts(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Neighbouring columns that fit into `room`, at least one at a time."""
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and sum(widths[start : stop + 1]) <= room:
            stop += 1
        yield start, stop
        start = stop
