"""Invertible 1x1 convolution in LU form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ivan_fast.modules.backend import BackendModule, full_precision


class InvertibleConv1x1(BackendModule):
    """``y = W x`` per pixel, ``W = P (L + I) (U + diag(sign * exp(log_s)))``; starts as a random rotation.

    Never singular, whatever the parameters (Kingma and Dhariwal, Glow, 2018, section 3.2).

    Args:
        channels: C, from 1 to 16.
        backend: ``"fast"`` (compiled ops) or ``"reference"`` (plain PyTorch).

    Attributes:
        p: permutation P ``[C, C]``, a buffer. sign_s: ``[C]`` of -1 and 1, a buffer.
        lower, upper: ``[C, C]``; only the strictly lower (upper) triangle is used.
        log_s: ``[C]``, logarithm of the pivots' magnitudes.
    """

    p: Tensor
    sign_s: Tensor

    def __init__(self, channels: int, backend: str = "fast") -> None:
        super().__init__(backend)
        if not 1 <= channels <= 16:
            raise ValueError(f"InvertibleConv1x1: channels is {channels}, expected 1 to 16")
        self.channels = channels
        self.register_buffer("p", torch.empty(channels, channels))
        self.register_buffer("sign_s", torch.empty(channels))
        self.lower = nn.Parameter(torch.empty(channels, channels))
        self.log_s = nn.Parameter(torch.empty(channels))
        self.upper = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as a random orthogonal matrix: Q of the QR decomposition of a Gaussian matrix."""
        gaussian = torch.randn(self.channels, self.channels, dtype=torch.float64)
        p, lower, upper = torch.linalg.lu(torch.linalg.qr(gaussian)[0])
        pivots = upper.diagonal()
        self.p.copy_(p)
        self.sign_s.copy_(torch.sign(pivots))
        self.lower.copy_(torch.tril(lower, -1))
        self.log_s.copy_(torch.log(pivots.abs()))
        self.upper.copy_(torch.triu(upper, 1))

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W ``[C, C]``, differentiable, assembled in the dtype of the parameters and given in `dtype`."""
        left, right = self._factors()
        return (self.p @ (left @ right)).to(dtype or self.lower.dtype)

    def inverse_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The inverse ``[C, C]`` of the very W that `weight` gives: computed in float64, given in `dtype`."""
        inverse, _ = torch.linalg.inv_ex(self.weight().double())
        return inverse.to(dtype or self.lower.dtype)

    def parameter_gradients(self, grad_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients ``(grad_lower, grad_log_s, grad_upper)`` from that of W, ``[C, C]``."""
        left, right = self._factors()
        grad_product = self.p.t() @ grad_weight.to(self.p.dtype)  # of left @ right
        grad_left = grad_product @ right.t()
        grad_right = left.t() @ grad_product
        grad_log_s = grad_right.diagonal() * right.diagonal()
        return torch.tril(grad_left, -1), grad_log_s, torch.triu(grad_right, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``."""
        with full_precision(x):
            return self.functions.channel_mix(x, self.weight(x.dtype))

    def inverse(self, y: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``; ``inverse(forward(x)) == x`` up to rounding."""
        with full_precision(y):
            return self.functions.channel_mix(y, self.inverse_weight(y.dtype))

    def _factors(self) -> tuple[Tensor, Tensor]:
        identity = torch.eye(self.channels, dtype=self.lower.dtype, device=self.lower.device)
        left = torch.tril(self.lower, -1) + identity
        right = torch.triu(self.upper, 1) + torch.diag(self.sign_s * torch.exp(self.log_s))
        return left, right

    def extra_repr(self) -> str:
        return f"{self.channels}, backend={self.backend!r}"
