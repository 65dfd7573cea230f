"""`ivan export`."""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="Run folder of ivan train.")],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="File to write, ending in .pt2.")],
    inverse: Annotated[
        bool, typer.Option("--inverse", help="The other direction: sources from targets.")
    ] = False,
    state: Annotated[
        bool,
        typer.Option(
            "--state",
            help="Of a run of fusion: the network's whole output instead of the fused image; with --inverse "
            "the sources exactly from it.",
        ),
    ] = False,
    checkpoint: Annotated[
        str, typer.Option(metavar="step-N", help="Checkpoint to use (default: the newest).")
    ] = "",
) -> None:
    """Write a trained network as one file that PyTorch runs without this package (torch.export).

    Examples:

      ivan export --run RUN --out t1_to_t2.pt2

      ivan export --run RUN --out t2_to_t1.pt2 --inverse

      ivan export --run FUSER --out fuse.pt2
    """
    from ivan.export import export as work

    typer.echo(f"wrote {work(run, out, inverse=inverse, state=state, checkpoint=checkpoint)}")
