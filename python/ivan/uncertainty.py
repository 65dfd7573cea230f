"""Where a prediction is in doubt, from what an invertible network says twice: copies and directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ivan.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ivan.inference import Predictor

SUFFIX = "_uncertainty"  # of the folder of a modality's maps, OUT/T2_uncertainty


def has_spare_channels(predictor: Predictor, inverse: bool) -> bool:
    """Whether a direction predicts fewer modalities than the network has channels.

    Otherwise there are no copies, and pushing the prediction back returns the input exactly: nothing
    disagrees.
    """
    aug = predictor.aug
    return (aug.sources if inverse else aug.targets) < aug.channels


def check_spare_channels(predictor: Predictor, inverse: bool) -> None:
    """Raise InputError unless `has_spare_channels`."""
    if not has_spare_channels(predictor, inverse):
        aug = predictor.aug
        made = aug.sources if inverse else aug.targets
        word = "inverse" if inverse else "forward"
        raise InputError(
            f"--uncertainty: the {word} direction of {predictor.origin} predicts {made} channels with all "
            f"{aug.channels} of the network, so there is nothing to disagree; train with --channels "
            f"{aug.channels + 1} or more"
        )


def predict_with_uncertainty(
    predictor: Predictor,
    slices: np.ndarray,
    inverse: bool = False,
    span: tuple[int, int] | None = None,
    clipped: dict[str, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict slices of a case, and a map that ranks where the prediction is likely wrong.

    ``u = sqrt(var_copies + mean_given (g' - g)^2)``: the variance over the copies of the predicted modality,
    and how far the modalities that were given come back when the published prediction, the mean over copies,
    is pushed through the other direction, mean over those modalities. For a perfect network both are 0. It
    orders voxels; it is no standard deviation of the error.

    Args:
        predictor, slices, inverse, span, clipped: as `Predictor.predict`.

    Returns:
        Prediction and uncertainty, ``[K, P, H, W]`` float32 each, normalised units.

    Raises:
        InputError: the direction has no spare channels (`check_spare_channels`).
    """
    check_spare_channels(predictor, inverse)
    count = len(predictor.modalities(inverse)[1])

    def look(given: Tensor, state: Tensor, output: Tensor) -> Tensor:
        return disagreement(predictor, given, output, inverse)[:, :count]

    made, doubt = predictor.predict_states(slices, inverse, span, look, clipped)
    assert doubt is not None
    return made, doubt


def disagreement(predictor: Predictor, given: Tensor, output: Tensor, inverse: bool = False) -> Tensor:
    """The map of one batch: ``[B, P, H, W]`` of P predicted channels (with context: those of neighbours too).

    Args:
        given: ``[B, M, H, W]``, the modalities that were given.
        output: ``[B, C, H, W]``, what the network made of them.
    """
    import torch

    aug, model, config = predictor.aug, predictor.model, predictor.config
    modalities = aug.sources if inverse else aug.targets
    if inverse:
        back = aug.collapse_targets(model(aug.augment_sources(aug.collapse_sources(output))))
        own = len(config.targets)
    else:
        back = aug.collapse_sources(model.inverse(aug.augment_targets(aug.collapse_targets(output))))
        own = len(config.sources)  # the slice itself, not its neighbours
    directions = (back[:, :own] - given[:, :own]).square().mean(dim=1, keepdim=True)
    if aug.fill != "copy":
        return directions.sqrt().expand(-1, modalities, -1, -1)
    copies = [output[:, m::modalities].var(dim=1, correction=0) for m in range(modalities)]
    return (torch.stack(copies, dim=1) + directions).sqrt()
