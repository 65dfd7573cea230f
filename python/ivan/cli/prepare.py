"""`ivan prepare`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def prepare(
    raw: Annotated[
        str, typer.Argument(metavar="RAW", help="Folder of DICOM series, NIfTI files or BIDS; only read.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for the prepared data.")],
    modalities: Annotated[
        Optional[list[str]],  # noqa: UP045 - Typer reads it at run time
        typer.Option(
            "--modality",
            metavar="NAME",
            help="Modality to take; repeat (default: all that can be told). A single one needs no pair.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(metavar="NAME", help="Modality whose grid all get (default: the first, or T1).")
    ] = "",
    rules: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--map",
            metavar="PATTERN=NAME",
            help="DICOM series whose description or folder matches are NAME (none: left out); repeat.",
            show_default=False,
        ),
    ] = None,
    spacing: Annotated[
        str, typer.Option(metavar="MM", help="Voxel size, such as 1 or 1x1x2 (default: the reference's).")
    ] = "",
    register: Annotated[
        bool, typer.Option("--register", help="Register to the reference (rigid, mutual information).")
    ] = False,
    crop: Annotated[bool, typer.Option("--crop", help="Crop each case to its foreground and 8 mm.")] = False,
    fill_missing: Annotated[
        bool,
        typer.Option("--fill-missing", help="Interpolate missing slices instead of leaving the case out."),
    ] = False,
    validation: Annotated[
        float, typer.Option(metavar="X", help="Share of the patients for validation.")
    ] = 0.2,
    test: Annotated[
        float, typer.Option(metavar="X", help="Share of the patients kept for a final test.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the draw of patients.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Turn raw images into training data: pair, reorient, resample to one grid, check, split by patient.

    Writes DIR/MODALITY/case.nii.gz, DIR/dataset.json for ivan train --data, and DIR/quality.html: look at it.
    The same command again keeps what is done and goes on with the rest.

    Examples:

      ivan prepare DICOM --out DATA

      ivan prepare RAW --out DATA --modality T1 --modality T2 --spacing 1 --register

      ivan prepare RAW --out DATA --map "ax t2 tse=T2" --test 0.1

      ivan prepare NEW --out NEWDATA --modality T1
    """
    from ivan.errors import RunError
    from ivan.prepare import prepare as work

    try:
        work(
            raw,
            out,
            modalities=modalities or (),
            reference=reference,
            rules=rules or (),
            spacing=spacing,
            register=register,
            crop=crop,
            fill_missing=fill_missing,
            validation=validation,
            test=test,
            seed=seed,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        error = RunError("stopped; the cases done so far are kept, the same command goes on with the rest")
        error.exit_code = 130
        raise error from None
