"""What is measured: the shape of the network and of the images, and the work that this is."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from ivan.errors import InputError

JOBS = ("forward", "inverse", "step")
"""Inference in both directions, and a training step: both directions, loss, backward, Adam."""


@dataclass(frozen=True)
class Case:
    """A network and the images it gets, ``[batch, channels, height, width]``.

    Args:
        height, width: of the images, pixels, at least 1.
        channels: C of the state. blocks, split, growth: as in `ivan.IVAN`.
        batch: images at once.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of weights and images, ``float32`` (or ``float64``, for checks).
    """

    height: int
    width: int
    channels: int = 2
    blocks: int = 8
    batch: int = 1
    growth: int = 32
    split: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels", "blocks", "batch", "growth", "split"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"benchmark: {name} is {value!r}, expected a whole number, at least 1")
        if not 2 <= self.channels <= 16:
            raise InputError(f"benchmark: channels is {self.channels}, expected 2 to 16")
        if self.split >= self.channels:
            raise InputError(
                f"benchmark: split is {self.split}, expected less than the {self.channels} channels"
            )

    @property
    def pixels(self) -> int:
        """Of the whole batch."""
        return self.batch * self.height * self.width

    @property
    def size(self) -> str:
        """``256x192``: height by width."""
        return f"{self.height}x{self.width}"

    def label(self) -> str:
        """The size, and whatever differs from the paper's network (2 channels, 8 blocks, one image)."""
        parts = [self.size]
        for name, usual in (("channels", 2), ("blocks", 8), ("batch", 1), ("growth", 32), ("split", 1)):
            if getattr(self, name) != usual:
                parts.append(f"{name} {getattr(self, name)}")
        return ", ".join(parts)

    def at(self, height: int, width: int | None = None, **changes: Any) -> Case:
        """The same network on images of another size."""
        return replace(self, height=height, width=height if width is None else width, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def flops(self, job: str) -> int:
        """Multiplications and additions of one `job` as direct convolutions, without any recomputation.

        A step is 3 forward passes' work (outputs, input gradients, weight gradients) in each direction.
        """
        first, second = self.split, self.channels - self.split
        subnets = dense_flops(second, first, self.growth) + 2 * dense_flops(first, second, self.growth)
        forward = self.pixels * self.blocks * (subnets + 2 * self.channels**2)
        return forward * (6 if job == "step" else 1)


def dense_flops(inputs: int, outputs: int, growth: int = 32, depth: int = 5) -> int:
    """Multiplications and additions of one dense block, for one pixel."""
    widths = [growth] * (depth - 1) + [outputs]
    return sum(2 * 9 * (inputs + growth * level) * width for level, width in enumerate(widths))


def parse_size(text: str, option: str = "--sizes") -> tuple[int, int]:
    """Height and width of ``256`` or ``256x192``. Raises InputError."""
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise InputError(f"{option}: '{text}' given, expected pixels as in 256 or 256x192 (height x width)")
    return size


def parse_sizes(values: list[str], option: str = "--sizes") -> list[tuple[int, int]]:
    """Sizes of repeated options, each of which may hold several separated by commas."""
    parts = [part for value in values for part in value.split(",") if part.strip()]
    if not parts:
        raise InputError(f"{option}: no size given, expected pixels as in 128,256 or 256x192")
    return list(dict.fromkeys(parse_size(part, option) for part in parts))
