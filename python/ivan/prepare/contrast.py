"""Which modality a series is: what its description says, else its folder, else its kind of scanner."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ivan.errors import InputError
from ivan.prepare.series import Stack

# Ordered: what says more comes first (T2 FLAIR is FLAIR, T1 with contrast agent is T1c).
_MR: tuple[tuple[str, str], ...] = (
    (r"flair|dark.?fluid", "FLAIR"),
    (r"adc|apparent", "ADC"),
    (r"dwi|diffusion|dti|b1000|trace", "DWI"),
    (r"swi|suscept", "SWI"),
    (r"t2[ _-]?(\*|star)|t2s\b", "T2star"),
    (r"tof|mra\b|angio", "MRA"),
    (r"bold|fmri", "BOLD"),
    (r"(pd|proton)[^a-z]*(and|[/+&_ -])?[^a-z]*t2|t2[^a-z]*[/+&_ -][^a-z]*pd", "PD/T2"),
    (r"(?<![a-z])pd(w|we)?(?![a-z])|proton", "PD"),
    (r"t1[a-z0-9 _-]*(\+ ?c\b|ce\b|gd|gad|post|contrast|km\b)|(gd|post)[ _-]*t1|t1c\b", "T1c"),
    (r"t1|mprage|mp2rage|spgr|bravo|tfl3d|fspgr", "T1"),
    (r"t2|haste|space", "T2"),
)
_SCANNERS = {"CT": "CT", "PT": "PET", "NM": "NM", "US": "US"}
# Names tried on NIfTI trees where the user names none.
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
    "MRI",
    "MR",
    "ADC",
    "DWI",
    "SWI",
    "MRA",
    "T2star",
)


@dataclass(frozen=True)
class Rule:
    """`--map PATTERN=NAME`: series whose description or folder matches are of modality NAME."""

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
    """The modality of a stack, or None where nothing tells it.

    Args:
        stack: the slices.
        rules: the user's, which come first.
        folders: the series' folder below the root, as text: used where the description says nothing.
    """
    header = stack.header
    for rule in rules:
        if rule.pattern.search(header.description) or rule.pattern.search(folders):
            return rule.name
    if header.kind in _SCANNERS:
        return _SCANNERS[header.kind]
    for text in (header.description, folders):
        for pattern, name in _MR:
            if re.search(pattern, text.replace("_", " "), re.IGNORECASE):
                return _by_echo(stack) if name == "PD/T2" else _with_agent(name, header.contrast_agent)
    return None


def _by_echo(stack: Stack) -> str:
    """PD or T2 of a dual-echo series: the later echo is T2 weighted."""
    return "T2" if not math.isnan(stack.echo) and stack.echo >= 50 else "PD"


def _with_agent(name: str, agent: bool) -> str:
    return "T1c" if name == "T1" and agent else name
