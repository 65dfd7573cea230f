"""One volume on the grid of another, through their affines."""

from __future__ import annotations

import numpy as np

from ivan.data.orientation import from_canonical, to_canonical
from ivan.data.volume import Volume
from ivan.errors import InputError

# A thinner overlap than this share of the reference's voxels means wrong headers, not a partial scan.
MIN_OVERLAP = 0.05
_HALF_VOXEL = 0.5 + 1e-3  # affines are rounded when they are stored


def on_grid_of(reference: Volume, moving: Volume) -> tuple[np.ndarray, str]:
    """Bring a volume onto another's grid, or refuse with the reason.

    Equal grids (up to a thousandth of a voxel) are taken as they are. Where both files have an affine,
    `moving` is interpolated linearly in world coordinates (MONAI), after a Gaussian blur along axes where it
    is sampled more than 1.5 times finer. Its outermost voxels are as wide as all others; what lies outside of
    them gets its smallest value. Where one has no affine, stored arrays of the same shape are taken as voxel
    for voxel the same.

    Args:
        reference: gives the grid.
        moving: the volume to bring onto it.

    Returns:
        `[X, Y, Z]` float32 of `reference.data`'s shape, and a sentence on what was done (empty for nothing).

    Raises:
        InputError: a different shape without an affine, or no overlap in world space.
    """
    if not (reference.grid.has_affine and moving.grid.has_affine):
        return _by_stored_order(reference, moving), ""
    if reference.data.shape == moving.data.shape and _same_grid(reference, moving):
        return moving.data, ""
    share = overlap(reference, moving)
    if share < MIN_OVERLAP:
        raise InputError(
            f"{moving.path}: covers {100 * share:.0f} % of {reference.path} in world coordinates, "
            "expected at least "
            f"{100 * MIN_OVERLAP:.0f} %; register them first, or correct their affines"
        )
    old, new = ("x".join(map(str, volume.data.shape)) for volume in (moving, reference))
    label = "/".join(moving.path.parts[-2:])  # the folder tells the modality where names are alike
    return _interpolate(reference, moving), f"{label} resampled from {old} to {new} voxels"


def overlap(reference: Volume, moving: Volume) -> float:
    """Share of the reference's voxels (sampled) that lie inside the moving volume's field of view."""
    axes = [np.linspace(0, extent - 1, min(extent, 24)) for extent in reference.data.shape]
    points = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones([len(axis) for axis in axes])], axis=-1)
    index = points @ (np.linalg.inv(moving.affine) @ reference.affine).T
    extents = np.array(moving.data.shape)
    return float(((index[..., :3] >= -0.5) & (index[..., :3] <= extents - 0.5)).all(axis=-1).mean())


def _same_grid(reference: Volume, moving: Volume) -> bool:
    """Whether all corners of the two grids coincide up to a thousandth of a voxel."""
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(reference.data.shape) - 1
    index = corners @ (np.linalg.inv(moving.affine) @ reference.affine).T
    return bool(np.abs(index - corners).max() < 1e-3)


def _by_stored_order(reference: Volume, moving: Volume) -> np.ndarray:
    one, other = (stored_shape(volume) for volume in (reference, moving))
    if one != other:
        without = moving if not moving.grid.has_affine else reference
        old, new = ("x".join(map(str, shape)) for shape in (other, one))
        raise InputError(
            f"{moving.path}: shape {old}, but {reference.path} has {new}, and {without.path.name} has "
            "no affine to "
            "resample by; expected equal shapes; resample it first, or use NIfTI with an affine"
        )
    stored = from_canonical(moving.data, moving.grid.affine, moving.grid.image)
    return np.ascontiguousarray(to_canonical(stored, reference.grid.affine, reference.grid.image))


def stored_shape(volume: Volume) -> tuple[int, ...]:
    """Shape of the voxels in stored order: `(H, W)` for an image, `(I, J, K)` otherwise."""
    return from_canonical(volume.data, volume.grid.affine, volume.grid.image).shape


def _interpolate(reference: Volume, moving: Volume) -> np.ndarray:
    import torch
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample
    from scipy.ndimage import gaussian_filter

    data = moving.data
    # Extent of a reference voxel in moving voxels along the moving axes. The Gaussian has the width that
    # takes one voxel size to the other (Cardoso et al., Scale factor point spread function matching, MICCAI
    # 2015).
    to_moving = np.linalg.inv(moving.affine) @ reference.affine
    step = np.abs(to_moving[:3, :3]).max(axis=1)
    sigma = np.where(step > 1.5, np.sqrt(np.maximum(step**2 - 1, 0) / (8 * np.log(2))), 0.0)
    if sigma.any():
        data = gaussian_filter(data, sigma, mode="nearest")
    # Along an axis of length 1 MONAI would repeat the slice everywhere: it gets a copy on each side, and a
    # grid with such an axis is widened by one voxel that is cut off again.
    margin = [int(extent == 1) for extent in data.shape]
    affine = moving.affine.copy()
    affine[:3, 3] -= moving.affine[:3, :3] @ np.array(margin)
    data = np.pad(data, [(width, width) for width in margin], mode="edge")
    size = [max(extent, 2) for extent in reference.data.shape]
    # MONAI takes affines that differ by less than 1e-3 for one: in voxels, not in mm, that is little enough.
    unit = np.diag([*[1 / np.linalg.norm(affine[:3, :3], axis=0).min()] * 3, 1.0])
    image = MetaTensor(torch.from_numpy(data[None].copy()), affine=torch.from_numpy(unit @ affine))
    # A voxel is as wide as its spacing: half a voxel beyond the outermost centres still is the volume.
    resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True, dtype=np.float64)
    made = resample(image, dst_affine=torch.from_numpy(unit @ reference.affine), spatial_size=size)
    x, y, z = reference.data.shape
    result = np.ascontiguousarray(made.numpy()[0, :x, :y, :z].astype(np.float32))
    lowest = moving.data.min()
    axes = np.ogrid[:x, :y, :z]
    for row, extent in zip(to_moving[:3], moving.data.shape, strict=True):
        index = sum((axis * float(slope) for axis, slope in zip(axes, row, strict=False)), float(row[3]))
        result[(index < -_HALF_VOXEL) | (index > extent - 1 + _HALF_VOXEL)] = lowest
    return result
