"""`ivan fuse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ivan.errors import InputError

if TYPE_CHECKING:
    from ivan.fusion.measure import FusionResult

_RULE = "Without a run"
_RUN = "With a run"


def fuse(
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="DIR", help="Folder of the images; with --inverse the --out of ivan fuse."
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for fused/case and the report.")],
    sources: Annotated[
        Optional[list[str]],  # noqa: UP045 - Typer evaluates it on Python 3.10 too
        typer.Option("--from", metavar="NAME", help="The two modalities (default: those of the run)."),
    ] = None,
    run: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="Run folder of ivan train --task fusion.",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = "",
    inverse: Annotated[
        bool,
        typer.Option("--inverse", help="Decompose fused images into their sources.", rich_help_panel=_RUN),
    ] = False,
    state: Annotated[
        bool,
        typer.Option(
            "--state/--no-state",
            help="Keep all channels beside the image, so that the sources come back exactly.",
            rich_help_panel=_RUN,
        ),
    ] = True,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="step-N",
            help="Checkpoint (default: the newest).",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            metavar="average|maximum|laplacian|wavelet", help="Rule that fuses.", rich_help_panel=_RULE
        ),
    ] = "laplacian",
    normalise: Annotated[
        str,
        typer.Option(
            metavar="auto|percentile|none",
            help="Intensity scale; auto: none for PNG and colours, percentile otherwise.",
            rich_help_panel=_RULE,
        ),
    ] = "auto",
    plane: Annotated[
        str,
        typer.Option(metavar="axial|coronal|sagittal", help="Plane of the slices.", rich_help_panel=_RULE),
    ] = "axial",
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Write the rules' images too, to OUT/RULE.")
    ] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    pixels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Largest batch in pixels; less needs less memory.")
    ] = 1 << 18,
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads; 0: as PyTorch chooses.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Fuse two modalities of every case in one image, by a trained network or a rule, and measure it.

    PNG and NIfTI, two gray images or a gray and a colour one (PET, SPECT: fused in the Y of YCbCr, chroma
    kept). The report compares with average, maximum, Laplacian pyramid and wavelet. With a run, --inverse
    gives the sources back: exactly from the state kept beside the image, approximately from the image alone.

    Examples:

      ivan fuse --data DATA --from MRI --from CT --out OUT

      ivan fuse --run RUN --data DATA --out OUT

      ivan fuse --run RUN --data OUT --inverse --out SOURCES
    """
    from ivan import fusion

    common: dict[str, Any] = {
        "checkpoint": checkpoint,
        "device": device,
        "pixels": pixels,
        "threads": threads,
        "progress": not quiet,
    }
    if inverse:
        if not run:
            raise InputError("--inverse: needs --run; only a trained network can be inverted")
        if sources:
            raise InputError("--from: given with --inverse; the run knows its modalities, leave it out")
        fusion.decompose(data, out, run=run, **common)
        return
    if not run and checkpoint:
        raise InputError("--checkpoint: goes with --run; leave it out")
    if run and (method != "laplacian" or normalise != "auto" or plane != "axial"):
        name = "--method" if method != "laplacian" else "--normalise" if normalise != "auto" else "--plane"
        raise InputError(f"{name}: goes without --run; the run has its own, leave it out")
    result = fusion.fuse(
        data,
        tuple(sources or ()),
        out,
        run=run,
        method=method,
        normalise=normalise,
        plane=plane,
        state=state,
        baselines=baselines,
        **common,
    )
    if not quiet:
        show(result)
        typer.echo(f"wrote {out}/metrics.json, metrics.csv and report.html")
    if result.left_out:
        raise result.left_out


def show(result: FusionResult) -> None:
    """Print the tables (means over cases where there are several) and the protocol."""
    from ivan.cli.tables import plain_console, print_table
    from ivan.fusion.measure import DECOMPOSITION_COLUMNS, FUSION_COLUMNS

    console = plain_console()
    means = result.means()
    for title, columns, chosen in (
        ("image", FUSION_COLUMNS, [m for m in means if m["part"] == "fusion"]),
        ("decomposed", DECOMPOSITION_COLUMNS, [m for m in means if m["part"] != "fusion"]),
    ):
        rows = []
        for mean in chosen:
            name = "fused" if mean["part"] == "fusion" else mean["part"]
            values = [
                f"{mean['values'][key]:.1e}"
                if key in ("nmse", "largest_error")
                else f"{mean['values'][key]:.4f}"
                for key, _, _ in columns
            ]
            rows.append(((name, mean["method"], str(mean["cases"])), values))
        if rows:
            titles = [f"{label} {unit}".strip() for _, label, unit in columns]
            print_table(console, (title, "method", "cases"), titles, [rows])
    console.print("; ".join(f"{name}: {value}" for name, value in result.protocol.items()), markup=False)
    protocols = result.protocols()
    for key, label, _ in (*FUSION_COLUMNS, *DECOMPOSITION_COLUMNS):
        if key in protocols:
            console.print(f"{label}: {protocols[key]}", markup=False)
