"""What a volume looks like in a few numbers, to tell input that a network was not trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ivan.data.loading import LoadedCase

QUANTILES = (5, 25, 50, 75, 95)
# A number is unusual where it leaves the training cases' range by half of its width and this much.
_ROOM_LEVEL, _ROOM_SHARE, _ROOM_SIZE = 0.12, 0.15, 0.5


@dataclass(frozen=True)
class Profile:
    """One modality of one case.

    Attributes:
        levels: normalised intensity at `QUANTILES` of its foreground.
        share: part of the voxels that are foreground.
        voxel_size: mm, ascending, so that it does not depend on the plane of the scan.
        lowest: its smallest normalised intensity; nan where it was not recorded.
    """

    levels: tuple[float, ...]
    share: float
    voxel_size: tuple[float, ...]
    lowest: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """Rounded plain values."""
        return {
            "levels": [round(level, 4) for level in self.levels],
            "share": round(self.share, 4),
            "voxel_size": [round(size, 4) for size in self.voxel_size],
            **({} if math.isnan(self.lowest) else {"lowest": round(self.lowest, 4)}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Profile:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        levels = tuple(float(value) for value in values["levels"])
        sizes = tuple(float(value) for value in values["voxel_size"])
        if len(levels) != len(QUANTILES) or len(sizes) != 3:
            raise ValueError("a profile of another length")
        return cls(levels, float(values["share"]), sizes, float(values.get("lowest", math.nan)))


def profiles_of(case: LoadedCase) -> dict[str, Profile]:
    """The profile of every modality of a case, on its common grid."""
    found = {}
    sizes = tuple(sorted(case.reference.voxel_size))
    for index, modality in enumerate(case.modalities):
        data = case.slices[:, index]
        inside = data[data > case.levels[modality]]
        levels = np.percentile(inside, QUANTILES) if inside.size else np.zeros(len(QUANTILES))
        share, lowest = inside.size / max(1, data.size), float(data.min())
        found[modality] = Profile(tuple(levels.tolist()), share, sizes, lowest)
    return found


def unusual(name: str, given: Profile, training: Sequence[Profile]) -> list[str]:
    """One line for each way in which an image differs from all training images of its modality.

    Args:
        name: how a line calls the image, such as "T1 of sub-03".
        given: of the image.
        training: of the training cases; empty: nothing can be said.
    """
    if not training:
        return []
    lines = []
    worst = (0.0, "")
    for position, quantile in enumerate(QUANTILES):
        known = [profile.levels[position] for profile in training]
        beyond = _beyond(given.levels[position], known, _ROOM_LEVEL)
        if beyond > worst[0]:
            level = f"its {quantile}th foreground percentile is at {given.levels[position]:.2f} of its scale"
            worst = (beyond, f"{level}, {_range(known)}")
    if worst[0]:
        lines.append(f"{name} looks unlike the training images: {worst[1]}")
    shares = [profile.share for profile in training]
    if _beyond(given.share, shares, _ROOM_SHARE):
        percent = [100 * share for share in shares]
        lines.append(f"{name}: {100 * given.share:.0f} % of it is foreground, {_range(percent, '.0f', ' %')}")
    for position in range(3):
        known = [float(np.log(profile.voxel_size[position])) for profile in training]
        if _beyond(float(np.log(given.voxel_size[position])), known, _ROOM_SIZE):
            size = "x".join(f"{value:.3g}" for value in given.voxel_size)
            one = "x".join(f"{value:.3g}" for value in training[0].voxel_size)
            lines.append(f"{name}: voxels of {size} mm, the training images had about {one} mm")
            break
    return lines


def _beyond(value: float, known: Sequence[float], room: float) -> float:
    """How far a value lies outside of the widened range of the known ones; 0 inside."""
    room += 0.5 * (max(known) - min(known))
    return max(0.0, min(known) - room - value, value - max(known) - room)


def _range(known: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    low, high = format(min(known), form), format(max(known), form)
    return f"in training {low}{unit}" if low == high else f"in training {low} to {high}{unit}"
