"""`Predictor`: a trained network that maps slices in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ivan.suspicion import CLIPPED_LEVEL
from ivan.training.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ivan.data import Case, LoadedCase, Scale
    from ivan.data.profile import Profile
    from ivan.model import IVAN
    from ivan.variables import VariableAugmentation

DEFAULT_PIXELS = 1 << 18


@dataclass(frozen=True)
class Predictor:
    """A trained network that maps slices in both directions.

    Attributes:
        model: in eval mode on its device.
        aug: its variable augmentation.
        config: the settings it was trained with.
        scales: modality -> scale of the training set (median over its volumes), the units of written images.
        origin: checkpoint the weights come from.
        pixels: upper bound of the pixels (N x H x W) of one batch; memory grows with it.
        profiles: modality -> what its training images looked like; empty for runs of older versions.
    """

    model: IVAN
    aug: VariableAugmentation
    config: TrainConfig
    scales: dict[str, Scale]
    origin: Path
    pixels: int = DEFAULT_PIXELS
    profiles: dict[str, list[Profile]] = field(default_factory=dict)

    def modalities(self, inverse: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(given, predicted) modalities of a direction."""
        sources, targets = self.config.sources, self.config.targets
        return (targets, sources) if inverse else (sources, targets)

    def nonnegative(self, name: str) -> bool:
        """Whether the training images of a modality had no negative values, so that predictions have none."""
        if self.config.normalise == "none":  # the scale tells nothing
            return not any(profile.lowest < 0 for profile in self.profiles.get(name, []))
        return name not in self.scales or self.scales[name].low == 0

    def suspicions(self, loaded: LoadedCase, given: Sequence[str]) -> list[str]:
        """One line for each way in which the given images of a case are unlike the training images."""
        from ivan.data.profile import profiles_of, unusual

        found = profiles_of(loaded)
        return [
            line
            for name in given
            for line in unusual(f"{name} of {loaded.name}", found[name], self.profiles.get(name, []))
        ]

    def predict(
        self,
        slices: np.ndarray,
        inverse: bool = False,
        span: tuple[int, int] | None = None,
        clipped: dict[str, float] | None = None,
    ) -> np.ndarray:
        """Predict slices of a case.

        Args:
            slices: [S, M, H, W] float32, all slices of the case, normalised as in training; M sources, or M
                targets for `inverse`.
            inverse: predict the sources from the targets.
            span: half-open range of slices to predict (default: all); a network with context looks beyond it.
            clipped: receives, for each modality whose negative values were set to 0, the share of voxels
                that were below -0.02 (rounding about a black background does not count).

        Returns:
            [K, P, H, W] float32 of P modalities in normalised units; values below 0 are set to 0 for
            modalities whose training images had none (`nonnegative`). A fused image is 0 where both sources
            are (`ivan.fusion.rules.clear_empty`).
        """
        return self.predict_states(slices, inverse, span, clipped=clipped)[0]

    def predict_states(
        self,
        slices: np.ndarray,
        inverse: bool = False,
        span: tuple[int, int] | None = None,
        look: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        clipped: dict[str, float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`predict`, and something made of the network's whole output.

        Args:
            look: called for each batch with the modalities given, the network's input and its output,
                `[B, M', H, W]` and twice `[B, C, H, W]`; its results `[B, any, H, W]` are joined.
            clipped: as in `predict`.
        """
        import numpy as np
        import torch

        from ivan.data.context import with_context
        from ivan.fusion.rules import clear_empty

        aug, device = self.aug, next(self.model.parameters()).device
        names = self.modalities(inverse)[1]
        height, width = slices.shape[2:]
        first, end = span or (0, len(slices))
        batch = max(1, self.pixels // max(1, height * width))
        result = np.empty((end - first, len(names), height, width), np.float32)
        seen: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(first, end, batch):
                stop = min(start + batch, end)
                chosen = with_context(slices, 0 if inverse else self.config.context, (start, stop))
                given = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
                if inverse:
                    state = aug.augment_targets(given)
                    output = self.model.inverse(state)
                    made = aug.collapse_sources(output)[
                        :, : len(names)
                    ]  # the slice itself, not its neighbours
                else:
                    state = aug.augment_sources(given)
                    output = self.model(state)
                    made = aug.collapse_targets(output)
                result[start - first : stop - first] = made.float().cpu().numpy()
                if look is not None:
                    seen.append(look(given, state, output).float().cpu().numpy())
        if self.config.task == "fusion" and not inverse:
            clear_empty(result[:, 0], slices[first:end])
        for index, name in enumerate(names):
            if self.nonnegative(name):
                if clipped is not None:
                    clipped[name] = float((result[:, index] < CLIPPED_LEVEL).mean())
                np.maximum(result[:, index], 0, out=result[:, index])
        return result, np.concatenate(seen) if seen else None

    def load(self, case: Case, modalities: Sequence[str]) -> LoadedCase:
        """Read a case as the network was trained to see it."""
        from ivan.data import load_case
        from ivan.data.context import check_volume

        config = self.config
        loaded = load_case(
            case,
            modalities,
            plane=config.plane,
            normalise=config.normalise,
            percentile=config.percentile,
            luma=config.task == "fusion",
        )
        check_volume(case.name, len(loaded.slices), config.context)
        return loaded
