"""The iVAN network, composed of the invertible modules of `ivan_fast`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ivan.errors import InputError
from ivan_fast.modules import AffineCoupling, DenseBlock, InvertibleBlock, InvertibleConv1x1
from ivan_fast.modules.backend import autocast_enabled
from ivan_fast.modules.conv1x1 import STARTS
from ivan_fast.reversible import ReversibleSequential

# Plain Xavier weights keep the inverse accurate up to here; deeper networks start closer to the identity.
_PLAIN_BLOCKS = 8


def default_last_scale(blocks: int) -> float:
    """What the last convolution of every dense block is multiplied by at the start, by default."""
    return min(1.0, _PLAIN_BLOCKS / blocks)


class IVAN(nn.Module):
    """Invertible and variable augmented network (Wang et al., IEEE JBHI 27(6), 2023).

    A chain of invertible blocks, each an invertible 1x1 convolution and an affine coupling of three dense
    blocks. No squeeze and no down-sampling: any height and width from 1. ``inverse(forward(x)) == x`` up to
    rounding, both directions are differentiable, and by default neither keeps activations for backward.

    Args:
        channels: C of the state, 2 to 16; `VariableAugmentation.channels` says what the modalities need.
        blocks: invertible blocks, at least 1.
        split: channels in the first part of each coupling, 1 to C - 1.
        growth: channels that each convolution of a dense block adds, at least 1.
        clamp: bound of the coupling's log scale, positive.
        memory: what backward keeps: ``invert`` (the chain's two ends; blocks are walked back by inversion),
            ``boundary`` (each block's input) or ``store`` (everything). Can be set again later.
        backend: ``fast`` (compiled ops) or ``reference`` (plain PyTorch, supports double backward).
        compute: arithmetic of the dense blocks, ``strict``, ``fast``, ``bf16``, ``fp16`` or ``tf32``; None
            follows autocast; without it, it is ``fast`` for images of 64x64 pixels and more, else ``strict``.
        tol: largest relative reconstruction error that ``invert`` accepts; None chooses by precision.
        last_scale: the last convolution of every dense block starts as Xavier normal times this, positive.
            None: 1 for up to 8 blocks, ``8 / blocks`` above (with plain Xavier weights 40 blocks reconstruct
            badly and 80 not at all). About 0.1 starts near the identity and bears a ten times higher
            learning rate.
        mix_start: the 1x1 convolutions start as random rotations (``rotation``, the published network) or as
            the ``identity``: with a small `last_scale` every target then starts as the source in its
            channel.

    Raises:
        InputError: an argument outside the ranges above.
    """

    def __init__(
        self,
        channels: int = 2,
        blocks: int = 8,
        split: int = 1,
        growth: int = 32,
        clamp: float = 0.8,
        memory: str = "invert",
        backend: str = "fast",
        compute: str | None = None,
        tol: float | None = None,
        last_scale: float | None = None,
        mix_start: str = "rotation",
    ) -> None:
        super().__init__()
        if last_scale is None:
            last_scale = default_last_scale(blocks) if isinstance(blocks, int) and blocks > 0 else 1.0
        if not 0 < last_scale < float("inf"):
            raise InputError(f"IVAN: last_scale is {last_scale!r}, expected a positive number")
        if mix_start not in STARTS:
            raise InputError(f"IVAN: mix_start is {mix_start!r}, expected {' or '.join(STARTS)}")
        for name, value, low, high in (
            ("channels", channels, 2, 16),
            ("blocks", blocks, 1, None),
            ("split", split, 1, channels - 1),
            ("growth", growth, 1, None),
        ):
            if not isinstance(value, int) or value < low or (high is not None and value > high):
                bounds = f"at least {low}" if high is None else f"{low} to {high}"
                raise InputError(f"IVAN: {name} is {value!r}, expected {bounds}")
        self.channels, self.split, self.growth, self.clamp = channels, split, growth, clamp

        def dense(inputs: int, outputs: int) -> DenseBlock:
            block = DenseBlock(inputs, outputs, growth, compute=compute, backend=backend)
            if last_scale != 1.0:
                with torch.no_grad():
                    block.weights[-1].mul_(last_scale)
            return block

        first, second = split, channels - split
        try:
            chain = [
                InvertibleBlock(
                    InvertibleConv1x1(channels, backend=backend, start=mix_start),
                    AffineCoupling(
                        dense(second, first),
                        dense(first, second),
                        dense(first, second),
                        split=split,
                        clamp=clamp,
                        backend=backend,
                    ),
                )
                for _ in range(blocks)
            ]
            self.chain = ReversibleSequential(*chain, memory=memory, tol=tol)
        except ValueError as error:
            raise InputError(f"IVAN: {error}") from None

    def forward(self, x: Tensor) -> Tensor:
        """Augmented sources ``[N, C, H, W]`` to augmented targets ``[N, C, H, W]``.

        Raises:
            InputError: another number of dimensions or channels, another dtype or device than the parameters.
        """
        return self.chain(self._checked(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Augmented targets ``[N, C, H, W]`` to augmented sources ``[N, C, H, W]``; errors as `forward`."""
        return self.chain.inverse(self._checked(y))

    @property
    def memory(self) -> str:
        """What backward keeps: ``invert``, ``boundary`` or ``store``."""
        return self.chain.memory

    @memory.setter
    def memory(self, policy: str) -> None:
        try:
            self.chain.memory = policy
        except ValueError as error:
            raise InputError(f"IVAN: {error}") from None

    @property
    def guard_trips(self) -> int:
        """How many backward passes of ``invert`` were redone as ``boundary`` because of drift."""
        return self.chain.guard_trips

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels or 0 in x.shape[2:]:
            raise InputError(
                f"IVAN: state has shape {tuple(x.shape)}, expected [N, {self.channels}, H, W]; "
                "ivan.VariableAugmentation brings modalities to that many channels"
            )
        like = next(self.parameters())
        # Autocast may hand over half precision, which the chain widens: the state is always full precision.
        widened = x.dtype in (torch.bfloat16, torch.float16) and autocast_enabled(x)
        if (x.dtype != like.dtype and not widened) or x.device != like.device:
            raise InputError(
                f"IVAN: state is {x.dtype} on {x.device}, expected {like.dtype} on {like.device} as the "
                "parameters; convert the state, or the model with model.to(...)"
            )
        return x

    def extra_repr(self) -> str:
        return f"channels={self.channels}, split={self.split}, growth={self.growth}, clamp={self.clamp}"
