"""Everything that is timed computes what `ivan.IVAN` does: outputs and gradients, in float64."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from ivan import IVAN
from ivan.benchmark.case import JOBS, Case
from ivan.benchmark.implementations import IMPLEMENTATIONS, build, implementation
from ivan.benchmark.jobs import job
from ivan.benchmark.twin import EagerIVAN
from ivan.errors import InputError

CASES = (
    Case(6, 5, channels=2, blocks=2, growth=4, dtype="float64"),
    Case(1, 7, channels=5, blocks=3, growth=3, split=2, batch=2, dtype="float64"),
)
NAMES = [name for name in IMPLEMENTATIONS if name != "strict"]


def skip_if_missing(name: str) -> None:
    if reason := IMPLEMENTATIONS[name].missing("cpu"):
        pytest.skip(f"{name}: {reason}")


def evaluate(model: Any, x: Tensor, pull: Tensor) -> list[Tensor]:
    """Outputs and input gradients of both directions; parameter gradients stay in the model."""
    found = []
    for direction in (model, model.inverse):
        leaf = x.clone().requires_grad_()
        y = direction(leaf * 1)  # MemCNN doubles the gradient of a leaf that it is given itself
        y.backward(pull)
        found += [y.detach(), leaf.grad]
        with torch.inference_mode():
            given = x.clone()
            found.append(direction(given).clone())
            assert torch.equal(given, x), "the caller's tensor was changed"
    return found


def parameter_gradients(model: Any) -> list[Tensor]:
    """Of every block's 1x1 convolution (as a matrix for the twins) and dense blocks, in one order."""
    found = []
    for block in model.chain if isinstance(model, IVAN) else model.blocks:
        if isinstance(model, IVAN):
            dense = (block.coupling.F, block.coupling.G, block.coupling.H)
            found += [block.mix.lower.grad, block.mix.upper.grad, block.mix.log_s.grad]
            found += [p.grad for d in dense for pair in zip(d.weights, d.biases, strict=True) for p in pair]
        else:
            found.append(block.mix.grad)
            found += [
                p.grad for d in (block.f, block.g, block.h) for c in d.convs for p in (c.weight, c.bias)
            ]
    return found


def through_lu(like: IVAN, grads: list[Tensor]) -> list[Tensor]:
    """A twin's gradients with those of the matrices turned into those of `like`'s LU factors."""
    per_block, found = len(grads) // len(like.chain), []
    for index, block in enumerate(like.chain):
        mine = grads[index * per_block : (index + 1) * per_block]
        mix: Any = block.mix
        found += torch.autograd.grad(mix.weight(), (mix.lower, mix.upper, mix.log_s), mine[0])
        found += mine[1:]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label())
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_ivan(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "compile":  # without the code generator, which takes a minute
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    skip_if_missing(name)
    like = build("strict", case)
    assert isinstance(like, IVAN)
    model = build(name, case, like)
    x, pull = torch.randn(2, case.batch, case.channels, case.height, case.width, dtype=torch.float64)
    for ours, theirs in zip(evaluate(like, x, pull), evaluate(model, x, pull), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-12)
    expected, found = parameter_gradients(like), parameter_gradients(model)
    if not isinstance(model, IVAN):
        found = through_lu(like, found)
    assert len(found) == len(expected) == (3 + 30) * case.blocks
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_has_its_own_parameters_once(name: str) -> None:
    skip_if_missing(name)
    case = Case(4, 4, blocks=2, growth=4)
    model, twin = build(name, case), EagerIVAN(blocks=2, growth=4)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(
        p.numel() for p in (IVAN(blocks=2, growth=4) if IMPLEMENTATIONS[name].ours else twin).parameters()
    )


@pytest.mark.parametrize("name", ["eager", "memcnn", "freia", "fast"])
def test_a_step_trains(name: str) -> None:
    skip_if_missing(name)
    case = Case(5, 4, blocks=2, growth=4)
    model = build(name, case)
    before = [p.detach().clone() for p in model.parameters()]
    step = job("step", model, case)
    step()
    step()
    changed = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert (
        sum(changed) >= len(changed) - 2 * case.blocks
    )  # of a 2x2 matrix's triangles only one entry is used


def test_deep_twin_starts_as_the_package_does() -> None:
    torch.manual_seed(0)
    twin, model = EagerIVAN(blocks=16, growth=8), IVAN(blocks=16, growth=8)
    theirs: Any = twin.blocks[3]
    ours: Any = model.chain[3]
    spread = theirs.f.convs[-1].weight.std() / ours.coupling.F.weights[-1].std()
    assert 0.7 < spread.item() < 1.4


def test_jobs_shared_with_another_implementation_are_named() -> None:
    for entry in IMPLEMENTATIONS.values():
        if entry.jobs != JOBS:
            assert set(JOBS) - set(entry.jobs) <= set(IMPLEMENTATIONS[entry.as_in].jobs)


def test_unknown_implementation() -> None:
    with pytest.raises(InputError, match=r"tensorflow.*eager"):
        implementation("tensorflow", "--against")
