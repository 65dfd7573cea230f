"""`synthesize`: the missing modalities of every case in a folder, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError
from ivan.inference.common import (
    find,
    keep_images,
    output_suffix,
    results_folder,
    set_threads,
    warn,
    write_each,
)
from ivan.inference.loading import load_predictor
from ivan.inference.predictor import DEFAULT_PIXELS, Predictor
from ivan.suspicion import clipping_lines

if TYPE_CHECKING:
    from ivan.data import Case


def synthesize(
    run: str | Path,
    data: str | Path = "",
    out: str | Path = "",
    *,
    inverse: bool = False,
    roots: dict[str, str] | None = None,
    checkpoint: str = "",
    device: str = "auto",
    pixels: int = DEFAULT_PIXELS,
    threads: int = 0,
    uncertainty: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Synthesise the missing modalities of every case in a folder.

    Each result has the source's (for `inverse` the target's) orientation, shape and affine. Its intensities
    are in units of the training set: normalised 1 is the median of the percentiles recorded in training. An
    existing result is replaced, whole, but no image beside the given ones. NIfTI is written for NIfTI, else
    the format of the source.

    Args:
        run: run folder of `ivan train`.
        data: folder with the given modalities; the ones to synthesise need not exist.
        out: folder for OUT/MODALITY/case.nii.gz.
        inverse: synthesise the sources from the targets, with the same weights.
        roots: folder of each given modality, instead of `data`.
        checkpoint, device: as in `load_run`.
        pixels: upper bound of the pixels of one batch.
        threads: CPU threads; 0 leaves PyTorch's choice.
        uncertainty: write OUT/MODALITY_uncertainty/case too (`ivan.uncertainty`), in the image's units.
        progress: show a progress bar on a terminal and a line for each file elsewhere.

    Returns:
        The files written.

    Raises:
        InputError: the run or the data cannot be used, or `out` holds images of `data`; where single cases
            cannot, the others are written.
        RunError: a result cannot be written; those before it are whole.
    """
    from ivan.data.writing import remove_leftovers
    from ivan.uncertainty import SUFFIX, check_spare_channels

    out = results_folder(out)
    if pixels < 1:
        raise InputError(f"--pixels: {pixels} given, must be at least 1")
    set_threads(threads)
    predictor = load_predictor(run, checkpoint=checkpoint, device=device, pixels=pixels)
    if predictor.config.task == "fusion":
        raise InputError(
            f"{run}: a run of fusion; use ivan fuse --run, and ivan fuse --run --inverse to decompose"
        )
    if uncertainty:
        check_spare_channels(predictor, inverse)
    given, names = predictor.modalities(inverse)
    cases = find(given, data, roots)
    keep_images(out, [*names, *(f"{name}{SUFFIX}" for name in names if uncertainty)], cases, given[0])
    for name in names:
        remove_leftovers(out / name)

    def write(case: Case) -> list[Path]:
        return synthesize_case(predictor, case, out, inverse=inverse, uncertainty=uncertainty)[1]

    return write_each(cases, "synthesising", progress, write)


def synthesize_case(
    predictor: Predictor, case: Case, out: Path, *, inverse: bool = False, uncertainty: bool = False
) -> tuple[dict[str, Any], list[Path]]:
    """Synthesise one case and write its files.

    Returns:
        ({modality: [X, Y, Z] float32 RAS volume in the training set's units}, the files written).
    """
    import numpy as np

    from ivan.data import write_volume
    from ivan.uncertainty import SUFFIX, predict_with_uncertainty

    given, names = predictor.modalities(inverse)
    loaded = predictor.load(case, given)
    for note in loaded.notes:
        warn(note)
    clipped: dict[str, float] = {}
    doubt = None
    if uncertainty:
        predicted, doubt = predict_with_uncertainty(predictor, loaded.slices, inverse, clipped=clipped)
    else:
        predicted = predictor.predict(loaded.slices, inverse, clipped=clipped)
    volumes, paths = {}, []
    suffix = output_suffix(case.files[given[0]])
    for index, name in enumerate(names):
        values = predicted[:, index]
        if not np.isfinite(values).all():
            raise InputError(
                f"{predictor.origin}: {name} of {case.name} is not finite; use an earlier --checkpoint"
            )
        if name in predictor.scales:
            values = predictor.scales[name].undo(values)
        if suffix == ".png":
            values = np.clip(values, 0, 1)
        volumes[name] = loaded.to_volume(values)
        paths.append(write_volume(out / name / f"{case.name}{suffix}", volumes[name], loaded.reference))
        if doubt is not None:
            scale = predictor.scales.get(name)
            doubts = doubt[:, index] * (scale.high - scale.low if scale else 1)
            doubts = np.clip(doubts, 0, 1) if suffix == ".png" else doubts
            path = out / f"{name}{SUFFIX}" / f"{case.name}{suffix}"
            paths.append(write_volume(path, loaded.to_volume(doubts), loaded.reference))
    for line in [*predictor.suspicions(loaded, given), *clipping_lines(case.name, clipped)]:
        warn(line)
    return volumes, paths
