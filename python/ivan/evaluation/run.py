"""Evaluation of a run: both directions of a trained network on cases whose targets exist."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    spacing,
    ssim_line,
    uncertainty_numbers,
)
from ivan.evaluation.result import CaseMetrics, Evaluation

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import CaseRange
    from ivan.inference import Predictor


def evaluate_run(
    run: Path,
    data: str | Path,
    roots: dict[str, str] | None,
    direction: str,
    split: str | Path,
    slices: tuple[int, int] | None,
    mask: str,
    variant: str,
    checkpoint: str,
    device: str,
    progress: bool,
    lesions: str = "",
    uncertainty: bool = False,
) -> Evaluation:
    """Evaluate a run; arguments as `ivan.evaluate`."""
    from ivan.data.datalist import file_of
    from ivan.inference import find, load_predictor

    predictor = load_predictor(run, checkpoint=checkpoint, device=device)
    config = predictor.config
    if config.fusion_target:
        raise InputError(
            f"{run}: fuses without a label, so there is nothing to compare with; ivan fuse --run measures it"
        )
    optional = [lesions] if lesions else []
    cases = find((*config.sources, *config.targets), data, roots, optional=optional)
    check_lesions(cases, lesions)
    same_data = (
        bool(str(data)) and bool(config.data) and file_of(data).resolve() == file_of(config.data).resolve()
    )
    trained = _trained_ranges(run) if same_data else {}
    directions = [False, True] if direction == "both" else [direction == "inverse"]
    if uncertainty:
        _check_uncertainty(predictor, directions)
    result = evaluate_cases(
        predictor,
        ranges_of(cases, split, slices),
        directions,
        mask=mask,
        variant=variant,
        trained=trained,
        progress=progress,
        lesions=lesions,
        uncertainty=uncertainty,
    )
    result.warnings = [*cases.skipped, *cases.notes, *result.warnings]
    if seen := sorted({row.case for row in result.cases if row.in_training}):
        from ivan.inference import warn

        warn(f"{', '.join(seen)}: the run was trained on these; --split {run / 'split.json'} leaves them out")
    return result


def evaluate_cases(
    predictor: Predictor,
    ranges: Sequence[CaseRange],
    directions: Sequence[bool] = (False, True),
    *,
    mask: str = "none",
    variant: str = "wang",
    trained: dict[str, list[tuple[int, int | None]]] | None = None,
    progress: bool = False,
    lesions: str = "",
    uncertainty: bool = False,
) -> Evaluation:
    """Predict and measure cases in normalised units; `directions`: False is forward, True inverse.

    `lesions` names the masks among the cases' files, `uncertainty` asks how the network's own doubt ranks its
    errors. A case whose files cannot be used is named and left out.
    """
    from ivan.inference import LeftOut, progress_over

    config = predictor.config
    found = Evaluation([], {})
    left_out = LeftOut(len(ranges))
    with progress_over(ranges, "evaluating", progress) as (items, say):
        for item in items:
            try:
                _evaluate_case(
                    found, predictor, item, directions, mask, variant, trained, lesions, uncertainty
                )
            except InputError as error:
                left_out.add(item.case.name, error)
                continue
            left_out.done()
            say(f"evaluated {item.case.name}")
    found.left_out = left_out.summary("measured")
    from ivan.data.loading import scaling_words

    found.protocol = {
        "scaling": "none (the run was trained with --normalise none)"
        if config.normalise == "none"
        else scaling_words(config.normalise, config.percentile),
        "data range": 1.0,
        "mask": mask_words(mask),
        "plane": config.plane,
        "clipping": "predictions below 0 are set to 0 where the training images had no negative values",
        "checkpoint": str(predictor.origin),
    }
    if lesions:
        found.protocol |= lesion_protocol(lesions)
    found.warnings = [*left_out.lines, *dict.fromkeys(found.warnings)]
    return found


def _evaluate_case(
    found: Evaluation,
    predictor: Predictor,
    item: CaseRange,
    directions: Sequence[bool],
    mask: str,
    variant: str,
    trained: dict[str, list[tuple[int, int | None]]] | None,
    lesions: str,
    uncertainty: bool,
) -> None:
    """Add a case's numbers, warnings and images to `found`; nothing where it cannot be used (InputError)."""
    import numpy as np

    from ivan.report import CaseResult, Synthesis
    from ivan.suspicion import clipping_lines
    from ivan.uncertainty import has_spare_channels, predict_with_uncertainty

    config = predictor.config
    # Both directions on the grid of the first source, whose slices a range counts.
    loaded = predictor.load(item.case, (*config.sources, *config.targets))
    start, stop = item.bounds(len(loaded.slices))
    at = {name: index for index, name in enumerate(loaded.modalities)}
    chosen = loaded.slices[start:stop]
    rows: list[CaseMetrics] = []
    warnings: list[str] = [*loaded.notes]
    lesion_file = item.case.files.get(lesions)
    inside_lesions: np.ndarray | None = None
    if lesion_file is not None:
        inside_lesions = lesion_mask(lesion_file, loaded.reference, config.plane)[start:stop]
    if lesions:
        held = None if inside_lesions is None else bool(inside_lesions.any())
        warnings += lesion_lines([(item.case.name, held)], lesions)
    made: list[tuple[str, list[str], str, np.ndarray]] = []  # modality, given ones, direction, slices
    for inverse in directions:
        given, names = predictor.modalities(inverse)
        clipped: dict[str, float] = {}
        shown = loaded.slices[:, [at[name] for name in given]]
        doubt: np.ndarray | None = None
        if uncertainty and has_spare_channels(predictor, inverse):
            predicted, doubt = predict_with_uncertainty(predictor, shown, inverse, (start, stop), clipped)
        else:
            predicted = predictor.predict(shown, inverse, (start, stop), clipped)
        warnings += predictor.suspicions(loaded, given) + clipping_lines(item.case.name, clipped)
        word = "inverse" if inverse else "forward"
        for index, name in enumerate(names):
            real = chosen[:, at[name]]
            inside = real > MASK_LEVEL if mask == "foreground" else None
            what = f"{item.case.files[name]} ({word})"
            values, protocol = measure(real, predicted[:, index], 1.0, inside, variant, 0, what)
            warnings += ssim_line(item.case.name, values, real.shape, 0, variant)
            if inside_lesions is not None:
                numbers, said = lesion_numbers(real, predicted[:, index], inside_lesions, MASK_LEVEL, 1.0)
                values, protocol = {**values, **numbers}, {**protocol, **said}
            if doubt is not None:
                numbers, said = uncertainty_numbers(real, predicted[:, index], doubt[:, index])
                values, protocol = {**values, **numbers}, {**protocol, **said}
            seen = any(item.overlaps(_range_of(item, r)) for r in (trained or {}).get(item.case.name, []))
            rows.append(CaseMetrics(item.case.name, name, word, values, protocol, seen))
            made.append((name, list(given), word, predicted[:, index]))
    found.warnings += warnings

    def view() -> CaseResult:
        images = {name: loaded.to_volume(loaded.slices[:, i]) for name, i in at.items()}
        syntheses = []
        for name, given, word, predicted in made:
            whole = np.zeros_like(loaded.slices[:, 0])  # slices that were not evaluated are 0
            whole[start:stop] = predicted
            syntheses.append(Synthesis(name, loaded.to_volume(whole), given, word, images[name]))
        return CaseResult(
            item.case.name,
            images,
            syntheses,
            spacing=spacing(loaded.reference),
            plane=config.plane,
            slices=(start, stop),
            oriented=not loaded.reference.grid.image,
        )

    found.add(rows, view)


def _check_uncertainty(predictor: Predictor, directions: Sequence[bool]) -> None:
    """Raise InputError where no direction has an uncertainty; say so where only one has."""
    from ivan.inference import warn
    from ivan.uncertainty import check_spare_channels, has_spare_channels

    lacking = [inverse for inverse in directions if not has_spare_channels(predictor, inverse)]
    if len(lacking) == len(directions):
        check_spare_channels(predictor, lacking[0])
    for inverse in lacking:
        word = "inverse" if inverse else "forward"
        warn(f"--uncertainty: none for the {word} direction, whose predictions fill all channels")


def _range_of(item: CaseRange, bounds: tuple[int, int | None]) -> CaseRange:
    from ivan.data import CaseRange

    return CaseRange(item.case, bounds[0], bounds[1])


def _trained_ranges(run: Path) -> dict[str, list[tuple[int, int | None]]]:
    """Case -> slice ranges that a run was trained on, from its split.json; nothing where that is absent."""
    try:
        content = json.loads((run / "split.json").read_text(encoding="utf-8"))
        found: dict[str, list[tuple[int, int | None]]] = {}
        for entry in content["training"]:
            name, bounds = (
                (entry, (0, None)) if isinstance(entry, str) else (entry["case"], tuple(entry["slices"]))
            )
            found.setdefault(name, []).append(bounds)
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return {}
