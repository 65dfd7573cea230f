"""What a field of `TrainConfig` knows beside its default: help, flags, choices and range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, field
from typing import Any

from ivan.errors import InputError

_BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "at_least": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "below": lambda value, bound: value < bound,
    "at_most": lambda value, bound: value <= bound,
}
_KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "tuple[str, ...]": tuple,
    "dict[str, str]": dict,
}
_WORDS = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}
_WORDS |= {"tuple[str, ...]": "a list of names", "dict[str, str]": "a folder by modality"}


def setting(
    default: Any,
    group: str,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    on_resume: bool = False,
    **bounds: float,
) -> Any:
    """A dataclass field.

    Args:
        default: its value where the user gives none.
        group: the panel of `--help` that shows it.
        help: one line.
        flags: option names on the command line, if other than the field's own name.
        choices: the only values allowed; "" means "not given".
        on_resume: whether it may be changed when a run is resumed; all others must stay as in `config.json`.
        bounds: any of at_least, above, below, at_most.
    """
    metadata = {
        "group": group,
        "help": help,
        "flags": flags,
        "choices": choices,
        "bounds": bounds,
        "on_resume": on_resume,
    }
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def flag(item: Field[Any]) -> str:
    """The option's name on the command line."""
    flags = item.metadata["flags"]
    return str(flags[0]) if flags else "--" + item.name.replace("_", "-")


def check(item: Field[Any], value: Any) -> None:
    """InputError unless `value` has the field's type, is one of its choices and lies within its bounds."""
    kind = _KINDS[str(item.type)]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{flag(item)}: {value!r} given, expected {_WORDS.get(str(item.type), item.type)}")
    if isinstance(value, (tuple, dict)):
        parts = [*value, *value.values()] if isinstance(value, dict) else list(value)
        if bad := [part for part in parts if not isinstance(part, str) or not part]:
            raise InputError(f"{flag(item)}: {bad[0]!r} given, expected a name")
        return
    choices = item.metadata["choices"]
    if choices and value not in choices:
        raise InputError(
            f"{flag(item)}: '{value}' given, expected one of {', '.join(c for c in choices if c)}"
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for name, bound in item.metadata["bounds"].items():
            if not math.isfinite(value) or not _BOUNDS[name](value, bound):
                raise InputError(f"{flag(item)}: {value} given, must be {name.replace('_', ' ')} {bound}")
