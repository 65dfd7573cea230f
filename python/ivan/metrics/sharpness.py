"""How sharp an image is, alone or beside its reference. Array shapes: `ivan.metrics.arrays`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ivan.metrics.arrays import Array, choose, stack


def average_gradient(image: Array, *, axis: int | None = None, variant: str = "default") -> Any:
    """Average gradient (AG), ``sum sqrt((gx^2 + gy^2) / 2) / ((H - 1)(W - 1))``, in image units per pixel.

    gx and gy are central differences, one-sided at the border (as ``numpy.gradient``).

    Args:
        image: ``[H, W]``, a volume with `axis`, or ``[N, C, H, W]``; at least 2x2 pixels.
        variant: ``default``, or ``notes``: ``sum sqrt(gx^2 + gy^2) / (H W)``, about 1.4 times larger.

    Raises:
        InputError: an unknown variant, values that are not finite, images below 2x2, or a volume without
            `axis`.
    """
    choose("variant", variant, ("default", "notes"))
    single = stack(image, names=("image",), axis=axis)
    single.need("average gradient", 2)
    gy, gx = torch.gradient(single.images[0], dim=(1, 2))
    squared = gx.square() + gy.square()
    h, w = single.height, single.width
    if variant == "notes":
        values = squared.sqrt().sum(dim=(1, 2)) / (h * w)
    else:
        values = (squared / 2).sqrt().sum(dim=(1, 2)) / ((h - 1) * (w - 1))
    return single.finish(values, f"AG variant {variant}")


def spatial_frequency(image: Array, *, axis: int | None = None) -> Any:
    """Spatial frequency (SF): ``sqrt(RF^2 + CF^2)``, in the image's units per pixel.

    RF and CF are the root mean squares of the H(W-1) first differences along rows and the (H-1)W along
    columns, each over its own count.

    Args and errors: as `average_gradient`.
    """
    single = stack(image, names=("image",), axis=axis)
    single.need("spatial frequency", 2)
    x = single.images[0]
    along_rows: Tensor = x.diff(dim=2).square().mean(dim=(1, 2))
    along_columns: Tensor = x.diff(dim=1).square().mean(dim=(1, 2))
    return single.finish((along_rows + along_columns).sqrt(), "SF")
