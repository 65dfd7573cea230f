"""The dense block on a CUDA device: against float64 on the CPU, graphs, streams, memory."""

from __future__ import annotations

from collections.abc import Iterator

import dense_block_case
import pytest
import torch
from reversible_nets import DIRECTIONS, dense_chain, distance, gradients, identical
from test_dense_block import Case, cast, everything, make
from torch import Tensor

from ivan_fast import DenseBlock, ops, reference

cpu = ops  # of tensors there; tests/cuda_emulation puts emulated kernels in the other's place

pytestmark = pytest.mark.gpu
SHAPES = [
    (1, 1, 1, 32, 5, 64, 80),
    (2, 3, 2, 4, 4, 33, 18),
    (1, 2, 9, 17, 3, 20, 70),
    (1, 1, 1, 32, 5, 1, 1),
    (1, 7, 18, 40, 2, 5, 9),
    (1, 2, 3, 4, 1, 5, 6),
]
# Relative errors, of norms, that right kernels may have whose operands are rounded: sums that differ in their
# last bits (tensor cores cut them off) round a few hidden activations to the other neighbour. Computed with
# sums 4e-6 apart.
ROUNDED = {"bf16": 1.5e-2, "fp16": 8e-3, "tf32": 8e-3}
# Where LeakyReLU's derivative jumps, the same shows as 3e-2 in the gradients, whatever the precision.
JUMPS = 0.1
NO_JUMP = 1.0  # slope


def on_gpu(case: Case, device: str = "cuda") -> Case:
    x, weights, biases, grad_y = case
    return x.to(device), [w.to(device) for w in weights], [b.to(device) for b in biases], grad_y.to(device)


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.cpu().double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30))


@pytest.fixture(params=["layerwise", "fused"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ops.dense_block_cuda_kernel()
    ops.set_dense_block_cuda_kernel(request.param)
    yield request.param
    assert before is not None
    ops.set_dense_block_cuda_kernel(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64(shape: tuple[int, ...]) -> None:
    case = make(*shape)
    for ours, truth in zip(everything(ops, on_gpu(case)), everything(reference, case), strict=True):
        assert error(ours, truth) < 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_error_at_most_twice_that_of_pytorch(shape: tuple[int, ...]) -> None:
    """Root mean square over five seeds, and 4 eps of the largest value."""
    ours, theirs, largest = [], [], []
    for seed in range(5):
        single = cast(make(*shape, seed=seed), torch.float32)
        truth = everything(reference, cast(single, torch.float64))
        ours.append(
            [
                (a.cpu() - t).square().mean()
                for a, t in zip(everything(ops, on_gpu(single)), truth, strict=True)
            ]
        )
        theirs.append(
            [(a - t).square().mean() for a, t in zip(everything(reference, single), truth, strict=True)]
        )
        largest.append([t.abs().max() for t in truth])
    eps = torch.finfo(torch.float32).eps
    bound = 2 * torch.tensor(theirs).mean(0).sqrt() + 4 * eps * torch.tensor(largest).amax(0)
    assert (torch.tensor(ours).mean(0).sqrt() <= bound).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compute", ROUNDED)
def test_rounded_operands(shape: tuple[int, ...], compute: str, kernel: str) -> None:
    """Against the same operands multiplied in float64: tightly where nothing jumps, then as usual."""
    single = cast(make(*shape), torch.float32)
    for slope, bound in ((NO_JUMP, ROUNDED[compute]), (0.2, JUMPS)):
        truth = dense_block_case.truth(dense_block_case.Case(*single), compute, slope)
        y, *backward = everything(ops, on_gpu(single), compute, slope)
        assert error(y, truth[0]) < ROUNDED[compute]
        if slope == NO_JUMP or shape[-2:] != (1, 1):  # where a jump is all there is
            assert max(error(a, b) for a, b in zip(backward, truth, strict=True)) < bound


@pytest.mark.parametrize("compute", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 1, 1, 32, 5, 200, 300)], ids=str)
def test_fused_and_layerwise_agree_bit_for_bit(shape: tuple[int, ...], compute: str) -> None:
    case = on_gpu(cast(make(*shape), torch.float32))
    before = ops.dense_block_cuda_kernel()
    results = []
    for kernel in ("layerwise", "fused"):
        ops.set_dense_block_cuda_kernel(kernel)
        results.append(everything(ops, case, compute))
    assert before is not None
    ops.set_dense_block_cuda_kernel(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("compute", ["strict", "bf16", "tf32"])
def test_the_same_bits_on_every_run_and_in_small_tiles(compute: str) -> None:
    case = on_gpu(cast(make(2, 1, 1, 32, 5, 90, 70), torch.float32))
    first, second = everything(ops, case, compute), everything(ops, case, compute)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[0], first[1]), "forward and backward disagree on y"
    before = ops.dense_block_workspace()
    try:
        ops.set_dense_block_workspace(1)
        tiled = everything(ops, case, compute)
    finally:
        ops.set_dense_block_workspace(before)
    assert all(torch.equal(a, b) for a, b in zip(first[:3], tiled[:3], strict=True))


@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_walk_through_a_coupling(compute: str) -> None:
    x, weights, biases, grad = cast(make(2, 1, 1, 32, 5, 40, 33), torch.float32)
    y2, g = torch.randn_like(grad), torch.randn_like(grad)
    gx, gw, gb, _ = on_gpu((x, weights, biases, grad))
    for name, halves in {
        "dense_block_coupling_backward": (y2, g, grad),
        "dense_block_coupling_inverse_backward": (y2, grad),
    }.items():
        ours = getattr(ops, name)(*(t.cuda() for t in halves), gx, gw, gb, 0.8, NO_JUMP, compute)
        theirs = getattr(cpu, name)(*halves, x, weights, biases, 0.8, NO_JUMP, compute)
        for a, b in zip([*ours[:3], *ours[3], *ours[4]], [*theirs[:3], *theirs[3], *theirs[4]], strict=True):
            assert error(a, b) < (1e-4 if compute == "strict" else ROUNDED[compute])


@pytest.mark.parametrize("compute", ["strict", "bf16", "tf32"])
@pytest.mark.parametrize("shape", [(2, 1, 1, 32, 5, 40, 33), (1, 3, 2, 8, 3, 70, 50)], ids=str)
def test_pair_is_two_single_blocks(shape: tuple[int, ...], compute: str, kernel: str) -> None:
    """G and H in one call give the bits of two calls, and the walk through a coupling what the CPU gives."""
    (x, *g, grad), (_, *h, other) = (cast(make(*shape, seed=seed), torch.float32) for seed in (0, 1))
    on = [on_gpu((x, *g, grad)), on_gpu((x, *h, other))]
    lists = (*on[0][1:3], *on[1][1:3])
    single = [ops.dense_block(case[0], *case[1:3], 0.2, compute) for case in on]
    pair = ops.dense_block_pair(on[0][0], *lists, 0.2, compute)
    assert all(torch.equal(a, b) for a, b in zip(single, pair, strict=True))
    singles = [ops.dense_block_backward(case[3], case[0], *case[1:3], 0.2, compute) for case in on]
    grad_x, *grads = ops.dense_block_pair_backward(on[0][3], on[1][3], on[0][0], *lists, 0.2, compute)
    assert torch.equal(grad_x, singles[0][1] + singles[1][1])
    for ours, theirs in zip(grads, [t for one in singles for t in one[2:]], strict=True):
        assert max(error(a, b.cpu()) for a, b in zip(ours, theirs, strict=True)) < 1e-5
    if compute == "tf32":  # which the CPU does not round to
        return
    state = torch.randn_like(grad)
    for name in ("dense_block_pair_coupling_backward", "dense_block_pair_coupling_inverse_backward"):
        ours = getattr(ops, name)(state.cuda(), grad.cuda(), on[0][0], *lists, 0.8, NO_JUMP, compute)
        theirs = getattr(cpu, name)(state, grad, x, *g, *h, 0.8, NO_JUMP, compute)
        pairs = [(ours[:3], theirs[:3]), *zip(ours[3:], theirs[3:], strict=True)]
        for a, b in ((a, b) for lists in pairs for a, b in zip(*lists, strict=True)):
            assert error(a, b) < (1e-4 if compute == "strict" else ROUNDED[compute])


@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_cuda_graph(compute: str, kernel: str) -> None:
    case = on_gpu(cast(make(1, 1, 1, 32, 5, 48, 40), torch.float32))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        everything(ops, case, compute)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(ops, case, compute)
    case[0].copy_(torch.randn_like(case[0]))
    graph.replay()
    for a, b in zip(captured, everything(ops, case, compute), strict=True):
        assert torch.equal(a, b)


def test_other_stream() -> None:
    case = on_gpu(cast(make(1, 1, 1, 32, 5, 128, 128), torch.float32))
    expected = everything(ops, case)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        late = (case[0].clone().mul_(2).mul_(0.5), *case[1:])
        results = everything(ops, late)
    torch.cuda.current_stream().wait_stream(side)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_channel_slices_and_expanded_gradient() -> None:
    x, weights, biases, grad_y = on_gpu(make(3, 2, 1, 8, 3, 6, 5))
    wide = torch.randn(3, 6, 6, 5, dtype=torch.float64, device="cuda")
    wide[:, 3:5] = x
    grad = torch.ones(1, 1, 1, 1, dtype=torch.float64, device="cuda").expand_as(grad_y)
    ours = everything(ops, (wide[:, 3:5], weights, biases, grad))
    for a, b in zip(ours, everything(ops, (x, weights, biases, grad.contiguous())), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_workspace_is_bounded(compute: str) -> None:
    case = on_gpu(cast(make(1, 1, 1, 32, 5, 1024, 1024), torch.float32))
    everything(ops, case, compute)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = everything(ops, case, compute)
    kept = sum(t.numel() * t.element_size() for t in results)
    assert torch.cuda.max_memory_allocated() - before <= kept + ops.dense_block_workspace() + (4 << 20)


def test_module_under_autocast() -> None:
    block = DenseBlock(1, 1).cuda()
    x = torch.randn(1, 1, 24, 24, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, ops.dense_block(x, list(block.weights), list(block.biases), 0.2, "bf16"))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("compute", ["strict", "bf16"])
def test_memory_policies_agree(direction: str, compute: str, kernel: str) -> None:
    """The chain walked back by inversion, where every dense block multiplies as `compute` says."""
    chain = dense_chain(2, growth=32).to("cuda")
    for module in chain.modules():
        if isinstance(module, DenseBlock):
            module.compute = compute
    x = torch.randn(1, 2, 40, 36, device="cuda", requires_grad=True)
    stored = gradients(chain, x, "store", direction)
    assert identical(gradients(chain, x, "boundary", direction), stored)
    assert distance(gradients(chain, x, "invert", direction), stored) < (
        1e-4 if compute == "strict" else 3e-2
    )
    assert chain.guard_trips == 0


def test_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    case = cast(make(1, 1, 1, 32, 5, 20, 20), torch.float32)
    first, second = everything(ops, on_gpu(case, "cuda:0")), everything(ops, on_gpu(case, "cuda:1"))
    for a, b in zip(first, second, strict=True):
        assert b.device.index == 1
        assert error(a, b.cpu()) < 1e-5
