"""What users of reversible chains do with them: frozen parts, AMP, hooks, DDP, checkpoints ..."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from reversible_nets import (
    DIRECTIONS,
    MEMORY,
    Scaling,
    dense_chain,
    distance,
    foreign_subnet,
    gradients,
    identical,
    parameter_gradients,
    train_in_parallel,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ivan_fast import AffineCoupling, ReversibleSequential
from ivan_fast.reversible.guard import Fingerprints

BOTH = ["invert", "boundary"]


@pytest.mark.parametrize("memory", BOTH)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_input_without_gradient_and_frozen_parts(memory: str, direction: str) -> None:
    for frozen in ([0], [2], [0, 1], [0, 2], [0, 1, 2]):
        chain = dense_chain()
        for i in frozen:
            chain[i].requires_grad_(False)
        chain[1].coupling.G.weights[2].requires_grad_(False)
        for wants in (False, True):
            if len(frozen) == 3 and not wants:
                continue
            x = torch.rand(2, 2, 5, 6, requires_grad=wants)
            assert (
                distance(gradients(chain, x, memory, direction), gradients(chain, x, "store", direction))
                < 1e-6
            )


@pytest.mark.parametrize("memory", BOTH)
def test_accumulation_retain_graph_and_reuse_in_one_loss(memory: str) -> None:
    results = []
    for policy in (memory, "store"):
        torch.manual_seed(0)
        chain = dense_chain(memory=policy)
        x, y = torch.rand(2, 1, 2, 5, 5)
        loss = (chain(x) - y).square().mean() + (chain.inverse(y) - x).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
        results.append(parameter_gradients(chain))
    assert distance(*results) < 1e-6


@pytest.mark.parametrize("memory", BOTH)
def test_views_strides_and_the_callers_tensors(memory: str) -> None:
    chain = dense_chain(memory=memory)
    base = torch.rand(5, 6, 2, 3)
    before = base.clone()
    for x in (base.permute(3, 2, 0, 1), base[1:, ::2].permute(3, 2, 0, 1), base[:1, :1].permute(3, 2, 0, 1)):
        y = chain(x)
        y.square().sum().backward()
        wanted = gradients(chain, x.contiguous(), "store")
        assert distance(gradients(chain, x, memory), wanted) < 1e-6
    chain.eval()
    with torch.no_grad():
        y = chain(base.permute(3, 2, 0, 1))
        chain.inverse(y)
        assert not y.requires_grad
        assert y.grad_fn is None
    assert torch.equal(base, before)
    expanded = torch.rand(1, 2, 4, 4).expand(3, 2, 4, 4)
    assert distance(gradients(chain, expanded, memory), gradients(chain, expanded, "store")) < 1e-6


@pytest.mark.parametrize("memory", BOTH)
def test_autocast_is_restored_in_backward(memory: str) -> None:
    dense = dense_chain(blocks=2)
    foreign = ReversibleSequential(AffineCoupling(*[foreign_subnet(1, 1) for _ in range(3)]))
    for chain in (dense, foreign):
        x = torch.rand(1, 2, 6, 6, requires_grad=True)
        results = []
        for policy in (memory, "store"):
            chain.memory = policy
            with torch.autocast("cpu", torch.bfloat16):
                y = chain(x)
            assert y.dtype == torch.float32
            results.append(
                torch.autograd.grad(y.square().sum(), [x, *chain.parameters()])
            )  # outside autocast
        assert distance(*results) < 1e-6
        exact = gradients(chain, x, "store")
        assert chain.guard_trips == 0
        with torch.autocast("cpu", torch.bfloat16):
            rounded = gradients(chain, x, memory)
        assert distance(rounded, exact) > 1e-4  # it was reduced precision indeed
        with torch.autocast("cpu", torch.bfloat16):
            assert chain(x.bfloat16()).dtype == torch.float32


def test_float32_states() -> None:
    chain = dense_chain(blocks=2, state_dtype=torch.float32)
    x = torch.rand(1, 2, 6, 6, requires_grad=True)
    for direction in DIRECTIONS:
        stored = gradients(chain, x, "store", direction)
        assert identical(gradients(chain, x, "boundary", direction), stored)
        assert distance(gradients(chain, x, "invert", direction), stored) < 1e-4


@pytest.mark.parametrize("memory", MEMORY)
def test_double_backward(memory: str) -> None:
    x = torch.rand(1, 2, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(dense_chain(memory=memory)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"backend=.reference"):
        first.square().sum().backward()
    chain = dense_chain(blocks=2, growth=2, memory=memory, backend="reference").double()
    x = torch.rand(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda x, *_: chain(x), (x, chain[0].mix.log_s, chain[1].coupling.H.biases[4])
    )


@pytest.mark.parametrize("memory", BOTH)
def test_hooks_fire_once_and_are_honoured(memory: str) -> None:
    chain = dense_chain(memory=memory)
    x = torch.rand(1, 2, 5, 5)
    plain = gradients(chain, x, "store")
    calls = []
    weight = next(chain.parameters())
    weight.register_hook(lambda grad: calls.append("tensor") or 2 * grad)
    weight.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    chain(x).mul(0).sum().backward()
    assert calls == ["tensor", "accumulated"]
    assert distance(gradients(chain, x, memory)[:1], [2 * plain[0]]) < 1e-6

    halved = []
    chain[1].coupling.F.register_forward_hook(lambda *args: args[-1] / 2)
    chain[1].coupling.F.register_full_backward_hook(lambda *args: halved.append(1))
    assert distance(gradients(chain, x, memory), gradients(chain, x, "store")) < 1e-6
    assert chain.guard_trips == 0
    assert halved


@pytest.mark.parametrize("memory", MEMORY)
def test_copy_and_pickle(memory: str) -> None:
    chain = dense_chain(memory=memory)
    x = torch.rand(1, 2, 5, 5)
    chain(x).sum().backward()
    wanted = gradients(chain, x, memory)
    for twin in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        assert twin.memory == memory
        assert identical(gradients(twin, x, memory), wanted)
        assert next(twin.parameters()) is not next(chain.parameters())


@pytest.mark.parametrize("memory", BOTH)
def test_checkpoint_save_on_cpu_and_sequential(memory: str) -> None:
    chain = dense_chain(blocks=2, memory=memory)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), chain, nn.Conv2d(2, 1, 1))
    x = torch.rand(1, 1, 5, 5, requires_grad=True)
    wanted = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    for reentrant in (False, True):
        net.zero_grad()
        found = checkpoint(net, x, use_reentrant=reentrant)
        found.square().sum().backward()
        assert distance(parameter_gradients(net), list(wanted[1:])) < 1e-6
    with torch.autograd.graph.save_on_cpu():
        loss = net(x).square().sum()
    assert distance(list(torch.autograd.grad(loss, [x, *net.parameters()])), list(wanted)) < 1e-6


@pytest.mark.parametrize("memory", BOTH)
def test_functional_call_and_shared_parameters(memory: str) -> None:
    chain = dense_chain(blocks=2, memory=memory)
    other = {n: (p.detach() * 1.1).requires_grad_() for n, p in chain.named_parameters()}
    x = torch.rand(1, 2, 5, 5)
    found = torch.autograd.grad(functional_call(chain, other, (x,)).square().sum(), list(other.values()))
    chain.memory = "store"
    wanted = torch.autograd.grad(functional_call(chain, other, (x,)).square().sum(), list(other.values()))
    assert distance(list(found), list(wanted)) < 1e-6
    block = dense_chain(blocks=1)[0]
    twice = ReversibleSequential(block, Scaling(), block, memory=memory)
    assert distance(gradients(twice, x, memory), gradients(twice, x, "store")) < 1e-3


@pytest.mark.parametrize("memory", BOTH)
def test_parameters_changed_before_backward(memory: str) -> None:
    chain = dense_chain(memory=memory)
    y = chain(torch.rand(1, 2, 4, 4))
    with torch.no_grad():
        chain[1].mix.log_s.add_(1)
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mix\.log_s was modified"):
        y.sum().backward()


def test_refusals() -> None:
    with pytest.raises(TypeError, match="block 1 is Conv2d, expected a module with an inverse"):
        ReversibleSequential(Scaling(), nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="memory is 'all'"):
        ReversibleSequential(memory="all")
    with pytest.raises(ValueError, match="tol is 0"):
        ReversibleSequential(tol=0)
    with pytest.raises(ValueError, match="backend is 'slow'"):
        ReversibleSequential(backend="slow")
    with pytest.raises(ValueError, match="state_dtype"):
        ReversibleSequential(state_dtype=torch.float16)


def test_distributed_data_parallel(tmp_path: Path) -> None:
    mp.spawn(train_in_parallel, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    chain = dense_chain(blocks=2, memory="store")
    x = torch.rand(2, 2, 5, 5)
    (2 * chain(x).square().mean()).backward()
    wanted = parameter_gradients(chain)
    for memory in BOTH:
        for rank in range(2):
            assert distance(torch.load(tmp_path / f"{memory}-{rank}.pt"), wanted) < 1e-6


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_parametrized_subnets_get_their_gradients(direction: str) -> None:
    """Their op's weights are no parameters: what is trained lies behind the parametrization."""
    chain = dense_chain(blocks=2)
    nn.utils.parametrize.register_parametrization(chain[0].coupling.F.weights, "0", Halved())
    x = torch.rand(1, 2, 6, 6)
    stored = gradients(chain, x, "store", direction)
    assert distance(gradients(chain, x, "invert", direction), stored) < 1e-6
    assert chain.guard_trips == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("wide", ["F", "G", "H", "all"])
def test_subnets_of_other_dtypes(direction: str, wide: str) -> None:
    chain = dense_chain(blocks=2, state_dtype=torch.float32 if wide == "all" else torch.float64)
    for block in chain:
        for net in "FGH" if wide == "all" else wide:
            getattr(block.coupling, net).double()
    x = torch.rand(1, 2, 6, 6)
    stored = gradients(chain, x, "store", direction)
    assert distance(gradients(chain, x, "invert", direction), stored) < 1e-5
    assert chain.guard_trips == 0


def test_a_foreign_block_keeps_its_tensors() -> None:
    class Flip(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(1)

        def inverse(self, y: Tensor) -> Tensor:
            self.kept = y.flip(1)
            self.copy = self.kept.clone()
            return self.kept

    blocks = list(dense_chain(blocks=2))
    chain = ReversibleSequential(blocks[0], Flip(), blocks[1])
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64)
    chain(x).square().mean().backward()
    assert torch.equal(chain[1].kept, chain[1].copy)


class Mixing(nn.Module):
    """Somebody else's 1x1 convolution, which autocast computes in lower precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ij,njhw->nihw", self.weight, x)

    def inverse(self, y: Tensor) -> Tensor:
        return torch.einsum("ij,njhw->nihw", torch.linalg.inv(self.weight), y)


@pytest.mark.filterwarnings("ignore::ivan_fast.InversionDriftWarning")
def test_a_foreign_block_may_change_the_dtype_of_the_state() -> None:
    """The guard's record has the first state's dtype. bf16 cannot be inverted well; the guard says so."""
    chain = ReversibleSequential(Mixing(), Mixing())
    x = torch.rand(2, 2, 5, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        inverted, kept = (gradients(chain, x, memory) for memory in ("invert", "boundary"))
    assert chain(x).dtype == torch.float32
    assert distance(inverted, kept) < 2e-2


class Padding(nn.Module):
    """Somebody else's block that changes the size of the state."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (3, 3, 3, 3))

    def inverse(self, y: Tensor) -> Tensor:
        return y[..., 3:-3, 3:-3]


def test_fingerprints_of_states_of_different_sizes() -> None:
    """Each norm is that of its own state."""
    marks = Fingerprints(1)
    x = torch.full((2, 2, 4, 4), 3.0)
    marks.add(x)
    marks.add(Padding()(x))
    _, norms = marks.stacked()
    assert norms[0].tolist() == pytest.approx([3.0, 3.0])
    assert norms[1].tolist() == pytest.approx([3 * 0.4, 3 * 0.4])
    assert torch.equal(norms, marks.stacked()[1])
    chain = ReversibleSequential(Padding(), Scaling())
    x = torch.rand(1, 2, 5, 6, requires_grad=True)
    assert distance(gradients(chain, x, "invert"), gradients(chain, x, "store")) < 1e-6


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("cudnn.allow_tf32 = cuda.matmul.allow_tf32 = False", False),
        ("cudnn.allow_tf32 = False; cuda.matmul.allow_tf32 = True", True),
        ("cudnn.conv.fp32_precision = cuda.matmul.fp32_precision = 'ieee'", False),
        ("cudnn.conv.fp32_precision = 'tf32'; cuda.matmul.fp32_precision = 'ieee'", True),
        ("cudnn.conv.fp32_precision = 'ieee'; cuda.matmul.fp32_precision = 'tf32'", True),
    ],
)
def test_tf32_is_seen_whichever_way_it_was_set(setting: str, allowed: bool) -> None:
    """By torch's old names or by its new ones, after which reading the old ones is an error."""
    code = (
        "from torch.backends import cuda, cudnn\n"
        f"{setting}\n"
        "from ivan_fast.reversible.sequential import tf32_allowed\n"
        "print(tf32_allowed())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(allowed), done.stderr
