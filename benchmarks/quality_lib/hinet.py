"""A two-stream network in the style of Hi-Net (Zhou et al., IEEE TMI 39(9), 2020), small, without its GAN.

One stream a source encodes it and learns to decode it again; a fusion stream joins both at every level by
sum, product and maximum and decodes the target. Written from the paper's idea, not its code: the adversarial
term, which sharpens and needs a second network, is left out, and the widths are smaller.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quality_lib.methods import Method, _padded

WIDTHS = (24, 48, 96)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.InstanceNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """One source [B, 1, H, W] to features at each scale."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_double(i, o) for i, o in zip((1, *WIDTHS), WIDTHS, strict=False))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
            x = F.avg_pool2d(x, 2)
        return found


class Decoder(nn.Module):
    """Features at each scale to an image [B, K, H, W]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(WIDTHS))[::-1]
        self.levels = nn.ModuleList(_double(low + high, low) for low, high in pairs)
        self.last = nn.Conv2d(WIDTHS[0], outputs, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for level, skip in zip(self.levels, features[-2::-1], strict=True):
            x = level(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        return self.last(x)


class HiNet(Method):
    """Two sources to the targets; no reverse direction.

    Loss: mean absolute error of the targets plus that of each source decoded from its own stream.
    """

    rate = 1e-3

    def __init__(self, sources: int, targets: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder() for _ in range(sources))
        self.decoders = nn.ModuleList(Decoder(1) for _ in range(sources))
        widths = [4 * width for width in WIDTHS]
        self.fusers = nn.ModuleList(
            _double(w + (WIDTHS[k - 1] if k else 0), WIDTHS[k]) for k, w in enumerate(widths)
        )
        self.decoder = Decoder(targets)

    def _streams(self, x: Tensor) -> list[list[Tensor]]:
        return [encode(x[:, i : i + 1]) for i, encode in enumerate(self.encoders)]

    def _fused(self, streams: list[list[Tensor]]) -> Tensor:
        """Mixed fusion at each scale: sum, product and maximum beside the first stream, and the scale
        above."""
        below: list[Tensor] = []
        fused: list[Tensor] = []
        for a, b, fuse in zip(*streams, self.fusers, strict=True):
            fused.append(fuse(torch.cat([a + b, a * b, torch.maximum(a, b), a, *below], 1)))
            below = [F.avg_pool2d(fused[-1], 2)]
        return self.decoder(fused)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        x, y = batch.get("source_input", batch["source"]), batch["target"]

        def compute(both: Tensor) -> Tensor:
            streams = self._streams(both)
            own = [decode(stream) for decode, stream in zip(self.decoders, streams, strict=True)]
            return torch.cat([self._fused(streams), *own], 1)

        made = _padded(compute, x, 2 ** (len(WIDTHS) - 1))
        targets = y.shape[1]
        return F.l1_loss(made[:, :targets], y) + F.l1_loss(made[:, targets:], x)

    def forward_predict(self, source: Tensor) -> Tensor:
        return _padded(lambda x: self._fused(self._streams(x)), source, 2 ** (len(WIDTHS) - 1))
