"""`fuse`: two modalities in one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ivan.errors import InputError
from ivan.fusion import state as states
from ivan.fusion.decomposition import decompositions, fusion_predictor, published
from ivan.fusion.fuser import METHODS, Fuser, protocol, write_results
from ivan.fusion.measure import (
    OURS,
    FusionResult,
    measure_decomposed,
    measure_fused,
    view,
)
from ivan.training.config import FUSED

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import Case, LoadedCase, Volume
    from ivan.inference import Predictor

NORMALISATIONS = ("auto", "percentile", "none")


def fuse(
    data: str | Path = "",
    sources: Sequence[str] = (),
    out: str | Path = "",
    *,
    run: str | Path = "",
    method: str = "laplacian",
    roots: dict[str, str] | None = None,
    plane: str = "axial",
    normalise: str = "auto",
    percentile: float = 99.5,
    state: bool = True,
    baselines: bool = False,
    checkpoint: str = "",
    device: str = "auto",
    pixels: int = 1 << 18,
    threads: int = 0,
    progress: bool = True,
) -> FusionResult:
    """Fuse two modalities of every case and measure the result beside the fixed rules.

    Writes OUT/fused/case on the first source's grid: values 0..1 (PNG: 16-bit gray), and where one source is
    in colour 8-bit RGB (PNG) or RGB24 (NIfTI) with that source's chroma. With a network also
    OUT/state/case.safetensors, the whole output, from which the sources come back exactly. Then metrics.json,
    metrics.csv and report.html.

    Args:
        data, roots: folder of the images, or one folder a modality.
        sources: the two modalities; with `run` those it was trained on.
        run: run folder of `ivan train --task fusion`; empty: fuse by `method`.
        method: rule of the fused image without a run: average, maximum, laplacian or wavelet.
        plane, normalise, percentile: without a run, as in training; "auto": none for PNG and colours,
        percentile otherwise.
        state: whether to write the state. baselines: whether to write the rules' images too, to
        OUT/RULE/case.
        checkpoint, device, pixels, threads: as `ivan.synthesize`.

    Returns:
        The numbers and files. Cases that cannot be used are named and left out; `left_out` then says so.

    Raises:
        InputError: options that cannot be used, or no images that can. RunError: a file cannot be written.
    """
    from ivan.data import write_volume
    from ivan.evaluation.measure import VIEWED_CASES
    from ivan.inference import (
        LeftOut,
        find,
        keep_images,
        output_suffix,
        progress_over,
        results_folder,
        set_threads,
        warn,
    )

    out = results_folder(out)
    set_threads(threads)
    fuser = _fuser(run, sources, method, plane, normalise, percentile, checkpoint, device, pixels)
    predictor = fuser.predictor
    result = FusionResult(protocol=protocol(fuser))
    unmeasured = InputError("no case to fuse")
    cases = find(fuser.sources, data, roots)
    keep_images(out, [FUSED, *(METHODS if baselines else ())], cases, fuser.sources[0])
    left_out = LeftOut(len(cases))
    weights = states.weights_digest(predictor.model) if predictor else ""
    cut: list[tuple[float, float]] = []  # by `_write_colours`, of every case in colour
    with progress_over(cases, "fusing", progress) as (items, say):
        for case in items:
            try:
                loaded = fuser.load(case)
                colours = _colours(case, fuser.sources, loaded)
            except InputError as error:  # one bad file must not cost the cases after it
                left_out.add(case.name, error)
                continue
            left_out.done()
            for note in loaded.notes:
                warn(note)
            result.warnings += [f"{case.name}: {note}" for note in loaded.notes]
            fused, output = fuser.fuse(loaded)
            suffix = output_suffix(case.files[fuser.sources[0]])
            if colours is not None and suffix in (".npy", ".mat"):  # which hold no colours
                suffix = ".png" if loaded.reference.grid.image else ".nii.gz"
            wanted = {FUSED: fused[OURS if predictor else fuser.method]}
            if baselines:
                wanted |= {name: fused[name] for name in METHODS}
            for folder, stack in wanted.items():
                path = out / folder / f"{case.name}{suffix}"
                volume = loaded.to_volume(stack)
                if colours is not None:
                    changes = _write_colours(path, volume, colours[1], loaded.reference)
                    if folder == FUSED:
                        cut.append(changes)
                else:
                    write_volume(path, volume, loaded.reference)
                result.files.append(path)
                say(f"wrote {path}")
            decomposed: dict[str, np.ndarray] = {}
            where = states.state_path(out, case.name)
            if predictor is None or not state:
                states.remove_state(where)
            if predictor is not None and output is not None:
                path = out / FUSED / f"{case.name}{suffix}"
                kept = states.State(output, loaded.scales, weights, states.file_digest(path))
                if state:
                    result.files.append(states.write_state(where, kept))
                image = published(path, loaded.plane)
                decomposed = decompositions(predictor, kept, image)
            try:
                rows = measure_fused(case.name, loaded.slices, fused, _is_png(loaded))
                result.rows += rows + measure_decomposed(case.name, fuser.sources, loaded.slices, decomposed)
            except InputError as error:  # a tiny image must not stop the others
                unmeasured = InputError(f"{error}; fused images are written, but not one could be measured")
                result.warnings.append(f"{error}; fused, not measured")
                warn(result.warnings[-1])
            if len(result.views) < VIEWED_CASES:
                result.views.append(view(loaded, fuser.sources, fused, decomposed, colours))
    if cut:
        result.protocol["colours"] = _cut_words(cut)
    result.left_out = left_out.summary("written")
    result.warnings = [*cases.skipped, *cases.notes, *left_out.lines, *result.warnings]
    if not result.rows:
        raise unmeasured
    write_results(result, out, fuser)
    return result


def preview(predictor: Predictor, case: Case) -> FusionResult:
    """One case fused and decomposed in memory, for the report of a training run."""
    config = predictor.config
    fuser = Fuser(config.sources, "", predictor, config.plane, config.normalise, config.percentile)
    loaded = fuser.load(case)
    fused, output = fuser.fuse(loaded)
    assert output is not None
    kept = states.State(output, loaded.scales, "")
    decomposed = decompositions(predictor, kept, fused[OURS][:, None])
    rows = measure_fused(case.name, loaded.slices, fused, _is_png(loaded))
    rows += measure_decomposed(case.name, config.sources, loaded.slices, decomposed)
    colours = _colours(case, config.sources, loaded)
    return FusionResult(rows, protocol(fuser), [view(loaded, config.sources, fused, decomposed, colours)])


def _fuser(
    run: str | Path,
    sources: Sequence[str],
    method: str,
    plane: str,
    normalise: str,
    percentile: float,
    checkpoint: str,
    device: str,
    pixels: int,
) -> Fuser:
    for name, value, allowed in (("method", method, METHODS), ("normalise", normalise, NORMALISATIONS)):
        if value not in allowed:
            raise InputError(f"--{name}: '{value}' given, expected one of {', '.join(allowed)}")
    if not str(run):
        if len(sources) != 2 or sources[0] == sources[1]:
            raise InputError(
                f"--from: {len(set(sources))} modalities given, expected two, as --from MRI --from CT"
            )
        return Fuser(tuple(sources), method, None, plane, normalise, percentile)
    predictor = fusion_predictor(run, checkpoint, device, pixels)
    config = predictor.config
    if sources and tuple(sources) != config.sources:
        raise InputError(
            f"--from: {' and '.join(sources)} given, but {run} fuses {' and '.join(config.sources)} in this "
            "order; "
            "leave --from out"
        )
    return Fuser(config.sources, method, predictor, config.plane, config.normalise, config.percentile)


def _colours(case: Case, sources: Sequence[str], loaded: LoadedCase) -> tuple[str, np.ndarray] | None:
    """The one source in colour and its chroma ``[X, Y, Z, 2]`` on the grid of the first; None where both are
    gray."""
    import numpy as np

    from ivan.data.colour import chroma, one_in_colour
    from ivan.data.resample import on_grid_of
    from ivan.data.volume import Volume

    found = one_in_colour(case, sources)
    if found is None:
        return None
    name, rgb, volume = found
    planes = [
        Volume(np.ascontiguousarray(rgb[..., c]), volume.affine, volume.grid, volume.path) for c in range(3)
    ]
    if volume.path != loaded.reference.path:
        planes = [Volume(on_grid_of(loaded.reference, p)[0], p.affine, p.grid, p.path) for p in planes]
    return name, chroma(np.stack([p.data for p in planes], axis=-1))


def _is_png(loaded: LoadedCase) -> bool:
    return loaded.reference.grid.format == "png"


def _write_colours(path: Path, y: np.ndarray, cb_cr: np.ndarray, like: Volume) -> tuple[float, float]:
    """Write a fused Y in colour; return the share of its pixels that were cut, and their mean change of Y."""
    import numpy as np

    from ivan.data.colour import luma, recolour, write_colours

    rgb = recolour(y, cb_cr)
    write_colours(path, rgb, like)
    change = np.abs(luma(rgb) - y)
    found = change > 0.5 / 255
    return float(found.mean()), float(change[found].mean()) if found.any() else 0.0


def _cut_words(cut: Sequence[tuple[float, float]]) -> str:
    """How far the metrics, which are of the fused Y, speak of the images as written."""
    share = sum(part for part, _ in cut) / len(cut)
    if not share:
        return "written with the source's Cb and Cr; no colour had to be cut"
    change = sum(part * size for part, size in cut) / sum(part for part, _ in cut)
    return (
        "metrics are of the fused Y; written with the source's Cb and Cr, "
        f"{100 * share:.2g} % of the pixels leave 0..1 and are cut, which changes their Y by "
        f"{255 * change:.2g} gray levels in the mean"
    )
