"""A float64 state as float32 input of a subnet: the bits of plain PyTorch, whatever the layout."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

import ivan_fast
from ivan_fast import DenseBlock, ops, reference
from ivan_fast.modules.backend import as_parameters, rounding_steps

OP = torch.ops.ivan_fast.round_state.default


def states(*shape: int, device: str = "cpu"):
    """A state whose samples are of different sizes, and their steps."""
    x = torch.randn(shape, dtype=torch.float64) * 10.0 ** torch.arange(shape[0]).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    return x.to(device), rounding_steps(x).to(device)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 7), (3, 4, 16, 16), (2, 3, 61, 127), (5, 9), (4,)])
def test_bits_are_the_twins(device, shape):
    x = torch.randn(shape, dtype=torch.float64, device=device)
    steps = torch.rand(shape[0], dtype=torch.float64, device=device) * 1e-6 + 1e-9
    found = ops.round_state(x, steps)
    assert found.dtype == torch.float32
    assert torch.equal(found, reference.round_state(x, steps))
    exact = torch.round(x / steps.reshape(-1, *[1] * (x.dim() - 1)))
    assert torch.equal(found, (exact * steps.reshape(-1, *[1] * (x.dim() - 1))).float())


def test_layout_does_not_matter(device):
    for shape in ((2, 4, 6, 8), (3, 5, 5, 7)):
        x, steps = states(*shape, device=device)
        for begin in range(shape[1]):
            part = x[:, begin : begin + 2]
            assert torch.equal(ops.round_state(part, steps), ops.round_state(part.contiguous(), steps))
        expected = ops.round_state(x, steps)
        shifted = torch.empty(x.numel() + 1, dtype=x.dtype, device=device)[1:].view(shape).copy_(x)
        last = x.to(memory_format=torch.channels_last)
        spread = torch.stack([steps, steps + 1], 1)[:, 0]
        for arranged in (shifted, last, x.transpose(2, 3).contiguous().transpose(2, 3)):
            found = ops.round_state(arranged, spread)
            assert torch.equal(found, expected)
            assert found.is_contiguous()


def test_empty_states(device):
    for shape in ((0, 2, 3, 3), (2, 0, 3, 3), (2, 1, 0, 3)):
        x = torch.zeros(shape, dtype=torch.float64, device=device)
        assert ops.round_state(x, torch.ones(shape[0], dtype=torch.float64, device=device)).shape == shape


def test_special_values_are_pytorchs(device):
    x = torch.tensor([0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 1e-300, 1e30, -1e300, math.inf, -math.inf, math.nan])
    x = torch.cat([x.double(), torch.tensor([1e300], dtype=torch.float64)]).to(device)[None]
    for step in (1.0, 2.0**-100, 3e-8, 1e300):
        steps = torch.tensor([step], dtype=torch.float64, device=device)
        found, twin = ops.round_state(x, steps), reference.round_state(x, steps)
        assert torch.equal(found.view(torch.int32)[~twin.isnan()], twin.view(torch.int32)[~twin.isnan()])
        assert torch.equal(found.isnan(), twin.isnan())


def test_thread_count_does_not_change_a_bit():
    x, steps = states(3, 2, 120, 130)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.round_state(x[:, 1:], steps))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("isa", ivan_fast.build_info()["cpu_isa_available"])
def test_every_instruction_set_gives_the_twins_bits(isa):
    code = (
        "import torch; from ivan_fast import ops, reference as r\n"
        "x = torch.randn(3, 2, 37, 41, dtype=torch.float64)[:, 1:]\n"
        "steps = torch.rand(3, dtype=torch.float64) * 1e-7\n"
        "assert torch.equal(ops.round_state(x, steps), r.round_state(x, steps))\n"
    )
    environment = {**os.environ, "IVAN_FAST_CPU_ISA": isa}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_gradient_passes_straight_through(device):
    x, steps = states(2, 3, 4, 5, device=device)
    x.requires_grad_()
    weights = torch.randn(2, 3, 4, 5, device=device)
    (found,) = torch.autograd.grad((ops.round_state(x, steps) * weights).sum(), x)
    assert torch.equal(found, weights.double())
    (twin,) = torch.autograd.grad((reference.round_state(x, steps) * weights).sum(), x)
    torch.testing.assert_close(found, twin, rtol=1e-14, atol=0)
    with pytest.raises(RuntimeError, match="steps are constants"):
        ops.round_state(x, steps.clone().requires_grad_()).sum().backward()


def test_second_derivatives_pass_too():
    x, steps = states(1, 1, 2, 2)
    x.requires_grad_()
    (first,) = torch.autograd.grad((ops.round_state(x, steps) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x.detach(), rtol=1e-5, atol=1e-5)


def test_opcheck(device):
    for trained in (False, True):
        x, steps = states(2, 3, 4, 5, device=device)
        torch.library.opcheck(OP, (x.requires_grad_(trained), steps))


def test_forward_mode_raises():
    x, steps = states(1, 1, 2, 2)
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match=r"round_state has no forward-mode derivative"),
    ):
        ops.round_state(forward_ad.make_dual(x, torch.ones_like(x)), steps)


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_wrong_arguments_are_named(place):
    x, steps = (t.to(place) for t in states(2, 1, 3, 3))
    for arguments, says in (
        ((x.float(), steps), "x must be float64"),
        ((x, steps.float()), r"steps is \S+ but x is"),
        ((x, steps[:1]), "steps has shape"),
        ((x, steps[:, None]), "steps has shape"),
        ((steps.sum(), steps), "x has shape"),
    ):
        with pytest.raises(RuntimeError, match=f"^round_state: {says}"):
            ops.round_state(*arguments)


def test_which_subnets_use_it(monkeypatch):
    x, steps = states(2, 1, 8, 8)
    seen = []
    monkeypatch.setattr(ops, "round_state", lambda *a: seen.append("op") or reference.round_state(*a))
    expected = reference.round_state(x, steps)
    assert torch.equal(as_parameters(DenseBlock(1, 1), x, steps), expected)
    assert seen == ["op"]
    others = (DenseBlock(1, 1, backend="reference"), torch.nn.Conv2d(1, 1, 1))
    for module in others:
        assert torch.equal(as_parameters(module, x, steps), expected)
    narrow = as_parameters(DenseBlock(1, 1).bfloat16(), x, steps)
    assert torch.equal(narrow, reference.round_to_steps(x, steps).bfloat16())
    assert torch.equal(as_parameters(DenseBlock(1, 1), x), x.float())
    assert seen == ["op"]
