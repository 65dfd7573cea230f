"""Validation: PSNR of both directions on held-out slices, and the picture of one of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ivan.training.picture import Row


@torch.no_grad()
def validate(
    model: Any, aug: Any, dataset: Any, indices: list[int], device: torch.device, context: Any
) -> tuple[dict[str, float], list[Row]]:
    """Run both directions on some slices of a dataset.

    Args:
        model: with `forward` and `inverse` on [N, C, H, W].
        aug: the VariableAugmentation between modalities and channels.
        dataset: items {"source": [N, H, W], "target": [M, H, W]} normalised to [0, 1].
        indices: the slices to look at.
        context: makes the autocast context of the run's precision.

    Returns:
        PSNR in dB over all voxels of these slices (data range 1, no mask, no clipping) as `psnr_forward` and
        `psnr_reverse`, and `psnr_forward_<target>`, `psnr_reverse_<source>` where a side has several
        modalities; then the rows of the picture, drawn from the middle slice. Of the context only the slice
        itself is measured. A data set without targets (fusion) gives `q_abf` of the fused image, mean over
        slices, instead of `psnr_forward`, and `psnr_reverse` is that of the sources from the fused image
        alone.
    """
    squares: dict[str, Tensor] = {}
    voxels = 0
    edges: list[float] = []
    rows: list[Row] = []
    drawn = indices[len(indices) // 2]
    for index in indices:
        item = dataset[index]
        sources, targets = (
            torch.as_tensor(item[key]).unsqueeze(0).to(device) for key in ("source", "target")
        )
        with context():
            predicted = aug.collapse_targets(model(aug.augment_sources(sources))).float()
            start = targets if targets.shape[1] else predicted
            recovered = aug.collapse_sources(model.inverse(aug.augment_targets(start))).float()
        sources, recovered = (
            t[:, : len(dataset.sources)] for t in (sources, recovered)
        )  # without neighbours
        voxels += sources[0, 0].numel()
        if not targets.shape[1]:
            edges.append(_edges(sources, predicted))
            targets = predicted
        for key, made, real in (("forward", predicted, targets), ("reverse", recovered, sources)):
            error = (
                (made - real)
                .square()
                .sum(dim=(0, 2, 3), dtype=torch.float64 if device.type == "cpu" else None)
            )
            squares[key] = squares.get(key, 0) + error
        if index == drawn:
            rows = _rows(dataset, sources, targets, predicted, recovered)
    values: dict[str, float] = {}
    if edges:
        values["q_abf"] = sum(edges) / len(edges)
    for key, names in (("forward", dataset.targets), ("reverse", dataset.sources)):
        if edges and key == "forward":
            continue
        errors = (squares[key] / voxels).tolist()
        values[f"psnr_{key}"] = psnr_of(sum(errors) / len(errors))
        if len(names) > 1:
            values |= {
                f"psnr_{key}_{name}": psnr_of(error) for name, error in zip(names, errors, strict=True)
            }
    return values, rows


def _edges(sources: Tensor, fused: Tensor) -> float:
    """Q^AB/F of one fused slice [1, 1, H, W] of sources [1, 2, H, W]."""
    from ivan.metrics import q_abf

    return float(q_abf(sources[0, 0], sources[0, 1], fused[0, 0].clamp(0, 1)))


def psnr_of(mse: float) -> float:
    """PSNR in dB for data range 1; `inf` for an error of 0."""
    return math.inf if mse == 0 else -10 * math.log10(mse)


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` indices spread evenly over `range(count)`; all of them for 0."""
    if not wanted or wanted >= count:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def _rows(dataset: Any, sources: Tensor, targets: Tensor, predicted: Tensor, recovered: Tensor) -> list[Row]:
    source_names, target_names = "+".join(dataset.sources), "+".join(dataset.targets)
    x, y, f, g = (t[0].cpu().numpy() for t in (sources, targets, predicted, recovered))
    forward = [Row(f"{source_names} > {name}", x[0], f[i], y[i]) for i, name in enumerate(dataset.targets)]
    reverse = [Row(f"{target_names} > {name}", y[0], g[i], x[i]) for i, name in enumerate(dataset.sources)]
    return forward + reverse
