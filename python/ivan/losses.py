"""The two-directional loss that trains an invertible network. `docs/loss.md` explains its options."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ivan.errors import InputError
from ivan.variables import VariableAugmentation

# What each recipe means; single options override it.
LOSS_RECIPES: dict[str, dict[str, str]] = {
    "notes": {"reverse_from": "target", "supervise": "copies", "norm": "l2"},
    "public": {"reverse_from": "prediction", "supervise": "mean", "norm": "l2"},
}
_ALLOWED = {"reverse_from": ("target", "prediction"), "supervise": ("copies", "mean"), "norm": ("l2", "l1")}


class Invertible(Protocol):
    """A network f and its inverse, ``[B, C, H, W]`` to ``[B, C, H, W]`` both."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def inverse(self, y: Tensor) -> Tensor: ...


def loss_options(
    recipe: str = "notes",
    reverse_from: str | None = None,
    supervise: str | None = None,
    norm: str | None = None,
) -> dict[str, str]:
    """The options a recipe and single settings amount to: ``reverse_from``, ``supervise`` and ``norm``.

    Raises:
        InputError: an unknown recipe or option.
    """
    if recipe not in LOSS_RECIPES:
        raise InputError(f"recipe: {recipe!r}; expected one of {', '.join(LOSS_RECIPES)}")
    given = {"reverse_from": reverse_from, "supervise": supervise, "norm": norm}
    options = {**LOSS_RECIPES[recipe], **{k: v for k, v in given.items() if v is not None}}
    for name, value in options.items():
        if value not in _ALLOWED[name]:
            raise InputError(f"{name}: {value!r}; expected one of {', '.join(_ALLOWED[name])}")
    return options


def bidirectional_loss(
    model: Invertible,
    sources: Tensor,
    targets: Tensor,
    aug: VariableAugmentation,
    weight: float = 1.0,
    reverse_from: str | None = None,
    supervise: str | None = None,
    norm: str | None = None,
    recipe: str = "notes",
    generator: torch.Generator | None = None,
    source_inputs: Tensor | None = None,
    target_inputs: Tensor | None = None,
    ssim_weight: float = 0.0,
) -> dict[str, Tensor]:
    """``weight * |f(X) - Y| + |f^-1(Z) - X|`` with X, Y the augmented sources and targets.

    Every modality has the same weight in each term, however many copies of it the channels hold; dummy
    channels of ``fill="zero"`` and ``"noise"`` have none.

    Args:
        model: f, for example `ivan.IVAN`, with ``aug.channels`` channels.
        sources: ``[B, N, H, W]``, float, normalised to about [0, 1].
        targets: ``[B, M, H, W]``, the same.
        aug: how N and M modalities fill the network's channels.
        weight: of the forward term in ``total``, finite, at least 0.
        reverse_from: ``target`` (recipe ``notes``, the default): Z = Y, nothing is clamped; ``prediction``
            (recipe ``public``): Z = clamp(f(X), 0, 1), and both predictions are clamped to [0, 1] before
            they are compared. The second term is then 0 wherever the clamp does not bite, and does not train
            the reverse task.
        supervise: ``copies`` (the default): every copy of a modality is compared; ``mean``: their mean only.
        norm: ``l2`` (mean squared error, the default) or ``l1`` (mean absolute error).
        recipe: ``notes`` or ``public``: the options not given, see `LOSS_RECIPES`.
        generator: of the noise of ``fill="noise"``; PyTorch's own by default, so that every step sees fresh
            noise.
        source_inputs: ``[B, N, H, W]``: what f starts from, if not `sources`, which the reverse term is still
            compared with. Sources with changed brightness teach f to ignore it.
        target_inputs: ``[B, M, H, W]``: the same for f^-1 where it starts from the targets.
        ssim_weight: adds ``ssim_weight * (weight * (1 - SSIM) + (1 - SSIM))`` of both directions' predictions
            (means over copies; variant ``wang``, data range 1), finite, at least 0; slices then need 11x11
            pixels.

    Returns:
        Scalars ``total``, ``forward`` and ``reverse``, all with a graph; the last two without the weight.
        With `ssim_weight` also ``ssim_forward`` and ``ssim_reverse``, mean SSIM.

    Raises:
        InputError: an unknown option, a bad weight, or shapes that do not fit `aug` or each other.
    """
    options = loss_options(recipe, reverse_from, supervise, norm)
    for name, value in (("weight", weight), ("ssim_weight", ssim_weight)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name}: {value}; expected a finite number, at least 0")
    if sources.shape[0] != targets.shape[0] or sources.shape[2:] != targets.shape[2:]:
        raise InputError(
            f"targets: shape {tuple(targets.shape)}; expected the batch, height and width of the sources, "
            f"{tuple(sources.shape)}"
        )
    if generator is None and aug.fill == "noise":
        generator = torch.default_generator
    x = aug.augment_sources(sources, generator)  # [B, C, H, W]
    y = aug.augment_targets(targets, generator)  # [B, C, H, W]
    prediction = model(x if source_inputs is None else aug.augment_sources(source_inputs, generator))
    if options["reverse_from"] == "prediction":
        prediction = prediction.clamp(0, 1)
        reconstruction = model.inverse(prediction).clamp(0, 1)
    else:
        reconstruction = model.inverse(
            y if target_inputs is None else aug.augment_targets(target_inputs, generator)
        )
    if options["supervise"] == "mean":
        forward = _distance(aug.collapse_targets(prediction), targets, options["norm"])
        reverse = _distance(aug.collapse_sources(reconstruction), sources, options["norm"])
    else:
        forward = _distance(prediction, y, options["norm"], aug.target_weights())
        reverse = _distance(reconstruction, x, options["norm"], aug.source_weights())
    parts = {"total": weight * forward + reverse, "forward": forward, "reverse": reverse}
    if ssim_weight:
        there = mean_ssim(aug.collapse_targets(prediction), targets)
        back = mean_ssim(aug.collapse_sources(reconstruction), sources)
        parts["total"] = parts["total"] + ssim_weight * (weight * (1 - there) + (1 - back))
        parts |= {"ssim_forward": there, "ssim_reverse": back}
    return parts


def mean_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM (variant ``wang``, data range 1) of ``[B, M, H, W]`` in about [0, 1]: a scalar with a graph.

    Raises:
        InputError: slices below 11x11, its window.
    """
    from ivan.metrics.pixelwise import ssim_map

    if min(a.shape[2:]) < 11:
        found = "x".join(map(str, a.shape[2:]))
        raise InputError(f"ssim_weight: slices of {found} pixels; SSIM needs at least 11x11")
    return ssim_map(a.flatten(0, 1), b.flatten(0, 1), 1.0, "wang").mean()


def _distance(a: Tensor, b: Tensor, norm: str, weights: tuple[float, ...] | None = None) -> Tensor:
    """Mean distance of ``[B, C, H, W]`` tensors, channels weighted by `weights` (sum 1; else alike)."""
    function = F.mse_loss if norm == "l2" else F.l1_loss
    if weights is None or len(set(weights)) == 1:
        return function(a, b)
    used = sum(w > 0 for w in weights)  # unsupervised channels come last
    each = function(a[:, :used], b[:, :used], reduction="none").mean(dim=(0, 2, 3))
    return torch.dot(each, torch.tensor(weights[:used], dtype=each.dtype, device=each.device))
