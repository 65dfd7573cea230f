"""Random changes of a training slice: spatial ones for all modalities alike, brightness by choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ivan.errors import InputError

INTENSITY_ON = ("inputs", "sources", "all")


@dataclass(frozen=True)
class Augmentation:
    """What a training slice may go through. Spatial changes are the same for all modalities of a slice.

    Attributes:
        flips: mirror along each axis with probability 1/2.
        quarter_turns: turn by 0, 90, 180 or 270 degrees; slices that are not square only by 0 or 180, so
            that a slice keeps its shape and batches need no padding.
        rotate: turn by up to this many degrees (MONAI RandAffine, linear interpolation, edges repeated).
        scale: zoom by up to this share, so 0.1 is 90 to 110 %.
        translate: shift by up to this many pixels.
        bias_field: largest coefficient of a smooth multiplicative field (MONAI RandBiasField); 0.2 is
            realistic.
        contrast: gamma from `1 / (1 + contrast)` to `1 + contrast` (MONAI RandAdjustContrast).
        brightness: multiply by a number from `1 - brightness` to `1 + brightness` (MONAI RandScaleIntensity).
        intensity_on: `"inputs"` changes what each direction is given (the sources forward, the targets back)
            and leaves what it is compared with as it was, which teaches both directions to ignore a scanner's
            whims; `"sources"` changes the sources everywhere, so the reverse direction must reproduce the
            change; `"all"` changes sources and targets everywhere with the same field, gamma and factor.
        probability: with which each of the MONAI changes happens.

    A zero (or False) switches a change off; all are off but flips and quarter turns, the published recipe.
    """

    flips: bool = True
    quarter_turns: bool = True
    rotate: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    bias_field: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    intensity_on: str = "inputs"
    probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rotate", "scale", "translate", "bias_field", "contrast", "brightness"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"augmentation {name} {value}: expected a number from 0 (off)")
        for name in ("scale", "brightness"):
            if getattr(self, name) >= 1:
                raise InputError(
                    f"augmentation {name} {getattr(self, name)}: expected a share below 1, such as 0.1"
                )
        if not 0 <= self.probability <= 1:
            raise InputError(f"augmentation probability {self.probability}: expected a number from 0 to 1")
        if self.intensity_on not in INTENSITY_ON:
            raise InputError(
                f"augmentation intensity_on {self.intensity_on!r}: expected one of {', '.join(INTENSITY_ON)}"
            )

    def prepare(self) -> None:
        """Import MONAI and build its transforms now, once, rather than in every worker process."""
        _ = self._affine, self._intensity

    @cached_property
    def _affine(self) -> Any:
        if not (self.rotate or self.scale or self.translate):
            return None
        from monai.transforms import RandAffine

        return RandAffine(
            prob=self.probability,
            rotate_range=math.radians(self.rotate),
            scale_range=(self.scale, self.scale),
            translate_range=(self.translate, self.translate),
            mode="bilinear",
            padding_mode="border",
        )

    @cached_property
    def _intensity(self) -> list[Any]:
        if not (self.bias_field or self.contrast or self.brightness):
            return []
        from monai.transforms import RandAdjustContrast, RandBiasField, RandScaleIntensity

        chosen: list[Any] = []
        if self.bias_field:
            chosen.append(
                RandBiasField(coeff_range=(-self.bias_field, self.bias_field), prob=self.probability)
            )
        if self.contrast:
            limit = 1 + self.contrast
            chosen.append(RandAdjustContrast(gamma=(1 / limit, limit), prob=self.probability))
        if self.brightness:
            chosen.append(RandScaleIntensity(factors=self.brightness, prob=self.probability))
        return chosen

    def warp(self, stack: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply the small affine change to `[M, H, W]`, all channels alike."""
        return stack if self._affine is None else _run(self._affine, stack, rng)

    def turn(self, stack: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply flips and quarter turns to `[M, H, W]`, all channels alike; the shape stays."""
        rows, columns, turns = rng.integers(0, 2), rng.integers(0, 2), int(rng.integers(0, 4))
        if self.flips:
            stack = stack[:, :: -1 if rows else 1, :: -1 if columns else 1]
        if self.quarter_turns:
            if stack.shape[1] != stack.shape[2]:
                turns = 2 * (turns // 2)
            stack = np.rot90(stack, turns, axes=(1, 2))
        return stack

    def recolour(self, stack: np.ndarray, sources: int, rng: np.random.Generator) -> np.ndarray:
        """Apply intensity changes to `[M, H, W]`, whose first `sources` channels are the sources.

        With `"inputs"` sources and targets are changed independently: the result is what the two directions
        start from, and `stack` itself is what they are compared with.
        """
        if not self._intensity:
            return stack
        stack = stack.copy()
        parts = {
            "inputs": (stack[:sources], stack[sources:]),
            "sources": (stack[:sources],),
            "all": (stack,),
        }
        for part in parts[self.intensity_on]:
            for transform in self._intensity if len(part) else ():
                part[...] = _run(transform, part, rng)
        return stack

    @property
    def changes_inputs(self) -> bool:
        """Whether what a direction starts from differs from what the other is compared with."""
        return bool(self._intensity) and self.intensity_on == "inputs"


def _run(transform: Any, stack: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # A state of its own for every call: the result depends on the generator alone, not on the calls before.
    transform.set_random_state(seed=int(rng.integers(0, 2**31)))
    return np.asarray(transform(np.ascontiguousarray(stack)), dtype=np.float32)
