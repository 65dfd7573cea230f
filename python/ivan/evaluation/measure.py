"""What both kinds of evaluation share: which slices, which pixels, which numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import CaseRange, Volume

MASKS = ("none", "foreground")
MASK_LEVEL = 0.05  # of the reference's scale: the level at which a pixel counts as foreground
VIEWED_CASES = 3  # the first ones, whose images a report shows
SSIM_WINDOWS = {"wang": 11, "uniform7": 7, "notes": 11}  # pixels a side, by variant


def mask_words(mask: str) -> str:
    """The protocol line of a mask."""
    return (
        f"reference above {MASK_LEVEL:g} of its scale"
        if mask == "foreground"
        else "none, background included"
    )


def ranges_of(cases: Sequence[Any], split: str | Path, slices: tuple[int, int] | None) -> list[CaseRange]:
    """What to evaluate of which case."""
    from ivan.data import CaseRange, make_split

    if slices is not None and not 0 <= slices[0] < slices[1]:
        raise InputError(f"--slices: {slices[0]}:{slices[1]} given, expected FIRST:END with 0 <= FIRST < END")
    if str(split):
        chosen = make_split(cases, file=split).validation
        if not chosen:
            raise InputError(f'{split}: "validation" is empty, expected the cases to evaluate')
        if slices is not None:
            raise InputError("--slices: given together with --split; name the slices in one of them")
        return chosen
    start, stop = slices or (0, None)
    return [CaseRange(case, start, stop) for case in cases]


def measure(
    reference: np.ndarray,
    prediction: np.ndarray,
    span: float,
    mask: np.ndarray | None,
    variant: str,
    axis: int,
    what: str,
) -> tuple[dict[str, float], dict[str, str]]:
    """Every figure of a case, and how each was measured; without SSIM where slices are below its window
    (`ssim_line` says so). Raises InputError that names `what`.
    """
    from ivan.metrics import protocols, synthesis_metrics

    sides = [n for i, n in enumerate(reference.shape) if i != axis]
    try:
        found = synthesis_metrics(
            reference,
            prediction,
            span,
            mask=mask,
            variant=variant,
            axis=axis,
            with_ssim=min(sides) >= SSIM_WINDOWS[variant],
        )
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    return {name: float(value) for name, value in found.items()}, protocols(found)


def ssim_line(
    case: str, values: dict[str, float], shape: Sequence[int], axis: int, variant: str
) -> list[str]:
    """A line that says why a case has no SSIM; none where it has one."""
    if "ssim" in values:
        return []
    height, width = (n for i, n in enumerate(shape) if i != axis)
    need = SSIM_WINDOWS[variant]
    return [f"{case}: no SSIM, its slices have {height}x{width} pixels and the window {need}x{need}"]


def lesion_mask(path: Path, like: Volume, plane: str) -> np.ndarray:
    """A lesion mask on the grid of a volume: [S, H, W] bool; what is interpolated counts from one half.

    Raises:
        InputError: the file cannot be read or lies elsewhere.
    """
    from ivan.data import Volume, read_volume, volume_to_slices
    from ivan.data.resample import on_grid_of

    volume = read_volume(path, allow_constant=True)
    values = (volume.data != 0).astype("float32")
    moved, _ = on_grid_of(like, Volume(values, volume.affine, volume.grid, volume.path))
    return volume_to_slices(moved >= 0.5, plane)


def lesion_numbers(
    reference: np.ndarray, prediction: np.ndarray, lesions: np.ndarray, level: float, span: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Errors of brain (reference above `level`) and lesions; of the brain alone where a case has no
    lesion."""
    from ivan.metrics import lesion_contrast, protocols, region_metrics

    brain = reference > level
    found = region_metrics(reference, prediction, brain, "brain", span) if brain.any() else {}
    if lesions.any():
        found |= region_metrics(reference, prediction, lesions, "lesion", span)
        found |= lesion_contrast(reference, prediction, lesions, brain)
    return {name: float(value) for name, value in found.items()}, protocols(found)


def check_lesions(cases: Sequence[Any], name: str) -> None:
    """Raise InputError where no case has the mask that --lesions names."""
    if name and not any(name in case.files for case in cases):
        raise InputError(
            f"--lesions: no case has a '{name}' file; name masks as modalities, {name}/case.nii.gz or "
            f"case_{name}.nii.gz"
        )


def lesion_protocol(name: str) -> dict[str, str]:
    """Which voxels the figures of brain and lesions are of."""
    return {"brain": mask_words("foreground"), "lesions": f"voxels of {name} that are not 0"}


def lesion_lines(cases: Iterable[tuple[str, bool | None]], name: str) -> list[str]:
    """What a report says of cases without figures of lesions: (case, whether its mask holds a voxel of the
    measured slices, None without a mask)."""
    words = {
        None: f"no {name} mask, no figures of brain and lesions",
        False: f"its {name} mask is empty in the measured slices, no figures of lesions",
    }
    return [f"{case}: {words[held]}" for case, held in cases if held is not True]


def uncertainty_numbers(
    reference: np.ndarray, prediction: np.ndarray, doubt: np.ndarray
) -> tuple[dict[str, float], dict[str, str]]:
    """How `doubt` ranks the errors where the reference exceeds `MASK_LEVEL`."""
    from ivan.metrics import protocols, uncertainty_ranking

    found = uncertainty_ranking(reference, prediction, doubt, reference > MASK_LEVEL)
    where = f"where the reference exceeds {MASK_LEVEL:g} of its scale"
    said = {key: text.replace("inside the mask", where) for key, text in protocols(found).items()}
    return {name: float(value) for name, value in found.items()}, said


def spacing(volume: Any) -> tuple[float, float, float]:
    """Voxel edge lengths of a Volume along x, y and z in mm."""
    import numpy as np

    x, y, z = np.linalg.norm(volume.affine[:3, :3], axis=0).tolist()
    return x, y, z
