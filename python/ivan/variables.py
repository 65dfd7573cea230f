"""Variable augmentation: any number of source and target modalities in one invertible network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ivan.errors import InputError

FILLS = ("copy", "zero", "noise")
_Integers = TypeVar("_Integers", int, Tensor)


def fixed_noise(
    seed: int, channels: int, height: int, width: int, device: torch.device | None = None
) -> Tensor:
    """Uniform noise in [0, 1), each value a function of seed, channel, row and column alone.

    Counter-based, from integer operations that every device computes alike and that `torch.export` can write
    down (a generator's state it cannot).

    Returns:
        ``[1, channels, height, width]`` float32, multiples of 2^-24.
    """

    def axis(count: int, place: int) -> Tensor:
        return torch.arange(count, device=device).reshape([-1 if d == place else 1 for d in range(4)])

    hashed = _hash32(axis(channels, 1) ^ _hash32(seed))
    hashed = _hash32(hashed ^ axis(height, 2))
    hashed = _hash32(hashed ^ axis(width, 3))
    return (hashed >> 8).to(torch.float32) * 2.0**-24


def _hash32(x: _Integers) -> _Integers:
    """A bijection of 32-bit integers (higher bits are cut off), held in int64.

    Both factors are below 2^31, so no product overflows.

    Shifts and factors: github.com/skeeto/hash-prospector, of the smallest known bias among such functions.
    """
    mask = 0xFFFFFFFF
    x = x & mask
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & mask
    x = ((x ^ (x >> 15)) * 0x735A2D97) & mask
    return x ^ (x >> 15)


@dataclass(frozen=True, init=False)
class VariableAugmentation:
    """N source and M target modalities in the C channels of one network (variable augmentation of the iVAN
    paper).

    An invertible network has as many channels on one side as on the other. The modalities come first, in
    order; the channels that are left are filled with dummy variables:

    * ``copy``: the modalities again, cyclically. All copies are real data: all are supervised by default,
    and a
      modality's prediction is the mean over its copies.
    * ``zero``, ``noise``: zeros, or uniform noise in [0, 1), the range of the images. A dummy is *known*
    wherever
      the network is entered, in either direction, because it is put there. Where the network is left it is no
      modality, so it is neither supervised nor averaged: noise cannot be predicted, and a penalty on the
          dummy
      would weigh against the modalities. The reverse task is trained and run on the target with its own
      dummy.

    Args:
        sources: N, number of source modalities, at least 1.
        targets: M, number of target modalities, at least 1.
        channels: C; by default the least possible, ``max(N, M, 2)``. More gives more copies or dummies.
        fill: ``copy``, ``zero`` or ``noise``.
        seed: of the noise drawn without a generator: one fixed field, so that a prediction depends neither on
            the call nor on its place in a batch. A pixel's value follows from seed, channel, row and column
            alone (`fixed_noise`): the same on every device, for every image size, and in exported programs.

    Raises:
        InputError: counts below 1, fewer channels than modalities, or an unknown fill.
    """

    sources: int
    targets: int
    channels: int
    fill: str
    seed: int

    def __init__(
        self, sources: int, targets: int, channels: int | None = None, fill: str = "copy", seed: int = 0
    ) -> None:
        for name, count in (("sources", sources), ("targets", targets)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InputError(f"{name}: {count!r}; expected the number of modalities, at least 1")
        least = max(sources, targets, 2)
        if channels is not None and (not isinstance(channels, int) or channels < least):
            raise InputError(
                f"channels: {channels!r}; expected at least {least} for {sources} -> {targets} modalities"
            )
        if fill not in FILLS:
            raise InputError(f"fill: {fill!r}; expected one of {', '.join(FILLS)}")
        values = {
            "sources": sources,
            "targets": targets,
            "channels": channels or least,
            "fill": fill,
            "seed": seed,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def augment_sources(self, sources: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sources ``[B, N, H, W]`` as the network's input ``[B, C, H, W]``.

        Args:
            sources: float, usually in [0, 1]. Returned as it is where N = C.
            generator: draws fresh noise for every image (``fill="noise"``); without one, that of `seed`.

        Raises:
            InputError: another number of dimensions or modalities.
        """
        return self._augment(sources, self.sources, "sources", generator)

    def augment_targets(self, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Targets ``[B, M, H, W]`` as the network's output ``[B, C, H, W]``; see `augment_sources`."""
        return self._augment(targets, self.targets, "targets", generator)

    def collapse_sources(self, state: Tensor) -> Tensor:
        """The network's input or its reconstruction ``[B, C, H, W]`` to sources ``[B, N, H, W]``, mean over
        copies.

        Raises:
            InputError: another number of dimensions or channels.
        """
        return self._collapse(state, self.sources)

    def collapse_targets(self, state: Tensor) -> Tensor:
        """The network's output ``[B, C, H, W]`` to targets ``[B, M, H, W]``, mean over copies."""
        return self._collapse(state, self.targets)

    def source_weights(self) -> tuple[float, ...]:
        """Each channel's weight in a loss against the augmented sources; every modality has 1/N."""
        return self._weights(self.sources)

    def target_weights(self) -> tuple[float, ...]:
        """Each channel's weight in a loss against the augmented targets; every modality has 1/M."""
        return self._weights(self.targets)

    def _weights(self, modalities: int) -> tuple[float, ...]:
        if self.fill != "copy":
            return tuple(1 / modalities if c < modalities else 0.0 for c in range(self.channels))
        copies = [len(range(c % modalities, self.channels, modalities)) for c in range(self.channels)]
        return tuple(1 / (modalities * k) for k in copies)

    def _augment(self, x: Tensor, modalities: int, name: str, generator: torch.Generator | None) -> Tensor:
        if x.ndim != 4 or x.shape[1] != modalities:
            raise InputError(
                f"{name}: shape {tuple(x.shape)}; expected [B, {modalities}, H, W], one channel a modality"
            )
        missing = self.channels - modalities
        if missing == 0:
            return x
        if self.fill == "copy":
            whole, rest = divmod(self.channels, modalities)
            return torch.cat([x] * whole + [x[:, :rest]] * (rest > 0), dim=1)
        if self.fill == "zero":
            return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
        return torch.cat([x, self._noise(x, missing, generator)], dim=1)

    def _noise(self, x: Tensor, missing: int, generator: torch.Generator | None) -> Tensor:
        # Drawn in float32 where the generator lives: the same values on every device.
        if generator is None:
            field = fixed_noise(self.seed, missing, x.shape[2], x.shape[3], x.device)
            return field.to(x.dtype).expand(x.shape[0], -1, -1, -1)
        shape = (x.shape[0], missing, *x.shape[2:])
        return torch.rand(shape, generator=generator, device=generator.device).to(x)

    def _collapse(self, state: Tensor, modalities: int) -> Tensor:
        if state.ndim != 4 or state.shape[1] != self.channels:
            raise InputError(f"state: shape {tuple(state.shape)}; expected [B, {self.channels}, H, W]")
        if modalities == self.channels:
            return state
        if self.fill != "copy":
            return state[:, :modalities]
        return torch.stack([state[:, m::modalities].mean(dim=1) for m in range(modalities)], dim=1)
