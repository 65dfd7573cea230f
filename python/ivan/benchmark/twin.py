"""The network in plain eager PyTorch, as the yardstick of every speed and memory claim.

The same operations in the same order as the published network (NCHW convolutions, `torch.cat` before each of
them, every activation stored by autograd), written from the paper's formulas. Other libraries' rivals are
built of these very dense blocks, so that only what surrounds them differs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivan.model import default_last_scale


class EagerDenseBlock(nn.Module):
    """Five 3x3 convolutions, each on the input and all earlier outputs: [N, in, H, W] -> [N, out, H, W]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        growth: int = 32,
        negative_slope: float = 0.2,
        last_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        widths = [growth] * 4 + [out_channels]
        convs = [
            nn.Conv2d(in_channels + growth * level, width, 3, padding=1) for level, width in enumerate(widths)
        ]
        self.convs = nn.ModuleList(convs)
        for conv in convs:
            nn.init.xavier_normal_(conv.weight)
            nn.init.constant_(conv.get_parameter("bias"), 0.0)
        with torch.no_grad():
            convs[-1].weight.mul_(last_scale)

    def forward(self, x: Tensor) -> Tensor:
        hidden = [x]
        for conv in self.convs[:-1]:
            hidden.append(F.leaky_relu(conv(torch.cat(hidden, 1)), self.negative_slope))
        return self.convs[-1](torch.cat(hidden, 1))


class EagerBlock(nn.Module):
    """One invertible block: a 1x1 convolution [C, C], then the affine coupling on the split k | C - k."""

    def __init__(self, channels: int, split: int, growth: int, clamp: float, last_scale: float) -> None:
        super().__init__()
        self.split, self.clamp = split, clamp
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.f = EagerDenseBlock(channels - split, split, growth, last_scale=last_scale)
        self.g = EagerDenseBlock(split, channels - split, growth, last_scale=last_scale)
        self.h = EagerDenseBlock(split, channels - split, growth, last_scale=last_scale)

    def _scale(self, y1: Tensor) -> Tensor:
        return self.clamp * (torch.sigmoid(self.h(y1)) * 2 - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.mix[:, :, None, None])
        x1, x2 = x[:, : self.split], x[:, self.split :]
        y1 = x1 + self.f(x2)
        y2 = x2 * torch.exp(self._scale(y1)) + self.g(y1)
        return torch.cat((y1, y2), 1)

    def inverse(self, y: Tensor) -> Tensor:
        y1, y2 = y[:, : self.split], y[:, self.split :]
        x2 = (y2 - self.g(y1)) / torch.exp(self._scale(y1))
        x1 = y1 - self.f(x2)
        return F.conv2d(torch.cat((x1, x2), 1), inverse_of(self.mix)[:, :, None, None])


def inverse_of(weight: Tensor) -> Tensor:
    """The inverse of a [C, C] matrix. Never waits for the device, as `torch.inverse` does to look for errors:
    a CUDA graph could not capture that."""
    if len(weight) == 2:  # nothing for torch.compile to stumble over
        (a, b), (c, d) = weight[0].unbind(), weight[1].unbind()
        return torch.stack((d, -b, -c, a)).view(2, 2) / (a * d - b * c)
    return torch.linalg.inv_ex(weight)[0]


class EagerIVAN(nn.Module):
    """The whole network: [N, C, H, W] -> [N, C, H, W], forward and inverse.

    Args:
        channels, blocks, split, growth, clamp: as in `ivan.IVAN`; its default `last_scale` is used.
    """

    def __init__(
        self, channels: int = 2, blocks: int = 8, split: int = 1, growth: int = 32, clamp: float = 0.8
    ) -> None:
        super().__init__()
        scale = default_last_scale(blocks)
        self.blocks = nn.ModuleList(EagerBlock(channels, split, growth, clamp, scale) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            y = block.inverse(y)  # type: ignore[operator]
        return y
