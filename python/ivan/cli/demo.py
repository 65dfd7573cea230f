"""`ivan demo`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def demo(
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="New folder for everything the demo writes.")
    ] = "demo-run",
    minutes: Annotated[
        Optional[float],  # noqa: UP045 - Typer reads it at run time
        typer.Option("--minutes", metavar="X", help="Minutes of training (default 2.5)."),
    ] = None,
) -> None:
    """Do the whole job on embedded data in minutes: train, synthesise, invert, evaluate, report.

    The images are simulated contrasts of the MNI152 template (real T1; T2 and PD computed from its tissue
    maps).
    """
    from ivan.demo import run_demo

    run_demo(out) if minutes is None else run_demo(out, minutes=minutes)
