"""Batches of one shape: every slice once, the same order for (seed, epoch), shared among ranks, resumable."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
import torch

from ivan.data import ShapeBatchSampler, collate_slices
from ivan.errors import InputError
from ivan.training.data import one_ahead


class Shapes:
    """Stands for a data set of which the sampler needs the shapes only."""

    def __init__(self, *shapes):
        self.shapes = list(shapes)


MIXED = Shapes(*[(8, 8)] * 7, *[(9, 8)] * 5, (1, 1))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_batches_hold_one_shape_and_every_slice_once(batch_size):
    batches = list(ShapeBatchSampler(MIXED, batch_size, seed=2))
    assert sorted(itertools.chain(*batches)) == list(range(13))
    for batch in batches:
        assert len(batch) <= batch_size
        assert len({MIXED.shapes[i] for i in batch}) == 1


def test_order_of_batches():
    sampler = ShapeBatchSampler(MIXED, 2, seed=2)
    first = list(sampler)
    assert list(ShapeBatchSampler(MIXED, 2, seed=2)) == first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(ShapeBatchSampler(MIXED, 3, shuffle=False)) == [
        [0, 1, 2],
        [3, 4, 5],
        [6],
        [7, 8, 9],
        [10, 11],
        [12],
    ]
    assert list(ShapeBatchSampler(MIXED, 3, shuffle=False, drop_last=True)) == [
        [0, 1, 2],
        [3, 4, 5],
        [7, 8, 9],
    ]


def test_resuming_within_an_epoch():
    sampler = ShapeBatchSampler(MIXED, 2, seed=2)
    sampler.set_epoch(4)
    everything = list(sampler)
    sampler.set_epoch(4, start_batch=3)
    assert list(sampler) == everything[3:]
    assert len(sampler) == len(everything) - 3


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_batches(world_size):
    alone = list(ShapeBatchSampler(MIXED, 2, seed=2))
    parts = [
        list(ShapeBatchSampler(MIXED, 2, seed=2, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    together = [batch for step in zip(*parts, strict=True) for batch in step]
    assert together[: len(alone)] == alone
    uneven = [
        list(ShapeBatchSampler(MIXED, 2, seed=2, rank=r, world_size=world_size, even=False))
        for r in range(world_size)
    ]
    assert sorted(itertools.chain(*uneven)) == sorted(alone)


def test_refused():
    items = [
        {"source": torch.zeros(1, *shape), "target": torch.zeros(0, *shape)} for shape in ((8, 8), (12, 10))
    ]
    with pytest.raises(InputError, match=r"different shapes in one batch \(8x8, 12x10\)"):
        collate_slices(items)
    with pytest.raises(InputError, match="batch size 0"):
        ShapeBatchSampler(MIXED, 0)
    with pytest.raises(InputError, match="rank 2 of 2"):
        ShapeBatchSampler(MIXED, 1, rank=2, world_size=2)
    with pytest.raises(InputError, match="no full batch"):
        ShapeBatchSampler(MIXED, 100, drop_last=True)


def test_the_next_batch_is_made_while_the_last_is_used() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    used = one_ahead(items())
    assert next(used) == 0
    for _ in range(200):
        if made == [0, 1]:
            break
        time.sleep(0.01)
    assert made == [0, 1]  # one ahead, not more
    assert list(used) == [1, 2, 3]

    def breaking() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    broken = one_ahead(breaking())
    assert next(broken) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(broken)
