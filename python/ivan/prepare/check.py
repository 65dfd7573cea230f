"""Whether two modalities lie on each other: what their headers, outlines and contents say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from ivan.data.normalise import estimate_scale

CELL = 3.0  # mm: the check looks at volumes thinned to about this
REACH = 5  # cells in every direction: displacements of up to 15 mm are found
BINS = 32
# Where to warn. A pair off by two voxels of 3 mm loses several dB; outlines of whole heads overlap by 0.9,
# those of a head and of a brain without skull by 0.6. What the other does not cover is filled with air, which
# a network would learn.
MOST_SHIFT, LEAST_OUTLINE, LEAST_COVER = 4.5, 0.5, 0.9


@dataclass(frozen=True)
class Match:
    """How well a modality lies on the reference.

    Attributes:
        cover: share of the reference's foreground inside the other's field of view.
        outline: Dice overlap of the two foregrounds.
        similarity: normalised mutual information where they lie, (H(a) + H(b)) / H(a, b), from 1 (unrelated)
            to 2 (Studholme et al., Pattern Recognition 32(1), 1999).
        shift: mm by which the other would have to move to be most similar; 0 for a registered pair.
    """

    cover: float
    outline: float
    similarity: float
    shift: float

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
    best, shift = zero, (0, 0, 0)
    improved = True
    while improved:  # hill climbing over whole cells; the surface is smooth at this resolution
        improved = False
        around = [step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
        for step in around:
            tried = (shift[0] + step[0], shift[1] + step[1], shift[2] + step[2])
            if max(map(abs, tried)) > REACH:
                continue
            value = _similarity(p, q, seen, tried)
            if value > best + 1e-6:
                best, shift, improved = value, tried, True
                break
    # A maximum that is hardly higher is noise of the estimate, not a displacement.
    distance = float(np.linalg.norm([n * size for n, size in zip(shift, cells, strict=True)]))
    return Match(cover, outline, zero, distance if best - 1 > 1.05 * (zero - 1) else 0.0)


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
