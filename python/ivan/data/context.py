"""Through-plane context: neighbouring slices as further source channels.

With context K a slice comes with the K slices below and the K above it, at the borders of the volume with its
first or last slice again. Channels: all modalities of the slice itself, then those of the slices at -1, +1,
-2, +2 ... So the first channels are the same for every K.
"""

from __future__ import annotations

import numpy as np

from ivan.errors import InputError


def offsets(context: int) -> list[int]:
    """Distances of the slices in their order as channels: 0, -1, +1, -2, +2 ... `context`."""
    return [0, *(sign * distance for distance in range(1, context + 1) for sign in (-1, 1))]


def neighbours(index: np.ndarray, count: int, context: int) -> np.ndarray:
    """Slices that belong to slices `[K]` of a volume of `count`: `[K, 2 context + 1]`, the ends repeated."""
    return np.clip(np.asarray(index)[:, None] + np.array(offsets(context)), 0, count - 1)


def with_context(slices: np.ndarray, context: int, span: tuple[int, int] | None = None) -> np.ndarray:
    """Slices with their neighbours.

    Args:
        slices: `[S, M, H, W]`, all slices of a volume.
        context: K, neighbours on each side.
        span: the half-open range of slices wanted (default: all); their neighbours may lie outside of it.

    Returns:
        `[K, M (2 context + 1), H, W]`; a view for context 0.
    """
    start, stop = span or (0, len(slices))
    if context == 0:
        return slices[start:stop]
    chosen = slices[neighbours(np.arange(start, stop), len(slices), context)]  # [K, 2c+1, M, H, W]
    return chosen.reshape(len(chosen), -1, *slices.shape[2:])


def check_volume(name: str, count: int, context: int) -> None:
    """Raise InputError where neighbours are asked of a single image."""
    if context and count < 2:
        raise InputError(
            f"{name}: a single image, but --context {context} needs the neighbours of a slice in a volume; "
            "use volumes, or --context 0"
        )
