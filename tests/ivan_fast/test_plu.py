"""The weight of an invertible 1x1 convolution in one op: values, inverse, gradients, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.autograd import forward_ad

from ivan_fast import InvertibleConv1x1, ops, reference

NAMES = ("p", "lower", "log_s", "sign_s", "upper")
TRAINED = (1, 2, 4)
WEIGHT = torch.ops.ivan_fast.plu_weight.default
BACKWARD = torch.ops.ivan_fast.plu_weight_backward.default


def factors(channels: int, dtype: torch.dtype = torch.float32, device: str = "cpu", spread: float = 0.3):
    """A permutation, random factors whose unused triangles are full too, signs."""
    p = torch.eye(channels)[torch.randperm(channels)]
    square = (channels, channels)
    sign_s = torch.randn(channels).sign()
    made = (p, torch.randn(square), spread * torch.randn(channels), sign_s, spread * torch.randn(square))
    return tuple(t.to(dtype).to(device) for t in made)


def requiring_grad(tensors):
    return tuple(t.requires_grad_(i in TRAINED) for i, t in enumerate(tensors))


def doubles(tensors):
    return tuple(t.detach().double() for t in tensors)


def incoming(channels: int, device: str = "cpu", dtype: torch.dtype = torch.float64):
    return (torch.randn(channels, channels, dtype=dtype).to(device) for _ in range(2))


@pytest.mark.parametrize("channels", range(1, 17))
def test_float64_agrees_with_the_twin(device, channels):
    tensors = factors(channels, torch.float64, device)
    weight, inverse = ops.plu_weight(*tensors)
    twin, twin_inverse = reference.plu_weight(*tensors)
    torch.testing.assert_close(weight, twin, rtol=1e-13, atol=1e-13)
    condition = torch.linalg.cond(twin)
    assert (inverse - twin_inverse).norm() <= 1e-15 * channels * condition * twin_inverse.norm()
    grad_weight, grad_inverse = incoming(channels, device)
    for given in (
        (grad_weight, None, None),
        (None, grad_inverse, inverse),
        (grad_weight, grad_inverse, inverse),
    ):
        found, wanted = (f.plu_weight_backward(*given, *tensors) for f in (ops, reference))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11 * float(other.abs().max() + 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 16])
def test_float32_is_rounded_once(device, channels):
    tensors = factors(channels, device=device)
    weight, inverse = ops.plu_weight(*tensors)
    truth = reference.plu_weight(*doubles(tensors))[0]
    assert weight.dtype == torch.float32
    assert inverse.dtype == torch.float64
    assert ((weight - truth).abs() <= 2**-24 * truth.abs() + 1e-14).all()
    wide, same_inverse = ops.plu_weight(*tensors, True)
    assert torch.equal(wide, weight.double())
    assert torch.equal(same_inverse, inverse)
    grad_weight, grad_inverse = incoming(channels, device)
    truths = reference.plu_weight_backward(grad_weight, grad_inverse, inverse, *doubles(tensors))
    found = ops.plu_weight_backward(grad_weight, grad_inverse, inverse, *tensors)
    for one, other, truth in zip(found, (tensors[i] for i in TRAINED), truths, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(
            one.double(), truth, rtol=2**-23, atol=1e-10 * float(truth.abs().max() + 1)
        )
    narrow = ops.plu_weight_backward(grad_weight.float(), None, None, *tensors)
    widened = ops.plu_weight_backward(grad_weight.float().double(), None, None, *tensors)
    assert all(torch.equal(a, b) for a, b in zip(narrow, widened, strict=True))


def test_float32_error_is_at_most_twice_pytorchs(device):
    for channels in (2, 5, 16):
        tensors = factors(channels, device=device)
        truth = reference.plu_weight(*doubles(tensors))[0]
        weight, twin = ops.plu_weight(*tensors)[0], reference.plu_weight(*tensors)[0]
        (grad_weight, _) = incoming(channels, device, torch.float32)
        truths = reference.plu_weight_backward(grad_weight.double(), None, None, *doubles(tensors))
        twins = reference.plu_weight_backward(grad_weight, None, None, *tensors)
        found = ops.plu_weight_backward(grad_weight, None, None, *tensors)
        for one, other, true in zip((weight, *found), (twin, *twins), (truth, *truths), strict=True):
            assert (one - true).norm() <= 2 * (other - true).norm()


@pytest.mark.parametrize("channels", [1, 2, 5, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_is_that_of_the_rounded_weight(device, channels, dtype):
    """Also where the largest pivot is never on the diagonal, and where scales differ by many magnitudes."""
    for spread in (0.3, 2.0):
        tensors = factors(channels, dtype, device, spread)
        weight, inverse = ops.plu_weight(*tensors)
        eye = torch.eye(channels, dtype=torch.float64, device=device)
        scale = weight.double().abs() @ inverse.abs()
        assert ((weight.double() @ inverse - eye).abs() <= 1e-15 * channels * 2**6 * scale.max()).all()


def test_pivoting_is_needed_and_done(device):
    """W = [[1e-20, 1], [1, 0]]: without exchanging rows its inverse would be lost."""
    zero = torch.zeros(2, 2, dtype=torch.float64, device=device)
    lower, upper = zero.clone(), zero.clone()
    lower[1, 0], upper[0, 1] = 1e20, 1.0
    log_s = torch.tensor([math.log(1e-20), math.log(1e20)], dtype=torch.float64, device=device)
    sign_s = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device)
    weight, inverse = ops.plu_weight(zero.clone().fill_diagonal_(1.0), lower, log_s, sign_s, upper)
    torch.testing.assert_close(inverse, torch.linalg.inv(weight), rtol=1e-14, atol=0)


def test_not_finite_where_there_is_no_inverse(device):
    for bad in (-math.inf, math.nan, math.inf):
        tensors = factors(3, device=device)
        tensors[1].zero_(), tensors[4].zero_()  # otherwise rounding hides that a pivot is 0
        tensors[2][1] = bad
        assert not ops.plu_weight(*tensors)[1].isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("wide", [False, True])
def test_gradcheck(device, channels, wide):
    tensors = requiring_grad(factors(channels, torch.float64, device))
    assert torch.autograd.gradcheck(lambda *t: ops.plu_weight(*t, wide), tensors)
    for output in (0, 1):  # the gradient of the other one is not there
        assert torch.autograd.gradcheck(lambda *t, o=output: ops.plu_weight(*t)[o], tensors)


def test_gradients_of_both_outputs_equal_the_twins(device):
    for dtype in (torch.float32, torch.float64):
        tensors = requiring_grad(factors(4, dtype, device))
        grads = []
        grad_weight, grad_inverse = incoming(4, device)
        for module in (ops, reference):
            weight, inverse = module.plu_weight(*tensors)
            loss = (weight * grad_weight).sum() + (inverse * grad_inverse).sum()
            grads.append(torch.autograd.grad(loss, [tensors[i] for i in TRAINED]))
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_double_backward_raises_and_the_twin_allows_it():
    tensors = requiring_grad(factors(2, torch.float64))
    weight, inverse = ops.plu_weight(*tensors)
    grads = torch.autograd.grad((weight**2).sum() + (inverse**2).sum(), tensors[1], create_graph=True)
    with pytest.raises(
        RuntimeError, match=r'plu_weight_backward cannot be differentiated.*backend="reference"'
    ):
        grads[0].sum().backward()
    assert torch.autograd.gradgradcheck(reference.plu_weight, tensors)


def test_constants_have_no_gradient():
    for position in (0, 3):
        tensors = factors(2)
        tensors[position].requires_grad_()
        with pytest.raises(RuntimeError, match="p and sign_s are constants"):
            ops.plu_weight(*tensors)[0].sum().backward()


def test_forward_mode_raises():
    tensors = factors(2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[1], torch.ones(2, 2))
        with pytest.raises(RuntimeError, match=r"ivan_fast::plu_weight has no forward-mode derivative"):
            ops.plu_weight(tensors[0], dual, *tensors[2:])
        with pytest.raises(RuntimeError, match=r"plu_weight_backward has no forward-mode derivative"):
            ops.plu_weight_backward(dual, None, None, *tensors)


def test_opcheck(device):
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    for dtype, wide in itertools.product((torch.float32, torch.float64), (False, True)):
        plain, trained = factors(3, dtype, device), requiring_grad(factors(3, dtype, device))
        for tensors in (plain, trained):
            torch.library.opcheck(WEIGHT, (*tensors, wide), test_utils=[*tests, "test_aot_dispatch_dynamic"])
        grad_weight, grad_inverse = incoming(3, device)
        inverse = ops.plu_weight(*plain)[1]
        for given in (
            (grad_weight, None, None),
            (None, grad_inverse, inverse),
            (grad_weight.float(), grad_inverse, inverse),
        ):
            torch.library.opcheck(
                BACKWARD, (*given, *plain), test_utils=[*tests, "test_aot_dispatch_dynamic"]
            )
            torch.library.opcheck(BACKWARD, (*given, *trained), test_utils=tests)


def test_layout_does_not_matter_and_inputs_are_left_alone(device):
    tensors = factors(5, device=device)
    before = [t.clone() for t in tensors]
    every_other = tuple(torch.stack([t, t + 1], -1)[..., 0] for t in tensors)
    transposed = tuple(t.t().contiguous().t() if t.dim() == 2 else t for t in tensors)
    given = (*incoming(5, device), ops.plu_weight(*tensors)[1])
    expected = ops.plu_weight(*tensors) + ops.plu_weight_backward(*given, *tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    for arranged in (every_other, transposed):
        strided = tuple(t.t().contiguous().t() for t in given)
        found = ops.plu_weight(*arranged) + ops.plu_weight_backward(*strided, *arranged)
        assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(found, expected, strict=True))


def test_autocast_keeps_float32(device):
    tensors = factors(3, device=device)
    low = tuple(t.bfloat16() for t in tensors)
    with torch.autocast(device, torch.bfloat16):
        weight, inverse = ops.plu_weight(*low)
        grads = ops.plu_weight_backward(weight.bfloat16(), None, None, *low)
    expected = ops.plu_weight(*(t.float() for t in low))
    assert weight.dtype == torch.float32
    assert torch.equal(weight, expected[0])
    assert torch.equal(inverse, expected[1])
    assert all(g.dtype == torch.float32 for g in grads)


def test_compiles_without_graph_breaks():
    tensors = requiring_grad(factors(3))

    def both(*t):
        weight, inverse = ops.plu_weight(*t, True)
        return weight @ inverse.exp()

    result = torch.compile(both, backend="aot_eager", fullgraph=True)(*tensors)
    wanted = [tensors[i] for i in TRAINED]
    found, expected = (torch.autograd.grad(r.sum(), wanted) for r in (result, both(*tensors)))
    assert torch.equal(result, both(*tensors))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_wrong_arguments_are_named(place):
    tensors = [t.to(place) for t in factors(3)]
    for position, name in enumerate(NAMES):
        for wrong, says in (
            (tensors[position].double(), r"is \S+ but lower is"),
            (tensors[position][1:], "has shape"),
        ):
            arguments = [wrong if i == position else t for i, t in enumerate(tensors)]
            what = "lower|p" if name == "lower" else name
            with pytest.raises(RuntimeError, match=rf"^plu_weight: ({what}) {says}"):
                ops.plu_weight(*arguments)
    with pytest.raises(RuntimeError, match="lower must be float32 or float64"):
        ops.plu_weight(*(t.half() for t in tensors))
    with pytest.raises(RuntimeError, match=r"lower has shape .* C from 1 to 16"):
        ops.plu_weight(*(t.to(place) for t in factors(17)))
    grad = torch.zeros(3, 3, dtype=torch.float64, device=place)
    for given, says in {
        (None, None, None): "expected grad_weight, grad_inverse or both",
        (None, grad, None): "grad_inverse and inverse come together",
        (grad, None, grad): "grad_inverse and inverse come together",
        (grad[1:], None, None): "grad_weight has shape",
        (grad.half(), None, None): r"grad_weight is \S+, expected.*float32.*float64",
        (None, grad.float(), grad): r"grad_inverse is \S+, expected.*float64",
        (None, grad, grad.float()): r"inverse is \S+, expected.*float64",
        (None, grad, grad[:2]): "inverse has shape",
    }.items():
        with pytest.raises(RuntimeError, match=rf"^plu_weight_backward: {says}"):
            ops.plu_weight_backward(*given, *tensors)


def test_module_takes_one_call_for_each_direction():
    """Values of both backends, and of narrow parameters, which the compiled op does not take."""
    mix, x = InvertibleConv1x1(3), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        for parameter in mix.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    plain = InvertibleConv1x1(3, "reference")
    plain.load_state_dict(mix.state_dict())
    for dtype in (None, torch.float32, torch.float64):
        weight, inverse = mix.weights(dtype)
        assert torch.equal(weight, mix.weight(dtype))
        assert torch.equal(inverse, mix.inverse_weight(dtype))
        assert weight.dtype == inverse.dtype == (dtype or torch.float32)
        torch.testing.assert_close(weight, plain.weight(dtype), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(inverse, plain.inverse_weight(dtype), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mix.inverse(mix(x.to(dtype))), x.to(dtype), rtol=1e-4, atol=1e-5)
    assert torch.equal(mix.double().weight(), mix.weight(torch.float64))
    narrow = mix.bfloat16()
    assert narrow.weight().dtype == torch.bfloat16
    torch.testing.assert_close(narrow.inverse(narrow(x)), x, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # never rounded to half precision
        assert torch.equal(plain.weight(), plain.weight(torch.float64).float())
