"""Derivatives of the ops, their registration with torch, autocast and compilation."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from ivan_fast import ops

CLAMP = 0.8


def requiring_grad(tensors):
    return tuple(t.requires_grad_() for t in tensors)


@pytest.mark.parametrize("shape", [(2, 1, 2, 3), (1, 3, 3, 2), (2, 5, 1, 1)])
def test_gradcheck(differentiable_case, device, shape):
    tensors = requiring_grad(differentiable_case.inputs(shape, torch.float64, device))
    assert torch.autograd.gradcheck(differentiable_case.op, tensors)


def test_gradcheck_of_channel_slices(differentiable_case, device):
    tensors = requiring_grad(differentiable_case.inputs((2, 4, 2, 3), torch.float64, device))

    def on_slices(*tensors):
        return differentiable_case.op(*(t[:2, :2] if t.dim() == 2 else t[:, 1:3] for t in tensors))

    assert torch.autograd.gradcheck(on_slices, tensors)


def test_gradients_equal_the_twins(differentiable_case, device):
    tensors = requiring_grad(differentiable_case.inputs(dtype=torch.float64, device=device))
    upstream = torch.randn(tensors[0].shape, dtype=torch.float64).to(device)
    results = torch.autograd.grad(differentiable_case.op(*tensors), tensors, upstream)
    expected = torch.autograd.grad(differentiable_case.twin(*tensors), tensors, upstream)
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)


def test_float32_gradient_errors_are_at_most_twice_pytorchs(differentiable_case, device):
    tensors = requiring_grad(differentiable_case.inputs((2, 2, 61, 127), device=device))
    doubles = requiring_grad(tuple(t.detach().double() for t in tensors))
    upstream = torch.randn(tensors[0].shape).to(device)
    results = torch.autograd.grad(differentiable_case.op(*tensors), tensors, upstream)
    twins = torch.autograd.grad(differentiable_case.twin(*tensors), tensors, upstream)
    truths = torch.autograd.grad(differentiable_case.twin(*doubles), doubles, upstream.double())
    for result, twin, truth in zip(results, twins, truths, strict=True):
        for norm in (torch.linalg.vector_norm, lambda d: d.abs().max()):
            assert norm(result - truth) <= 2 * norm(twin - truth)


def test_only_some_inputs_need_gradients(differentiable_case):
    for position in range(len(differentiable_case.tensors)):
        tensors = differentiable_case.inputs(dtype=torch.float64)
        tensors[position].requires_grad_()
        (result,) = torch.autograd.grad(differentiable_case.op(*tensors)[0].sum(), tensors[position])
        (expected,) = torch.autograd.grad(differentiable_case.twin(*tensors)[0].sum(), tensors[position])
        torch.testing.assert_close(result, expected)


def test_opcheck(case, device):
    for requires_grad in (False, True):
        tensors = case.inputs((2, 3, 4, 5), device=device)
        if requires_grad:
            tensors = requiring_grad(tensors)
        # test_aot_dispatch_dynamic differentiates: impossible for the *_backward, on purpose
        tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
        if not case.is_gradient or not requires_grad:
            tests.append("test_aot_dispatch_dynamic")
        torch.library.opcheck(case.overload, case.arguments(tensors), test_utils=tests)


def test_double_backward_raises(differentiable_case):
    tensors = requiring_grad(differentiable_case.inputs(dtype=torch.float64))
    loss = differentiable_case.op(*tensors)[0].square().sum()
    grads = torch.autograd.grad(loss, tensors, create_graph=True)
    with pytest.raises(RuntimeError, match=r'cannot be differentiated.*backend="reference"'):
        torch.autograd.grad(grads[0].square().sum() + grads[1].square().sum(), tensors)


def test_differentiating_a_gradient_op_raises(gradient_case):
    tensors = requiring_grad(gradient_case.inputs())
    for result in gradient_case.op(*tensors):
        with pytest.raises(RuntimeError, match=f"ivan_fast::{gradient_case.name} cannot be differentiated"):
            result.sum().backward(retain_graph=True)


def test_forward_mode_raises(case):
    """torch would give the tangent up without a word: a zero derivative."""
    tensors = case.inputs((1, 2, 2, 3))
    message = rf'ivan_fast::{case.name} has no forward-mode derivative.*backend="reference"'
    for position, t in enumerate(tensors):

        def of_one(t, position=position):
            return case.op(*tensors[:position], t, *tensors[position + 1 :])[0]

        with forward_ad.dual_level():
            of_one(t)  # without a tangent
            with pytest.raises(RuntimeError, match=message):
                of_one(forward_ad.make_dual(t, torch.ones_like(t)))
        with pytest.raises(RuntimeError, match=message):
            torch.func.jvp(of_one, (t,), (torch.ones_like(t),))


def test_twins_allow_double_backward(differentiable_case):
    tensors = requiring_grad(differentiable_case.inputs((1, 2, 2, 2), torch.float64))
    assert torch.autograd.gradgradcheck(lambda *t: differentiable_case.twin(*t)[0], tensors)


def test_meta_tensors(case):
    real = case.inputs()
    meta = case.op(*(t.to("meta") for t in real))
    for result, expected in zip(meta, case.op(*real), strict=True):
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        assert result.stride() == expected.stride()
    with pytest.raises(RuntimeError, match="has shape"):
        case.op(*(torch.cat([t] * (1 + (i == 0)), 1).to("meta") for i, t in enumerate(real)))


def test_fake_kernels_refuse_what_the_real_ones_refuse(case):
    tensors = case.inputs()
    wrong = [
        [t.double() if i == position else t for i, t in enumerate(tensors)]
        for position in range(len(tensors))
    ]
    wrong.append([t.half() for t in tensors])
    wrong.append([t if t.dim() == 2 else t.flatten() for t in tensors])
    for arguments in wrong:
        for place in ("cpu", "meta"):
            with pytest.raises(RuntimeError, match=f"^{case.name}: "):
                case.op(*(t.to(place) for t in arguments))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_state_in_float32(case, device, dtype):
    tensors = case.inputs(device=device)
    low = [
        t.to(dtype) if name in ("h", "g", "weight") else t
        for name, t in zip(case.tensors, tensors, strict=True)
    ]
    with torch.autocast(device, dtype=dtype):
        results = case.op(*low)
        assert torch.is_autocast_enabled(device)
    for result, expected in zip(results, case.op(*(t.float() for t in low)), strict=True):
        assert result.dtype == torch.float32
        assert torch.equal(result, expected)


def test_gradients_through_autocast_have_the_inputs_dtype(device):
    x, h, g = (torch.randn(1, 1, 4, 4, device=device) for _ in range(3))
    h, g = h.bfloat16(), g.bfloat16()
    tensors = requiring_grad((x, h, g))
    with torch.autocast(device, dtype=torch.bfloat16):
        y = ops.affine_coupling_forward(*tensors, CLAMP)
    grads = torch.autograd.grad(y.sum(), tensors)
    assert [t.dtype for t in grads] == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_float64_survives_autocast():
    x, h, g = (torch.randn(1, 1, 4, 4, dtype=torch.float64) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.affine_coupling_forward(x, h, g, CLAMP).dtype == torch.float64


def test_compiles_without_graph_breaks(differentiable_case):
    """The eager backend traces through the fake kernels and the autograd formulas without a compiler."""
    tensors = requiring_grad(differentiable_case.inputs())
    compiled = torch.compile(lambda *t: differentiable_case.op(*t)[0], backend="aot_eager", fullgraph=True)
    result = compiled(*tensors)
    assert torch.equal(result, differentiable_case.op(*tensors)[0])
    grads = torch.autograd.grad(result.sum(), tensors)
    expected = torch.autograd.grad(differentiable_case.op(*tensors)[0].sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
