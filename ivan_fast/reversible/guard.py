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

    def add(self, state: Tensor) -> None:
        block, rms = self._count, _rms(state)
        if block == 0:  # all memory at once, before the states of the pass: see chain.Gradients
            blocks, shape = self._sampler.blocks, (rms.shape[0], self._sampler.count)
            self._values = state.new_zeros((blocks, *shape))
            self._norms = rms.new_zeros((blocks + 1, rms.shape[0]))
        if block < self._sampler.blocks:
            self._values[block] = self._sampler.sample(block, state)
        self._norms[block] = rms
        self._count += 1

    def stacked(self) -> tuple[Tensor, Tensor]:
        """``(values [blocks, N, K], norms [blocks + 1, N])``."""
        return self._values, self._norms


class Sampler:
    """Which values of a state are sampled: a low-discrepancy sequence, a stretch of it for each block."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.count = max(_VALUES // blocks, _VALUES_PER_BLOCK)  # K
        self._places: dict[tuple[int, torch.device], Tensor] = {}

    def sample(self, block: int, state: Tensor) -> Tensor:
        """``[N, ...]`` to ``[N, K]``."""
        flat = _per_sample(state)
        if flat.shape[1] == 0:
            return flat.new_zeros(flat.shape[0], self.count)
        key = (flat.shape[1], state.device)
        if key not in self._places:
            steps = torch.arange(1, self.blocks * self.count + 1, dtype=torch.float64, device=state.device)
            fractions = torch.remainder(steps * ((math.sqrt(5) - 1) / 2), 1.0)
            places = (fractions * flat.shape[1]).long().clamp_(max=flat.shape[1] - 1)
            self._places[key] = places.reshape(self.blocks, self.count)
        return flat[:, self._places[key][block]]


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
        self._drifts = norms.new_zeros(values.shape[:2])  # in the order of the checks

    def tiny(self, block: int) -> Tensor | None:
        """``[N]``: recovered values of a block's input up to this are taken for 0; None where that is 0."""
        return self._scales[block] * self._noise if self._noise else None

    def check(self, block: int, recovered: Tensor, true: Tensor | None = None, last: bool = False) -> None:
        """Note the drift of the recovered input ``[N, ...]`` of a block; `true` is all of it where known.

        `last` marks the end of the walk: anything not finite anywhere trips there (it has spread to it).
        """
        if recovered.numel() == 0:
            return
        values = self._values[block]
        distance = _rms(self._sampler.sample(block, recovered) - values)
        drift = _ratio(distance, torch.maximum(self._scales[block], _rms(values)))
        drift = drift + 0 * self._scales[block]  # a scale that overflowed must not hide a drift
        if true is not None:
            drift = torch.maximum(drift, _ratio(_rms(recovered - true), self._scales[block]))
        elif last:
            drift = drift + 0 * _rms(recovered)
        self._drifts[len(self._blocks)] = drift
        self._blocks.append(block)

    def tripped(self) -> tuple[int, float] | None:
        """The first block on the way back that tripped, and its drift; one read of device memory."""
        if not self._blocks:
            return None
        worst = self._drifts[: len(self._blocks)].amax(1).tolist()  # amax propagates NaN
        for block, drift in zip(self._blocks, worst, strict=True):
            if not drift <= self._tol:
                return block, drift
        return None

    def poison(self) -> Tensor:
        """0 if nothing tripped, else NaN, without reading device memory: to be added to every gradient."""
        worst = self._drifts[: len(self._blocks)].amax()
        return torch.where(worst <= self._tol, 0.0, math.nan)


def _per_sample(state: Tensor) -> Tensor:
    return state.flatten(1) if state.dim() > 1 else state[None]


def _rms(state: Tensor) -> Tensor:
    """Root mean square of each sample, ``[N]``."""
    flat = _per_sample(state)
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(max(flat.shape[1], 1))


def _ratio(distance: Tensor, scale: Tensor) -> Tensor:
    """``distance / scale``, 0 where both are 0."""
    return torch.where(distance == 0, distance, distance / scale)
