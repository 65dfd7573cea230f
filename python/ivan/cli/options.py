"""Command-line options made from the fields of `TrainConfig`, so that names, help and defaults exist once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Optional

import typer

from ivan.training.config import TrainConfig
from ivan.training.options import RECIPES
from ivan.training.settings import flag

_TYPES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": list[str]}


def _help(item: Field[Any]) -> str:
    """The field's help and its default, which Typer does not know: see `_option`."""
    by_recipe = [f"{values[item.name]} ({name})" for name, values in RECIPES.items() if item.name in values]
    if by_recipe:
        return rf"{item.metadata['help']} [dim]\[default: by --recipe, {', '.join(by_recipe)}][/dim]"
    if item.default in ("", (), MISSING):
        return str(item.metadata["help"])
    default = {True: "on", False: "off"}[item.default] if item.type == "bool" else item.default
    return rf"{item.metadata['help']} [dim]\[default: {default}][/dim]"


def _option(item: Field[Any]) -> inspect.Parameter:
    """One option. Its default is None, "not given": a resumed run must know what the user asked for."""
    name = flag(item)
    choices = [choice for choice in item.metadata["choices"] if choice]
    if item.type == "bool":
        flags = [f"{name}/--no-{name[2:]}"]
        metavar = None
    else:
        flags = [name]
        metavar = "|".join(choices) or {"str": "TEXT", "int": "N", "float": "X"}.get(str(item.type), "NAME")
        metavar = {"data": "DIR", "out": "RUN", "split": "FILE", "init": "FILE"}.get(item.name, metavar)
    info = typer.Option(
        *flags,
        help=_help(item),
        metavar=metavar,
        rich_help_panel=item.metadata["group"],
        show_default=False,
    )
    kind = _TYPES[str(item.type)]
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[kind], info],  # noqa: UP045 - built at run time
    )


def with_train_options(
    *, leave_out: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: give a command an option for every TrainConfig field, in front of its own parameters.

    The command receives the given ones as the dict `settings`.
    """
    wanted = [
        item for item in fields(TrainConfig) if item.name not in leave_out and item.type != "dict[str, str]"
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"
        ]

        def called(**values: Any) -> Any:
            settings = {item.name: values.pop(item.name) for item in wanted}
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if v is not None}
            return command(settings={k: v for k, v in given.items() if v != ()}, **values)

        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        called.__signature__ = inspect.Signature([*map(_option, wanted), *own])  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in called.__signature__.parameters.values()}  # type: ignore[attr-defined]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called

    return decorate
