"""The network through FrEIA: a SequenceINN under plain autograd.

How the work compares: FrEIA's ready-made affine couplings (RNVP, GLOW, AllInOne) transform *both* halves by
scale and shift, with two outputs a subnet; iVAN's block adds to the first half and scales and shifts the
second. So the coupling below fills in FrEIA's own coupling base class (its split, its sigmoid clamp, its
log-determinants) with iVAN's formulas and the twin's three dense blocks: the same convolutions on the same
weights, and beside them what FrEIA always does, the sum of the log scales.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from FrEIA.framework import SequenceINN
from FrEIA.modules import InvertibleModule
from FrEIA.modules.coupling_layers import _BaseCouplingBlock
from torch import Tensor, nn

from ivan.benchmark.twin import EagerBlock, EagerIVAN, inverse_of


class _Mix(InvertibleModule):
    """The learned 1x1 convolution of a block (FrEIA's own ones are fixed or orthogonal)."""

    def __init__(self, dims_in: Any, block: EagerBlock) -> None:
        super().__init__(dims_in)
        self.weight = block.mix

    def forward(self, x: Any, c: Any = None, rev: bool = False, jac: bool = True) -> tuple[Any, Any]:
        weight = inverse_of(self.weight) if rev else self.weight
        pixels = x[0][0, 0].numel()
        log_det = pixels * torch.linalg.slogdet(self.weight)[1] if jac else 0.0
        return (F.conv2d(x[0], weight[:, :, None, None]),), -log_det if rev else log_det

    def output_dims(self, input_dims: Any) -> Any:
        return input_dims


class _Coupling(_BaseCouplingBlock):
    """iVAN's affine coupling with the dense blocks of an `EagerBlock`."""

    def __init__(self, dims_in: Any, block: EagerBlock) -> None:
        super().__init__(dims_in, clamp=block.clamp, clamp_activation="SIGMOID", split_len=block.split)
        self.f, self.g, self.h = block.f, block.g, block.h

    def _coupling1(self, x1: Tensor, u2: Tensor, rev: bool = False) -> tuple[Tensor, Any]:
        shift = self.f(u2)
        return (x1 - shift if rev else x1 + shift), 0.0

    def _coupling2(self, x2: Tensor, u1: Tensor, rev: bool = False) -> tuple[Tensor, Any]:
        s = self.clamp * self.f_clamp(self.h(u1))
        log_det = s.sum(dim=tuple(range(1, self.ndims + 1)))
        if rev:
            return (x2 - self.g(u1)) * torch.exp(-s), -log_det
        return x2 * torch.exp(s) + self.g(u1), log_det


class FreiaTwin(EagerIVAN):
    """`EagerIVAN` with its blocks' parts as nodes of a FrEIA SequenceINN.

    Args:
        height, width: what FrEIA is told about the images; other sizes work too.
    """

    def __init__(self, height: int, width: int, channels: int = 2, **shape: Any) -> None:
        super().__init__(channels=channels, **shape)
        self.inn: nn.Module = SequenceINN(channels, height, width)
        for block in self.blocks:
            self.inn.append(_Mix, block=block)
            self.inn.append(_Coupling, block=block)

    def forward(self, x: Tensor) -> Tensor:
        return self.inn(x, jac=False)[0]

    def inverse(self, y: Tensor) -> Tensor:
        return self.inn(y, rev=True, jac=False)[0]
