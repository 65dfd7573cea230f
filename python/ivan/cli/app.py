"""The Typer application and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from ivan.cli.benchmark import benchmark
from ivan.cli.demo import demo
from ivan.cli.evaluate import evaluate
from ivan.cli.export import export
from ivan.cli.fuse import fuse
from ivan.cli.info import info
from ivan.cli.prepare import prepare
from ivan.cli.synthesize import synthesize
from ivan.cli.test import run_test
from ivan.cli.train import train

app = typer.Typer(
    name="ivan",
    help=(
        "iVAN: synthesise medical image modalities from each other, forward and backward with one "
        "network.\n\n"
        "First steps: [bold]ivan demo[/bold] shows everything on embedded data in minutes. Then, with your "
        "images as DATA/T1/case.nii.gz and DATA/T2/case.nii.gz:\n\n"
        "  ivan train --data DATA --from T1 --to T2 --out RUN\n\n"
        "  ivan synthesize --run RUN --data NEW --out OUT\n\n"
        "  ivan evaluate --run RUN --data TEST\n\n"
        "From raw DICOM, BIDS or unpaired NIfTI: [bold]ivan prepare RAW --out DATA[/bold] first, then --data "
        "DATA/dataset.json."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ivan {version('ivan_fast')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of unexpected errors (works after any command)."),
    ] = False,
) -> None:
    # `--debug` is taken out of the arguments before they come here, so that it works anywhere on the line.
    del version, debug


app.command(rich_help_panel="Main")(demo)
app.command(rich_help_panel="Main")(prepare)
app.command(rich_help_panel="Main")(train)
app.command(rich_help_panel="Main")(synthesize)
app.command(rich_help_panel="Main")(evaluate)
app.command(rich_help_panel="Other")(export)
app.command(rich_help_panel="Main")(fuse)
app.command("test", rich_help_panel="Other")(run_test)
app.command(rich_help_panel="Other")(info)
app.command(rich_help_panel="Other")(benchmark)
