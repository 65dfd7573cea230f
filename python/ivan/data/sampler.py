"""Batches of slices of one shape, in an order that a seed and an epoch decide, from any batch on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ivan.errors import InputError


class ShapeBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batch sampler for `DataLoader(dataset, batch_sampler=..., collate_fn=collate_slices)`.

    All slices of a batch have the same height and width. Slices are shuffled, grouped by shape in that
    order, cut into batches, and the batches shuffled again. With several processes, rank r of R takes
    batches r, r + R, ...; the first batches are repeated until all ranks have equally many (`even=True`).
    With Lightning Fabric call `setup_dataloaders(..., use_distributed_sampler=False)`.

    Args:
        dataset: a `SliceDataset`, or anything with `shapes`, a sequence of (H, W).
        batch_size: slices per batch and process; the last batch of a shape may be smaller.
        shuffle: False keeps the data set's order within each shape.
        drop_last: leave smaller batches out.
        seed: with the epoch, decides the order.
        rank: this process, from 0.
        world_size: number of processes.
        even: give all ranks equally many batches.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: expected at least 1")
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size} processes: expected 0 <= rank < processes")
        self._shapes: Sequence[tuple[int, int]] = dataset.shapes
        self._batch_size, self._shuffle, self._drop_last = batch_size, shuffle, drop_last
        self._seed, self._rank, self._world_size, self._even = seed, rank, world_size, even
        self.epoch = 0
        self.start_batch = 0
        if not self._all_batches():
            raise InputError(
                f"batch size {batch_size}: no full batch of one shape among {len(self._shapes)} "
                "slices; lower it"
            )

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch; iteration begins after `start_batch` batches of this rank (to resume)."""
        self.epoch, self.start_batch = epoch, start_batch

    def _all_batches(self) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, self.epoch])
        count = len(self._shapes)
        order = rng.permutation(count) if self._shuffle else np.arange(count)
        groups: dict[tuple[int, int], list[int]] = {}
        for index in order.tolist():
            groups.setdefault(tuple(self._shapes[index]), []).append(index)
        size = self._batch_size
        batches = [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
        if self._drop_last:
            batches = [batch for batch in batches if len(batch) == size]
        if self._shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _own_batches(self) -> list[list[int]]:
        batches = self._all_batches()
        if self._even:
            missing = -len(batches) % self._world_size
            batches += [batches[i % len(batches)] for i in range(missing)]
        return batches[self._rank :: self._world_size]

    def __len__(self) -> int:
        """Batches of this rank that are left in the epoch."""
        return max(0, len(self._own_batches()) - self.start_batch)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._own_batches()[self.start_batch :]
