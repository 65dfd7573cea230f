"""Invertible modules."""

from ivan_fast.modules.block import InvertibleBlock
from ivan_fast.modules.conv1x1 import InvertibleConv1x1
from ivan_fast.modules.coupling import AffineCoupling
from ivan_fast.modules.dense_block import DenseBlock

__all__ = ["AffineCoupling", "DenseBlock", "InvertibleBlock", "InvertibleConv1x1"]
