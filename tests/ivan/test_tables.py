"""Printed tables: every number is whole, whatever the terminal's width."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ivan.cli.tables import print_table

NUMBERS = [f"figure {k} [dB]" for k in range(18)]


def printed(width: int, cases: tuple[str, ...]) -> str:
    rows = [((case, "forward"), [f"{10 * i + k}.{k:04d}" for k in range(18)]) for i, case in enumerate(cases)]
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, soft_wrap=True)
    print_table(console, ("case", "direction"), NUMBERS, [rows, [(("mean", "forward"), rows[0][1])]])
    return text.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160, 400])
def test_no_number_is_cut_off(width: int) -> None:
    cases = ("anna", "a case [with] brackets")
    text = printed(width, cases)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert all(text.count(title) == 1 for title in NUMBERS)
    for i, case in enumerate(cases):
        (lines,) = [[line for line in text.splitlines() if case in line]]
        found = [number for line in lines for number in re.findall(r"\d+\.\d{4}", line)]
        assert found == [f"{10 * i + k}.{k:04d}" for k in range(18)]
    tables = text.count("┏")
    assert tables == 1 if width == 400 else tables > 1
    assert text.count("├") == tables  # the rule above the means


def test_a_column_wider_than_the_terminal_is_a_table_of_its_own() -> None:
    text = printed(20, ("anna",))
    assert text.count("┏") == 18
