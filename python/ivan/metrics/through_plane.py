"""Through-plane error: what two-dimensional synthesis does to the differences between neighbouring slices."""

from __future__ import annotations

from torch import Tensor

from ivan.errors import InputError
from ivan.metrics.arrays import Array, Metric, as_tensor


def _steps(array: Array, axis: int, name: str) -> Tensor:
    """Differences ``[S - 1, ...]`` between neighbouring slices of a volume along `axis`."""
    tensor = as_tensor(array, name)
    if tensor.ndim != 3 or not -3 <= axis < 3 or tensor.shape[axis] < 2:
        raise InputError(
            f"{name}: shape {tuple(tensor.shape)}, axis {axis}; through-plane figures need a volume of at "
            "least "
            "two slices"
        )
    return tensor.movedim(axis, 0).diff(dim=0)


def through_plane(
    reference: Array, prediction: Array, *, data_range: float, axis: int = -1, mask: Array | None = None
) -> dict[str, Metric]:
    """Flicker between slices, prediction against reference.

    With ``dR``, ``dP`` the differences between each voxel and the one in the next slice:

    * ``through_plane_error``: root mean square of ``dP - dR``, over `data_range`. 0 is perfect; an error that
      is the same in neighbouring slices does not count, one that changes from slice to slice does. (Errors
      of equal size that are independent from slice to slice give sqrt(2) times their root mean square.)
    * ``through_plane_ratio``: ``mean |dP| / mean |dR|``. 1 is as smooth across slices as the reference, above
      1 flickers, below 1 is blurred. ``inf`` where the reference does not change at all and the prediction
      does.

    Args:
        reference, prediction: ``[X, Y, Z]``, at least two slices along `axis`.
        data_range: span of possible values in their unit.
        mask: same shape; pairs of voxels count that both lie inside.

    Raises:
        InputError: other shapes, fewer than two slices, values not finite, or no pair inside the mask.
    """
    if not 0 < data_range < float("inf"):
        raise InputError(f"data_range: {data_range}; expected the images' span, for example 1.0 for [0, 1]")
    step_r, step_p = _steps(reference, axis, "reference"), _steps(prediction, axis, "prediction")
    if step_r.shape != step_p.shape:
        found, expected = tuple(step_p.shape), tuple(step_r.shape)
        raise InputError(
            f"prediction: {found} differences between slices, expected {expected}; resample first"
        )
    step_p = step_p.to(step_r.device)
    where = "no mask"
    if mask is not None:
        inside = as_tensor(mask, "mask").movedim(axis, 0).to(step_r.device) != 0
        pairs = inside[1:] & inside[:-1]
        if pairs.shape != step_r.shape or not bool(pairs.any()):
            raise InputError(
                "mask: no two neighbouring voxels of two slices inside; expected the images' shape"
            )
        step_r, step_p, where = step_r[pairs], step_p[pairs], "inside the mask"
    error = (step_p - step_r).square().mean().sqrt().item() / data_range
    real, made = step_r.abs().mean(), step_p.abs().mean()
    ratio = 1.0 if bool(real == 0) and bool(made == 0) else (made / real).item()
    note = f"differences of neighbouring slices (through-plane), {where}"
    return {
        "through_plane_error": Metric(
            error, f"root mean square of the error in {note}, over the data range {data_range:g}"
        ),
        "through_plane_ratio": Metric(ratio, f"mean size, prediction / reference, of {note}"),
    }
