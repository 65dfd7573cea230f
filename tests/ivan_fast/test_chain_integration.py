"""A chain inside what people train with: torch.compile, autocast, DDP; on a GPU graphs, streams, memory."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from reversible_nets import DIRECTIONS, dense_chain, distance, flat, gradients, identical
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ivan_fast import DenseBlock, ReversibleSequential, ops
from ivan_fast.modules import coupling
from ivan_fast.reversible.guard import Guard


class Around(nn.Module):
    """A chain between two ordinary layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.chain = dense_chain(2, blocks=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu(self.chain(torch.tanh(self.before(x)))))


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and gradients of its mean square."""
    model.zero_grad(set_to_none=True)
    y = model(x)
    y.float().square().mean().backward()
    return [y.detach(), *(p.grad.detach().clone() for p in model.parameters() if p.grad is not None)]


def test_compile_around_a_chain(device: str) -> None:
    """The chain breaks the graph; what is around it is compiled, and nothing changes."""
    torch.manual_seed(0)
    model = Around().to(device)
    x = torch.randn(2, 2, 12, 10, device=device)
    expected = step(model, x)
    torch._dynamo.reset()
    found = step(torch.compile(model, backend="aot_eager"), x)
    assert len(found) == len(expected) > 40
    assert distance(found, expected) < 1e-6


class Graphs:
    """A backend that notes the calls of every graph it is given, and runs it as it is."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        functions = [node.target for node in graph.graph.nodes if node.op == "call_function"]
        self.calls.append([getattr(function, "__name__", str(function)) for function in functions])
        return graph.forward


def test_a_recorded_chain_breaks_the_graph_once(device: str) -> None:
    """Whatever its length, and with no warning: the chain is one opaque call between two graphs."""
    model, graphs = Around().to(device), Graphs()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r"The \.grad attribute")  # Dynamo's own look at tensors
        step(torch.compile(model, backend=graphs), torch.randn(1, 2, 9, 8, device=device))
    assert graphs.calls == [["conv2d", "tanh"], ["relu", "conv2d"]]


def test_without_gradient_the_chain_is_part_of_the_graph(device: str) -> None:
    model, graphs = Around().to(device), Graphs()
    x = torch.randn(1, 2, 9, 8, device=device)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend=graphs, fullgraph=True)(x), model(x))
    assert len(graphs.calls) == 1
    assert len(graphs.calls[0]) > 6


class Shift(nn.Module):
    """y = x + subnet of a constant: invertible whatever the subnet."""

    def __init__(self, subnet: nn.Module) -> None:
        super().__init__()
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return x + self.subnet(torch.ones_like(x))

    def inverse(self, y: Tensor) -> Tensor:
        return y - self.subnet(torch.ones_like(y))


def test_a_compiled_subnet_stays_compiled_inside(device: str) -> None:
    graphs = Graphs()
    subnet = nn.Conv2d(2, 2, 1).to(device)
    torch._dynamo.reset()
    chain = ReversibleSequential(Shift(torch.compile(subnet, backend=graphs)))
    step(torch.compile(chain, backend=graphs), torch.randn(1, 2, 5, 4, device=device))
    assert ["conv2d"] in graphs.calls
    assert subnet.weight.grad is not None


def test_bf16_autocast_is_the_bf16_compute(device: str) -> None:
    """Under autocast the dense blocks multiply in bf16; the state stays float32."""
    torch.manual_seed(0)
    chain = dense_chain(2, blocks=2, growth=8).to(device)
    x = torch.randn(1, 2, 14, 12, device=device, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        y = chain(x)
        cast = gradients(chain, x, "invert")
    assert y.dtype == torch.float32
    for module in chain.modules():
        if isinstance(module, DenseBlock):
            module.compute = "bf16"
    assert torch.equal(chain(x), y)
    assert identical(gradients(chain, x, "invert"), cast)


@pytest.fixture
def one_process(device: str) -> Iterator[str]:
    """A process group of this process alone."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{s.getsockname()[1]}"
    dist.init_process_group("nccl" if device == "cuda" else "gloo", init_method=address, rank=0, world_size=1)
    yield device
    dist.destroy_process_group()


def test_under_ddp(one_process: str) -> None:
    torch.manual_seed(0)
    model = Around().to(one_process)
    x = torch.randn(2, 2, 9, 8, device=one_process)
    expected = step(model, x)
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert distance(step(wrapped, x), expected) < 1e-6


class NoHostTensors(TorchDispatchMode):
    """Refuses every operation that reads or makes a tensor in the host's memory."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        found = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
        assert "cpu" not in found, f"{op} uses the host's memory"
        return result


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("memory", ["invert", "boundary", "store"])
@pytest.mark.parametrize("batch", [1, 0])
def test_a_step_stays_on_the_device(
    batch: int, memory: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph can capture: nothing is copied from or to the host, and no value is read there.

    On meta tensors, whose values nobody can read, with G and H together as on CUDA, and as under capture.
    """
    monkeypatch.setattr(coupling, "PAIR_DEVICES", {"meta"})
    poisoned: list[Tensor] = []
    monkeypatch.setattr(Guard, "tripped", lambda self, first=0: poisoned.append(self.poison()))
    chain = dense_chain(2, blocks=2, memory=memory).to("meta")
    x = torch.randn(batch, 2, 9, 8, device="meta", requires_grad=True)
    with NoHostTensors():
        y = chain(x) if direction == "forward" else chain.inverse(x)
        y.square().mean().backward()
    assert all(t.grad is not None for t in (x, *chain.parameters()))
    assert len(poisoned) == (memory == "invert")


class TestOnGpu:
    """What only a CUDA device has."""

    pytestmark = pytest.mark.gpu

    @pytest.mark.parametrize("compute", ["strict", "bf16"])
    @pytest.mark.parametrize("kernel", ["layerwise", "fused"])
    def test_a_whole_step_in_a_graph(self, compute: str, kernel: str) -> None:
        """Forward, walk back and optimiser, captured; replays go on as steps without a graph do."""
        before = ops.dense_block_cuda_kernel()
        ops.set_dense_block_cuda_kernel(kernel)
        try:
            captured, plain = self.trained(compute, graph=True), self.trained(compute, graph=False)
        finally:
            assert before is not None
            ops.set_dense_block_cuda_kernel(before)
        assert torch.isfinite(flat(captured)).all(), "the guard poisoned a healthy step"
        assert distance(captured, plain) < 1e-5

    @staticmethod
    def trained(compute: str, graph: bool) -> list[Tensor]:
        torch.manual_seed(0)
        chain = dense_chain(2, blocks=2, growth=16).cuda()
        for module in chain.modules():
            if isinstance(module, DenseBlock):
                module.compute = compute
        x = torch.randn(1, 2, 40, 36, device="cuda")
        optimizer = torch.optim.SGD(chain.parameters(), lr=1e-3)

        def one() -> None:
            optimizer.zero_grad(set_to_none=True)
            (chain(x).square().mean() + chain.inverse(x).square().mean()).backward()
            optimizer.step()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                one()
        torch.cuda.current_stream().wait_stream(side)
        if graph:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                one()
            for _ in range(3):
                recorded.replay()
        else:
            for _ in range(3):
                one()
        torch.cuda.synchronize()
        return [p.detach().clone() for p in chain.parameters()]

    def test_backward_on_another_stream(self) -> None:
        chain = dense_chain(2, blocks=3, growth=32).cuda()
        x = torch.randn(1, 2, 96, 96, device="cuda", requires_grad=True)
        expected = gradients(chain, x, "invert")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            found = gradients(chain, x, "invert")
        torch.cuda.current_stream().wait_stream(side)
        assert identical(found, expected)

    @pytest.mark.parametrize("compute", ["strict", "bf16"])
    def test_memory_of_a_step(self, compute: str) -> None:
        """Design: at most 512 bytes a pixel and 64 MB; aimed at: 128."""
        chain: ReversibleSequential = dense_chain(2, blocks=8, growth=32, last_gain=0.1).cuda()
        for module in chain.modules():
            if isinstance(module, DenseBlock):
                module.compute = compute
        x = torch.randn(1, 2, 1024, 1024, device="cuda")

        def both() -> None:
            (chain(x).square().mean() + chain.inverse(x).square().mean()).backward()

        both()  # gradients of the parameters exist from here on
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        both()
        used = torch.cuda.max_memory_allocated() - before
        assert used <= 512 * 1024**2 + 64e6
        assert chain.guard_trips == 0

    def test_two_devices_in_one_process(self) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("one CUDA device")
        results = []
        for device in ("cuda:0", "cuda:1"):
            torch.manual_seed(0)
            chain = dense_chain(2, blocks=2).to(device)
            x = torch.linspace(-1, 1, 2 * 20 * 18).reshape(1, 2, 20, 18).to(device).requires_grad_()
            results.append([t.cpu() for t in gradients(chain, x, "invert")])
        assert distance(*results) < 1e-6
