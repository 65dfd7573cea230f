"""One series of several of a modality, and how sure that choice is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ivan.errors import InputError
from ivan.prepare.series import Stack, missing_slices


@dataclass(frozen=True)
class Choice:
    """The stack taken for a modality.

    Attributes:
        modality: its name.
        taken: the stack.
        others: those not taken, without copies of it.
        rivals: those of `others` that may be the right one: acquired, no scouts, and complete if `taken` is.
    """

    modality: str
    taken: Stack
    others: tuple[Stack, ...] = ()
    rivals: tuple[Stack, ...] = ()

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


def choose(modality: str, stacks: Sequence[Stack]) -> Choice:
    """One stack: acquired before derived, then complete ones, most slices, most pixels, the earliest.

    A reformatted volume often has more slices than the acquisition it was computed from. An acquisition of
    less than a third of the most slices is a scout, and does not come first. A series of several volumes has
    the most slices and is no volume: it comes last, as does one with slices missing.
    """
    whole = [stack for stack in stacks if _complete(stack)]
    most = max(len(stack.frames) for stack in whole or stacks)

    def lesser(stack: Stack) -> bool:
        return stack.header.derived or 3 * len(stack.frames) < most

    order = sorted(
        stacks,
        key=lambda s: (
            lesser(s),
            s not in whole,
            -len(s.frames),
            -s.frames[0].shape[0] * s.frames[0].shape[1],
            s.header.series_number,
            s.label,
        ),
    )
    taken = order[0]
    others = tuple(stack for stack in order[1:] if _identity(stack) != _identity(taken))
    rivals = tuple(stack for stack in others if not lesser(stack) and (stack in whole or taken not in whole))
    return Choice(modality, taken, others, rivals)


def _complete(stack: Stack) -> bool:
    """Whether its slices are one volume without gaps, as far as headers tell."""
    try:
        return not any(missing_slices(stack)[1])
    except InputError:
        return False


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
