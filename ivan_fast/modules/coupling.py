"""Affine coupling: an invertible layer around subnets that need not be invertible."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ivan_fast.modules.backend import BackendModule, as_parameters, full_precision
from ivan_fast.modules.dense_block import DenseBlock, is_plain

if TYPE_CHECKING:
    from ivan_fast.reversible.replay import Recorder


PAIR_DEVICES = {"cuda"}
"""Where G and H are computed in the same launches. On the CPU that is no faster than one after the other."""


class AffineCoupling(BackendModule):
    """Affine coupling of the two parts ``x1 = x[:, :k]``, ``x2 = x[:, k:]`` of a state of C channels.

    ``y1 = x1 + F(x2)``, ``s = clamp * (2 sigmoid(H(y1)) - 1)``, ``y2 = x2 * exp(s) + G(y1)``.
    The inverse is exact: ``x2 = (y2 - G(y1)) * exp(-s)``, ``x1 = y1 - F(x2)``.

    Args:
        F: any module, ``[N, C-k, H, W]`` to ``[N, k, H, W]``.
        G, H: any modules, ``[N, k, H, W]`` to ``[N, C-k, H, W]``.
        split: k, at least 1 and less than C.
        clamp: bound of \\|s\\|.
        backend: ``"fast"`` (compiled ops) or ``"reference"`` (plain PyTorch), for the coupling formula alone.
    """

    def __init__(
        self,
        F: nn.Module,
        G: nn.Module,
        H: nn.Module,
        split: int = 1,
        clamp: float = 0.8,
        backend: str = "fast",
    ) -> None:
        super().__init__(backend)
        if split < 1:
            raise ValueError(f"AffineCoupling: split is {split}, expected at least 1")
        if not 0 < clamp < math.inf:
            raise ValueError(f"AffineCoupling: clamp is {clamp}, expected a positive number")
        self.F, self.G, self.H = F, G, H
        self.split = split
        self.clamp = float(clamp)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of a state, ``[N, k, H, W]`` and ``[N, C-k, H, W]``, as views.

        Raises:
            ValueError: the state has no channels left for the second part.
        """
        if x.dim() < 2 or x.shape[1] <= self.split:
            raise ValueError(
                f"AffineCoupling: state has shape {tuple(x.shape)}, "
                f"expected more than split = {self.split} channels"
            )
        return x[:, : self.split], x[:, self.split :]

    def forward(self, x: Tensor, recorder: Recorder | None = None, steps: Tensor | None = None) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``.

        In a chain, `recorder` notes what a later replay of each subnet needs, and a subnet's input is rounded
        by `steps` (`ivan_fast.modules.backend.as_parameters`) where the state is wider than its parameters.
        """
        x1, x2 = self.parts(x)
        f = self._subnet("F", x2, x1, recorder, steps)
        y1 = x1 + f
        g, h = self._shift_and_scale(y1, x2, recorder, steps)
        with full_precision(x):
            return torch.cat([y1, self.functions.affine_coupling_forward(x2, h, g, self.clamp)], 1)

    def inverse(self, y: Tensor, recorder: Recorder | None = None, steps: Tensor | None = None) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``."""
        y1, y2 = self.parts(y)
        g, h = self._shift_and_scale(y1, y2, recorder, steps)
        with full_precision(y):
            x2 = self.functions.affine_coupling_inverse(y2, h, g, self.clamp)
        return torch.cat([y1 - self._subnet("F", x2, y1, recorder, steps), x2], 1)

    def pair(self, x: Tensor) -> tuple[DenseBlock, DenseBlock] | None:
        """G and H, if they can be computed together for inputs on the device of `x`."""
        if x.device.type not in PAIR_DEVICES or not (is_plain(self.G) and is_plain(self.H)):
            return None
        return (self.G, self.H) if self.G.sizes() == self.H.sizes() and self.G is not self.H else None

    def _shift_and_scale(
        self, y1: Tensor, like: Tensor, recorder: Recorder | None, steps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``(g, h)`` in the dtype of the state."""
        pair = self.pair(y1)
        if pair is None:
            h = self._subnet("H", y1, like, recorder, steps)
            return self._subnet("G", y1, like, recorder, steps), h
        G = pair[0]
        G.check_input(y1)
        arguments = pair_arguments(pair, as_parameters(G, y1, steps))  # under autocast, if it is on
        with full_precision(y1):
            g, h = G.functions.dense_block_pair(*arguments)
        if g.shape != like.shape:
            raise ValueError(
                f"AffineCoupling: G and H turned {tuple(y1.shape)} into {tuple(g.shape)}, "
                f"expected {tuple(like.shape)}"
            )
        return g.to(like.dtype), h.to(like.dtype)

    def _subnet(
        self, name: str, x: Tensor, like: Tensor, recorder: Recorder | None, steps: Tensor | None
    ) -> Tensor:
        """Output of one subnet in the dtype of the state; its shape must be that of `like`."""
        subnet: nn.Module = getattr(self, name)
        x = as_parameters(subnet, x, steps)
        out = subnet(x) if recorder is None else recorder.call(name, subnet, x)
        if out.shape != like.shape:
            raise ValueError(
                f"AffineCoupling: {name} turned {tuple(x.shape)} into {tuple(out.shape)}, "
                f"expected {tuple(like.shape)}"
            )
        return out.to(like.dtype)

    def extra_repr(self) -> str:
        return f"split={self.split}, clamp={self.clamp}, backend={self.backend!r}"


def pair_arguments(pair: tuple[DenseBlock, DenseBlock], x: Tensor, *more: float) -> tuple[object, ...]:
    """What the ops of a pair take from x on; `more` stands before the slope."""
    G, H = pair
    lists = (list(G.weights), list(G.biases), list(H.weights), list(H.biases))
    return (x.to(G.weights[0].dtype), *lists, *more, G.negative_slope, G.compute_for(x))
