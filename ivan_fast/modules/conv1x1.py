"""Invertible 1x1 convolution in LU form."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from ivan_fast import reference
from ivan_fast.modules.backend import BackendModule, full_precision

STARTS = ("rotation", "identity")


class InvertibleConv1x1(BackendModule):
    """``y = W x`` per pixel, ``W = P (L + I) (U + diag(sign * exp(log_s)))``.

    Never singular, whatever the parameters (Kingma and Dhariwal, Glow, 2018, section 3.2).

    Args:
        channels: C, from 1 to 16.
        backend: ``"fast"`` (compiled ops) or ``"reference"`` (plain PyTorch).
        start: ``"rotation"``, a random orthogonal matrix, or ``"identity"``.

    Attributes:
        p: permutation P ``[C, C]``, a buffer. sign_s: ``[C]`` of -1 and 1, a buffer.
        lower, upper: ``[C, C]``; only the strictly lower (upper) triangle is used.
        log_s: ``[C]``, logarithm of the pivots' magnitudes.
    """

    p: Tensor
    sign_s: Tensor

    def __init__(self, channels: int, backend: str = "fast", start: str = "rotation") -> None:
        super().__init__(backend)
        if start not in STARTS:
            raise ValueError(f"InvertibleConv1x1: start is {start!r}, expected one of {', '.join(STARTS)}")
        if not 1 <= channels <= 16:
            raise ValueError(f"InvertibleConv1x1: channels is {channels}, expected 1 to 16")
        self.channels, self.start = channels, start
        self.register_buffer("p", torch.empty(channels, channels))
        self.register_buffer("sign_s", torch.empty(channels))
        self.lower = nn.Parameter(torch.empty(channels, channels))
        self.log_s = nn.Parameter(torch.empty(channels))
        self.upper = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the identity, or as Q of the QR decomposition of a Gaussian matrix."""
        if self.start == "identity":
            wanted = torch.eye(self.channels, dtype=torch.float64)
        else:
            wanted = torch.linalg.qr(torch.randn(self.channels, self.channels, dtype=torch.float64))[0]
        p, lower, upper = torch.linalg.lu(wanted)
        pivots = upper.diagonal()
        self.p.copy_(p)
        self.sign_s.copy_(torch.sign(pivots))
        self.lower.copy_(torch.tril(lower, -1))
        self.log_s.copy_(torch.log(pivots.abs()))
        self.upper.copy_(torch.triu(upper, 1))

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W ``[C, C]``, differentiable, assembled in the dtype of the parameters and given in `dtype`."""
        return self._assembled(dtype)[0].to(dtype or self.lower.dtype)

    def inverse_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The inverse ``[C, C]`` of the very W that `weight` gives: computed in float64, given in `dtype`."""
        return self._assembled(dtype)[1].to(dtype or self.lower.dtype)

    def weights(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """``(weight(dtype), inverse_weight(dtype))``, computed together."""
        weight, inverse = self._assembled(dtype)
        dtype = dtype or self.lower.dtype
        return weight.to(dtype), inverse.to(dtype)

    def parameter_gradients(
        self, grad_weight: Tensor | None, grad_inverse: Tensor | None = None, inverse: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients ``(grad_lower, grad_log_s, grad_upper)`` from that of W, of its inverse, or of both.

        Args:
            grad_weight, grad_inverse: ``[C, C]``; None stands for zero.
            inverse: that of `inverse_weight`, needed with grad_inverse.
        """
        if grad_inverse is not None and inverse is not None:
            grad_inverse, inverse = grad_inverse.double(), inverse.double()
        with full_precision(self.lower):
            return self._plu_functions.plu_weight_backward(grad_weight, grad_inverse, inverse, *self._factors)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``."""
        with full_precision(x):
            return self.functions.channel_mix(x, self.weight(x.dtype))

    def inverse(self, y: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``; ``inverse(forward(x)) == x`` up to rounding."""
        with full_precision(y):
            return self.functions.channel_mix(y, self.inverse_weight(y.dtype))

    def _assembled(self, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """``(W, W^-1)``: W in float64 if that is `dtype`, else in that of the parameters; W^-1 in float64."""
        with full_precision(self.lower):
            return self._plu_functions.plu_weight(*self._factors, dtype == torch.float64)

    @property
    def _factors(self) -> tuple[Tensor, ...]:
        return self.p, self.lower, self.log_s, self.sign_s, self.upper

    @property
    def _plu_functions(self) -> ModuleType:
        """Those of the backend; of parameters that are narrower than the compiled ops take, plain PyTorch."""
        return self.functions if self.lower.dtype in (torch.float32, torch.float64) else reference

    def extra_repr(self) -> str:
        return f"{self.channels}, backend={self.backend!r}"
