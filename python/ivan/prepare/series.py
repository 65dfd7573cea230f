"""Slices of a DICOM series as one volume: order, affine, missing and mixed slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ivan.data.orientation import canonical_affine, to_canonical
from ivan.data.volume import Grid, Volume, check_claim, refuse_constant
from ivan.errors import InputError
from ivan.prepare.dicom import Frame, Header
from ivan.prepare.echoes import alike, by_echo
from ivan.prepare.pixels import PixelReader

_TOLERANCE = 0.05  # of the slice distance: scanners round positions
_SAME_PLACE = 1e-3  # mm
_SIDEWAYS = 0.5  # mm that a slice may lie beside the others, or half a pixel
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Parallel slices of one series with equal size and contrast: one volume, if none is missing.

    Attributes:
        header: of the first file; what it says of patient, study, series and contrast holds for all.
        frames: sorted along the slices' normal.
        echo: echo time in ms that tells this stack from others of its series; nan where all are alike.
        rest: slices of the series that are in other stacks.
    """

    header: Header
    frames: tuple[Frame, ...]
    echo: float = math.nan
    rest: int = 0

    @property
    def files(self) -> list[Path]:
        """The files, each once, in the order of the slices."""
        return list(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def label(self) -> str:
        """How a message names it: folder, series number and description."""
        echo = "" if math.isnan(self.echo) else f", echo {self.echo:g} ms"
        name = self.header.description[:60] or "no description"
        return f"{self.header.path.parent}: series {self.header.series_number} ({name}{echo})"


@dataclass
class Sorted:
    """Stacks of all series, and one line for each oddity."""

    stacks: list[Stack] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sort_series(headers: Sequence[Header]) -> Sorted:
    """Group slices by series; split series that mix sizes, orientations or echoes, and say what is odd."""
    found = Sorted()
    for group in _by_series(headers):
        group.sort(key=lambda header: str(header.path))
        stacks: list[list[Frame]] = []
        for frame in (frame for header in group for frame in header.frames):
            fitting = next((frames for frames in stacks if _parallel(frames[0], frame)), None)
            if fitting is None:
                stacks.append([frame])
            else:
                fitting.append(frame)
        total = sum(map(len, stacks))
        parts: list[Stack] = []
        for frames in stacks:
            echoes, unknown = by_echo(frames, _normal(frames[0]))
            for echo in echoes:
                own = tuple(sorted(echo.frames, key=_along))
                parts.append(Stack(group[0], own, echo.time, total - len(own)))
            if unknown:
                times = ", ".join(f"{echo.time:g}" for echo in echoes)
                found.notes.append(
                    f"{Stack(group[0], tuple(unknown)).label}: {len(unknown)} slices without echo time, "
                    f"others with {times} ms at the same places: they fit none of these alone; left out"
                )
        found.stacks += parts
        if len(stacks) > 1:
            sizes = ", ".join(str(len(frames)) for frames in stacks)
            found.notes.append(
                f"{parts[0].label}: mixed series: {total} slices in {len(stacks)} sizes or orientations "
                f"({sizes}); "
                "each is looked at by itself"
            )
    return found


def _by_series(headers: Sequence[Header]) -> list[list[Header]]:
    """Headers of one patient, UID, series number and description.

    Careless anonymisation gives one UID to several series: their numbers and descriptions still differ. Where
    it took these from some slices only, those go to the one series of the UID that they fit.
    """
    groups: dict[tuple[str, str], dict[tuple[int, str], list[Header]]] = {}
    for header in headers:
        of_uid = groups.setdefault((header.patient, header.series), {})
        of_uid.setdefault((header.series_number, header.description), []).append(header)
    for of_uid in groups.values():
        for number, description in [key for key in of_uid if not all(key)]:
            fitting = [
                key
                for key in of_uid
                if key != (number, description) and number in (0, key[0]) and description in ("", key[1])
            ]
            if len(fitting) == 1:
                of_uid[fitting[0]] += of_uid.pop((number, description))
    return [group for of_uid in groups.values() for group in of_uid.values()]


def _parallel(a: Frame, b: Frame) -> bool:
    """Whether two slices can be of one volume: size, spacing and direction agree up to what headers round."""
    turned = max(abs(p - q) for p, q in zip(a.orientation, b.orientation, strict=True))
    stretched = max(abs(p - q) / p for p, q in zip(a.spacing, b.spacing, strict=True))
    return a.shape == b.shape and turned < 0.01 and stretched < 0.001


def _normal(frame: Frame) -> np.ndarray:
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def _along(frame: Frame) -> tuple[float, int]:
    return float(_normal(frame) @ np.array(frame.position)), frame.number


def places_of(stack: Stack) -> np.ndarray:
    """[places] mm along the normal, ascending: each one once, however many slices are there."""
    along = _along_first(stack)
    return along[np.diff(along, prepend=-np.inf) >= _SAME_PLACE]


def _along_first(stack: Stack) -> np.ndarray:
    """[slices] mm along the first slice's normal."""
    return np.array([frame.position for frame in stack.frames]) @ _normal(stack.frames[0])


def missing_slices(stack: Stack) -> tuple[float, list[int]]:
    """(slice distance in mm, how many slices are missing after each one).

    Raises:
        InputError: one slice only, slices at the same place (several volumes in one series), irregular
            distances, slices moved sideways, or echo times of different contrasts.
    """
    frames = stack.frames
    if len(frames) < 2:
        raise InputError(f"{stack.label}: one slice only, expected a volume of at least two; left out")
    places = _along_first(stack)
    steps = np.diff(places)
    if (steps < _SAME_PLACE).any():
        unique = int((steps >= _SAME_PLACE).sum()) + 1
        raise InputError(
            f"{stack.label}: {len(frames)} slices at {unique} places: several volumes (repetitions, phases, "
            "directions) or copies in one series, expected one volume; export them as separate series"
        )
    # The smallest common distance: with many slices missing the median may be a double one.
    distance = float(np.median(steps[steps < 1.5 * steps.min()]))
    counts = steps / distance
    whole = np.rint(counts)
    if (np.abs(counts - whole) > _TOLERANCE * np.maximum(1, whole)).any():
        raise InputError(
            f"{stack.label}: slice distances from {steps.min():.2f} to {steps.max():.2f} mm, expected "
            "equal ones; "
            "slices are missing or mixed, export the series again"
        )
    _check_straight(stack, (places - places[0]) / (places[-1] - places[0]))
    times = [frame.echo for frame in frames if 0 < frame.echo < math.inf]
    if times and not alike(min(times), max(times)):
        raise InputError(
            f"{stack.label}: echo times from {min(times):g} to {max(times):g} ms at different places, "
            "expected one for a volume; slices of some echoes are missing, export the series again"
        )
    return distance, [int(count) - 1 for count in whole]


def _check_straight(stack: Stack, shares: np.ndarray) -> None:
    """Refuse slices moved sideways: a volume has one straight line through them (a tilted one: gantry tilt).

    `shares` [slices]: of the way from the first to the last slice.
    """
    positions = np.array([frame.position for frame in stack.frames])  # [slices, 3]
    line = positions[0] + shares[:, None] * (positions[-1] - positions[0])
    beside = np.linalg.norm(positions - line, axis=1)
    if beside.max() > max(_SIDEWAYS, min(stack.frames[0].spacing) / 2):
        raise InputError(
            f"{stack.label}: slices lie up to {beside.max():.1f} mm beside the straight line from the first "
            "to the last, expected all on it; slices were moved or scans mixed, export the series again"
        )


def _find_gaps(stack: Stack, *, interpolate: bool) -> tuple[list[int], str]:
    """(how many slices are missing after each one, what a message says of them, empty where none is missing).

    Raises:
        InputError: as `missing_slices`; and where slices are missing, unless they will be interpolated.
    """
    _, gaps = missing_slices(stack)
    if not any(gaps):
        return gaps, ""
    after = [str(index + 1) for index, gap in enumerate(gaps) if gap]
    where = (
        f"{sum(gaps)} of {len(stack.frames) + sum(gaps)} slices missing, after slice {', '.join(after[:6])}"
    )
    if not interpolate:
        raise InputError(
            f"{stack.label}: {where}; export the series again, or accept interpolated slices with "
            "--fill-missing"
        )
    return gaps, where


def fault_of(stack: Stack, *, interpolate: bool) -> str:
    """Why `build_volume` will refuse these slices, told by their places; empty where it will not.

    Pixels are read only where slices coincide: equal ones are copies and no fault.
    """
    try:
        _find_gaps(_without_copies(stack, PixelReader()), interpolate=interpolate)
    except InputError as error:
        return str(error)
    return ""


def build_volume(stack: Stack, *, interpolate: bool = False) -> tuple[Volume, list[str]]:
    """Read a stack as a volume in RAS order.

    Args:
        stack: from `sort_series`.
        interpolate: fill missing slices linearly from their neighbours, with a warning, instead of refusing.

    Returns:
        The volume (float32, in the units after each slice's own slope and intercept), and one line for each
        thing the user must know.

    Raises:
        InputError: slices are missing, mixed, or cannot be decoded; values are all equal.
    """
    reader = PixelReader()
    warnings = []
    copies = len(stack.frames)
    stack = _without_copies(stack, reader)
    if copies := copies - len(stack.frames):
        warnings.append(f"{copies} slice{'s' * (copies > 1)} came twice with equal pixels: taken once")
    gaps, where = _find_gaps(stack, interpolate=interpolate)
    count = len(stack.frames) + sum(gaps)
    if where:
        warnings.append(f"{where}: filled by linear interpolation")
    expected = stack.header.expected
    if expected > count and math.isnan(stack.echo) and not stack.rest:
        warnings.append(f"{count} slices found, the scanner announced {expected}")
    first, last = stack.frames[0], stack.frames[-1]
    rows, columns = first.shape
    check_claim(first.path, (rows, columns, count), 0, 1)
    stored = np.empty((columns, rows, count), np.float32)
    slot = 0
    for frame, gap in zip(stack.frames, [0, *gaps], strict=True):
        slot += gap
        stored[:, :, slot] = reader.read(frame).T
        for step in range(1, gap + 1):
            share = np.float32(step / (gap + 1))
            before, after_gap = stored[:, :, slot - gap - 1], stored[:, :, slot]
            stored[:, :, slot - gap - 1 + step] = (1 - share) * before + share * after_gap
        slot += 1
    if (padding := np.isnan(stored)).any():  # becomes air: the least of the rest (CT), or 0
        stored[padding] = stored[~padding].min(initial=0)
    affine = _affine(first, last, count)
    refuse_constant(first.path.parent, stored)
    grid = Grid("dicom", stored.shape, affine, has_affine=True)
    data = np.ascontiguousarray(to_canonical(stored, affine))
    return Volume(data, canonical_affine(stored.shape, affine), grid, first.path.parent), warnings


def _without_copies(stack: Stack, reader: PixelReader) -> Stack:
    """A stack without second slices at one place that show the same, such as an archive sends twice.

    As it is where two differ: then it holds several volumes.
    """
    kept: list[Frame] = []
    for frame in stack.frames:
        if kept and np.allclose(frame.position, kept[-1].position, atol=_SAME_PLACE):
            if not np.array_equal(reader.read(frame), reader.read(kept[-1]), equal_nan=True):
                return stack
        else:
            kept.append(frame)
    return replace(stack, frames=tuple(kept))


def _affine(first: Frame, last: Frame, count: int) -> np.ndarray:
    """Voxel (column, row, slice) to RAS+ mm, from the first and last slice: gantry tilt becomes a shear."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = (np.array(last.position) - np.array(first.position)) / (count - 1)
    affine[:3, 3] = first.position
    return np.asarray(_LPS_TO_RAS @ affine)
