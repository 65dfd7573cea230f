"""Evaluation of files: predictions in one folder against references in another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError
from ivan.evaluation.measure import (
    MASK_LEVEL,
    check_lesions,
    lesion_lines,
    lesion_mask,
    lesion_numbers,
    lesion_protocol,
    mask_words,
    measure,
    ranges_of,
    ssim_line,
)
from ivan.evaluation.result import CaseMetrics, Evaluation

if TYPE_CHECKING:
    from ivan.data import Case, Scale, Volume


@dataclass(frozen=True)
class Pair:
    """A predicted image and its reference, whose case has the file of `modality`."""

    modality: str
    case: Case
    prediction: Path


def evaluate_folders(
    prediction: Path,
    reference: Path,
    split: str | Path,
    slices: tuple[int, int] | None,
    mask: str,
    variant: str,
    scale: str,
    data_range: float | None,
    plane: str,
    percentile: float,
    progress: bool,
    lesions: str = "",
) -> Evaluation:
    """Compare images on the same grid; arguments as `ivan.evaluate`."""

    from ivan.data.planes import PLANES, check_plane, slices_to_volume
    from ivan.inference import LeftOut, progress_over

    axis = PLANES[check_plane(plane)]
    span = data_range or 1.0
    jobs = []
    by_name: dict[str, list[Pair]] = {}
    found, unpaired = find_pairs(prediction, reference, lesions)
    check_lesions([pair.case for pair in found], lesions)
    for pair in found:
        by_name.setdefault(pair.modality, []).append(pair)
    for pairs in by_name.values():
        made = {pair.case.name: pair for pair in pairs}
        jobs += [(made[r.case.name], r) for r in ranges_of([pair.case for pair in pairs], split, slices)]
    result = Evaluation([], {})
    missing: list[str] = []
    held: dict[str, bool | None] = {}
    left_out = LeftOut(len(jobs))
    with progress_over(jobs, "evaluating", progress) as (items, say):
        for pair, chosen in items:
            try:
                real, made_of, level = _read(pair, scale, percentile)
                start, stop = chosen.bounds(real[0].data.shape[axis])
                cut = tuple(slice(start, stop) if i == axis else slice(None) for i in range(3))
                inside = real[0].data[cut] > level if mask == "foreground" else None
                a, b = real[1].apply(real[0].data), made_of[1].apply(made_of[0].data)
                values, protocol = measure(a[cut], b[cut], span, inside, variant, axis, str(real[0].path))
                masked: bool | None = None
                if (file := chosen.case.files.get(lesions)) is not None:
                    normal = (level - real[1].low) / (real[1].high - real[1].low)
                    masks = slices_to_volume(lesion_mask(file, real[0], plane), plane)
                    masked = bool(masks[cut].any())
                    numbers, said = lesion_numbers(a[cut], b[cut], masks[cut], normal, span)
                    values, protocol = {**values, **numbers}, {**protocol, **said}
            except InputError as error:  # one bad file must not cost the numbers of the others
                left_out.add(f"{pair.modality} of {chosen.case.name}", error)
                continue
            left_out.done()
            held[chosen.case.name] = held.get(chosen.case.name) or masked
            missing += ssim_line(chosen.case.name, values, a[cut].shape, axis, variant)
            row = CaseMetrics(chosen.case.name, pair.modality, "files", values, protocol)
            result.add([row], partial(_view, pair, real[0], a, b, plane, (start, stop)))
            say(f"evaluated {pair.modality} of {chosen.case.name}")
    result.left_out = left_out.summary("measured")
    words = {
        "reference": f"both by the reference's {percentile:g}th foreground percentile",
        "each": f"each image by its own {percentile:g}th foreground percentile",
        "none": "none",
    }
    result.protocol = {
        "scaling": words[scale],
        "data range": span,
        "mask": mask_words(mask),
        "plane": plane,
        "prediction": str(prediction),
        "reference": str(reference),
    }
    if lesions:
        result.protocol |= lesion_protocol(lesions)
        missing += lesion_lines(held.items(), lesions)
    result.warnings = [*unpaired, *left_out.lines, *dict.fromkeys(missing)]
    return result


def find_pairs(prediction: Path, reference: Path, lesions: str = "") -> tuple[list[Pair], list[str]]:
    """Predictions with their references, and one line for each that has none (told on standard error too).

    Where `prediction` has a folder for each modality, both folders are searched for that modality by the
    rules of `find_cases` (with the masks that `lesions` names); otherwise files with the same names are
    paired. Uncertainty maps are passed by.

    Raises:
        InputError: a folder is missing or nothing can be paired.
    """
    from ivan.data import find_cases, find_cases_in_folders
    from ivan.data.volume import image_suffix
    from ivan.inference import warn
    from ivan.uncertainty import SUFFIX

    for folder in (prediction, reference):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; check the path")
    inside = [
        entry for entry in sorted(prediction.iterdir()) if entry.is_dir() and not entry.name.startswith(".")
    ]
    modalities = [
        entry.name
        for entry in inside
        if not entry.name.endswith(SUFFIX) and any(image_suffix(file) for file in entry.iterdir())
    ]
    if not modalities:
        cases = find_cases_in_folders({"reference": reference, "prediction": prediction})
        lines = [*cases.skipped, *cases.notes]
        for line in lines:
            warn(line)
        return [Pair("reference", case, case.files["prediction"]) for case in cases], lines
    pairs, lines = [], []
    for name in modalities:
        made = {case.name: case.files[name] for case in find_cases(prediction, [name])}
        real = {c.name: c for c in find_cases(reference, [name], optional=[lesions] if lesions else [])}
        if not set(made) & set(real):
            raise InputError(
                f"{prediction / name}: case '{min(made)}' has no reference in {reference}, where {name} has "
                f"'{min(real)}'; give both the same file name"
            )
        for missing in sorted(set(made) ^ set(real)):
            lines.append(
                f"{missing}: has {name} in {reference if missing in real else prediction} only, skipped"
            )
            warn(lines[-1])
        pairs += [Pair(name, real[case], made[case]) for case in made if case in real]
    return pairs, lines


def _read(
    pair: Pair, scale: str, percentile: float
) -> tuple[tuple[Volume, Scale], tuple[Volume, Scale], float]:
    """(reference and its scale, prediction and its scale, the reference's foreground level)."""
    import numpy as np

    from ivan.data import Scale, estimate_scale, read_volume

    real, made = (
        read_volume(pair.case.files[pair.modality]),
        read_volume(pair.prediction, allow_constant=True),
    )
    if real.data.shape != made.data.shape:
        raise InputError(
            f"{made.path}: shape {made.data.shape}, expected {real.data.shape} as {real.path}; "
            "resample both to one grid first"
        )
    if real.grid.has_affine and made.grid.has_affine and not np.allclose(real.affine, made.affine, atol=1e-3):
        raise InputError(f"{made.path}: its affine is not that of {real.path}; resample to one grid first")
    own = estimate_scale(real.data, percentile)
    level = own.low + MASK_LEVEL * (own.high - own.low)
    if scale == "none":
        unit = Scale(0.0, 1.0)
        return (real, unit), (made, unit), level
    if scale == "each":
        return (real, own), (made, estimate_scale(made.data, percentile)), level
    return (real, own), (made, own), level


def _view(pair: Pair, real: Volume, a: Any, b: Any, plane: str, bounds: tuple[int, int]) -> Any:
    from ivan.evaluation.measure import spacing
    from ivan.report import CaseResult, Synthesis

    name = pair.modality
    return CaseResult(
        f"{pair.case.name} {name}",
        {name: a},
        [Synthesis(name, b, [name], "forward", a)],
        spacing=spacing(real),
        plane=plane,
        slices=bounds,
        oriented=not real.grid.image,
    )
