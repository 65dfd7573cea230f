"""Whether two modalities lie on each other: what their headers, outlines and contents say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from ivan.data.normalise import estimate_scale

Steps = tuple[int, int, int]
CELL = 3.0  # mm: the check looks at volumes thinned to about this
REACH = 5  # cells in every direction: displacements of up to 15 mm are found
TURN, MOST_TURNS = 4.0, 8  # degrees of a step about each axis, and steps: turns of up to 32 degrees are found
BINS = 32
# Where to warn. A pair off by two voxels of 3 mm loses several dB; outlines of whole heads overlap by 0.9,
# those of a head and of a brain without skull by 0.6. What the other does not cover is filled with air, which
# a network would learn.
MOST_SHIFT, MOST_ANGLE, LEAST_OUTLINE, LEAST_COVER = 4.5, 6.0, 0.5, 0.9


@dataclass(frozen=True)
class Match:
    """How well a modality lies on the reference.

    Attributes:
        cover: share of the reference's foreground inside the other's field of view.
        outline: Dice overlap of the two foregrounds.
        similarity: normalised mutual information where they lie, (H(a) + H(b)) / H(a, b), from 1 (unrelated)
            to 2 (Studholme et al., Pattern Recognition 32(1), 1999).
        shift: mm by which the other would have to move to be most similar; 0 for a registered pair.
        angle: degrees by which it would have to turn after that; 0 for a registered pair.
    """

    cover: float
    outline: float
    similarity: float
    shift: float
    angle: float

    def to_json(self) -> dict[str, float]:
        """Rounded plain values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def warnings(self, reference: str, other: str) -> list[str]:
        """One line for each thing that is wrong."""
        pair = f"{other} on {reference}"
        lines = []
        if self.cover < LEAST_COVER:
            lines.append(
                f"{pair}: covers only {100 * self.cover:.0f} % of the {reference} foreground, the rest is "
                f"filled with air; try --reference {other}"
            )
        if self.outline < LEAST_OUTLINE:
            lines.append(
                f"{pair}: their outlines overlap by {self.outline:.2f} (Dice), expected at least "
                f"{LEAST_OUTLINE}; "
                "not registered, or one without skull"
            )
        if self.shift > MOST_SHIFT:
            lines.append(f"{pair}: they match best {self.shift:.0f} mm apart: not registered, try --register")
        if self.angle > MOST_ANGLE:
            lines.append(
                f"{pair}: they match best turned by {self.angle:.0f} degrees: not registered, try --register"
            )
        return lines


def compare(
    reference: np.ndarray, other: np.ndarray, inside: np.ndarray, voxel_size: tuple[float, float, float]
) -> Match:
    """Compare two images on one grid.

    Args:
        reference, other: [X, Y, Z] float32.
        inside: [X, Y, Z] bool, the other's field of view.
        voxel_size: of the grid, mm.
    """
    steps = [max(1, round(CELL / size)) for size in voxel_size]
    a, b, seen = _thin(reference, steps), _thin(other, steps), _thin(inside.astype(np.float32), steps) > 0.5
    head, body = _foreground(a), _foreground(b)
    cover = float((head & seen).sum() / max(1, head.sum()))
    common = head & body & seen
    outline = float(2 * common.sum() / max(1, (head & seen).sum() + (body & seen).sum()))
    p, q = _levels(a), _levels(b)
    cells = tuple(step * size for step, size in zip(steps, voxel_size, strict=True))
    zero = _similarity(p, q, seen, (0, 0, 0))

    def moved(steps: Steps) -> float:
        return _similarity(p, q, seen, steps)

    best, shift = _climb(moved, zero, REACH)
    # A maximum that is hardly higher is noise of the estimate, not a displacement.
    distance = float(np.linalg.norm(_summit(moved, best, shift) * cells))
    distance = distance if best - 1 > 1.05 * (zero - 1) else 0.0
    centre = np.argwhere(head).mean(axis=0) if head.any() else (np.array(a.shape) - 1) / 2
    centre -= shift  # where it lies in the other, which is turned before it is moved

    def turned(steps: Steps) -> float:
        levels, inside_too = _turned(q, seen, _rotation(steps), centre, np.array(cells))
        return _similarity(p, levels, inside_too, shift)

    best_turned, turns = _climb(turned, best, MOST_TURNS)
    angle = float(np.degrees(np.arccos(np.clip((np.trace(_rotation(turns)) - 1) / 2, -1, 1))))
    return Match(cover, outline, zero, distance, angle if best_turned - 1 > 1.05 * (best - 1) else 0.0)


def _climb(similarity: Callable[[Steps], float], start: float, reach: int) -> tuple[float, Steps]:
    """The highest similarity and its place, by single steps from (0, 0, 0), where it is `start`: the surface
    is smooth at this resolution."""
    best, place = start, (0, 0, 0)
    around = [step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
    improved = True
    while improved:
        improved = False
        for step in around:
            tried = (place[0] + step[0], place[1] + step[1], place[2] + step[2])
            if max(map(abs, tried)) > reach:
                continue
            value = similarity(tried)
            if value > best + 1e-6:
                best, place, improved = value, tried, True
                break
    return best, place


def _summit(similarity: Callable[[Steps], float], at: float, place: Steps) -> np.ndarray:
    """[3] steps: the top of a parabola through the highest similarity, `at`, and its neighbours on each
    axis."""
    top = np.array(place, float)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        x, y, z = (int(n) for n in step)
        below, above = (
            similarity((place[0] + sign * x, place[1] + sign * y, place[2] + sign * z)) for sign in (-1, 1)
        )
        if (curve := below - 2 * at + above) < 0:
            top[axis] += np.clip((below - above) / (2 * curve), -0.5, 0.5)
    return top


def _rotation(steps: Steps) -> np.ndarray:
    """[3, 3]: turns by so many steps about the x axis, then y, then z."""
    matrix = np.eye(3)
    for axis, count in enumerate(steps):
        angle = np.radians(TURN * count)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[j, i], one[i, j] = np.sin(angle), -np.sin(angle)
        matrix = one @ matrix
    return matrix


def _turned(
    levels: np.ndarray, seen: np.ndarray, rotation: np.ndarray, centre: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`levels` and where they are seen after a turn about `centre` (in cells of `cells` mm).

    Nearest cells: interpolation would smooth, and what is smooth is more similar to anything.
    """
    index = np.indices(levels.shape).reshape(3, -1)
    away = (index - centre[:, None]) * cells[:, None]
    source = np.rint(rotation.T @ away / cells[:, None] + centre[:, None]).astype(np.intp)
    limits = np.array(levels.shape)[:, None]
    valid = ((source >= 0) & (source < limits)).all(axis=0)
    x, y, z = np.clip(source, 0, limits - 1)
    return levels[x, y, z].reshape(levels.shape), (seen[x, y, z] & valid).reshape(levels.shape)


def _thin(data: np.ndarray, steps: list[int]) -> np.ndarray:
    """Means over blocks; a remainder at the far ends is cut off."""
    size = [max(1, n // step) for n, step in zip(data.shape, steps, strict=True)]
    steps = [min(step, n) for n, step in zip(data.shape, steps, strict=True)]
    cut = data[: size[0] * steps[0], : size[1] * steps[1], : size[2] * steps[2]]
    blocks = cut.reshape(size[0], steps[0], size[1], steps[1], size[2], steps[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))


def _foreground(data: np.ndarray) -> np.ndarray:
    """The body: what exceeds a tenth of the scale, closed and filled."""
    from scipy.ndimage import binary_closing, binary_fill_holes, binary_opening

    if not data.min() < data.max():
        return np.zeros(data.shape, bool)
    scale = estimate_scale(data)
    if data.min() < -200:  # Hounsfield units: air is about -1000
        mask = data > -300
    else:
        mask = data > scale.low + 0.1 * (scale.high - scale.low)
    mask = binary_opening(binary_closing(mask, iterations=2))
    return np.asarray(np.stack([binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], axis=2))


def _levels(data: np.ndarray) -> np.ndarray:
    """[X, Y, Z] whole numbers from 0 to BINS - 1, clipped at the 1st and 99th percentile."""
    low, high = np.percentile(data, (1, 99.5))
    scaled = (data - low) / (high - low if high > low else 1)
    return np.asarray(np.clip(scaled * BINS, 0, BINS - 1).astype(np.intp))


def _similarity(a: np.ndarray, b: np.ndarray, seen: np.ndarray, shift: tuple[int, ...]) -> float:
    """Normalised mutual information of `a` and `b` moved by whole cells, where both are seen."""
    here = tuple(slice(max(0, n), size + min(0, n)) for n, size in zip(shift, a.shape, strict=True))
    there = tuple(slice(max(0, -n), size + min(0, -n)) for n, size in zip(shift, a.shape, strict=True))
    valid = seen[there]
    joint = np.bincount((a[here] * BINS + b[there])[valid], minlength=BINS * BINS).reshape(BINS, BINS)
    total = joint.sum()
    if total == 0:
        return 1.0

    def entropy(counts: np.ndarray) -> float:
        p = counts[counts > 0] / total
        return float(-(p * np.log(p)).sum())

    both = entropy(joint)
    return (entropy(joint.sum(1)) + entropy(joint.sum(0))) / both if both > 0 else 1.0


def record(match: Match, name: str, reference: str) -> dict[str, Any]:
    """What a case's record keeps of a comparison."""
    return {**match.to_json(), "warnings": match.warnings(reference, name)}
