"""How the pointwise CUDA kernels share out their work, over thousands of sizes; no GPU is needed."""

from __future__ import annotations

import random

import pytest

from ivan_fast import _C

MAX_GRID_X, MAX_GRID_Y, THREADS = 2**31 - 1, 65535, 256


def sizes(count: int, largest: int) -> list[int]:
    """Small ones, powers of two and their neighbours, and random ones of every magnitude up to `largest`."""
    rng = random.Random(0)
    found = {*range(1, 40), largest, *(2**k + d for k in range(2, 41) for d in (-1, 0, 1))}
    while len(found) < count:
        found.add(int(largest ** rng.random()))
    return sorted(n for n in found if 1 <= n <= largest)


@pytest.mark.parametrize("max_blocks", [MAX_GRID_X, 2048])
def test_every_launch_is_possible_and_fits_the_work(max_blocks):
    rng = random.Random(1)
    samples = sizes(300, 2**31)
    for items in sizes(1500, 2**40):
        for n in rng.sample(samples, 4):
            grid_x, grid_y, block_x, block_y = _C.pointwise_launch(n, items, max_blocks)
            assert block_x * block_y == THREADS
            assert block_x & (block_x - 1) == 0
            assert 1 <= grid_x <= min(MAX_GRID_X, max_blocks)
            assert 1 <= grid_y <= MAX_GRID_Y
            if max_blocks != MAX_GRID_X:
                assert grid_x * grid_y <= max_blocks
            # no thread column or row without any work at all: the first of each has an item
            assert (grid_x - 1) * block_x < items
            assert (grid_y - 1) * block_y < n
            # where nothing limits the grid, one round covers everything
            if max_blocks == MAX_GRID_X and items <= MAX_GRID_X * block_x:
                assert grid_x * block_x >= items
            # small work is not spread over threads that idle: at most one in two along x, but for full blocks
            assert block_x == THREADS or block_x < 2 * items


def test_strides_of_the_grid_cover_every_item_once():
    """The loops of for_each_item, thread by thread."""
    rng = random.Random(2)
    for _ in range(60):
        samples, items, max_blocks = (
            rng.randint(1, 40),
            rng.randint(1, 900),
            rng.choice([1, 2, 7, MAX_GRID_X]),
        )
        grid_x, grid_y, block_x, block_y = _C.pointwise_launch(samples, items, max_blocks)
        seen = [
            (s, i)
            for y in range(grid_y * block_y)
            for x in range(grid_x * block_x)
            for s in range(y, samples, grid_y * block_y)
            for i in range(x, items, grid_x * block_x)
        ]
        assert sorted(seen) == [(s, i) for s in range(samples) for i in range(items)]


@pytest.mark.parametrize(("element_size", "width"), [(4, 4), (8, 2)])
def test_spans_cover_every_element_once_on_16_byte_boundaries(element_size, width):
    for length in range(300):
        most = _C.pointwise_most_items(length, width)
        reached = 0
        for start in range(0, 16, element_size):
            address = 4096 + start
            head, packs, items = _C.pointwise_span(address, length, element_size, width)
            elements = []
            for item in range(items):
                first = _C.pointwise_element(head, packs, item, width)
                if item < packs:
                    assert (address + first * element_size) % 16 == 0
                elements += range(first, first + (width if item < packs else 1))
            assert sorted(elements) == list(range(length))
            assert items - packs <= 2 * (width - 1)
            reached = max(reached, items)
        assert reached == most  # enough for every alignment, and no more


@pytest.mark.parametrize(("element_size", "width"), [(4, 4), (8, 2)])
def test_long_spans(element_size, width):
    for length in sizes(2000, 2**42):
        for start in range(0, 16, element_size):
            head, packs, items = _C.pointwise_span(start, length, element_size, width)
            assert 0 <= head < width
            assert 0 <= length - head - packs * width < width
            assert items == packs + length - packs * width <= _C.pointwise_most_items(length, width)


def test_workspace_of_the_channel_mix_is_bounded():
    for pixels in sizes(400, 2**34):
        for batch in (1, 2, 7, 1000, 10**6):
            partials = _C.mix_backward_partials(batch, pixels)
            assert 1 <= partials <= 2048
            # no more than the work is worth
            assert partials == 1 or partials <= 4 * -(-batch * pixels // THREADS)
    assert _C.mix_backward_partials(0, 5) == _C.mix_backward_partials(5, 0) == 0
    assert _C.mix_backward_partials(10**6, 1) <= 2048
