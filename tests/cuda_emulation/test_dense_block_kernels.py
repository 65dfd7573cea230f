"""The CUDA dense block under emulation: values against float64, tiles, orders, bounds."""

from __future__ import annotations

import pytest
import torch
from dense_block_case import CLAMP, MIB, make, make_pair, run, run_nets, run_walk, truth, worst

from ivan_fast import _C, reference

# batch, in, out, growth, depth, height, width: tails of every tile, padded slices, several tiles of outputs
SHAPES = [(1, 1, 1, 32, 5, 5, 6), (2, 3, 2, 4, 4, 9, 18), (1, 2, 9, 17, 3, 3, 35), (2, 7, 18, 40, 2, 4, 5)]
EDGES = [(1, 2, 3, 4, 1, 5, 6), (1, 1, 1, 8, 2, 1, 1), (1, 1, 2, 8, 3, 23, 1), (1, 1, 1, 40, 3, 3, 4)]
MANY = (257, 1, 1, 2, 2, 1, 1)  # images: two tiles of them
SMALL = (1, 3, 2, 4, 3, 5, 18)
# Two strips of columns and two bands of rows in the fused kernel, the last of each narrower.
STRIPS = (1, 2, 9, 8, 3, 23, 33)
# Of a norm. Reduced precision: a sum near the middle of two operands may round to either.
TOLERANCE = {"strict": 2e-6, "bf16": 2e-4, "fp16": 1e-4, "tf32": 1e-4}


@pytest.mark.parametrize(
    ("compute", "shape"),
    [
        pytest.param(c, s, marks=[pytest.mark.slow] * (s == MANY and c != "bf16"), id=f"{c}-{s}")
        for c in TOLERANCE
        for s in [*SHAPES, MANY, *EDGES]
    ],
)
def test_against_float64(emulator, shape, compute):
    case = make(*shape)
    results, _ = run(emulator, case, compute)
    assert worst(results, truth(case, compute)) < TOLERANCE[compute]
    forward, _ = run(emulator, case, compute, backward=False)
    assert torch.equal(forward[0], results[0]), "forward and backward disagree on y"


@pytest.mark.parametrize("compute", ["strict", "bf16", "fp16"])
def test_float64(emulator, compute):
    case = make(*SMALL).to(torch.float64)
    results, _ = run(emulator, case, compute)
    assert worst(results, truth(case, compute)) < (1e-13 if compute == "strict" else 2e-4)


@pytest.mark.parametrize("compiled", [75, 120])
@pytest.mark.parametrize("compute", ["bf16", "tf32", "fp16"])
def test_devices_without_such_tensor_cores(emulator, compiled, compute):
    """sm_75, or a later one for which nothing was compiled: fp16 on tensor cores, the rest in float32, TF32
    exactly."""
    emulator.device(capability=75 if compiled == 120 else 90, shared_bytes=65536, compiled=compiled)
    case = make(*SMALL)
    results, _ = run(emulator, case, compute, fused=True)
    assert worst(results, truth(case, "strict" if compute == "tf32" else compute)) < TOLERANCE[compute]


@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_bits_do_not_depend_on_tiles_or_order(emulator, compute):
    """The smallest workspace: tiles of 16 x 16 and their halo. y and grad_x keep their bits."""
    case = make(1, 1, 2, 8, 3, 18, 34)
    whole, used = run(emulator, case, compute)
    tiled, least = run(emulator, case, compute, limit=1)
    assert least < used
    assert torch.equal(whole[0], tiled[0])
    assert torch.equal(whole[1], tiled[1])
    assert worst(tiled, truth(case, compute)) < TOLERANCE[compute]
    emulator.schedule(1)
    again, _ = run(emulator, case, compute, limit=1)
    assert all(torch.equal(a, b) for a, b in zip(tiled, again, strict=True))


# Devices (multiprocessors, capability, shared bytes) that lead to wide and to narrow strips.
@pytest.mark.parametrize("device", [(4, 90, 232448), (1, 86, 101376)], ids=str)
@pytest.mark.parametrize("shape", [SHAPES[0], SMALL, (2, 1, 9, 17, 3, 18, 30), STRIPS], ids=str)
@pytest.mark.parametrize("compute", ["bf16", "tf32"])
def test_fused_is_layerwise_bit_for_bit(emulator, compute, shape, device):
    """Strips and bands with tails, both ways; a fused forward needs no workspace but for weights."""
    if emulator.variant == "asan" and device[1] == 86 and shape != STRIPS:
        pytest.skip("under the sanitizers wide strips, and narrow ones where there are several")
    emulator.device(*device)
    case = make(*shape)
    layerwise, used = run(emulator, case, compute, backward=False)
    fused, weights = run(emulator, case, compute, backward=False, fused=True)
    geometry = (4 if compute == "tf32" else 2, device[0], device[2])
    possible = [_C.dense_block_fused_geometry(list(shape), m, *geometry)["possible"] for m in (False, True)]
    assert (weights < used) == possible[0]
    assert torch.equal(fused[0], layerwise[0])
    assert worst(fused, truth(case, compute)) < TOLERANCE[compute]

    before = emulator.launches()
    layerwise, _ = run(emulator, case, compute)
    between = emulator.launches()
    fused, _ = run(emulator, case, compute, fused=True)
    saved = (between - before) - (emulator.launches() - between)
    depth = shape[4]
    assert saved == sum(possible) * (depth - 1), "levels that had a launch of their own"
    assert all(torch.equal(a, b) for a, b in zip(fused, layerwise, strict=True))
    assert worst(fused, truth(case, compute)) < TOLERANCE[compute]


def test_the_shapes_lead_to_several_strips_and_bands():
    for mirrored in (False, True):
        geometry = _C.dense_block_fused_geometry(list(STRIPS), mirrored, 2, 4, 232448)
        assert (geometry["strips"], geometry["bands"]) == (2, 2)
        assert STRIPS[6] % geometry["strip"] > 0
        assert STRIPS[5] % geometry["block_rows"] > 0


# Of workspace: the smallest, tiles of 16 x 16 of one image; and two of three images in a tile.
@pytest.mark.parametrize(
    ("compute", "fused", "limit"),
    [
        ("strict", False, 1),
        ("bf16", False, 1),
        ("bf16", True, 5 * MIB // 8),
        pytest.param("strict", False, 5 * MIB // 8, marks=pytest.mark.slow),
        pytest.param("bf16", False, 5 * MIB // 8, marks=pytest.mark.slow),
        pytest.param("bf16", True, 1, marks=pytest.mark.slow),
    ],
)
def test_tiles_of_several_images(emulator, compute, fused, limit):
    """Both nets, both walks, over tiles and what lies around them: as over one tile."""
    if emulator.variant == "race" and compute == "strict":
        pytest.skip("a minute; runs under the sanitizers, and other tests look for races on one tile")
    shape = (3, 2, 2, 8, 3, 18, 20)
    pair = make_pair(*shape)
    whole = run_nets(emulator, pair, compute)
    tiled = run_nets(emulator, pair, compute, limit=limit, fused=fused)
    assert all(torch.equal(a, b) for a, b in zip(whole[0], tiled[0], strict=True))
    assert torch.equal(whole[1][0], tiled[1][0]), "grad_x"
    assert worst(tiled[1], whole[1]) < 1e-5
    state, g = torch.randn(2, 3, 2, 18, 20, generator=torch.Generator().manual_seed(2))
    for nets, walk in ((1, "forward"), (2, "forward"), (2, "inverse")):
        arguments = (emulator, pair[2 - nets :], walk, state, g if nets == 1 else None, compute)
        expected, found = run_walk(*arguments), run_walk(*arguments, limit=limit, fused=fused)
        assert all(torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True))
        assert worst(found, expected) < 1e-5


def test_images_of_the_tiles_tested_above():
    plans = [
        _C.dense_block_cuda_plan((3, 2, 2, 8, 3, 18, 20), nets, size, 4, 2, 5 * MIB // 8)
        for nets, size in ((1, 2), (2, 2), (1, 4), (2, 4))
    ]
    assert {plan["images"] for plan in plans} >= {2}, plans


@pytest.mark.parametrize(
    ("compute", "fused"),
    [("strict", False), ("bf16", False), ("bf16", True), ("tf32", False), ("tf32", True)],
)
@pytest.mark.parametrize(
    "shape", [SHAPES[1], SHAPES[2], (2, 1, 1, 20, 3, 5, 6), (1, 1, 1, 8, 1, 3, 4)], ids=str
)
def test_two_nets_in_one_call_are_each_as_alone(emulator, shape, compute, fused):
    """G and H: the bits of two calls, from as many launches as one takes, and one for the sum of grad_x."""
    pair = make_pair(*shape)
    before = emulator.launches()
    ys, grads, _ = run_nets(emulator, pair, compute, fused=fused)
    together = emulator.launches() - before
    alone = [run(emulator, case, compute, fused=fused)[0] for case in pair]
    assert 2 * (together - 1) == emulator.launches() - before - together
    assert all(torch.equal(y, one[0]) for y, one in zip(ys, alone, strict=True))
    assert torch.equal(grads[0], alone[0][1] + alone[1][1])
    depth = shape[4]
    parameters = [
        g for kind in (slice(2, 2 + depth), slice(2 + depth, None)) for one in alone for g in one[kind]
    ]
    assert all(torch.equal(a, b) for a, b in zip(grads[1:], parameters, strict=True))
    forward, _, _ = run_nets(emulator, pair, compute, fused=fused, backward=False)
    assert all(torch.equal(a, b) for a, b in zip(forward, ys, strict=True))


@pytest.mark.parametrize("kernel", ["layerwise", "fused"])
def test_launches_of_a_call(emulator, kernel):
    """What a training step's launches are made of; docs/cuda.md lists them."""
    pair = make_pair(1, 1, 1, 8, 5, 4, 5)
    state = torch.randn(1, 1, 4, 5)
    fused = kernel == "fused"
    counts = []
    for call in (
        lambda: run_nets(emulator, pair, "bf16", backward=False, fused=fused),
        lambda: run_nets(emulator, pair[:1], "bf16", fused=fused),
        lambda: run_walk(emulator, pair, "forward", state, None, "bf16", fused=fused),
    ):
        before = emulator.launches()
        call()
        counts.append(emulator.launches() - before)
    assert counts == {"layerwise": [7, 16, 18], "fused": [2, 8, 10]}[kernel]


@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_derivative_at_zero_is_the_slope(emulator, compute):
    """A pre-activation of exactly 0, and of -0, in every pixel."""
    for bias in (0.0, -0.0):
        case = make(1, 1, 1, 8, 2, 4, 5)
        case.x.zero_()
        case.biases[0].fill_(bias)
        case.weights[1].fill_(1)
        case.grad_y.fill_(1)
        results, _ = run(emulator, case, compute, slope=0.25)
        assert float(results[4][0]) == pytest.approx(0.25 * (9 * 6 + 6 * 10 + 4 * 4), rel=1e-6)


@pytest.mark.parametrize("slope", [0.0, 1.5])
def test_any_slope(emulator, slope):
    case = make(*SMALL)
    results, _ = run(emulator, case, slope=slope)
    assert worst(results, truth(case, slope=slope)) < TOLERANCE["strict"]


def test_strided_samples(emulator):
    """Channel slices of a wider tensor."""
    case = make(2, 2, 1, 8, 3, 5, 6)
    expected, _ = run(emulator, case)
    wide_x, wide_grad = torch.full((2, 5, 5, 6), torch.nan), torch.full((2, 4, 5, 6), torch.nan)
    wide_x[:, 2:4], wide_grad[:, 1:2] = case.x, case.grad_y
    case.x, case.grad_y = wide_x[:, 2:4], wide_grad[:, 1:2]
    results, _ = run(emulator, case)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("walk", ["forward", "inverse"])
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [
        (torch.float32, 1),
        (torch.float64, 64 * MIB),
        pytest.param(torch.float32, 64 * MIB, marks=pytest.mark.slow),
        pytest.param(torch.float64, 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("nets", [1, 2])
def test_walk_through_a_coupling(emulator, walk, dtype, limit, nets):
    """Against the twin in float64; the state may be wider than the dense block. With H alone, g is given."""
    pair = make_pair(1, 1, 2, 8, 3, 18, 34)
    state, g = torch.randn(2, 1, 2, 18, 34, generator=torch.Generator().manual_seed(3)).to(dtype)
    G, H = (case.to(torch.float64) for case in pair)
    arguments = [H.weights, H.biases, CLAMP, 0.2, "strict"]
    if nets == 2:
        ours = run_walk(emulator, pair, walk, state, None, limit=limit)
        names = "dense_block_pair_coupling_backward", "dense_block_pair_coupling_inverse_backward"
        halves, arguments = [state.double(), H.grad_y], [G.weights, G.biases, *arguments]
    else:
        ours = run_walk(emulator, pair[1:], walk, state, g if walk == "forward" else None, limit=limit)
        names = "dense_block_coupling_backward", "dense_block_coupling_inverse_backward"
        halves = [state.double(), g.double(), H.grad_y][:: 1 if walk == "forward" else 2]
    twin = getattr(reference, names[walk == "inverse"])
    out, grad_state, grad_x, *grads = twin(*halves, H.x, *arguments)
    parameters = [t for lists in (grads[::2], grads[1::2]) for one in lists for t in one]
    assert ours[0].dtype == dtype
    assert worst(ours, [out, grad_state, grad_x, *parameters]) < 2e-6


@pytest.mark.parametrize("walk", ["forward", "inverse"])
def test_walk_of_samples_that_lie_apart(emulator, walk):
    """Halves of a state: every operand at another distance from sample to sample."""
    pair = make_pair(2, 1, 2, 8, 2, 5, 6)
    halves = [torch.randn(2, 2, 5, 6) for _ in range(3)]
    apart = [torch.full((2, 2 + gap, 5, 6), torch.nan)[:, 1:3] for gap in (2, 3, 4)]
    for to, half in zip(apart, halves, strict=True):
        to.copy_(half)
    for nets in (1, 2):
        own = pair[2 - nets :]
        results = []
        for state, g, grad in (halves, apart):
            given = g if nets == 1 and walk == "forward" else None
            results.append(run_walk(emulator, own, walk, state, given, grad=grad))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("compute", ["bf16", "fp16", "tf32"])
def test_fragments_are_loaded_without_bank_conflicts(emulator, compute, fused):
    """Eight rows of a matrix in one pass; shared memory's bandwidth is what tensor cores wait for."""
    before = emulator.bank_conflicts()
    run(emulator, make(1, 1, 1, 32, 3, 9, 34), compute, fused=fused)
    assert emulator.bank_conflicts() == before


def test_a_result_that_was_never_written_is_an_error(emulator):
    case = make(*SMALL)
    results, _ = run(emulator, case)
    for missing in range(len(results)):
        fewer = [torch.full_like(r, torch.nan) if i == missing else r for i, r in enumerate(results)]
        assert not worst(fewer, truth(case)) < 1e9


@pytest.mark.parametrize("compute", ["strict", "bf16", "tf32"])
def test_several_splits_of_the_pixels(emulator, compute):
    """So many pixels that parameters' gradients are sums of two partial sums, with tails of every block."""
    shape = (2, 1, 1, 4, 2, 33, 35)
    assert _C.dense_block_cuda_plan(list(shape), 1, 4, 4, 1, 64 * MIB)["splits"] == 2
    case = make(*shape)
    results, _ = run(emulator, case, compute)
    assert worst(results, truth(case, compute)) < TOLERANCE[compute]


def test_empty_images_have_zero_gradients(emulator):
    case = make(2, 2, 1, 8, 3, 0, 4)
    results, used = run(emulator, case)
    assert used == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in results[2:])


@pytest.mark.parametrize(
    ("shape", "slope", "message"),
    [
        ((1, 1, 1, 4, 17, 2, 2), 0.2, "depth is 17, expected 1 to 16"),
        ((1, 1, 1, 4, 2, 2, 2), -0.1, "negative_slope"),
    ],
)
def test_refusals(emulator, shape, slope, message):
    with pytest.raises(RuntimeError, match=message):
        run(emulator, make(*shape), slope=slope)
