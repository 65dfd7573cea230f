"""G and H of a coupling in one call: the ops against their twins, and the modules that use them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.utils._python_dispatch
from reversible_nets import DIRECTIONS, dense_chain, distance, gradients, identical
from test_dense_block import make
from torch import Tensor

from ivan_fast import AffineCoupling, DenseBlock, ops, reference
from ivan_fast.modules import coupling as coupling_module

SHAPES = [(2, 1, 1, 32, 5, 9, 7), (1, 3, 2, 4, 3, 1, 11), (2, 2, 9, 17, 2, 6, 5), (1, 2, 3, 4, 1, 5, 6)]
WALKS = ("dense_block_pair_coupling_backward", "dense_block_pair_coupling_inverse_backward")


def parameters(shape: tuple[int, ...]) -> tuple[Tensor, list[list[Tensor]], Tensor, Tensor]:
    """``x``, the four lists of parameters, and gradients of both outputs; float64."""
    x, *g, grad_g = make(*shape)
    _, *h, grad_h = make(*shape, seed=1)
    return x, [*g, *h], grad_g, grad_h


def flat(results: tuple[Tensor | list[Tensor], ...]) -> list[Tensor]:
    return [t for part in results for t in (part if isinstance(part, list) else [part])]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ops_equal_their_twins(shape: tuple[int, ...]) -> None:
    x, lists, grad_g, grad_h = parameters(shape)
    state = torch.randn(grad_g.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    calls: dict[str, tuple[object, ...]] = {
        "dense_block_pair": (x, *lists),
        "dense_block_pair_backward": (grad_g, grad_h, x, *lists),
        **dict.fromkeys(WALKS, (state, grad_h, x, *lists, 0.8)),
    }
    for name, arguments in calls.items():
        ours, theirs = (flat(getattr(m, name)(*arguments)) for m in (ops, reference))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_twin_walks_back_through_a_coupling() -> None:
    """`reference` itself, against autograd through the coupling."""
    x, lists, grad, _ = parameters((1, 1, 2, 4, 3, 5, 6))
    leaves = [x.requires_grad_(), *(t.requires_grad_() for one in lists for t in one)]
    x2 = torch.randn(grad.shape, dtype=torch.float64, requires_grad=True)
    g, h = reference.dense_block_pair(x, *lists)
    y2 = reference.affine_coupling_forward(x2, h, g, 0.8)
    expected = torch.autograd.grad(y2, [x2, *leaves], grad)
    with torch.no_grad():
        found = flat(reference.dense_block_pair_coupling_backward(y2, grad, x, *lists, 0.8))
    for a, b in zip(found, (x2, *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

    y2 = torch.randn(grad.shape, dtype=torch.float64, requires_grad=True)
    x2 = reference.affine_coupling_inverse(y2, *reversed(reference.dense_block_pair(x, *lists)), 0.8)
    expected = torch.autograd.grad(x2, [y2, *leaves], grad)
    with torch.no_grad():
        found = flat(reference.dense_block_pair_coupling_inverse_backward(x2, grad, x, *lists, 0.8))
    for a, b in zip(found, (y2, *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_autograd_formula() -> None:
    x, lists, _, _ = parameters((1, 1, 1, 3, 2, 3, 4))

    def run(x: Tensor, *flat_lists: Tensor) -> tuple[Tensor, Tensor]:
        return ops.dense_block_pair(x, *(flat_lists[i : i + 2] for i in range(0, 8, 2)))

    leaves = [t.requires_grad_() for t in (x, *(t for one in lists for t in one))]
    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("fake", [False, True])
def test_what_does_not_fit_together_is_refused(fake: bool) -> None:
    x, lists, grad_g, grad_h = parameters((1, 1, 1, 4, 3, 5, 6))
    _, *other, _ = make(1, 1, 1, 8, 3, 5, 6)
    mode = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext()
    different = "G has depth 3, growth 4 and 1 outputs, H has depth 3, growth 8"
    with mode, pytest.raises(RuntimeError, match=different):
        ops.dense_block_pair(x, *lists[:2], *other)
    with mode, pytest.raises(RuntimeError, match=different):
        ops.dense_block_pair_coupling_backward(grad_g, grad_h, x, *lists[:2], *other, 0.8)
    with mode, pytest.raises(RuntimeError, match=r"grad_[hy] has shape"):
        ops.dense_block_pair_backward(grad_g, grad_h[..., 1:], x, *lists)


def test_tangents_of_any_parameter_are_refused() -> None:
    x, lists, grad_g, grad_h = parameters((1, 1, 1, 4, 2, 5, 6))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(lists[1][0], torch.ones_like(lists[1][0]))
        lists[1] = [dual, *lists[1][1:]]
        for name, arguments in {
            "dense_block_pair": (x, *lists),
            "dense_block_pair_backward": (grad_g, grad_h, x, *lists),
            **dict.fromkeys(WALKS, (grad_g, grad_h, x, *lists, 0.8)),
        }.items():
            with pytest.raises(RuntimeError, match=f"{name} has no forward-mode derivative"):
                getattr(ops, name)(*arguments)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches the pair on and off on the CPU too, where its ops are compositions of the single ones."""
    return lambda on: monkeypatch.setattr(coupling_module, "PAIR_DEVICES", {"cuda", "cpu"} if on else set())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("memory", ["store", "boundary", "invert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chain_with_pairs_is_the_chain_without(
    pairs: Callable[[bool], None], direction: str, memory: str, dtype: torch.dtype
) -> None:
    chain = dense_chain(3, blocks=2, split=2, growth=4).to(dtype)
    x = torch.randn(2, 3, 9, 8, dtype=dtype, requires_grad=True)
    pairs(False)
    expected = gradients(chain, x, memory, direction)
    pairs(True)
    calls: list[str] = []
    found = _counted(calls, lambda: gradients(chain, x, memory, direction))
    assert distance(found, expected) < (1e-12 if dtype == torch.float64 else 1e-5)
    assert chain.guard_trips == 0
    used = {name for name in calls if "pair" in name}
    walk = {"forward": WALKS[0], "inverse": WALKS[1]}[direction]
    assert used == {"dense_block_pair", walk if memory == "invert" else "dense_block_pair_backward"}


def _counted(calls: list[str], run: Callable[[], list[Tensor]]) -> list[Tensor]:
    class Counter(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            calls.append(func._schema.name.split("::")[1])
            return func(*args, **(kwargs or {}))

    with Counter():
        return run()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_policies_agree_with_pairs(pairs: Callable[[bool], None], direction: str) -> None:
    pairs(True)
    chain = dense_chain(2, blocks=3, growth=4).double()
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    stored = gradients(chain, x, "store", direction)
    assert identical(gradients(chain, x, "boundary", direction), stored)
    assert distance(gradients(chain, x, "invert", direction), stored) < 1e-12


def test_pairs_heed_autocast(pairs: Callable[[bool], None]) -> None:
    chain = dense_chain(2, blocks=2, growth=8)
    x = torch.randn(1, 2, 11, 9, requires_grad=True)
    pairs(False)
    strict = chain(x)
    with torch.autocast("cpu", torch.bfloat16):
        expected = [chain(x), *gradients(chain, x, "invert")]
        pairs(True)
        found = [chain(x), *gradients(chain, x, "invert")]
    assert not torch.equal(found[0], strict)
    assert torch.equal(found[0], expected[0])
    assert distance(found, expected) < 1e-3


def test_only_alike_and_plain_blocks_are_paired(pairs: Callable[[bool], None]) -> None:
    pairs(True)
    x = torch.randn(1, 1, 5, 6)

    def paired(G: torch.nn.Module, H: torch.nn.Module) -> bool:
        return AffineCoupling(DenseBlock(1, 1), G, H).pair(x) is not None

    assert paired(DenseBlock(1, 1), DenseBlock(1, 1))
    assert not paired(DenseBlock(1, 1), DenseBlock(1, 1, growth=8))
    assert not paired(DenseBlock(1, 1), DenseBlock(1, 1, compute="strict"))
    assert not paired(DenseBlock(1, 1), DenseBlock(1, 1).double())
    assert not paired(DenseBlock(1, 1), torch.nn.Conv2d(1, 1, 1))
    hooked = DenseBlock(1, 1)
    hooked.register_forward_hook(lambda *_: None)
    assert not paired(hooked, DenseBlock(1, 1))
    patched = DenseBlock(1, 1)
    patched.forward = lambda x: 2 * x  # type: ignore[method-assign]
    assert not paired(DenseBlock(1, 1), patched)
    shared = DenseBlock(1, 1)
    assert not paired(shared, shared)
    pairs(False)
    assert not paired(DenseBlock(1, 1), DenseBlock(1, 1))


def test_wrong_channels_are_told_alike(pairs: Callable[[bool], None]) -> None:
    coupling = AffineCoupling(DenseBlock(1, 1), DenseBlock(2, 1), DenseBlock(2, 1))
    for on in (False, True):
        pairs(on)
        with pytest.raises(ValueError, match=r"input has shape \(1, 1, 5, 6\), expected \[N, 2, H, W\]"):
            coupling(torch.randn(1, 2, 5, 6))
