"""One series of several of a modality, and how sure that choice is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ivan.prepare.series import Stack, fault_of, places_of


@dataclass(frozen=True)
class Choice:
    """The stack taken for a modality.

    Attributes:
        modality: its name.
        taken: the stack.
        others: those not taken, without copies of it.
        rivals: those of `others` that may be the right one: sound, acquired, and no scouts.
        faults: why others are no volume, one line each; empty where the one taken is none either.
    """

    modality: str
    taken: Stack
    others: tuple[Stack, ...] = ()
    rivals: tuple[Stack, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """One line for the case's record."""
        rest = ", ".join(_name(stack) for stack in self.others[:4]) + (" ..." if len(self.others) > 4 else "")
        return (
            f"{len(self.others) + 1} series are {self.modality}: {_name(self.taken)} taken, not {rest}; "
            "--map 'PATTERN=none' leaves one out"
        )

    @property
    def kind(self) -> str:
        """What is chosen from what, without what differs from patient to patient."""
        mine = _words(self.taken)
        words = [_words(stack) for stack in self.rivals]
        names = list(dict.fromkeys("another of that name" if text == mine else text for text in words))
        rest = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
        return f"{self.modality}: {mine} taken, not {rest}"


def choose(modality: str, stacks: Sequence[Stack], *, fill_missing: bool = False) -> Choice:
    """One stack: sound before faulty, acquired before derived, then most places, most pixels, the earliest.

    A reformatted volume often has more slices than the acquisition it was computed from. An acquisition of
    less than a third of the most places is a scout, and comes last: better no T1 than five slices of it.

    Args:
        modality: its name.
        stacks: those that are of it.
        fill_missing: stacks with missing slices count as sound.
    """
    if len(stacks) == 1:
        return Choice(modality, stacks[0])
    looked = [(stack, len(places_of(stack)), fault_of(stack, interpolate=fill_missing)) for stack in stacks]
    most = max(count for _, count, _ in looked)

    def group(item: tuple[Stack, int, str]) -> int:
        stack, count, fault = item
        return 3 if 3 * count < most else 2 if fault else int(stack.header.derived)

    def rank(item: tuple[Stack, int, str]) -> tuple[int, int, int, int, str]:
        stack, count, _ = item
        rows, columns = stack.frames[0].shape
        return group(item), -count, -rows * columns, stack.header.series_number, stack.label

    (taken, _, fault), *rest = sorted(looked, key=rank)
    others = [item for item in rest if _identity(item[0]) != _identity(taken)]
    rivals = tuple(item[0] for item in others if group(item) == 0)
    faults = tuple(item[2] for item in others if item[2] and not fault)
    return Choice(modality, taken, tuple(item[0] for item in others), rivals, faults)


def chosen_lines(choices: Sequence[tuple[str, Choice]]) -> list[str]:
    """One line for each kind of choice, naming the first cases that it was made in.

    Args:
        choices: (case, choice), only those that leave a rival.
    """
    cases: dict[str, list[str]] = {}
    for case, choice in choices:
        cases.setdefault(choice.kind, []).append(case)
    lines = []
    for kind, names in cases.items():
        which = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"{kind} ({which}); where another is meant, leave this one out: --map 'PATTERN=none'")
    return lines


def _identity(stack: Stack) -> object:
    """Equal for two exports of one series."""
    frames = tuple((frame.position, frame.orientation, frame.spacing, frame.shape) for frame in stack.frames)
    return stack.header.series_number, stack.header.description, str(stack.echo), frames


def _name(stack: Stack) -> str:
    return f"series {stack.header.series_number} ({_words(stack)})"


def _words(stack: Stack) -> str:
    """The description, or else the protocol, and the echo where a series has several."""
    header = stack.header
    words = header.description[: len(header.description) - len(header.protocol)].strip() or header.description
    echo = "" if math.isnan(stack.echo) else f", echo {stack.echo:g} ms"
    return (words[:40] or "no description") + echo
