"""What the compiled ops compute: against their twins, their mathematics, and PyTorch's own rounding."""

from __future__ import annotations

import math

import pytest
import torch

from ivan_fast import ops

CLAMP = 0.8


@pytest.mark.parametrize("shape", [(2, 1, 5, 7), (1, 2, 16, 16), (3, 5, 1, 1), (2, 16, 3, 2), (1, 17, 9, 33)])
def test_float64_agrees_with_the_twin(case, device, shape):
    tensors = case.inputs(shape, torch.float64, device)
    for result, expected in zip(case.op(*tensors), case.twin(*tensors), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)
        assert result.is_contiguous()


@pytest.mark.parametrize("shape", [(2, 2, 61, 127), (1, 4, 67, 64), (1, 7, 65, 63)])
def test_float32_error_is_at_most_twice_pytorchs(case, device, shape):
    tensors = case.inputs(shape, torch.float32, device)
    truths = case.twin(*(t.double() for t in tensors))
    for result, twin, truth in zip(case.op(*tensors), case.twin(*tensors), truths, strict=True):
        for norm in (torch.linalg.vector_norm, lambda d: d.abs().max()):
            assert norm(result - truth) <= 2 * norm(twin - truth)


def test_coupling_beyond_the_usual_range(device):
    h = torch.tensor([0.0, 1e-30, 1e-4, -1e-4, 20.0, -20.0, 87.0, -95.0, 1e30, math.inf, -math.inf])
    h = h.to(device).reshape(1, 1, 1, -1)
    x, g = torch.full_like(h, 1.5), torch.full_like(h, -0.25)
    for clamp in (0.0, 0.8, 30.0, 86.0):
        s = clamp * torch.tanh(h.double() / 2)
        y = ops.affine_coupling_forward(x, h, g, clamp)
        torch.testing.assert_close(y.double(), 1.5 * s.exp() - 0.25, rtol=2e-5, atol=0)
        x_again = ops.affine_coupling_inverse(y, h, torch.zeros_like(h), clamp)
        torch.testing.assert_close(x_again.double(), y.double() * (-s).exp(), rtol=2e-5, atol=1e-36)
        _, grad_h = ops.affine_coupling_backward(x, x, h, clamp)
        slope = 2 * clamp * torch.sigmoid(h.double()) * torch.sigmoid(-h.double())
        torch.testing.assert_close(grad_h.double(), 2.25 * s.exp() * slope, rtol=2e-5, atol=1e-10)


def test_exponent_overflows_and_vanishes_like_pytorchs(device):
    h = torch.tensor([50.0, -50.0], device=device).reshape(1, 1, 1, 2)
    one, zero = torch.ones_like(h), torch.zeros_like(h)
    for dtype in (torch.float32, torch.float64):
        for clamp in (90.0, 104.5, 300.0, 709.5, 745.5, 1e4):
            y = ops.affine_coupling_forward(one.to(dtype), h.to(dtype), zero.to(dtype), clamp)
            expected = torch.exp(clamp * torch.tanh(h.to(dtype) / 2))
            torch.testing.assert_close(y, expected, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=0)


def test_nan_and_infinity_reach_the_output(case, device):
    for bad in (math.nan, math.inf):
        for position in range(len(case.tensors)):
            tensors = case.inputs((1, 2, 3, 11), torch.float32, device)
            if bad == math.inf and case.tensors[position] == "h":
                continue  # s is bounded there
            tensors[position][0, 0] = bad
            assert any(not t.isfinite().all() for t in case.op(*tensors))


def test_recompute_is_inverse_then_backward_bit_for_bit(device):
    y, h, g, grad_y = (torch.randn(2, 1, 13, 17, device=device) for _ in range(4))
    x, grad_x, grad_h = ops.affine_coupling_recompute_backward(y, h, g, grad_y, CLAMP)
    expected_x = ops.affine_coupling_inverse(y, h, g, CLAMP)
    expected = ops.affine_coupling_backward(grad_y, expected_x, h, CLAMP)
    assert torch.equal(x, expected_x)
    assert torch.equal(grad_x, expected[0])
    assert torch.equal(grad_h, expected[1])


def test_inverse_undoes_forward(device):
    x, h, g = (torch.randn(2, 2, 31, 33, device=device) for _ in range(3))
    y = ops.affine_coupling_forward(x, h, g, CLAMP)
    torch.testing.assert_close(ops.affine_coupling_inverse(y, h, g, CLAMP), x, rtol=1e-5, atol=1e-6)


def test_values_do_not_depend_on_position(case):
    """Vector lanes and the remainder of a loop round alike: the same inputs give the same bits anywhere."""
    tensors = case.inputs((1, 2, 1, 1))
    results = [case.op(*(t if t.dim() == 2 else t.expand(1, 2, 1, n) for t in tensors)) for n in (1, 37, 64)]
    for one, some, many in zip(*results, strict=True):
        if one.dim() == 4:  # not the summed grad_weight
            assert torch.equal(some, one.expand_as(some))
            assert torch.equal(many, one.expand_as(many))


def test_thread_count_does_not_change_a_bit(case):
    tensors = case.inputs((2, 3, 120, 130))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(case.op(*tensors))
    finally:
        torch.set_num_threads(before)
    for one, two, three in zip(*results, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_second_run_gives_the_same_bits(case, device):
    tensors = case.inputs((2, 4, 60, 70), device=device)
    for first, second in zip(case.op(*tensors), case.op(*tensors), strict=True):
        assert torch.equal(first, second)
