"""`ivan synthesize`."""

from __future__ import annotations

from typing import Annotated

import typer


def synthesize(
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="Run folder of ivan train.")],
    data: Annotated[
        str,
        typer.Option("--data", metavar="DIR", help="Folder of the images, as for training, or dataset.json."),
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for OUT/MODALITY/case.nii.gz.")],
    inverse: Annotated[
        bool, typer.Option("--inverse", help="The other way round: sources from targets.")
    ] = False,
    checkpoint: Annotated[
        str, typer.Option(metavar="step-N", help="Checkpoint to use (default: the newest).")
    ] = "",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    pixels: Annotated[
        int, typer.Option(metavar="N", help="Largest batch in pixels; less needs less memory.")
    ] = 1 << 18,
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads; 0: as PyTorch chooses.")] = 0,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Also write OUT/MODALITY_uncertainty/case: where to doubt the result."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Synthesise the missing modalities of every case in a folder.

    Results have the source's orientation, shape and affine, and intensities in the scale of the training set.
    The modalities to synthesise need not exist in DATA. Older results of the same name are replaced.

    Examples:

      ivan synthesize --run RUN --data NEW --out OUT

      ivan synthesize --run RUN --data NEW --out OUT --inverse
    """
    from ivan.inference import synthesize as work

    work(
        run,
        data,
        out,
        inverse=inverse,
        checkpoint=checkpoint,
        device=device,
        pixels=pixels,
        threads=threads,
        uncertainty=uncertainty,
        progress=not quiet,
    )
