"""The subnet of iVAN: a densely connected block of 3x3 convolutions."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from ivan_fast.modules.backend import BackendModule, autocast_enabled, full_precision
from ivan_fast.reference import COMPUTE_MODES

_AUTOCAST_COMPUTE = {torch.bfloat16: "bf16", torch.float16: "fp16"}
REDUCED_COMPUTE = frozenset({"bf16", "fp16", "tf32"})
FAST_PIXELS = 64 * 64
"""Where ``"fast"`` is the default. Its values are as good as ``"strict"`` ones (1e-6), but a pre-activation
near 0 may round to the other side, where LeakyReLU's derivative is another. In an image of 20x28 pixels one
such flip is worth 1e-3 of a parameter's gradient; from 48x48 on no difference from PyTorch's was seen.
"""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether a user registered hooks on the module itself."""
    return any(getattr(module, name) for name in _HOOKS)


def is_plain(subnet: nn.Module) -> TypeGuard[DenseBlock]:
    """Whether it computes what the dense block ops compute, of parameters that are there as they are."""
    if type(subnet) is not DenseBlock or has_hooks(subnet) or "forward" in vars(subnet):
        return False
    # A parametrization replaces the class of the list that holds the parameter.
    return type(subnet.weights) is nn.ParameterList and type(subnet.biases) is nn.ParameterList


class DenseBlock(BackendModule):
    """``depth`` 3x3 convolutions, each on the concatenation of the input and all earlier outputs.

    Zero padding 1, LeakyReLU after all but the last. Weights start Xavier normal, biases zero.

    Args:
        in_channels, out_channels: channels of the input and of the output, at least 1.
        growth: channels every hidden convolution adds.
        depth: number of convolutions, at least 1.
        negative_slope: of the LeakyReLU, and its derivative at exactly 0.
        compute: arithmetic: ``"strict"``, ``"fast"``, ``"bf16"``, ``"fp16"`` or ``"tf32"``.
            ``None`` follows autocast (bf16 or fp16 inside it); otherwise it is ``"fast"`` for images of
            `FAST_PIXELS` or more, and ``"strict"`` for smaller ones. A block of float64 weights is always
            strict.
        backend: ``"fast"`` (compiled ops) or ``"reference"`` (plain PyTorch).

    Attributes:
        weights: ``weights[i]`` is ``[growth, in_channels + i * growth, 3, 3]``, the last one
            ``[out_channels, ...]``.
        biases: ``biases[i]`` is ``[growth]``, the last ``[out_channels]``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        growth: int = 32,
        depth: int = 5,
        negative_slope: float = 0.2,
        compute: str | None = None,
        backend: str = "fast",
    ) -> None:
        super().__init__(backend)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "growth": growth, "depth": depth}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"DenseBlock: {name} is {size}, expected at least 1")
        if compute is not None and compute not in COMPUTE_MODES:
            raise ValueError(f"DenseBlock: compute is {compute!r}, expected None or one of {COMPUTE_MODES}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.growth, self.depth = growth, depth
        self.negative_slope = negative_slope
        self.compute = compute
        outs = [growth] * (depth - 1) + [out_channels]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(out, in_channels + i * growth, 3, 3)) for i, out in enumerate(outs)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(out)) for out in outs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier normal weights, zero biases."""
        for weight in self.weights:
            nn.init.xavier_normal_(weight)
        for bias in self.biases:
            nn.init.zeros_(bias)

    def compute_for(self, x: Tensor) -> str:
        """The arithmetic this block uses for ``x`` here and now; a matter of its size and of autocast."""
        if self.weights[0].dtype == torch.float64:
            return "strict"
        if self.compute is not None:
            return self.compute
        kind = x.device.type
        if autocast_enabled(x):
            return _AUTOCAST_COMPUTE.get(torch.get_autocast_dtype(kind), "strict")
        if kind != "cpu" or self.backend != "fast":  # there both are the same
            return "strict"
        return "fast" if x.shape[-2] * x.shape[-1] >= FAST_PIXELS else "strict"

    def sizes(self) -> tuple[object, ...]:
        """What two blocks must share to be computed together."""
        kind = (self.in_channels, self.out_channels, self.growth, self.depth, self.negative_slope)
        return (*kind, self.compute, self.backend, self.weights[0].dtype, self.weights[0].device)

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError: another number of channels or dimensions."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"DenseBlock: input has shape {tuple(x.shape)}, expected [N, {self.in_channels}, H, W]"
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``, in the dtype of the weights.

        Raises:
            ValueError: another number of channels or dimensions.
        """
        self.check_input(x)
        compute = self.compute_for(x)
        with full_precision(x):
            x = x.to(self.weights[0].dtype)
            return self.functions.dense_block(
                x, list(self.weights), list(self.biases), self.negative_slope, compute
            )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, growth={self.growth}, depth={self.depth}, "
            f"negative_slope={self.negative_slope}, compute={self.compute!r}, backend={self.backend!r}"
        )
