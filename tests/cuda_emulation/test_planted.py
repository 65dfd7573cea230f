"""The emulation itself: it computes what the hardware would, and each check notices a planted fault."""

from __future__ import annotations

import emulation
import pytest
import torch

FAULTS = (
    "none",
    "missing_barrier",
    "reused_too_early",
    "shared_overrun",
    "global_overrun",
    "divergent",
    "uninitialised",
    "missing_wait",
    "wait_without_sync",
    "two_blocks_write",
    "warp_race",
    "misaligned",
    "partial_warp",
)
# What the plain build notices without looking at values, and what the race check notices.
ANYWHERE = {
    "shared_overrun": "past the end of its 256 bytes",
    "divergent": "barrier not reached by all",
    "partial_warp": "which is absent",
}
RACES = {
    "missing_barrier": "shared memory is read that the block has not written",
    "reused_too_early": "without barrier after",
    "uninitialised": "shared memory is read that the block has not written",
    "missing_wait": "read without barrier after a write to shared memory",
    "wait_without_sync": "shared memory is read that the block has not written",
    "two_blocks_write": "write without barrier after a write to global memory",
    "warp_race": "shared memory is read that the block has not written",
}


@pytest.fixture(scope="module", params=["plain", "race"])
def machine(request):
    if emulation.compiler() is None:
        pytest.skip("no C++ compiler")
    return emulation.load(request.param)


def run(machine, fault, count=256):
    x, y = torch.randn(count), torch.zeros(count)
    machine.call("planted", x, y, count, FAULTS.index(fault))
    tiles = x.reshape(-1, 64)
    return y[:count], (tiles + tiles.flip(1) + 1).flatten()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_right_kernel_passes(machine, seed):
    machine.schedule(seed)
    y, expected = run(machine, "none")
    machine.schedule(0)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("fault", ANYWHERE)
def test_fault_stops_the_launch(machine, fault):
    with pytest.raises(RuntimeError, match=f"planted: .*{ANYWHERE[fault]}"):
        run(machine, fault)


@pytest.mark.parametrize("fault", RACES)
def test_race_check_names_the_line(fault):
    if emulation.compiler() is None:
        pytest.skip("no C++ compiler")
    with pytest.raises(RuntimeError, match=rf"race check: .*{RACES[fault]}.*\[.*planted\.cu:\d+\]"):
        run(emulation.load("race"), fault)


@pytest.mark.parametrize("fault", ["missing_barrier", "uninitialised", "missing_wait", "wait_without_sync"])
def test_values_show_it_too(fault):
    """Shared memory starts as NaN, asynchronous copies come as late as they may, threads in any order."""
    if emulation.compiler() is None:
        pytest.skip("no C++ compiler")
    plain = emulation.load("plain")
    for seed in (0, 1):
        plain.schedule(seed)
        y, expected = run(plain, fault)
        assert not torch.equal(y, expected)
    plain.schedule(0)


PRODUCTS = {"bf16": (0, torch.bfloat16, 16), "f16": (1, torch.float16, 16), "f16x8": (2, torch.float16, 8)}


@pytest.mark.parametrize("name", PRODUCTS)
def test_tensor_core_product(machine, name):
    """Fragments as the PTX manual lays them out, loaded by cp.async and ldmatrix, plain and transposed."""
    kind, dtype, depth = PRODUCTS[name]
    a, b, d = torch.randn(16, depth).to(dtype), torch.randn(depth, 8).to(dtype), torch.zeros(16, 8)
    machine.call("product", kind, a, b, d)
    torch.testing.assert_close(d, a.float() @ b.float(), rtol=1e-6, atol=1e-6)


def test_tf32_product_rounds_its_operands(machine):
    a, b, d = torch.randn(16, 8), torch.randn(8, 8), torch.zeros(16, 8)
    machine.call("product", 3, a, b, d)

    def rounded(t):
        return ((t.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)

    torch.testing.assert_close(d, rounded(a) @ rounded(b), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(d, a @ b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("launch", "accepted"),
    [
        ((1, 1, 1, 32, 0), True),
        ((0, 1, 1, 32, 0), False),
        ((1, 65536, 1, 32, 0), False),
        ((1, 1, 65536, 32, 0), False),
        ((1, 1, 1, 1025, 0), False),
        ((1, 1, 1, 32, 200 << 10), True),
        ((1, 1, 1, 32, 228 << 10), False),
    ],
)
def test_launch_limits(machine, launch, accepted):
    if accepted:
        machine.call("launch", *launch)
    else:
        with pytest.raises(RuntimeError, match="nothing: invalid"):
            machine.call("launch", *launch)
        machine.call("launch", 1, 1, 1, 32, 0)  # the error does not linger


def test_a_launch_leaves_the_limit_of_shared_memory_to_others(machine):
    """The limit is the process's: a launch that needs less must not lower it under another thread's."""
    for kib in (200, 100, 200):
        machine.call("launch", 1, 1, 1, 32, kib << 10)
