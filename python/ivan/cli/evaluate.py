"""`ivan evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ivan.errors import InputError

if TYPE_CHECKING:
    from ivan.evaluation import Evaluation

_RUN = "A run on images"
_FILES = "Files against files"


def _text(help: str, panel: str | None = None, metavar: str = "DIR") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        help=help, metavar=metavar, rich_help_panel=panel, show_default=False
    )
    return option


def evaluate(
    run: Annotated[str, _text("Run folder of ivan train.", _RUN, "RUN")] = "",
    data: Annotated[str, _text("Folder with sources and targets, or dataset.json:test.", _RUN)] = "",
    direction: Annotated[
        str,
        typer.Option(
            metavar="both|forward|inverse", help="Sources to targets, or back.", rich_help_panel=_RUN
        ),
    ] = "both",
    inverse: Annotated[
        bool, typer.Option("--inverse", help="Short for --direction inverse.", rich_help_panel=_RUN)
    ] = False,
    checkpoint: Annotated[str, _text("Checkpoint to use (default: the newest).", _RUN, "step-N")] = "",
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.", rich_help_panel=_RUN)
    ] = "auto",
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="How the run's own uncertainty ranks its errors.", rich_help_panel=_RUN
        ),
    ] = False,
    prediction: Annotated[
        str, _text("Folder of synthesised images, as ivan synthesize writes it.", _FILES)
    ] = "",
    reference: Annotated[str, _text("Folder of the real images.", _FILES)] = "",
    scale: Annotated[
        str,
        typer.Option(
            metavar="reference|each|none",
            help="Divide both by the reference's 99.5th percentile, each by its own, or by nothing.",
            rich_help_panel=_FILES,
        ),
    ] = "reference",
    data_range: Annotated[
        Optional[float],  # noqa: UP045 - Typer evaluates it on Python 3.10 too
        typer.Option(
            metavar="X", help="Span of the values; needed with --scale none, else 1.", rich_help_panel=_FILES
        ),
    ] = None,
    plane: Annotated[
        str,
        typer.Option(metavar="axial|coronal|sagittal", help="Plane of the slices.", rich_help_panel=_FILES),
    ] = "axial",
    split: Annotated[str, _text("Evaluate the validation part of this JSON file.", metavar="FILE")] = "",
    slices: Annotated[str, _text("Evaluate these slices of every case, as 20:70.", metavar="FIRST:END")] = "",
    mask: Annotated[str, typer.Option(metavar="none|foreground", help="Pixels that count.")] = "none",
    variant: Annotated[
        str,
        typer.Option(
            metavar="wang|uniform7|notes", help="Variant of SSIM; notes: other formulas, see docs/metrics.md."
        ),
    ] = "wang",
    lesions: Annotated[
        str, _text("Lesion masks, named as a modality: errors inside them beside the brain.", metavar="NAME")
    ] = "",
    out: Annotated[
        str,
        _text("Folder for metrics.json, metrics.csv, report.html (default: RUN or PREDICTION/evaluation)."),
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Measure synthesised images: PSNR, SSIM, NMSE and sharpness of each case, with their protocol.

    Examples:

      ivan evaluate --run RUN --data TEST

      ivan evaluate --run RUN --data DATA --split RUN/split.json --mask foreground

      ivan evaluate --prediction OUT --reference TEST
    """
    if inverse and direction == "forward":
        raise InputError("--inverse: given together with --direction forward; give one of them")
    from ivan.evaluation import evaluate as work

    target = out or str(Path(run or prediction) / "evaluation")
    result = work(
        run=run,
        data=data,
        direction="inverse" if inverse else direction,
        checkpoint=checkpoint,
        device=device,
        prediction=prediction,
        reference=reference,
        scale=scale,
        data_range=data_range,
        plane=plane,
        split=split,
        slices=parse_slices(slices),
        mask=mask,
        variant=variant,
        lesions=lesions,
        uncertainty=uncertainty,
        out=target,
        progress=not quiet,
    )
    if not quiet:
        show(result)
        typer.echo(f"wrote {target}/metrics.json, metrics.csv and report.html")
    if result.left_out:
        raise result.left_out


def parse_slices(text: str) -> tuple[int, int] | None:
    """ "20:70" as (20, 70); nothing for "". Raises InputError."""
    if not text:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit()):
        raise InputError(f"--slices: '{text}' given, expected FIRST:END such as 20:70")
    return int(first), int(end)


def show(result: Evaluation) -> None:
    """Print the table and the protocol."""
    from ivan.cli.tables import plain_console, print_table
    from ivan.evaluation.result import COLUMNS

    console = plain_console()
    protocols = result.protocols()
    columns = [column for column in COLUMNS if column[0] in protocols]

    def cells(values: dict[str, float], counts: dict[str, int] | None = None) -> list[str]:
        found = []
        for key, _, unit, _ in columns:
            text = (
                "-" if key not in values else f"{values[key]:.2f}" if unit == "dB" else f"{values[key]:.4f}"
            )
            # A mean over fewer cases than its row says, such as those that have a lesion.
            found.append(f"{text} (of {counts[key]})" if counts and key in counts else text)
        return found

    rows = [
        (
            (row.case + (" (trained on)" if row.in_training else ""), row.direction, row.target),
            cells(row.values),
        )
        for row in result.cases
    ]
    means = [
        ((_mean_of(mean["cases"]), mean["direction"], mean["target"]), cells(mean["values"], mean["counts"]))
        for mean in result.means()
    ]
    titles = [f"{label} {unit}".strip() for _, label, unit, _ in columns]
    sections = [rows, means] if len(rows) > len(means) else [rows]
    print_table(console, ("case", "direction", "target"), titles, sections)
    console.print("; ".join(f"{name}: {value}" for name, value in result.protocol.items()), markup=False)
    for key, label, _, better in columns:
        if better:
            console.print(f"{label}: {protocols[key]}", markup=False)


def _mean_of(cases: int) -> str:
    return f"mean of {cases} case{'' if cases == 1 else 's'}"
