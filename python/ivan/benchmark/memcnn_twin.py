"""The network through MemCNN: its InvertibleModuleWrapper around every block of the eager twin."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from ivan.benchmark.twin import EagerIVAN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch, about the way MemCNN 1.5.2 asks for AMP
    from memcnn import InvertibleModuleWrapper
# In every pass, about the way MemCNN frees and restores tensors:
warnings.filterwarnings("ignore", message="TypedStorage is deprecated")


class MemCNNTwin(EagerIVAN):
    """`EagerIVAN` whose blocks free their input after the forward pass and recover it by inversion.

    MemCNN empties the storage of the tensor a block is given, so the block that gets the caller's own tensor
    keeps it: the loss needs it again.
    """

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        last = len(self.blocks) - 1
        # A plain list: the wrapped blocks are registered once, as `blocks`.
        self._wrapped = [
            InvertibleModuleWrapper(block, keep_input=index == 0, keep_input_inverse=index == last)
            for index, block in enumerate(self.blocks)
        ]

    def forward(self, x: Tensor) -> Tensor:
        for block in self._wrapped:
            x = block(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        for block in reversed(self._wrapped):
            y = block.inverse(y)
        return y
