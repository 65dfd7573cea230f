"""`ivan demo`."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="New folder for everything the demo writes.")
    ] = "demo-run",
) -> None:
    """Do the whole job on embedded data in minutes: train, synthesise, invert, evaluate, report.

    The images are simulated contrasts of the MNI152 template (real T1; T2 and PD computed from its tissue
    maps).
    """
    from ivan.demo import run_demo

    run_demo(out)
