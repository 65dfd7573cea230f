"""Which modality a series is: what its description says, else its folder, else its kind of scanner."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ivan.errors import InputError
from ivan.prepare.series import Stack
from ivan.prepare.words import contrast_agent, weighting

# Objects of a study that hold no image of the patient, though they name one ("T2 lesion segmentation").
NO_IMAGES = {
    "SEG": "a segmentation",
    "RTSTRUCT": "contours",
    "RTDOSE": "a dose",
    "RTPLAN": "a plan",
    "PR": "a presentation state",
    "KO": "a selection of images",
    "SR": "a report",
    "REG": "a registration",
}
_SCANNERS = {"CT": "CT", "PT": "PET", "NM": "NM", "US": "US"}
# Names tried on NIfTI trees where the user names none; GENERAL ones only for files that tell no other.
GENERAL = ("MRI", "MR")
KNOWN = (
    "T1",
    "T2",
    "PD",
    "FLAIR",
    "T1c",
    "T1ce",
    "T1Gd",
    "CT",
    "PET",
    "ADC",
    "DWI",
    "SWI",
    "MRA",
    "T2star",
)


@dataclass(frozen=True)
class Rule:
    """`--map PATTERN=NAME`: series whose description or folder matches are NAME; `none` leaves them out."""

    pattern: re.Pattern[str]
    name: str


def parse_rules(texts: Sequence[str]) -> list[Rule]:
    """Rules from `PATTERN=NAME`. Raises InputError."""
    rules = []
    for text in texts:
        pattern, equals, name = text.rpartition("=")
        if not equals or not pattern or not re.fullmatch(r"[A-Za-z0-9+-]+", name):
            raise InputError(
                f"--map: '{text}' given, expected PATTERN=NAME with a plain name, such as --map 'ax t2 "
                "tse=T2'"
            )
        try:
            rules.append(Rule(re.compile(pattern, re.IGNORECASE), name))
        except re.error as error:
            raise InputError(
                f"--map: '{pattern}' is not a pattern ({error}); expected a regular expression"
            ) from None
    return rules


def modality_of(stack: Stack, rules: Sequence[Rule], folders: str) -> str | None:
    """The modality of a stack; None where nothing tells it, `""` where a rule leaves it out.

    Args:
        stack: the slices.
        rules: the user's, which come first.
        folders: the series' folder below the root, as text: used, the innermost first, where neither the
            description nor the protocol says anything.
    """
    header = stack.header
    for rule in rules:
        if rule.pattern.search(header.description) or rule.pattern.search(folders):
            return "" if rule.name.lower() == "none" else rule.name
    if header.kind in _SCANNERS:
        return _SCANNERS[header.kind]
    # A protocol is often named for all that it holds ("brain w/wo contrast"), and so are outer folders.
    protocol = header.protocol
    series = header.description[: len(header.description) - len(protocol)].strip()
    parts = folders.split("/")
    inwards = ["/".join(parts[depth:]) for depth in reversed(range(len(parts)))]
    for text in (series, protocol, *inwards):
        name = weighting(text)
        if name == "PD/T2":
            return _by_echo(stack)
        if name == "T1":
            said = contrast_agent(text)
            return "T1c" if said or (said is None and header.contrast_agent) else "T1"
        if name is not None:
            return name or None
    return None


def _by_echo(stack: Stack) -> str | None:
    """PD or T2 of a dual-echo series: the later echo is T2 weighted. None where no echo time is known."""
    echo = stack.frames[0].echo if math.isnan(stack.echo) else stack.echo
    return None if math.isnan(echo) else "T2" if echo >= 50 else "PD"
