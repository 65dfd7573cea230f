"""Gradients of a chain in its three memory policies, in both directions, and what they keep."""

from __future__ import annotations

import statistics
import warnings

import pytest
import torch
from reversible_nets import (
    DIRECTIONS,
    Scaling,
    dense_chain,
    distance,
    foreign_subnet,
    gradients,
    identical,
)
from torch import Tensor, nn

from ivan_fast import AffineCoupling, DenseBlock, InvertibleConv1x1, ReversibleSequential
from ivan_fast.modules.backend import as_parameters, rounding_steps
from ivan_fast.reversible import InversionDriftWarning


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("channels", "split", "size"), [(2, 1, (6, 5)), (5, 2, (1, 7)), (3, 2, (1, 1))])
def test_policies_agree_in_float64(direction: str, channels: int, split: int, size: tuple[int, int]) -> None:
    chain = dense_chain(channels, split=split).double()
    x = torch.randn(3, channels, *size, dtype=torch.float64, requires_grad=True)
    stored = gradients(chain, x, "store", direction)
    assert identical(gradients(chain, x, "boundary", direction), stored)
    assert distance(gradients(chain, x, "invert", direction), stored) < 1e-12
    assert chain.guard_trips == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradient_is_that_of_finite_differences(direction: str) -> None:
    chain = dense_chain(2, blocks=2, growth=2, nudge=0.1).double()
    x = torch.randn(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    call = chain if direction == "forward" else chain.inverse
    parameters = [p for n, p in chain.named_parameters() if "biases" in n or "log_s" in n or "lower" in n]
    assert torch.autograd.gradcheck(lambda x, *_: call(x), (x, *parameters), atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("channels", [2, 7])
def test_invert_agrees_in_float32(direction: str, channels: int) -> None:
    errors = []
    for seed in range(5):
        torch.manual_seed(seed)
        chain = dense_chain(channels, blocks=4, split=channels // 2)
        x = torch.rand(2, channels, 7, 9)
        stored = gradients(chain, x, "store", direction)
        assert identical(gradients(chain, x, "boundary", direction), stored)
        errors.append(distance(gradients(chain, x, "invert", direction), stored))
        assert chain.guard_trips == 0
    assert statistics.median(errors) < 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_black_background_under_zero_biases(direction: str) -> None:
    """Zeros and the tails behind an edge come back: noise would decide LeakyReLU's derivative by chance."""
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        chain = dense_chain(2, blocks=8, nudge=0)
        x = torch.rand(1, 2, 24, 96)
        x[..., 24:] = 0
        stored = gradients(chain, x, "store", direction)
        errors.append(distance(gradients(chain, x, "invert", direction), stored))
        assert chain.guard_trips == 0
    assert statistics.median(errors) < 1e-5


@pytest.mark.parametrize("compute", ["fast", "bf16"])
def test_trained_chain(compute: str) -> None:
    """After some steps of Adam, on images with a black background, in both directions of every step."""
    chain = dense_chain(2, blocks=4, nudge=0)
    optimiser = torch.optim.Adam(chain.parameters(), 1e-3)
    for module in chain.modules():
        if isinstance(module, DenseBlock):
            module.compute = compute
    x = torch.rand(1, 2, 16, 64)
    x[..., 40:] = 0
    y = (x**2).flip(1)
    for _ in range(5):
        optimiser.zero_grad()
        ((chain(x) - y).abs().mean() + (chain.inverse(y) - x).abs().mean()).backward()
        optimiser.step()
    for direction in DIRECTIONS:
        stored = gradients(chain, x, "store", direction)
        assert identical(gradients(chain, x, "boundary", direction), stored)
        assert distance(gradients(chain, x, "invert", direction), stored) < 1e-5
    assert chain.guard_trips == 0


def test_rounding_of_subnet_inputs() -> None:
    """As fine as float32, of the sample's own scale, zeros for tails, the gradient as if there were none."""
    net = DenseBlock(1, 1)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64) * torch.tensor([1e-6, 1, 1e6])[:, None, None, None]
    x[:, 0, 0, 0] = 0
    x[:, 1, 0, 0] = 1e-15 * x[:, 1, 1, 1]
    x.requires_grad_()
    steps = rounding_steps(x)
    for sample in range(3):
        assert torch.equal(rounding_steps(x[sample : sample + 1]), steps[sample : sample + 1])
    found = as_parameters(net, x, steps)
    rms = x.detach().square().mean((1, 2, 3), keepdim=True).sqrt()
    assert ((found - x).abs() / rms).max() < 4e-7
    assert (found[:, :, 0, 0] == 0).all()
    drifted = x.detach() + 1e-15 * rms * torch.randn_like(x)
    assert torch.equal(as_parameters(net, drifted, steps), found)
    weights = torch.randn_like(found)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), x)[0], weights.double())
    assert as_parameters(net.double(), x, steps) is x
    black = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(
        as_parameters(DenseBlock(1, 1), black + 0.3, rounding_steps(black)), black.float() + 0.3
    )


def test_black_image_and_black_sample() -> None:
    for nudge in (0, 0.02):
        chain = dense_chain(2, nudge=nudge)
        x = torch.rand(2, 2, 6, 6)
        x[0] = 0
        assert distance(gradients(chain, x, "invert"), gradients(chain, x, "store")) < 1e-5
        gradients(chain, torch.zeros(1, 2, 6, 6), "invert")
        assert chain.guard_trips == 0


@pytest.mark.parametrize("blocks", [8, 40])
def test_guard_is_quiet_on_deep_healthy_chains(blocks: int) -> None:
    chain = dense_chain(2, blocks=blocks, nudge=0, last_gain=min(1, 8 / blocks))
    x = torch.rand(1, 2, 10, 10)
    for direction in DIRECTIONS:
        assert (
            distance(gradients(chain, x, "invert", direction), gradients(chain, x, "store", direction)) < 1e-3
        )
    assert chain.guard_trips == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_guard_acts_on_an_unstable_chain(direction: str) -> None:
    chain = dense_chain(2, blocks=8, gain=3.0)
    x = torch.rand(2, 2, 8, 8, requires_grad=True)
    stored = gradients(chain, x, "store", direction)
    with pytest.warns(InversionDriftWarning, match=r"block \d \(InvertibleBlock\).*guard_trips"):
        inverted = gradients(chain, x, "invert", direction)
    assert chain.guard_trips == 1
    assert identical(inverted, stored)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert identical(gradients(chain, x, "invert", direction), stored)
    assert chain.guard_trips == 2
    chain.tol = 1e30
    unguarded = gradients(chain, x, "invert", direction)
    assert not distance(unguarded, stored) < 1e-3  # the guard had a reason


def test_tolerance_decides() -> None:
    chain = dense_chain(2, tol=1e-20)
    x = torch.rand(1, 2, 6, 6)
    with pytest.warns(InversionDriftWarning, match=r"tolerance 1\.0e-20"):
        gradients(chain, x, "invert")
    chain.tol = None
    gradients(chain, x, "invert")
    assert chain.guard_trips == 1


def test_guard_sees_a_single_bad_pixel_and_overflow() -> None:
    class Leaky(Scaling):
        """Its inverse is wrong in one pixel that no sampled value need hit."""

        def inverse(self, y: Tensor) -> Tensor:
            x = super().inverse(y)
            return x.index_put(
                (torch.tensor(0), torch.tensor(1), torch.tensor(50), torch.tensor(50)), self.wrong
            )

    for wrong in (float("nan"), float("inf"), 1.0):
        block = Leaky()
        block.wrong = torch.tensor(wrong)
        chain = ReversibleSequential(Scaling(), block)
        x = torch.rand(2, 2, 64, 64)
        with pytest.warns(InversionDriftWarning):
            inverted = gradients(chain, x, "invert")
        assert identical(inverted, gradients(chain, x, "store"))
    chain = ReversibleSequential(Scaling(1e19), Scaling(1e19), Scaling(1e19))
    with pytest.warns(InversionDriftWarning):
        gradients(chain, torch.rand(1, 2, 4, 4), "invert")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_somebody_elses_blocks_and_subnets(direction: str) -> None:
    chain = ReversibleSequential(
        Scaling(),
        AffineCoupling(foreign_subnet(2, 1), foreign_subnet(1, 2), foreign_subnet(1, 2)),
        InvertibleConv1x1(3),
        ReversibleSequential(Scaling(), *dense_chain(3, blocks=1)),
    ).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    stored = gradients(chain, x, "store", direction)
    assert identical(gradients(chain, x, "boundary", direction), stored)
    assert distance(gradients(chain, x, "invert", direction), stored) < 1e-12
    assert chain.guard_trips == 0


@pytest.mark.parametrize("memory", ["invert", "boundary"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_dropout_and_batch_norm(memory: str, direction: str) -> None:
    """Replays draw the same numbers, leave the generator alone, and count each batch once."""

    def subnet(inputs: int) -> nn.Module:
        return foreign_subnet(inputs, 3 - inputs, nn.BatchNorm2d(6), nn.Dropout(0.4))

    chain = ReversibleSequential(
        *[AffineCoupling(subnet(2), subnet(1), subnet(1)) for _ in range(2)], InvertibleConv1x1(3)
    ).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    start = {n: b.clone() for n, b in chain.named_buffers()}
    results = []
    for policy in ("store", memory):
        for name, buffer in chain.named_buffers():
            buffer.data.copy_(start[name])
        torch.manual_seed(5)
        grads = gradients(chain, x, policy, direction)
        results.append((grads, torch.rand(3), {n: b.clone() for n, b in chain.named_buffers()}))
    (stored, drawn, buffers), (found, drawn_too, buffers_too) = results
    assert distance(found, stored) < 1e-12
    assert chain.guard_trips == 0
    assert torch.equal(drawn, drawn_too)
    for name, buffer in buffers.items():
        assert torch.equal(buffer, buffers_too[name]), name


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_saved_bytes_are_flat_in_depth(direction: str) -> None:
    def saved(memory: str, blocks: int) -> int:
        chain = dense_chain(2, blocks=blocks, growth=2, last_gain=0.25, memory=memory)
        x = torch.rand(1, 2, 32, 32)
        total = 0

        def count(t: Tensor) -> Tensor:
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            y = chain(x) if direction == "forward" else chain.inverse(x)
        y.sum().backward()
        assert chain.guard_trips == 0
        return total

    state = 2 * 32 * 32 * 4
    assert saved("invert", 2) < 3 * state + 6000  # input, output in float64, fingerprints
    assert saved("invert", 32) < saved("invert", 2) + 300
    assert saved("boundary", 8) == 15 * state  # all but the first in float64
    assert saved("store", 2) > 6 * state


@pytest.mark.parametrize("memory", ["invert", "boundary", "store"])
def test_empty_chain_and_empty_batch(memory: str) -> None:
    x = torch.rand(1, 2, 3, 3, requires_grad=True)
    assert ReversibleSequential(memory=memory)(x) is x
    chain = dense_chain(2, blocks=2, memory=memory)
    y = chain(torch.zeros(0, 2, 3, 3, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 2, 3, 3)
    assert chain.guard_trips == 0
