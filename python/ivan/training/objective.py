"""What a step minimises, and how fast it goes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ivan.losses import bidirectional_loss
from ivan.model import IVAN
from ivan.training.config import TrainConfig
from ivan.training.options import WARMUP_SHARE


class LossModule(nn.Module):
    """Model and loss as one module: data-parallel training counts on one forward call a step."""

    def __init__(
        self, model: IVAN, aug: Any, options: dict[str, Any], fusion: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model, self.aug = model, aug
        self.options, self.fusion = options, fusion  # `fusion`: those of training without a target

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of `SliceDataset` items, [B, modalities, H, W], to the three losses, scalars."""
        if self.fusion is not None:
            from ivan.fusion.loss import fusion_loss

            return fusion_loss(self.model, batch["source"], self.aug, **self.fusion)
        inputs: dict[str, Any] = {
            key + "s": batch[key] for key in ("source_input", "target_input") if key in batch
        }
        return bidirectional_loss(
            self.model, batch["source"], batch["target"], self.aug, **inputs, **self.options
        )


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Learning rate of the update after `step` earlier ones: warm-up times the schedule."""
    warmup = WARMUP_SHARE * total_steps if config.warmup_steps < 0 else config.warmup_steps
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if config.schedule == "cosine":
        return config.lr * rise * 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
    return config.lr * rise * config.lr_factor ** (step // steps_per_epoch // config.lr_every)
