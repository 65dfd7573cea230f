"""One invertible block of iVAN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ivan_fast.modules.conv1x1 import InvertibleConv1x1
from ivan_fast.modules.coupling import AffineCoupling

if TYPE_CHECKING:
    from ivan_fast.reversible.replay import Recorder


class InvertibleBlock(nn.Module):
    """Invertible 1x1 convolution, then affine coupling.

    Args:
        mix: mixes the channels of the whole state.
        coupling: couples its two parts.
    """

    def __init__(self, mix: InvertibleConv1x1, coupling: AffineCoupling) -> None:
        super().__init__()
        self.mix = mix
        self.coupling = coupling

    def forward(self, x: Tensor, recorder: Recorder | None = None, steps: Tensor | None = None) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``."""
        return self.coupling(self.mix(x), recorder, steps)

    def inverse(self, y: Tensor, recorder: Recorder | None = None, steps: Tensor | None = None) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``."""
        return self.mix.inverse(self.coupling.inverse(y, recorder, steps))
