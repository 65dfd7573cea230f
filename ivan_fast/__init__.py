"""Fast, memory-saving ops and modules for invertible networks."""

from ivan_fast import ops, reference
from ivan_fast.modules import AffineCoupling, DenseBlock, InvertibleBlock, InvertibleConv1x1
from ivan_fast.reversible import ReversibleSequential

__all__ = [
    "AffineCoupling",
    "DenseBlock",
    "InvertibleBlock",
    "InvertibleConv1x1",
    "ReversibleSequential",
    "ops",
    "reference",
]
