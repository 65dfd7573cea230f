"""Stored voxel order to RAS order and back, by permuting and flipping axes only: exact, nothing is
interpolated.

A single image `[H, W]` (PNG, or a two-dimensional `.npy` or `.mat`) has no orientation of its own: it is
laid into the axial plane so that its axial slice is the image as stored.
"""

from __future__ import annotations

import numpy as np


def to_canonical(stored: np.ndarray, affine: np.ndarray, image: bool = False) -> np.ndarray:
    """View a stored array in RAS order.

    Args:
        stored: `[I, J, K]` voxels, or `[H, W]` for an image.
        affine: `[4, 4]`, stored indices to RAS+ world.
        image: whether `stored` is `[H, W]`.

    Returns:
        A view `[X, Y, Z]`.
    """
    if image:
        return stored[::-1].T[:, :, None]
    from nibabel.orientations import apply_orientation, io_orientation

    return apply_orientation(stored, io_orientation(affine))


def from_canonical(data: np.ndarray, affine: np.ndarray, image: bool = False) -> np.ndarray:
    """Inverse of `to_canonical`: a RAS array `[X, Y, Z]` as a view in stored order."""
    if image:
        return data[:, :, 0].T[::-1]
    from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

    return apply_orientation(data, ornt_transform(axcodes2ornt("RAS"), io_orientation(affine)))


def canonical_affine(stored_shape: tuple[int, ...], affine: np.ndarray, image: bool = False) -> np.ndarray:
    """Affine of the RAS view: `[4, 4]` float64, from indices of `[X, Y, Z]` to RAS+ world."""
    if image:
        return np.eye(4)
    from nibabel.orientations import inv_ornt_aff, io_orientation

    return np.asarray(affine @ inv_ornt_aff(io_orientation(affine), stored_shape), dtype=np.float64)
