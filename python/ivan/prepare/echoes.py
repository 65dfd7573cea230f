"""Which slices of a series with several echo times belong to one volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ivan.prepare.dicom import Frame

_SAME_PLACE = 0.01  # mm along the normal


@dataclass(frozen=True)
class Echo:
    """Slices of one echo: its time in ms (nan where it tells nothing apart), and frames in any order."""

    time: float
    frames: list[Frame]


def alike(a: float, b: float) -> bool:
    """Whether two echo times in ms can be of one volume: within 1 ms or 2 %."""
    return abs(a - b) <= max(1.0, 0.02 * max(a, b))


def by_echo(frames: Sequence[Frame], normal: np.ndarray) -> tuple[list[Echo], list[Frame]]:
    """Divide parallel slices by echo time where the echoes show the same places, and only there.

    Scanners write times that differ a little from slice to slice (98.432 and 98.464 ms, interleaved): such
    slices share no place, and are one volume. Echoes of one place are different images, however close.

    Args:
        frames: of one size and direction.
        normal: [3] along which places are told apart.

    Returns:
        The echoes, the earliest first, and the slices without an echo time that fit no single one of them.
    """
    places = np.array([frame.position for frame in frames]) @ normal
    times: dict[float, list[int]] = {}
    unknown: list[int] = []
    for index, frame in enumerate(frames):
        (times.setdefault(frame.echo, []) if 0 < frame.echo < math.inf else unknown).append(index)
    groups: list[tuple[float, list[int]]] = []
    for time in sorted(times):
        own = times[time]
        for first, group in groups:
            if alike(first, time) and not _share(places[group], places[own]):
                group += own
                break
        else:
            groups.append((time, list(own)))
    if not any(_share(places[a], places[b]) for i, (_, a) in enumerate(groups) for _, b in groups[:i]):
        return [Echo(math.nan, list(frames))], []
    fitting = [group for _, group in groups if not _share(places[group], places[unknown])]
    if len(fitting) == 1:
        fitting[0] += unknown
        unknown = []
    return [Echo(time, [frames[i] for i in group]) for time, group in groups], [frames[i] for i in unknown]


def _share(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a place of `a` [n], n > 0, is one of `b` [m] too."""
    ordered = np.sort(a)
    after = ordered[np.minimum(np.searchsorted(ordered, b - _SAME_PLACE), len(a) - 1)]
    return bool((np.abs(after - b) <= _SAME_PLACE).any())
