"""How the CUDA dense block cuts its work, over thousands of sizes; no GPU is needed."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from ivan_fast import _C, ops

MIB = 1 << 20
MAX_GRID_YZ = 65535
LAYER_ROWS, LAYER_COLS = 8, 16  # pixels of the smallest block of a level's kernel
# multiprocessors, shared bytes of a block: sm_80, 86, 90, 120
DEVICES = [(108, 166912), (84, 101376), (132, 232448), (188, 101376)]


def shapes(count: int, seed: int) -> list[tuple[int, ...]]:
    """batch, in, out, growth, depth, height, width, of every magnitude."""
    rng = random.Random(seed)

    def size(largest: int) -> int:
        return max(1, int(largest ** rng.random()))

    usual = [(1, 1, 1, 32, 5, 256, 256), (8, 1, 1, 32, 5, 1024, 1024), (1, 1, 1, 32, 5, 4096, 4096)]
    strange = [(1, 4096, 4096, 4096, 16, 1, 1), (1, 1, 1, 32, 5, 1 << 20, 1), (1, 1, 1, 32, 5, 1, 1 << 20)]
    return (
        usual
        + strange
        + [
            (size(5000), size(64), size(64), size(200), rng.randint(1, 16), size(9000), size(9000))
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("pass_", ["forward", "backward", "coupled"])
@pytest.mark.parametrize("nets", [1, 2])
@pytest.mark.parametrize("operand_size", [2, 4])
def test_tiles_cover_the_images_within_the_workspace(pass_: str, nets: int, operand_size: int) -> None:
    rng = random.Random(3)
    kind = ["forward", "backward", "coupled"].index(pass_)
    for shape in shapes(1000, seed=operand_size + kind):
        batch, _, out, growth, depth, height, width = shape
        limit = rng.choice([1, 4 * MIB, 64 * MIB, 1 << 30])
        plan = _C.dense_block_cuda_plan(shape, nets, operand_size, 4, kind, limit)
        images, rows, cols = plan["images"], plan["rows"], plan["cols"]
        down, across, deep = -(-height // rows), -(-width // cols), -(-batch // images)
        assert plan["tiles"] == down * across * deep
        assert plan["first"] == (0, min(images, batch), 0, rows, 0, cols)
        assert plan["last"] == (
            (deep - 1) * images,
            batch - (deep - 1) * images,
            (down - 1) * rows,
            height,
            (across - 1) * cols,
            width,
        )
        least = _C.dense_block_cuda_plan(shape, nets, operand_size, 4, kind, 1)["bytes"]
        assert plan["bytes"] <= max(limit, least), shape
        hidden = depth - 1
        halo = [hidden, max(2 * hidden - 1, 0), 2 * hidden + 1][kind]
        assert -(-min(height, rows + 2 * halo) // LAYER_ROWS) <= MAX_GRID_YZ
        assert nets * images * -(-max(out, growth) // 32) <= MAX_GRID_YZ
        assert images * min(height, rows + 2 * halo) * min(width, cols + 2 * halo) <= 1 << 25
        assert 0 < plan["weights"] <= plan["bytes"]
        assert plan["splits"] >= 1 if kind else plan["splits"] == 0


def test_an_image_that_fits_is_one_tile() -> None:
    for shape in shapes(300, seed=9):
        if shape[5] > 1 << 18:
            continue
        alone = (1, *shape[1:])
        plan = _C.dense_block_cuda_plan(alone, 2, 2, 4, 2, 1 << 50)
        if shape[5] * shape[6] <= 1 << 24:
            assert plan["tiles"] == 1


def test_small_limits_cost_more_tiles_not_fewer() -> None:
    shape = (1, 1, 1, 32, 5, 1024, 1024)
    tiles = [_C.dense_block_cuda_plan(shape, 1, 2, 4, 1, n * MIB)["tiles"] for n in (16, 64, 256, 2048)]
    assert tiles == sorted(tiles, reverse=True)
    assert tiles[-1] == 1


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("operand_size", [2, 4])
@pytest.mark.parametrize("mirrored", [False, True])
def test_fused_blocks_cover_the_image_and_fit_the_device(
    device: tuple[int, int], operand_size: int, mirrored: bool
) -> None:
    found = 0
    for shape in shapes(1200, seed=11):
        _, in_, out, growth, depth, height, width = shape
        g = _C.dense_block_fused_geometry(shape, mirrored, operand_size, *device)
        same = _C.dense_block_fused_geometry((1, *shape[1:5], 1, 1), mirrored, operand_size, *device)
        assert g["possible"] == same["possible"], "that depends on the sizes of the image"
        if not g["possible"]:
            continue
        found += 1
        assert depth > 1
        assert growth <= 32
        assert (in_ if mirrored else out) <= 16
        assert g["shared_bytes"] <= device[1]
        assert g["threads"] == g["cols"] // 16 * 64 <= 512
        assert g["resident"] >= 1
        # 1 KB of each block is the system's
        assert g["resident"] * (g["shared_bytes"] + 1024) <= device[1] + 1024
        registers = 128 if operand_size == 2 else 200  # of a thread at most: cmake/cuda_gate.toml
        assert g["resident"] * g["threads"] * registers <= 65536
        assert g["rows"] in (2, 4)
        assert g["strip"] == g["cols"] - 2 * (depth - 1) >= 16
        assert (g["strips"] - 1) * g["strip"] < width <= g["strips"] * g["strip"]
        assert (g["bands"] - 1) * g["block_rows"] < height <= g["bands"] * g["block_rows"]
        assert g["bands"] <= MAX_GRID_YZ
    assert found > 50


@pytest.mark.parametrize("operand_size", [2, 4])
def test_the_papers_block_is_fused_where_shared_memory_allows(operand_size: int) -> None:
    shape = (1, 1, 1, 32, 5, 256, 256)
    possible = [_C.dense_block_fused_geometry(shape, False, operand_size, *d)["possible"] for d in DEVICES]
    assert possible == ([True] * 4 if operand_size == 2 else [True, False, True, False])


@pytest.mark.skipif(not _C.build_info()["with_cuda"], reason="built without nvcc")
def test_choice_of_the_kernel() -> None:
    before = ops.dense_block_cuda_kernel()
    assert before in ("layerwise", "fused")
    for kernel in ("fused", "layerwise", before):
        ops.set_dense_block_cuda_kernel(kernel)
        assert ops.dense_block_cuda_kernel() == _C.build_info()["dense_block_cuda"] == kernel
    with pytest.raises(ValueError, match="kernel is 'fast', expected 'layerwise' or 'fused'"):
        ops.set_dense_block_cuda_kernel("fast")


@pytest.mark.skipif(not _C.build_info()["with_cuda"], reason="built without nvcc")
def test_a_wrong_choice_in_the_environment_is_refused_at_import() -> None:
    environment = {**os.environ, "IVAN_FAST_CUDA_KERNEL": "fast"}
    run = subprocess.run(
        [sys.executable, "-c", "import ivan_fast"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "IVAN_FAST_CUDA_KERNEL=fast, expected layerwise or fused" in run.stderr.splitlines()[-1]
