"""The methods that are compared: what each trains on a batch, and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from network_twin import EagerIVAN
from torch import Tensor, nn

import ivan
from ivan.errors import InputError
from ivan.training.config import MOST_CHANNELS

LEVELS = 3  # down-samplings of the U-Net


@dataclass(frozen=True)
class Size:
    """Blocks and growth of the invertible networks; the others are sized like them by their parameters."""

    blocks: int = 8
    growth: int = 32


class Method(nn.Module):
    """A trainable method.

    Attributes:
        rate: peak learning rate of Adam. schedule: share of the budget (0..1) -> factor of it.
    """

    rate = 2e-3

    def schedule(self, share: float) -> float:
        """Linear rise over the first 3 %, then cosine decay."""
        return min(1.0, share / 0.03 + 1e-3) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar for ``source``, ``target`` and, with intensity augmentation, ``source_input``,
        ``target_input``."""
        raise NotImplementedError

    def forward_predict(self, source: Tensor) -> Tensor | None:
        """[B, N, H, W] to [B, M, H, W]; None where a method has no such direction."""
        return None

    def reverse_predict(self, target: Tensor) -> Tensor | None:
        """[B, M, H, W] to [B, N, H, W]; None where a method has no such direction."""
        return None


class Invertible(Method):
    """iVAN: the package's network, or its plain twin, with a loss recipe."""

    def __init__(
        self,
        sources: int,
        targets: int,
        size: Size,
        net: Callable[..., nn.Module],
        channels: int | None = None,
        **loss: Any,
    ) -> None:
        super().__init__()
        self.aug = ivan.VariableAugmentation(sources, targets, channels)
        self.net = net(channels=self.aug.channels, blocks=size.blocks, growth=size.growth)
        self.options = loss

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        more = {k + "s": batch[k] for k in ("source_input", "target_input") if k in batch}
        net: Any = self.net
        parts = ivan.bidirectional_loss(
            net, batch["source"], batch["target"], self.aug, **more, **self.options
        )
        return parts["total"]

    def forward_predict(self, source: Tensor) -> Tensor:
        return self.aug.collapse_targets(self.net(self.aug.augment_sources(source)))

    def reverse_predict(self, target: Tensor) -> Tensor:
        net: Any = self.net
        return self.aug.collapse_sources(net.inverse(self.aug.augment_targets(target)))


class PublicRecipe(Invertible):
    """The public loss at the public learning rate, halved every sixth of the budget (every 50 of 300
    epochs)."""

    rate = 1e-4

    def schedule(self, share: float) -> float:
        return 0.5 ** min(5, int(6 * share))


class UNets(Method):
    """Two MONAI U-Nets, one a direction, together as large as the invertible network; mean squared error."""

    rate = 1e-3

    def __init__(self, sources: int, targets: int, parameters: int) -> None:
        super().__init__()
        width = min(range(2, 129), key=lambda w: abs(2 * _count(_unet(sources, targets, w)) - parameters))
        self.there, self.back = _unet(sources, targets, width), _unet(targets, sources, width)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        made = _padded(self.there, batch.get("source_input", batch["source"]))
        returned = _padded(self.back, batch.get("target_input", batch["target"]))
        return F.mse_loss(made, batch["target"]) + F.mse_loss(returned, batch["source"])

    def forward_predict(self, source: Tensor) -> Tensor:
        return _padded(self.there, source)

    def reverse_predict(self, target: Tensor) -> Tensor:
        return _padded(self.back, target)


def _unet(inputs: int, outputs: int, width: int) -> nn.Module:
    from monai.networks.nets import UNet

    channels = [width * 2**level for level in range(LEVELS + 1)]
    return UNet(2, inputs, outputs, channels, strides=(2,) * LEVELS, num_res_units=1)


def _padded(net: Callable[[Tensor], Tensor], x: Tensor, multiple: int = 2**LEVELS) -> Tensor:
    """`net(x)` with rows and columns filled up to a multiple by their last ones, and cut again."""
    height, width = x.shape[2:]
    filled = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return net(filled)[..., :height, :width]


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def build(name: str, sources: int, targets: int, size: Size, seed: int) -> Method | None:
    """A method with weights drawn from `seed`; None where it does not apply to these numbers of modalities.

    Raises:
        InputError: an unknown name, or a library is missing.
    """
    torch.manual_seed(seed)

    def package(**shape: Any) -> nn.Module:
        return ivan.IVAN(**shape, compute="fast", last_scale=0.1, mix_start="identity")

    # Room for all modalities beside each other; the published network has max(N, M, 2) channels.
    channels = min(sources + targets, MOST_CHANNELS)
    if name == "ivan":
        return Invertible(sources, targets, size, package, channels)
    if name == "public-twin":  # plain PyTorch, the public loss and recipe
        return PublicRecipe(sources, targets, size, EagerIVAN, recipe="public")
    if name == "public-loss":  # what the loss alone does: everything else as ours
        return Invertible(sources, targets, size, package, channels, recipe="public")
    if name == "unet":
        reference = Invertible(sources, targets, size, package)
        return UNets(sources, targets, _count(reference))
    if name == "hi-net":
        from quality_lib.hinet import HiNet

        return HiNet(sources, targets) if sources == 2 else None
    if name == "score":
        from quality_lib.score import ScoreModel

        return ScoreModel(sources, targets)
    raise InputError(f"--methods: '{name}' given, expected some of {', '.join((*TRAINED, *UNTRAINED))}")


TRAINED = ("ivan", "public-twin", "public-loss", "unet", "hi-net", "score")
UNTRAINED = ("table", "table+tv")
