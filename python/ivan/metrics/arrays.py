"""What every metric shares: the rule for array shapes, checks of the input, a number that knows its protocol.

The rule, for NumPy arrays and PyTorch tensors on any device alike:

* 2D ``[H, W]`` is one image and gives one `Metric`.
* 3D is a volume and gives one `Metric`. Pixelwise metrics (PSNR, NMSE) pool all voxels. The others are
  two-dimensional: they are computed per slice along ``axis``, which must then be given, and averaged over the
  slices that hold something.
* 4D ``[N, C, H, W]`` is a batch of independent images and gives float64 values ``[N, C]``, never an average:
  a `MetricArray` for NumPy input, a tensor on the input's device for tensors. Both have an attribute
  `protocol` (of a tensor: until something is computed from it).

All arithmetic is float64 whatever the input's dtype, so unsigned integers do not wrap around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ivan.errors import InputError

Array = Any  # numpy.ndarray, torch.Tensor, or anything numpy.asarray understands


class Metric(float):
    """A number that carries the protocol it was measured under: a float, with `protocol` to print beside it.

    Attributes:
        protocol: variant, data range, level (image, slices or volume) and mask, in words.
    """

    protocol: str

    def __new__(cls, value: float, protocol: str) -> Metric:
        self = super().__new__(cls, value)
        self.protocol = protocol
        return self

    def __repr__(self) -> str:
        return f"Metric({float(self)!r}, {self.protocol!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Metric, (float(self), self.protocol))


class MetricArray(np.ndarray[Any, Any]):
    """Values ``[N, C]`` of a batch, float64, that carry the protocol they were measured under."""

    protocol: str = ""

    def __array_finalize__(self, source: Any) -> None:
        self.protocol = getattr(source, "protocol", "")


def of_batch(values: Tensor, protocol: str, numpy: bool) -> Any:
    """Values of a batch with their protocol: a `MetricArray`, or the tensor itself with the attribute."""
    if not numpy:
        values.protocol = protocol  # type: ignore[attr-defined]
        return values
    array = values.cpu().numpy().view(MetricArray)
    array.protocol = protocol
    return array


def protocols(result: dict[str, Any]) -> dict[str, str]:
    """The protocol of each number (or batch of numbers) in a dictionary of results, by name."""
    return {name: value.protocol for name, value in result.items() if getattr(value, "protocol", "")}


def as_tensor(array: Array, name: str) -> Tensor:
    """`array` as a float64 tensor without a graph, on its own device.

    Raises:
        InputError: complex or non-numeric values, NaN or infinity, or no element at all.
    """
    if isinstance(array, Tensor):
        if array.is_complex():
            raise InputError(
                f"{name}: complex values; expected real images, take abs() or the real part first"
            )
        # Apple's GPUs know no float64; a metric is worth more than its transfer.
        tensor = array.detach()
        tensor = (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)
    else:
        values = np.asarray(array)
        if values.dtype.kind not in "buif":
            raise InputError(f"{name}: dtype {values.dtype}; expected an array of real numbers")
        tensor = torch.from_numpy(np.array(values, dtype=np.float64, order="C"))
    if tensor.numel() == 0:
        raise InputError(f"{name}: empty array of shape {tuple(tensor.shape)}; expected at least one pixel")
    # A finite sum has finite terms and costs one pass; only huge values need the second look.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name}: contains NaN or infinity; replace or mask these pixels before measuring")
    return tensor


@dataclass(frozen=True)
class Stack:
    """Images of one call, brought to one shape.

    Attributes:
        images: one float64 tensor ``[B, H, W]`` for each argument.
        kind: ``image``, ``volume`` or ``batch``.
        batch: ``(N, C)`` of a batch, else empty.
        numpy: whether no argument was a tensor, so that a batch returns NumPy.
    """

    images: tuple[Tensor, ...]
    kind: str
    batch: tuple[int, ...]
    numpy: bool

    @property
    def height(self) -> int:
        return int(self.images[0].shape[1])

    @property
    def width(self) -> int:
        return int(self.images[0].shape[2])

    def need(self, metric: str, size: int) -> None:
        """Raise InputError unless the images are at least `size` x `size` pixels."""
        if min(self.height, self.width) < size:
            found = f"{self.height}x{self.width}"
            raise InputError(
                f"{metric}: images of {found} pixels; expected at least {size}x{size}, its window"
            )

    def finish(self, values: Tensor, protocol: str, keep: Tensor | None = None) -> Any:
        """Values ``[B]`` as the shape rule asks; `keep` ``[B]`` says which slices a volume's mean counts."""
        if self.kind == "batch":
            return of_batch(values.reshape(self.batch), f"{protocol}, each image", self.numpy)
        if self.kind == "image":
            return Metric(values.item(), f"{protocol}, one image")
        total = values.shape[0]
        if keep is not None:
            values = values[keep]
            if values.shape[0] == 0:
                raise InputError(
                    f"{protocol}: all {total} slices are empty; expected a volume with an image in it"
                )
        skipped = f" ({total - values.shape[0]} empty skipped)" if values.shape[0] < total else ""
        return Metric(values.mean().item(), f"{protocol}, mean over {values.shape[0]} slices{skipped}")


def stack(*arrays: Array, names: tuple[str, ...], axis: int | None = None, pooled: bool = False) -> Stack:
    """The arguments of one metric as a `Stack`; `pooled` makes one long image of a volume (PSNR, NMSE).

    Raises:
        InputError: shapes differ, ndim is not 2..4, or a volume came without `axis`.
    """
    tensors = [as_tensor(a, name) for a, name in zip(arrays, names, strict=True)]
    first = tensors[0]
    for tensor, name in zip(tensors[1:], names[1:], strict=True):
        if tensor.shape != first.shape:
            found, expected = tuple(tensor.shape), tuple(first.shape)
            raise InputError(
                f"{name}: shape {found}, expected {expected} as {names[0]}; resample to one grid first"
            )
    tensors = [t.to(first.device) for t in tensors]
    numpy = not any(isinstance(a, Tensor) for a in arrays)
    if first.ndim == 2:
        return Stack(tuple(t[None] for t in tensors), "image", (), numpy)
    if first.ndim == 4:
        images = tuple(t.flatten(0, 1) for t in tensors)
        return Stack(images, "batch", (int(first.shape[0]), int(first.shape[1])), numpy)
    if first.ndim != 3:
        raise InputError(
            f"{names[0]}: {first.ndim} dimensions; "
            "expected an image [H, W], a volume with axis= or a batch [N, C, H, W]"
        )
    if pooled:
        return Stack(tuple(t.reshape(1, 1, -1) for t in tensors), "volume", (), numpy)
    if axis is None:
        raise InputError(
            f"{names[0]}: a volume of shape {tuple(first.shape)} without axis; "
            "say which axis counts the slices, for example axis=2 for axial slices of [X, Y, Z]"
        )
    if not -3 <= axis < 3:
        raise InputError(f"axis: {axis} for a volume of shape {tuple(first.shape)}; expected 0, 1 or 2")
    return Stack(tuple(t.movedim(axis, 0) for t in tensors), "volume", (), numpy)


def stack_mask(
    mask: Array | None, like: Array, axis: int | None = None, pooled: bool = False
) -> Tensor | None:
    """`mask` (non-zero is inside) as a bool tensor ``[B, H, W]`` beside the images of `like`, or None."""
    if mask is None:
        return None
    inside = stack(like, mask, names=("reference", "mask"), axis=axis, pooled=pooled).images[1] != 0
    if not bool(inside.any()):
        raise InputError("mask: no pixel inside; expected at least one non-zero pixel")
    return inside


def not_constant(images: Tensor) -> Tensor:
    """Which images ``[B, H, W]`` hold more than one value: ``[B]`` bool. A constant slice is empty."""
    return images.amax(dim=(1, 2)) > images.amin(dim=(1, 2))


def choose(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` if it is one of `allowed`, else InputError."""
    if value not in allowed:
        raise InputError(f"{name}: {value!r}; expected one of {', '.join(allowed)}")
    return value
