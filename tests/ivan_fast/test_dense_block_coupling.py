"""The dense block's backward with the coupling in its stream, against its plain PyTorch twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_dense_block import Case, cast, make
from torch import Tensor

from ivan_fast import ops, reference

SHAPES = [
    (1, 1, 1, 32, 5, 12, 12),
    (1, 1, 1, 32, 5, 1, 1),
    (1, 2, 1, 32, 5, 1, 37),
    (1, 1, 2, 32, 5, 23, 1),
    (3, 3, 2, 4, 5, 9, 7),
    (2, 5, 7, 40, 5, 13, 21),
    (1, 16, 16, 8, 5, 6, 11),
    (2, 5, 1, 3, 3, 17, 33),
    (1, 2, 3, 4, 1, 5, 6),
    (1, 1, 1, 8, 2, 5, 6),
]
CLAMP = 0.8


def flat(walked: tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]) -> list[Tensor]:
    state, grad, grad_x, grad_weights, grad_biases = walked
    return [state, grad, grad_x, *grad_weights, *grad_biases]


def everything(
    module: object, case: Case, compute: str = "strict", state: torch.dtype | None = None
) -> list[Tensor]:
    """Results of both ops."""
    x, weights, biases, grad = case
    g = torch.Generator().manual_seed(5)
    y2, shift = (
        torch.randn(grad.shape, dtype=torch.float64, generator=g).to(state or x.dtype) for _ in range(2)
    )
    grad = grad.to(state or x.dtype)
    forward = module.dense_block_coupling_backward(  # type: ignore[attr-defined]
        y2, shift, grad, x, weights, biases, CLAMP, 0.2, compute
    )
    inverse = module.dense_block_coupling_inverse_backward(  # type: ignore[attr-defined]
        y2, grad, x, weights, biases, CLAMP, 0.2, compute
    )
    return flat(forward) + flat(inverse)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_equals_the_twin(shape: tuple[int, ...]) -> None:
    case = make(*shape)
    for ours, theirs in zip(everything(ops, case), everything(reference, case), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("state", [torch.float32, torch.float64])
@pytest.mark.parametrize("compute", ["strict", "fast"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_error_is_about_that_of_pytorch(
    shape: tuple[int, ...], compute: str, state: torch.dtype
) -> None:
    """At most twice, plus 4 eps of the largest value; ``"fast"`` may be off by 1e-5. Mean of three seeds."""
    ours2, theirs2, size2, largest = [], [], [], []
    for seed in range(3):
        single = cast(make(*shape, seed=seed), torch.float32)
        if shape[5] > 4:
            single[0][..., : shape[5] // 2, :] = 0
        truth = everything(reference, cast(single, torch.float64))
        ours2.append(
            [
                (a - t).square().mean()
                for a, t in zip(everything(ops, single, compute, state), truth, strict=True)
            ]
        )
        theirs2.append(
            [
                (a - t).square().mean()
                for a, t in zip(everything(reference, single, "strict", state), truth, strict=True)
            ]
        )
        size2.append([t.square().mean() for t in truth])
        largest.append([t.abs().max() for t in truth])
    rows = [torch.tensor(v, dtype=torch.float64) for v in (ours2, theirs2, size2)]
    for ours, theirs, size, top in zip(
        *(r.mean(0).sqrt() for r in rows), torch.tensor(largest).amax(0), strict=True
    ):
        slack = 4 * torch.finfo(torch.float32).eps * top + (1e-5 * size if compute == "fast" else 0)
        assert ours <= 2 * theirs + slack


@pytest.mark.parametrize("compute", ["strict", "fast", "bf16"])
def test_bits_do_not_depend_on_threads_or_strips(compute: str) -> None:
    """Nor do those of the hidden rows: the state comes out as from the dense block's own output."""
    before, threads = ops.dense_block_workspace(), torch.get_num_threads()
    for shape in ((1, 1, 1, 32, 5, 45, 31), (3, 2, 1, 8, 5, 7, 150), (2, 3, 7, 16, 4, 40, 9)):
        x, weights, biases, grad = case = cast(make(*shape), torch.float32)
        torch.set_num_threads(1)
        whole = everything(ops, case, compute, torch.float64)
        try:
            for count, workspace in ((2, before), (3, before), (7, before), (2, 1)):
                torch.set_num_threads(count)
                ops.set_dense_block_workspace(workspace)
                cut = everything(ops, case, compute, torch.float64)
                parameters = len(weights) + len(biases)
                for i, (a, b) in enumerate(zip(whole, cut, strict=True)):
                    exact = i % (3 + parameters) < 3
                    assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-4, atol=1e-4), i
        finally:
            torch.set_num_threads(threads)
            ops.set_dense_block_workspace(before)
        h = ops.dense_block(x, weights, biases, 0.2, compute).double()
        state = torch.randn(grad.shape, dtype=torch.float64)
        scaled = ops.dense_block_coupling_inverse_backward(
            state, grad.double(), x, weights, biases, CLAMP, 0.2, compute
        )[0]
        assert torch.equal(scaled, ops.affine_coupling_forward(state, h, torch.zeros_like(state), CLAMP))


def test_channel_slices_and_empty() -> None:
    x, weights, biases, _ = make(2, 2, 2, 8, 3, 6, 5)
    wide = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    arguments = (wide[:, 1:3], wide[:, 2:], wide[:, :2], x, weights, biases, CLAMP)
    for a, b in zip(
        flat(ops.dense_block_coupling_backward(*arguments)),
        flat(reference.dense_block_coupling_backward(*arguments)),
        strict=True,
    ):
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    for ours in everything(ops, make(0, 2, 1, 8, 3, 4, 4)):
        assert ours.numel() == 0 or torch.equal(ours, torch.zeros_like(ours))


def test_opcheck_and_no_double_backward() -> None:
    x, weights, biases, grad = make(2, 2, 1, 3, 3, 5, 4)
    forward = (grad, grad, grad, x, weights, biases, CLAMP, 0.2, "strict")
    inverse = (grad, grad, x, weights, biases, CLAMP, 0.2, "strict")
    torch.library.opcheck(torch.ops.ivan_fast.dense_block_coupling_backward.default, forward)
    torch.library.opcheck(torch.ops.ivan_fast.dense_block_coupling_inverse_backward.default, inverse)
    leaf = grad.clone().requires_grad_()
    state, *_ = ops.dense_block_coupling_backward(leaf, grad, grad, x, weights, biases, CLAMP)
    with pytest.raises(RuntimeError, match="dense_block_coupling_backward cannot be differentiated"):
        torch.autograd.grad(state.sum(), leaf)


def test_errors_name_the_argument() -> None:
    x, weights, biases, grad = make(1, 2, 1, 4, 3, 5, 5)
    rest = (x, weights, biases)
    for message, arguments in {
        r"clamp is -1, expected": (grad, grad, grad, *rest, -1.0),
        r"g has shape \[1, 1, 5, 4\], expected \[1, 1, 5, 5\]": (grad, grad[..., :4], grad, *rest, CLAMP),
        r"g is Float but y2 is Double": (grad, grad.float(), grad, *rest, CLAMP),
        r"y2 is Float but x is Double": (grad.float(), grad.float(), grad.float(), *rest, CLAMP),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            ops.dense_block_coupling_backward(*arguments)
