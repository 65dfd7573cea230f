"""Fixed fusion rules: the baselines of every report, and targets where there is no label to train on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ivan.errors import InputError

LEVELS = 4  # of pyramid and wavelet: details of up to about 16 pixels
WAVELET = "db4"
_SMALLEST = 4  # pixels a side of the coarsest level


def average(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of two images ``[H, W]``."""
    return (a + b) / 2


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger value of each pixel."""
    return np.maximum(a, b)


def _stronger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each coefficient the one of larger magnitude (a where they are equal)."""
    return np.where(np.abs(a) >= np.abs(b), a, b)


def laplacian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Laplacian pyramid (Burt and Kolczynski, 1993) of scikit-image's reduce and expand steps.

    Of each detail the stronger one is taken, of the coarsest level the mean. Up to `LEVELS` levels, fewer for
    small images. Fusing an image with itself returns it up to rounding.

    Raises:
        InputError: scikit-image is not installed.
    """
    transform = _need("skimage.transform", "scikit-image")
    details, shapes = [], []
    for _ in range(_levels(a.shape)):
        small = [transform.pyramid_reduce(image, preserve_range=True) for image in (a, b)]
        shapes.append(a.shape)
        details.append(
            _stronger(*(i - _expand(s, i.shape, transform) for i, s in zip((a, b), small, strict=True)))
        )
        a, b = small
    fused = average(a, b)
    for detail, shape in zip(reversed(details), reversed(shapes), strict=True):
        fused = _expand(fused, shape, transform) + detail
    return fused


def _expand(image: np.ndarray, shape: tuple[int, ...], transform: Any) -> np.ndarray:
    return np.asarray(transform.pyramid_expand(image, preserve_range=True))[: shape[0], : shape[1]]


def wavelet(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Discrete wavelet transform (PyWavelets, Daubechies 4): stronger details, mean of the approximation.

    Raises:
        InputError: PyWavelets is not installed.
    """
    pywt = _need("pywt", "PyWavelets")
    level = min(LEVELS, pywt.dwt_max_level(min(a.shape), WAVELET))
    first, second = (pywt.wavedec2(x, WAVELET, mode="symmetric", level=level) for x in (a, b))
    fused: list[Any] = [average(first[0], second[0])]
    for details in zip(first[1:], second[1:], strict=True):
        fused.append(tuple(_stronger(x, y) for x, y in zip(*details, strict=True)))
    return np.asarray(pywt.waverec2(fused, WAVELET, mode="symmetric"))[: a.shape[0], : a.shape[1]]


RULES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "average": average,
    "maximum": maximum,
    "laplacian": laplacian,
    "wavelet": wavelet,
}


def fuse_by_rule(name: str, slices: np.ndarray) -> np.ndarray:
    """Fuse pairs of slices ``[S, 2, H, W]``: ``[S, H, W]`` float32, cut to 0..1 (pyramids overshoot at
    edges)."""
    rule = RULES[name]
    fused = [rule(*pair.astype(np.float64)) for pair in slices]
    return np.clip(np.stack(fused), 0, 1).astype(np.float32)


def clear_empty(fused: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Set fused images ``[S, H, W]`` to 0, in place, where all sources ``[S, M, H, W]`` are exactly 0.

    Black stays black: convolutions and wavelets leave traces there, too faint to be seen, but not to measures
    that compare variances.
    """
    fused[(sources == 0).all(axis=1)] = 0
    return fused


@dataclass(frozen=True)
class RuleTarget:
    """A rule as the target of training: sources ``[2, H, W]`` to ``[1, H, W]`` float32 in 0..1."""

    rule: str

    def __call__(self, sources: np.ndarray) -> np.ndarray:
        return fuse_by_rule(self.rule, sources[None])


def no_target(sources: np.ndarray) -> np.ndarray:
    """Training without a target: ``[0, H, W]``."""
    return sources[:0]


def _levels(shape: tuple[int, ...]) -> int:
    return max(0, min(LEVELS, int(math.log2(max(min(shape) / _SMALLEST, 1)))))


def _need(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f'{package}: absent, but fusion needs it; install it with: pip install "ivan_fast[fusion]"'
        ) from None
