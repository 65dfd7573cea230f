"""All figures of one fused image, volume or batch."""

from __future__ import annotations

from typing import Any

from ivan.errors import InputError
from ivan.metrics.arrays import Array, not_constant, stack
from ivan.metrics.fusion import q_abf, q_piella, q_w
from ivan.metrics.information import entropy, mutual_information, q_mi
from ivan.metrics.sharpness import average_gradient, spatial_frequency


def fusion_metrics(
    a: Array, b: Array, fused: Array, axis: int | None = None, *, check_range: bool = True
) -> dict[str, Any]:
    """Everything that a report on one fused image (or volume along `axis`) prints, each with its protocol.

    Names: ``entropy``, ``average_gradient``, ``spatial_frequency``, ``mutual_information``, ``q_mi``,
    ``q_abf``, ``q_piella``, ``q_w``.

    Args:
        a, b, fused: gray levels 0..255 of one shape (a colour source: the Y of its YCbCr): an image, a volume
            along `axis`, or a batch ``[N, C, H, W]``, whose results are values ``[N, C]``.
        check_range: refuse images of fractions in 0..1, as `entropy`.

    Raises:
        InputError: as the metrics, or a volume of sources without an image in them.
    """
    three = stack(a, b, fused, names=("a", "b", "fused"), axis=axis)
    if three.kind == "batch":
        return _fusion_metrics(a, b, fused, None, check_range)
    xa, xb, xf = (t if three.kind == "volume" else t[0] for t in three.images)
    slices = 0 if three.kind == "volume" else None
    if three.kind == "volume":
        # One choice of slices for all metrics: black slices would dilute EN, AG and SF and flatter Q.
        keep = not_constant(xa) | not_constant(xb)
        if not bool(keep.any()):
            raise InputError(f"a, b: all {len(keep)} slices are empty; expected a volume with an image in it")
        xa, xb, xf = xa[keep], xb[keep], xf[keep]
    return _fusion_metrics(xa, xb, xf, slices, check_range)


def _fusion_metrics(xa: Array, xb: Array, xf: Array, slices: int | None, check_range: bool) -> dict[str, Any]:
    return {
        "entropy": entropy(xf, axis=slices, check_range=check_range),
        "average_gradient": average_gradient(xf, axis=slices),
        "spatial_frequency": spatial_frequency(xf, axis=slices),
        "mutual_information": mutual_information(xa, xb, xf, axis=slices, check_range=check_range),
        "q_mi": q_mi(xa, xb, xf, axis=slices, check_range=check_range),
        "q_abf": q_abf(xa, xb, xf, axis=slices),
        "q_piella": q_piella(xa, xb, xf, axis=slices),
        "q_w": q_w(xa, xb, xf, axis=slices),
    }
