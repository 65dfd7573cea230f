"""The ops that models call."""

from ivan_fast.reference import (  # until the compiled ones land
    affine_coupling_backward,
    affine_coupling_forward,
    affine_coupling_inverse,
    affine_coupling_inverse_backward,
    affine_coupling_recompute_backward,
    channel_mix,
    channel_mix_backward,
    dense_block,
    dense_block_backward,
)

__all__ = [
    "affine_coupling_backward",
    "affine_coupling_forward",
    "affine_coupling_inverse",
    "affine_coupling_inverse_backward",
    "affine_coupling_recompute_backward",
    "channel_mix",
    "channel_mix_backward",
    "dense_block",
    "dense_block_backward",
]
