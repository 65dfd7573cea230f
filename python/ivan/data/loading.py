"""A case as a stack of normalised slices, and a stack of slices as a volume again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ivan.data.cases import Case
from ivan.data.normalise import Scale, estimate_scale
from ivan.data.planes import check_plane, slices_to_volume, volume_to_slices
from ivan.data.volume import Volume, read_volume, refuse_constant
from ivan.errors import InputError

NORMALISATIONS = ("percentile", "none", "auto")
# A pixel belongs to the foreground where a modality exceeds this share of its scale.
FOREGROUND_LEVEL = 0.05
_DARK = 1 / 15.9  # 12 bits of 16: a camera's or scanner's, written without stretching


@dataclass(eq=False)
class LoadedCase:
    """All asked-for modalities of a case on one grid.

    Attributes:
        name: the case's name.
        patient: the patient's name.
        modalities: as asked for; axis 1 of `slices`.
        slices: `[S, M, H, W]` float32, normalised (0 to 1 up to the percentile, not clipped), upright as
            `ivan.data.volume_to_slices` says.
        scales: modality to the scale that was applied; `scale.undo` gives the file's units again.
        levels: modality to the normalised value above which a pixel is foreground.
        reference: the first modality's volume: the grid of all.
        plane: `"axial"`, `"coronal"` or `"sagittal"`.
        notes: what was done to the files beyond reading (resampling), one line each.
    """

    name: str
    patient: str
    modalities: tuple[str, ...]
    slices: np.ndarray
    scales: dict[str, Scale]
    levels: dict[str, float]
    reference: Volume
    plane: str
    notes: list[str] = field(default_factory=list)

    def to_volume(self, slices: np.ndarray) -> np.ndarray:
        """Stack slices `[S, H, W]` of one modality into a RAS volume `[X, Y, Z]`; its scale stays applied."""
        expected = (self.slices.shape[0], *self.slices.shape[2:])
        if slices.shape != expected:
            raise InputError(
                f"{self.name}: slices of shape {slices.shape}, expected all slices of the case, {expected}"
            )
        return np.ascontiguousarray(slices_to_volume(slices, self.plane))

    def foreground(self, modalities: Sequence[str] | None = None) -> np.ndarray:
        """`[S, H, W]` bool: where any of `modalities` (all by default) exceeds its foreground level."""
        chosen = list(modalities or self.modalities)
        mask = np.zeros((self.slices.shape[0], *self.slices.shape[2:]), dtype=bool)
        for modality in chosen:
            mask |= self.slices[:, self.modalities.index(modality)] > self.levels[modality]
        return mask


def scaling_words(normalise: str, percentile: float) -> str:
    """What was done to the intensities, for a protocol."""
    return {
        "percentile": f"each volume by its own {percentile:g}th foreground percentile",
        "none": "none: values as in the files",
        "auto": f"PNG and colours none, other files by their own {percentile:g}th foreground percentile",
    }[normalise]


def load_case(
    case: Case,
    modalities: Sequence[str],
    *,
    plane: str = "axial",
    normalise: str = "percentile",
    percentile: float = 99.5,
    luma: bool = False,
) -> LoadedCase:
    """Read modalities of a case, bring them onto the first one's grid and normalise each volume by itself.

    Each modality's scale is estimated on its own grid, so it does not depend on what it is paired with. A
    single image (PNG, or two-dimensional `.npy` and `.mat`) may be empty: all of it becomes 0 and none of it
    foreground.

    Args:
        case: from `ivan.data.find_cases`.
        modalities: which to load, in this order; the first gives the grid.
        plane: the slices' plane.
        normalise: `"percentile"` (0 to 1 up to the robust maximum of `estimate_scale`), `"none"`, or
            `"auto"`: none for PNG and colours, which hold fractions of a full scale, else percentile.
        percentile: of the foreground, in (50, 100].
        luma: accept colour images and take their Y (fusion); otherwise colours are an error.

    Raises:
        InputError: a file cannot be used (see `read_volume`), a modality is absent, or the grids do not go
            together.
    """
    check_plane(plane)
    if normalise not in NORMALISATIONS:
        raise InputError(f"normalise {normalise!r}: expected one of {', '.join(NORMALISATIONS)}")
    if not modalities:
        raise InputError(f"{case.name}: no modality to load, expected at least one")
    reference: Volume | None = None
    slices: np.ndarray | None = None
    scales: dict[str, Scale] = {}
    levels: dict[str, float] = {}
    notes: list[str] = []
    for position, modality in enumerate(modalities):
        if modality not in case.files:
            raise InputError(
                f"{case.name}: has no {modality}, only {', '.join(case.files)}; add the file or remove "
                "the case"
            )
        volume = read_volume(case.files[modality], allow_constant=True, luma=luma)
        if volume.grid.image and volume.data.min() == volume.data.max():
            # An empty slice among slices is data; an empty volume is a broken export.
            estimated = Scale(float(volume.data.flat[0]), float(volume.data.flat[0]) + 1)
        else:
            refuse_constant(volume.path, volume.data)
            estimated = estimate_scale(volume.data, percentile)
        # Scaling the Y of a colour but not its chroma would change the colour.
        fractions = volume.grid.format == "png" or volume.grid.colour
        scaled = normalise == "percentile" or (normalise == "auto" and not fractions)
        scale = estimated if scaled else Scale(0.0, 1.0)
        if fractions and normalise == "auto" and 0 < estimated.high < _DARK:
            notes.append(
                f"{volume.path}: nearly all values are below {100 * estimated.high:.2g} % of the full scale "
                "(12 bits in a 16-bit PNG?) and taken as they are; --normalise percentile scales them"
            )
        if reference is None:
            reference, data, note = volume, volume.data, ""
        else:
            from ivan.data.resample import on_grid_of

            data, note = on_grid_of(reference, volume)
        view = volume_to_slices(data, plane)
        if slices is None:
            slices = np.empty((view.shape[0], len(modalities), *view.shape[1:]), dtype=np.float32)
        slices[:, position] = scale.apply(view)
        scales[modality] = scale
        level = estimated.low + FOREGROUND_LEVEL * (estimated.high - estimated.low)
        levels[modality] = (level - scale.low) / (scale.high - scale.low)
        notes += [note] if note else []
    assert reference is not None
    assert slices is not None
    return LoadedCase(
        case.name, case.patient, tuple(modalities), slices, scales, levels, reference, plane, notes
    )
