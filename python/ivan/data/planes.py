"""Slices of a RAS volume, upright as a viewer shows them, and back."""

from __future__ import annotations

import numpy as np

from ivan.errors import InputError

# Plane -> the RAS axis that counts slices.
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}


def check_plane(plane: str) -> str:
    """Return `plane` or raise InputError naming the three possible ones."""
    if plane not in PLANES:
        raise InputError(f"plane {plane!r}: expected one of {', '.join(PLANES)}")
    return plane


def volume_to_slices(data: np.ndarray, plane: str = "axial") -> np.ndarray:
    """View a RAS volume as a stack of upright slices.

    Rows run from anterior to posterior (axial) or from superior to inferior (coronal, sagittal); columns run
    from left to right (axial, coronal) or from posterior to anterior (sagittal). Slice `s` is index `s`
    along the RAS axis, so it counts from inferior, posterior or left.

    Args:
        data: `[X, Y, Z]` in RAS order.
        plane: `"axial"`, `"coronal"` or `"sagittal"`.

    Returns:
        A view `[S, H, W]`: `[Z, Y, X]`, `[Y, Z, X]` or `[X, Z, Y]`, with H reversed.
    """
    axis = PLANES[check_plane(plane)]
    across, up = (a for a in range(3) if a != axis)
    return data.transpose(axis, up, across)[:, ::-1, :]


def slices_to_volume(slices: np.ndarray, plane: str = "axial") -> np.ndarray:
    """Inverse of `volume_to_slices`: `[S, H, W]` to a view `[X, Y, Z]` in RAS order."""
    axis = PLANES[check_plane(plane)]
    across, up = (a for a in range(3) if a != axis)
    inverse = [0, 0, 0]
    inverse[axis], inverse[up], inverse[across] = 0, 1, 2
    return slices[:, ::-1, :].transpose(inverse)
