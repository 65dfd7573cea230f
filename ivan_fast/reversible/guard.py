"""Does walking back arrive where the forward pass had been? A few sampled values per block tell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
"""Largest healthy relative drift of a recovered state, by its dtype; other dtypes: TOLERANCE_REDUCED."""
TOLERANCE_ROUNDED = 1e-10
"""For float64 states whose subnets round their inputs to narrower parameters: far above the drift of a walk
that met every input again (1e-16 to 1e-11), far below that of one that missed a single one (from 1e-8)."""
TOLERANCE_REDUCED = 1e-3
"""For float32 states whose subnets compute in bf16, fp16 or TF32: a last-bit drift flips their roundings."""

NOISE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""A recovered value this small relative to its sample cannot be told from 0. Not where inputs are rounded."""

_VALUES = 512
"""Sampled values per sample, shared among the blocks of a chain: memory does not grow with depth."""
_VALUES_PER_BLOCK = 16
"""At least so many for each block."""


class InversionDriftWarning(RuntimeWarning):
    """A chain could not recover its states from its output and fell back on replaying from its input."""


class Fingerprints:
    """Sampled values and norms of the states of one pass through a chain of `blocks` blocks.

    Call `add` with the input of every block, then with the output of the chain.
    """

    def __init__(self, blocks: int) -> None:
        self._sampler = Sampler(blocks)
        self._count = 0
        self._sizes: list[float] = []  # square roots of the numbers of values in a sample, of each state

    def add(self, state: Tensor) -> None:
        block = self._count
        if block == 0:  # all memory at once, before the states of the pass: see chain.Gradients
            samples, blocks = _samples(state), self._sampler.blocks
            self._values = state.new_zeros((blocks, samples, self._sampler.count))
            self._norms = state.new_zeros((blocks + 1, samples), dtype=state.dtype.to_real())
        if block < self._sampler.blocks:
            self._sampler.sample(block, state, self._values[block])
        norm = self._norms[block]
        if state.dtype.to_real() == norm.dtype:
            torch.linalg.vector_norm(_per_sample(state), dim=1, out=norm)
        else:
            norm.copy_(torch.linalg.vector_norm(_per_sample(state), dim=1))
        self._sizes.append(math.sqrt(max(_per_sample(state).shape[1], 1)))
        self._count += 1

    def stacked(self) -> tuple[Tensor, Tensor]:
        """``(values [blocks, N, K], norms [blocks + 1, N])``, the norms as root mean squares."""
        if len(set(self._sizes)) == 1:  # as good as always: one launch
            return self._values, self._norms / self._sizes[0]
        return self._values, torch.stack([n / size for n, size in zip(self._norms, self._sizes, strict=True)])


class Sampler:
    """Which values of a state are sampled: a low-discrepancy sequence, a stretch of it for each block."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.count = max(_VALUES // blocks, _VALUES_PER_BLOCK)  # K
        self._places: dict[tuple[int, torch.device], Tensor] = {}

    def sample(self, block: int, state: Tensor, out: Tensor) -> None:
        """Of ``[N, ...]`` into ``[N, K]``; zeros where there is nothing."""
        flat = _per_sample(state)
        if flat.shape[1] == 0:
            out.zero_()
            return
        key = (flat.shape[1], state.device)
        if key not in self._places:
            steps = torch.arange(1, self.blocks * self.count + 1, dtype=torch.float64, device=state.device)
            fractions = torch.remainder(steps * ((math.sqrt(5) - 1) / 2), 1.0)
            places = (fractions * flat.shape[1]).long().clamp_(max=flat.shape[1] - 1)
            self._places[key] = places.reshape(self.blocks, self.count)
        places = self._places[key][block]
        if flat.dtype == out.dtype:
            torch.index_select(flat, 1, places, out=out)
        else:
            out.copy_(flat[:, places])


class Guard:
    """Compares recovered states with the fingerprints of the true ones.

    A sample trips if its recovered state holds anything that is not finite, or if ``rms(x^ - x) > tol *
    rms(x)``: over the sampled values for every block's input, over all values for the chain's input. Where
    the state of a sample is all zero, the state after the block gives the scale.

    Args:
        values, norms: of `Fingerprints.stacked`.
        tol: largest relative drift that passes.
        noise: recovered values up to this, relative to their sample, are taken for 0.
    """

    def __init__(self, values: Tensor, norms: Tensor, tol: float, noise: float = 0.0) -> None:
        self._values = values
        self._scales = torch.where(norms[:-1] > 0, norms[:-1], norms[1:])
        self._sampler = Sampler(values.shape[0])
        self._tol, self._noise = tol, noise
        self._blocks: list[int] = []
        self._recovered = torch.empty_like(values)  # samples, in the order of the checks
        self._ends: dict[int, Tensor] = {}  # drifts [N] that were measured over all values, by check

    def tiny(self, block: int) -> Tensor | None:
        """``[N]``: recovered values of a block's input up to this are taken for 0; None where that is 0."""
        return self._scales[block] * self._noise if self._noise else None

    def check(self, block: int, recovered: Tensor, true: Tensor | None = None, last: bool = False) -> None:
        """Note the recovered input ``[N, ...]`` of a block; `true` is all of it where known.

        `last` marks the end of the walk: anything not finite anywhere trips there (it has spread to it).
        """
        if recovered.numel() == 0:
            return
        check = len(self._blocks)
        self._sampler.sample(block, recovered, self._recovered[check])
        if true is not None:
            self._ends[check] = _ratio(_rms(recovered - true), self._scales[block])
        elif last:
            self._ends[check] = 0 * _rms(recovered)
        self._blocks.append(block)

    def _drifts(self, first: int = 0) -> Tensor:
        """``[checks]`` from the check `first` on: the worst of each, over the samples. NaN where any is."""
        blocks = self._blocks[first:]
        # Of a walk through the whole chain these are slices; an index would have to be sent to the device.
        ordered = blocks == list(range(blocks[0], blocks[0] - len(blocks), -1))
        back = slice(blocks[-1], blocks[0] + 1)
        values, scales = (
            t[back].flip(0) if ordered else torch.stack([t[b] for b in blocks])
            for t in (self._values, self._scales)
        )
        size = math.sqrt(max(values.shape[-1], 1))
        recovered = self._recovered[first : len(self._blocks)]
        distance, known = (torch.linalg.vector_norm(t, dim=2) / size for t in (recovered - values, values))
        drift = _ratio(distance, torch.maximum(scales, known))
        drift = drift + 0 * scales  # a scale that overflowed must not hide a drift
        for check, end in self._ends.items():
            if check >= first:
                drift[check - first] = torch.maximum(drift[check - first], end)
        return drift.amax(1)  # propagates NaN

    def tripped(self, first: int = 0) -> tuple[int, float] | None:
        """The first block on the way back that tripped, of the checks from `first` on, and its drift.

        One read of device memory.
        """
        if not self._blocks[first:]:
            return None
        for block, drift in zip(self._blocks[first:], self._drifts(first).tolist(), strict=True):
            if not drift <= self._tol:
                return block, drift
        return None

    @property
    def checks(self) -> int:
        """How many there were."""
        return len(self._blocks)

    def poison(self) -> Tensor:
        """0 if nothing tripped, else NaN, without reading device memory: to be added to every gradient."""
        if not self._blocks:  # an empty state, which nothing is checked of
            return self._values.new_zeros((), dtype=self._values.dtype.to_real())
        return torch.where(self._drifts().amax() <= self._tol, 0.0, math.nan)


def _per_sample(state: Tensor) -> Tensor:
    return state.flatten(1) if state.dim() > 1 else state[None]


def _samples(state: Tensor) -> int:
    return state.shape[0] if state.dim() > 1 else 1


def _rms(state: Tensor) -> Tensor:
    """Root mean square of each sample, ``[N]``."""
    flat = _per_sample(state)
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(max(flat.shape[1], 1))


def _ratio(distance: Tensor, scale: Tensor) -> Tensor:
    """``distance / scale``, 0 where both are 0."""
    return torch.where(distance == 0, distance, distance / scale)
