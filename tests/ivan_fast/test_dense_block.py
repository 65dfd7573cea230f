"""The dense block on the CPU against its plain PyTorch twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import ivan_fast
from ivan_fast import _C, ops, reference

Case = tuple[Tensor, list[Tensor], list[Tensor], Tensor]

# batch, in, out, growth, depth, height, width
SHAPES = [
    (1, 1, 1, 32, 5, 12, 12),
    (1, 1, 1, 32, 5, 1, 1),
    (1, 2, 1, 32, 5, 1, 37),
    (1, 1, 2, 32, 5, 23, 1),
    (1, 1, 1, 32, 5, 3, 2),
    (3, 3, 2, 4, 5, 9, 7),
    (2, 7, 5, 40, 5, 13, 21),
    (1, 16, 16, 32, 5, 6, 11),
    (2, 4, 9, 8, 5, 10, 5),
    (2, 5, 1, 3, 3, 17, 33),
    (1, 2, 3, 4, 1, 5, 6),
    (1, 1, 1, 8, 2, 5, 6),
]


def make(
    batch: int, in_: int, out: int, growth: int, depth: int, height: int, width: int, seed: int = 0
) -> Case:
    """float64 ``x``, Xavier-like weights, biases and ``grad_y``."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    weights, biases = [], []
    for i in range(depth):
        outputs = growth if i + 1 < depth else out
        inputs = in_ + i * growth
        weights.append(normal(outputs, inputs, 3, 3) * (2 / (9 * (inputs + outputs))) ** 0.5)
        biases.append(normal(outputs) * 0.1)
    return normal(batch, in_, height, width), weights, biases, normal(batch, out, height, width)


def cast(case: Case, dtype: torch.dtype) -> Case:
    x, weights, biases, grad_y = case
    return x.to(dtype), [w.to(dtype) for w in weights], [b.to(dtype) for b in biases], grad_y.to(dtype)


def everything(module: object, case: Case, compute: str = "strict", slope: float = 0.2) -> list[Tensor]:
    """y of the forward op, then ``(y, grad_x, grad_weights..., grad_biases...)`` of the backward op."""
    x, weights, biases, grad_y = case
    y = module.dense_block(x, weights, biases, slope, compute)  # type: ignore[attr-defined]
    z, grad_x, grad_weights, grad_biases = module.dense_block_backward(  # type: ignore[attr-defined]
        grad_y, x, weights, biases, slope, compute
    )
    return [y, z, grad_x, *grad_weights, *grad_biases]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compute", ["strict", "fast", "tf32"])
def test_float64_equals_the_twin(shape: tuple[int, ...], compute: str) -> None:
    case = make(*shape)
    for ours, theirs in zip(
        everything(ops, case, compute), everything(reference, case, compute), strict=True
    ):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0, 1.5])
def test_any_slope(slope: float) -> None:
    case = make(1, 2, 2, 8, 4, 6, 7)
    for ours, theirs in zip(
        everything(ops, case, slope=slope), everything(reference, case, slope=slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 32, 5, 24, 24),
        (3, 2, 3, 32, 5, 9, 14),
        (1, 1, 1, 32, 5, 1, 40),
        (1, 4, 4, 8, 5, 33, 1),
        (1, 7, 1, 40, 5, 8, 9),
        (1, 1, 1, 32, 5, 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("compute", ["strict", "fast"])
def test_float32_error_at_most_twice_that_of_pytorch(
    shape: tuple[int, ...], background: bool, compute: str
) -> None:
    """Rms over five seeds, plus 4 eps of the largest value; black backgrounds under zero biases.

    ``"fast"`` may be off by 1e-5 of the truth's rms.
    """
    ours2, theirs2, truth2, largest = [], [], [], []
    for seed in range(5):
        case = make(*shape, seed=seed)
        if background:
            case[0][..., : (shape[5] + 1) // 2, :] = 0
            for bias in case[2]:
                bias.zero_()
        case = cast(cast(case, torch.float32), torch.float64)  # the same numbers in both precisions
        truth = everything(reference, case)
        single = cast(case, torch.float32)
        ours2.append(
            [(a - t).square().mean() for a, t in zip(everything(ops, single, compute), truth, strict=True)]
        )
        theirs2.append(
            [(a - t).square().mean() for a, t in zip(everything(reference, single), truth, strict=True)]
        )
        truth2.append([t.square().mean() for t in truth])
        largest.append([t.abs().max() for t in truth])
    eps = torch.finfo(torch.float32).eps
    for ours, theirs, size, top in zip(
        torch.tensor(ours2).mean(0).sqrt(),
        torch.tensor(theirs2).mean(0).sqrt(),
        torch.tensor(truth2).mean(0).sqrt(),
        torch.tensor(largest).amax(0),
        strict=True,
    ):
        assert ours <= 2 * theirs + 4 * eps * top + (1e-5 * size if compute == "fast" else 0)


def test_derivative_at_zero_is_the_slope() -> None:
    """A pre-activation of exactly 0, and of -0, in every pixel."""
    for bias in (0.0, -0.0):
        x = torch.zeros(1, 1, 4, 5)
        weights = [torch.full((8, 1, 3, 3), -0.5), torch.ones(1, 9, 3, 3)]
        biases = [torch.full((8,), bias), torch.zeros(1)]
        grad_y = torch.ones(1, 1, 4, 5)
        ours = ops.dense_block_backward(grad_y, x, weights, biases, 0.25, "strict")
        theirs = reference.dense_block_backward(grad_y, x, weights, biases, 0.25, "strict")
        torch.testing.assert_close(ours[3][0], theirs[3][0])
        assert ours[3][0][0] == pytest.approx(0.25 * (9 * 6 + 6 * 10 + 4 * 4), rel=1e-6)


@pytest.mark.parametrize("compute", ["strict", "fast", "bf16"])
def test_bits_do_not_depend_on_threads(threads: Callable[[int], None], compute: str) -> None:
    for shape in ((1, 1, 1, 32, 5, 29, 31), (3, 2, 1, 8, 5, 7, 50), (2, 3, 7, 16, 4, 40, 9)):
        case = cast(make(*shape), torch.float32)
        threads(1)
        y, _, grad_x, *_ = everything(ops, case, compute)
        for count in (1, 2, 3, 7):
            threads(count)
            first, second = everything(ops, case, compute), everything(ops, case, compute)
            assert torch.equal(first[0], y), "forward"
            assert torch.equal(first[1], y), "output of the backward"
            assert torch.equal(first[2], grad_x), "grad_x"
            for a, b in zip(first, second, strict=True):
                assert torch.equal(a, b), "not the same twice"
            if compute == "strict":
                for a, b in zip(first[3:], everything(reference, case)[3:], strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("compute", "bound"), [("bf16", 1e-3), ("fp16", 2e-4)])
def test_rounded_operands(compute: str, bound: float) -> None:
    """As near to the twin that rounds as accumulation order allows, and far from the exact result."""
    case = cast(make(1, 2, 2, 32, 5, 16, 16), torch.float32)
    x, weights, biases, _ = case
    ours = ops.dense_block(x, weights, biases, 0.2, compute)
    theirs = reference.dense_block(x, weights, biases, 0.2, compute)
    exact = reference.dense_block(x, weights, biases, 0.2)
    assert (ours - theirs).norm() < bound * theirs.norm()
    assert (ours - exact).norm() > 2 * (ours - theirs).norm()
    for a, b, e in zip(
        everything(ops, case, compute)[2:],
        everything(reference, case, compute)[2:],
        everything(reference, case)[2:],
        strict=True,
    ):
        assert (a - b).norm() <= max(0.5 * (e - b).norm(), 1e-2 * b.norm())


def test_rounding_at_the_edges_of_float16() -> None:
    """A depth-1 block with a centre tap of 1 shows the rounded input itself."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    values = [
        0.0,
        -0.0,
        1.0,
        1.0009765,
        65504.0,
        65519.0,
        65520.0,
        -1e6,
        6e-8,
        2.9e-8,
        3.1e-8,
        -6.1e-5,
        1e-30,
    ]
    x = torch.tensor(values).reshape(1, 1, 1, -1)
    for compute, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        y = ops.dense_block(x, [weight], [torch.zeros(1)], 0.2, compute)
        expected = x.to(dtype).float()
        finite = torch.isfinite(expected) & torch.isfinite(y)  # 0 * infinity of a neighbour
        assert finite[..., :5].all()
        assert torch.equal(y[finite], expected[finite])


def test_channel_slice_expanded_gradient_and_strided_weights() -> None:
    x, weights, biases, grad_y = make(3, 2, 1, 8, 3, 6, 5)
    wide = torch.randn(3, 6, 6, 5, dtype=torch.float64)
    wide[:, 3:5] = x
    turned = [w.transpose(2, 3).contiguous().transpose(2, 3) for w in weights]
    grad = torch.ones(1, 1, 1, 1, dtype=torch.float64).expand_as(grad_y)
    ours = everything(ops, (wide[:, 3:5], turned, biases, grad))
    for a, b in zip(ours, everything(reference, (x, weights, biases, grad)), strict=True):
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 2, 1, 8, 3, 4, 4), (2, 2, 1, 8, 3, 0, 4), (2, 2, 1, 8, 3, 4, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    x, weights, biases, grad_y = make(*shape)
    y, z, grad_x, *grads = everything(ops, (x, weights, biases, grad_y))
    assert y.shape == z.shape == grad_y.shape
    assert grad_x.shape == x.shape
    for grad, parameter in zip(grads, [*weights, *biases], strict=True):
        assert torch.equal(grad, torch.zeros_like(parameter))


def test_opcheck_and_gradcheck() -> None:
    x, weights, biases, grad_y = make(2, 2, 1, 3, 3, 5, 4)
    torch.library.opcheck(
        torch.ops.ivan_fast.dense_block_backward.default, (grad_y, x, weights, biases, 0.2, "strict")
    )
    leaves = [t.requires_grad_() for t in (x, *weights, *biases)]
    torch.library.opcheck(torch.ops.ivan_fast.dense_block.default, (x, weights, biases, 0.2, "strict"))
    assert torch.autograd.gradcheck(lambda x, *p: ops.dense_block(x, p[:3], p[3:]), leaves)


def test_double_backward_raises() -> None:
    x, weights, biases, _ = make(1, 1, 1, 4, 2, 4, 4)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(ops.dense_block(x, weights, biases).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="dense_block_backward cannot be differentiated"):
        torch.autograd.grad(grad.sum(), x)


def test_forward_mode_raises() -> None:
    x, weights, biases, _ = make(1, 1, 1, 4, 2, 4, 4)
    for call in (
        lambda t: ops.dense_block(t, weights, biases),
        lambda t: ops.dense_block(x, [weights[0], weights[1] * t.sum()], biases),
        lambda t: ops.dense_block_backward(t, x, weights, biases)[1],
    ):
        with pytest.raises(RuntimeError, match="has no forward-mode derivative"):
            torch.func.jvp(call, (x,), (torch.ones_like(x),))


def test_only_some_inputs_need_gradients() -> None:
    x, weights, biases, _ = make(1, 2, 1, 4, 3, 5, 5)
    weights[1].requires_grad_()
    (ours,) = torch.autograd.grad(ops.dense_block(x, weights, biases).sum(), weights[1])
    (theirs,) = torch.autograd.grad(reference.dense_block(x, weights, biases).sum(), weights[1])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_errors_name_the_argument() -> None:
    x, weights, biases, grad_y = make(1, 2, 1, 4, 3, 5, 5)
    for message, arguments in {
        r"compute is 'exact', expected": (x, weights, biases, 0.2, "exact"),
        r"x has shape \[2, 5, 5\]": (x[0], weights, biases, 0.2, "strict"),
        r"3 weights and 2 biases": (x, weights, biases[:2], 0.2, "strict"),
        r"weights\[1\] has shape \[4, 5, 3, 3\], expected \[4, 6, 3, 3\]": (
            x,
            [weights[0], weights[1][:, :5], weights[2]],
            biases,
            0.2,
            "strict",
        ),
        r"biases\[0\] is Float": (x, weights, [biases[0].float(), *biases[1:]], 0.2, "strict"),
        r"x must be float32 or float64": (x.half(), weights, biases, 0.2, "strict"),
        r"negative_slope is -0.1\d*, expected at least 0": (x, weights, biases, -0.1, "strict"),
        r"depth is 17, expected 1 to 16": (*make(1, 1, 1, 1, 17, 2, 2)[:3], 0.2, "strict"),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            torch.ops.ivan_fast.dense_block.default(*arguments)
        if not message.startswith(("negative_slope", "depth")):  # those two are known to the kernels alone
            x_, weights_, biases_, *rest = arguments
            meta = ([t.to("meta") for t in group] for group in (weights_, biases_))
            with pytest.raises(RuntimeError, match=r"^dense_block: "):
                torch.ops.ivan_fast.dense_block.default(x_.to("meta"), *meta, *rest)
    with pytest.raises(RuntimeError, match=r"grad_y has shape \[1, 1, 5, 4\], expected \[1, 1, 5, 5\]"):
        ops.dense_block_backward(grad_y[..., :4], x, weights, biases)


@pytest.mark.parametrize("compute", ["strict", "fast"])
def test_column_strips_keep_the_bits(compute: str) -> None:
    case = cast(make(2, 2, 1, 8, 5, 6, 150), torch.float32)
    before = ops.dense_block_workspace()
    whole = everything(ops, case, compute)
    try:
        ops.set_dense_block_workspace(1)
        strips = everything(ops, case, compute)
    finally:
        ops.set_dense_block_workspace(before)
    for i, (a, b) in enumerate(zip(whole, strips, strict=True)):
        assert torch.equal(a, b) if i < 3 else torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    assert not all(torch.equal(a, b) for a, b in zip(whole[3:], strips[3:], strict=True)), "never cut"
    with pytest.raises(ValueError, match="size is 0"):
        ops.set_dense_block_workspace(0)


def test_workspace_stays_below_its_bound() -> None:
    """Of all threads together; only for very wide levels one thread with the narrowest strips takes more."""
    bound, checked = ops.dense_block_workspace(), 0
    heights, widths = (1, 4, 8, 64, 256, 1000), (1, 33, 64, 256, 1024, 4096, 100_000)
    for batch, height, width in [(1, h, w) for h in heights for w in widths] + [(4, 4, 256), (64, 32, 32)]:
        for channels, growth, depth in ((1, 32, 5), (7, 32, 5), (1, 128, 5), (1, 32, 10)):
            sizes = [batch, channels, channels, growth, depth, height, width]
            for fast, coupled in ((True, True), (True, False), (False, True)):
                alone = _C.dense_block_planned_bytes(sizes, fast, True, coupled, 1)
                assert alone <= bound or (growth, depth) != (32, 5)
                for threads in (2, 3, 16, 64):
                    planned = _C.dense_block_planned_bytes(sizes, fast, True, coupled, threads)
                    assert 0 < planned <= max(bound, alone), (sizes, fast, coupled, threads)
                    checked += planned <= bound
    assert checked > 1500


def test_fast_is_another_arithmetic_than_strict() -> None:
    x, weights, biases, _ = cast(make(1, 1, 1, 32, 5, 16, 16), torch.float32)
    strict = ops.dense_block(x, weights, biases, 0.2, "strict")
    fast = ops.dense_block(x, weights, biases, 0.2, "fast")
    assert not torch.equal(strict, fast)
    assert (strict - fast).norm() < 1e-5 * strict.norm()


def test_exact_zeros_stay_exact_zeros() -> None:
    """Beside a foreground, in any column of a Winograd tile."""
    for edge in range(8, 14):
        x, weights, biases, _ = cast(make(1, 1, 1, 8, 5, 5, 40), torch.float32)
        x[..., edge:] = 0
        zeros = [torch.zeros_like(b) for b in biases]
        strict = ops.dense_block(x, weights, zeros, 0.2, "strict")
        fast = ops.dense_block(x, weights, zeros, 0.2, "fast")
        assert torch.equal(strict == 0, fast == 0)
        assert (fast[..., edge + 5 :] == 0).all()
        assert (fast[..., : edge + 5] != 0).all()


def test_build_info_says_what_cuda_tensors_run() -> None:
    """Compiled kernels where there was nvcc, and never the Python twins."""
    registered = torch._C._dispatch_dump_table("ivan_fast::dense_block")
    cuda = next((line for line in registered.splitlines() if line.startswith("CUDA:")), "")
    info = ivan_fast.build_info()
    assert "torch/library.py" not in cuda
    assert (info["dense_block_cuda"] in ("layerwise", "fused")) == info["with_cuda"]
