"""`ivan info`."""

from __future__ import annotations

from typing import Annotated

import typer


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Show versions, how the kernels were built, the processor's instruction set and the devices.

    Paste it into a bug report.
    """
    import json

    from ivan.environment import collect

    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    for title, values in facts.items():
        typer.echo(title)
        for name, value in values.items():
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            typer.echo(f"  {name:<20} {text}")
