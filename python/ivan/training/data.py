"""The data of a run: cases, split, cached slices and the order of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ivan.data import Augmentation, Case, ShapeBatchSampler, SliceDataset, Split, collate_slices, make_split
from ivan.data.colour import one_in_colour
from ivan.data.datalist import kept_apart, split_in
from ivan.errors import InputError
from ivan.inference import find
from ivan.training.config import TrainConfig
from ivan.training.files import replace_json

if TYPE_CHECKING:
    import numpy as np

_MOST_RAW = 3.0  # bright foreground of images in which 1 is the span


@dataclass(frozen=True)
class RunData:
    """Split and data sets of a run; `validation` is None where nothing is held out.

    `notes`: a line for each case that was skipped, each image that was resampled, and empty slices.
    """

    split: Split
    training: SliceDataset
    validation: SliceDataset | None
    notes: tuple[str, ...] = ()


def load_data(
    config: TrainConfig, split_file: Path | None, on_case: Callable[[str], None] | None = None
) -> RunData:
    """Find, split and decode the images of a run.

    Args:
        split_file: a split to use as it is (that of a resumed run); None: by `config.split` or by patient.
        on_case: called with a line about each case that was read.

    Raises:
        InputError: what is wrong with the data.
    """
    cases = find(config.file_modalities, config.data, config.roots or None)
    file = split_file or (Path(config.split) if config.split else None)
    usable: Sequence[Case] = cases
    if file is None and not config.roots and (file := split_in(config.data)) is None:
        usable = _without_test(cases, config)
    split = make_split(usable, file=file, validation=config.validation, seed=config.seed)
    if config.task == "fusion":
        one_in_colour(split.training[0].case, config.sources)  # said before a training, not after it
    cache_dir = Path(config.cache_dir) if config.cache_dir else Path(config.out) / "cache"
    common: dict[str, Any] = {
        "plane": config.plane,
        "normalise": config.normalise,
        "percentile": config.percentile,
        "luma": config.task == "fusion",
        "context": config.context,
        "derive": target_of(config),
        "cache": config.cache,
        "cache_dir": cache_dir if config.cache == "disk" else None,
        "seed": config.seed,
        "on_case": (lambda done, count, name: on_case(f"read {name} ({done} of {count})"))
        if on_case
        else None,
    }
    augmentation = Augmentation(
        flips=config.flips,
        quarter_turns=config.turns,
        rotate=config.rotate,
        scale=config.zoom,
        translate=config.translate,
        bias_field=config.bias_field,
        contrast=config.contrast,
        brightness=config.brightness,
        intensity_on=config.intensity_on,
    )
    training = SliceDataset(
        split.training,
        config.sources,
        config.targets,
        training=True,
        augmentation=augmentation,
        min_foreground=config.min_foreground,
        crop_foreground=config.crop,
        patch_size=config.patch_size or None,
        **common,
    )
    validation = None
    if split.validation:
        validation = SliceDataset(split.validation, config.sources, config.targets, training=False, **common)
    read = dict.fromkeys([*training.notes, *(validation.notes if validation else [])])
    if config.normalise == "none":
        read |= dict.fromkeys(_raw_values(training))
    if on_case:
        for note in read:
            on_case(note)
    return RunData(split, training, validation, (*cases.skipped, *cases.notes, *read))


def _without_test(cases: Sequence[Case], config: TrainConfig) -> list[Case]:
    """Those that a data set file does not keep apart, from which validation may be drawn."""
    test = kept_apart(config.data)
    usable = [case for case in cases if case.name not in test]
    if not usable:
        raise InputError(
            f"{config.data}: all cases that have {', '.join(config.file_modalities)} are of its part 'test', "
            "which is never trained on; move some to 'training'"
        )
    return usable


def _raw_values(training: SliceDataset) -> list[str]:
    """One line for each modality whose values are far from the span of 1 that loss and figures assume."""
    found: dict[str, float] = {}
    for profiles in training.profiles.values():
        for name, profile in profiles.items():
            found[name] = max(found.get(name, 0.0), profile.levels[-1])
    return [
        f"{name}: values about {high:.4g} with --normalise none, where 1 counts as the span of the images "
        "(loss, PSNR, SSIM); use --normalise percentile, or divide them first"
        for name, high in found.items()
        if high > _MOST_RAW
    ]


def target_of(config: TrainConfig) -> Callable[[np.ndarray], np.ndarray] | None:
    """What computes the target of fusion without a label from the sources; None where files hold it."""
    if not config.fusion_target:
        return None
    from ivan.fusion.rules import RuleTarget, no_target

    return no_target if config.fusion_target == "unsupervised" else RuleTarget(config.fusion_target)


def write_normalisation(path: Path, config: TrainConfig, data: RunData) -> None:
    """Record the training volumes' scales, whose medians are the units of synthesised images, and looks."""
    medians = {name: data.training.median_scale(name) for name in config.file_modalities}
    replace_json(
        path,
        {
            "normalise": config.normalise,
            "percentile": config.percentile,
            "scales": {name: {"low": scale.low, "high": scale.high} for name, scale in medians.items()},
            "cases": {
                case: {name: {"low": scale.low, "high": scale.high} for name, scale in scales.items()}
                for case, scales in data.training.scales.items()
            },
            "profiles": {
                case: {name: profile.to_json() for name, profile in profiles.items()}
                for case, profiles in data.training.profiles.items()
            },
        },
    )


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """`items`, the next one made in a thread while the caller works with the last: few steps wait for data.

    Right for items that depend on nothing but their position, as those of `SliceDataset`.
    """
    end = object()
    with ThreadPoolExecutor(1, "slices") as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


class Batches:
    """The training batches of one process, from any position of any epoch.

    The order depends on the seed and the epoch alone, an item on the seed, the epoch and its index: so a
    resumed run sees what it would have seen.
    """

    def __init__(
        self, dataset: SliceDataset, config: TrainConfig, device: torch.device, rank: int, world_size: int
    ) -> None:
        self._dataset = dataset
        self._sampler = ShapeBatchSampler(
            dataset, config.batch_size, seed=config.seed, rank=rank, world_size=world_size
        )
        self._count = len(self._sampler)
        self._loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=collate_slices,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # iterating must not draw from the one that is saved
        )

    def __len__(self) -> int:
        """Batches of an epoch, the same in every process."""
        return self._count

    def epoch(self, epoch: int, position: int) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
        """Tensors of `SliceDataset` items by key, and names of the slices, from batch `position` on."""
        self._dataset.set_epoch(epoch)
        self._sampler.set_epoch(epoch, position)
        batches = iter(self._loader)
        for batch in batches if self._loader.num_workers else one_ahead(batches):
            names = [
                f"{case} slice {index}" for case, index in zip(batch["case"], batch["slice"], strict=True)
            ]
            yield {key: value for key, value in batch.items() if isinstance(value, Tensor)}, names
