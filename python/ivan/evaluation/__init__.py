"""Evaluation: synthesis metrics of each case, from files or from a run, with the protocol of every number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ivan.errors import InputError
from ivan.evaluation.measure import MASKS
from ivan.evaluation.result import CaseMetrics, Evaluation, run_record, write

__all__ = ["CaseMetrics", "Evaluation", "evaluate", "run_record", "write"]

DIRECTIONS = ("both", "forward", "inverse")
SCALES = ("reference", "each", "none")
VARIANTS = ("wang", "uniform7", "notes")


def evaluate(
    *,
    run: str | Path = "",
    data: str | Path = "",
    roots: dict[str, str] | None = None,
    prediction: str | Path = "",
    reference: str | Path = "",
    direction: str = "both",
    split: str | Path = "",
    slices: tuple[int, int] | None = None,
    mask: str = "none",
    variant: str = "wang",
    scale: str = "reference",
    data_range: float | None = None,
    plane: str = "axial",
    percentile: float = 99.5,
    checkpoint: str = "",
    device: str = "auto",
    lesions: str = "",
    uncertainty: bool = False,
    out: str | Path = "",
    progress: bool = False,
) -> Evaluation:
    """Measure a run on cases whose targets exist, or images in one folder against those in another.

    With `run` and `data`, sources and targets are each scaled by their own foreground percentile (as in
    training), the prediction is compared in these units and the data range is 1. With `prediction` and
    `reference`, `scale` says what both images are divided by before they are compared:

    * "reference" (default): both by the reference's 99.5th foreground percentile; a wrong overall brightness
      counts.
    * "each": each image by its own percentile; a wrong overall brightness does not count. * "none": nothing;
      `data_range` must then be given in the images' units. (It is 1 otherwise, unless given.)

    Args:
        run, data, roots: run folder, folder of the images, or one folder a modality instead of `data`.
        prediction, reference: folders in the layout that `ivan synthesize` writes, or of files with the same
            names. direction: with `run`: "forward" (sources to targets), "inverse" or "both". split: JSON
            file; its validation part is evaluated. slices: half-open range of slices along the plane, for all
            cases. mask: "none", or "foreground": only pixels where the reference exceeds 5 % of its scale.
            variant: "wang", "uniform7" or "notes", see `ivan.metrics.synthesis_metrics`. plane, percentile:
            with folders; a run has its own. checkpoint, device: with `run`, see `load_run`. lesions: name of
            lesion masks, found as a modality; cases that have one also get the errors inside lesions and
            brain (`ivan.metrics.region_metrics`). uncertainty: with `run`, how its uncertainty ranks the
            error (`ivan.metrics.uncertainty_ranking`). out: folder for metrics.json, metrics.csv and
            report.html; empty: nothing is written. progress: show progress on standard output.

    Returns:
        The numbers. Cases whose files cannot be used are named and left out; `left_out` then says so.

    Raises:
        InputError: options that do not go together, or no data that can be used.
        RunError: results cannot be written.
    """
    _check_options(run, data or roots, prediction, reference, direction, mask, variant, scale, data_range)
    if run and (scale != "reference" or plane != "axial"):
        name = "--plane" if plane != "axial" else "--scale"
        raise InputError(f"{name}: goes with --prediction and --reference; a run has its own, leave it out")
    if not run and (direction != "both" or checkpoint):
        name = "--checkpoint" if checkpoint else "--direction"
        raise InputError(f"{name}: goes with --run; leave it out for images in folders")
    if not run and uncertainty:
        raise InputError("--uncertainty: goes with --run; leave it out for images in folders")
    if run:
        from ivan.evaluation.run import evaluate_run

        result = evaluate_run(
            Path(run),
            data,
            roots,
            direction,
            split,
            slices,
            mask,
            variant,
            checkpoint,
            device,
            progress,
            lesions,
            uncertainty,
        )
    else:
        from ivan.evaluation.folders import evaluate_folders

        result = evaluate_folders(
            Path(prediction),
            Path(reference),
            split,
            slices,
            mask,
            variant,
            scale,
            data_range,
            plane,
            percentile,
            progress,
            lesions,
        )
    if str(out):
        write(result, Path(out), Path(run) if run else None)
    return result


def _check_options(
    run: str | Path,
    data: Any,
    prediction: str | Path,
    reference: str | Path,
    direction: str,
    mask: str,
    variant: str,
    scale: str,
    data_range: float | None,
) -> None:
    for name, value, allowed in (
        ("direction", direction, DIRECTIONS),
        ("mask", mask, MASKS),
        ("variant", variant, VARIANTS),
        ("scale", scale, SCALES),
    ):
        if value not in allowed:
            raise InputError(f"--{name}: '{value}' given, expected one of {', '.join(allowed)}")
    if run and (prediction or reference):
        raise InputError(
            "--run: given together with --prediction or --reference; give --run and --data, or both folders"
        )
    if run and not data:
        raise InputError("--data: no folder given; --run needs the images to evaluate on")
    if not run and bool(prediction) != bool(reference):
        missing = "--reference" if prediction else "--prediction"
        raise InputError(f"{missing}: not given; images are compared as --prediction DIR --reference DIR")
    if not run and not prediction:
        raise InputError("--run: not given; give --run RUN --data DIR, or --prediction DIR --reference DIR")
    if data_range is not None and not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"--data-range: {data_range} given, must be above 0")
    if run and data_range is not None:
        raise InputError(
            "--data-range: is 1 with --run, where images are compared in normalised units; leave it out"
        )
    if not run and scale == "none" and data_range is None:
        raise InputError(
            "--data-range: not given; --scale none needs it, in the images' units (255 for 8 bits)"
        )
