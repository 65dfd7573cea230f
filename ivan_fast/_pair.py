"""G and H of a coupling together, put together of functions of one dense block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

PairGradients = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
WalkedPair = tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Pair:
    """`dense_block_pair` and its derivatives, by functions of those names."""

    dense_block: Callable[..., Any]
    dense_block_backward: Callable[..., Any]
    dense_block_coupling_backward: Callable[..., Any]
    dense_block_coupling_inverse_backward: Callable[..., Any]

    def forward(
        self,
        x: Tensor,
        weights_g: Sequence[Tensor],
        biases_g: Sequence[Tensor],
        weights_h: Sequence[Tensor],
        biases_h: Sequence[Tensor],
        negative_slope: float = 0.2,
        compute: str = "strict",
    ) -> tuple[Tensor, Tensor]:
        """``(g, h)``: two dense blocks of one shape on one input."""
        g = self.dense_block(x, weights_g, biases_g, negative_slope, compute)
        return g, self.dense_block(x, weights_h, biases_h, negative_slope, compute)

    def backward(
        self,
        grad_g: Tensor,
        grad_h: Tensor,
        x: Tensor,
        weights_g: Sequence[Tensor],
        biases_g: Sequence[Tensor],
        weights_h: Sequence[Tensor],
        biases_h: Sequence[Tensor],
        negative_slope: float = 0.2,
        compute: str = "strict",
    ) -> PairGradients:
        """``(grad_x, grad_weights_g, grad_biases_g, grad_weights_h, grad_biases_h)``."""
        one, other = (
            self.dense_block_backward(grad, x, weights, biases, negative_slope, compute)[1:]
            for grad, weights, biases in ((grad_g, weights_g, biases_g), (grad_h, weights_h, biases_h))
        )
        return (one[0] + other[0], *one[1:], *other[1:])

    def coupling_backward(
        self,
        y2: Tensor,
        grad_y2: Tensor,
        x: Tensor,
        weights_g: Sequence[Tensor],
        biases_g: Sequence[Tensor],
        weights_h: Sequence[Tensor],
        biases_h: Sequence[Tensor],
        clamp: float,
        negative_slope: float = 0.2,
        compute: str = "strict",
    ) -> WalkedPair:
        """Walk back through ``y2 = x2 * exp(s(h)) + g``: ``(x2, grad_x2, grad_x, ...)``, then as backward."""
        g, grad_x, *grads_g = self.dense_block_backward(
            grad_y2.to(x.dtype), x, weights_g, biases_g, negative_slope, compute
        )
        x2, grad_x2, grad_x_h, *grads_h = self.dense_block_coupling_backward(
            y2, g.to(y2.dtype), grad_y2, x, weights_h, biases_h, clamp, negative_slope, compute
        )
        return (x2, grad_x2, grad_x + grad_x_h, *grads_g, *grads_h)

    def coupling_inverse_backward(
        self,
        x2: Tensor,
        grad_x2: Tensor,
        x: Tensor,
        weights_g: Sequence[Tensor],
        biases_g: Sequence[Tensor],
        weights_h: Sequence[Tensor],
        biases_h: Sequence[Tensor],
        clamp: float,
        negative_slope: float = 0.2,
        compute: str = "strict",
    ) -> WalkedPair:
        """Walk back through ``x2 = (y2 - g) * exp(-s(h))``: ``(y2, grad_y2, grad_x, ...)`` likewise."""
        scaled, grad_y2, grad_x, *grads_h = self.dense_block_coupling_inverse_backward(
            x2, grad_x2, x, weights_h, biases_h, clamp, negative_slope, compute
        )
        g, grad_x_g, *grads_g = self.dense_block_backward(
            -grad_y2.to(x.dtype), x, weights_g, biases_g, negative_slope, compute
        )
        return (scaled + g.to(x2.dtype), grad_y2, grad_x_g + grad_x, *grads_g, *grads_h)
