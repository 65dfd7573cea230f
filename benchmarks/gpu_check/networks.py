"""The networks that are compared and the work they do. The one place that imports them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # network_twin is beside this folder
from network_twin import EagerIVAN

import ivan_fast
from ivan.model import IVAN  # torch and ivan_fast only
from ivan_fast import ops

CHANNELS, BLOCKS = 2, 8
PRECISIONS = ("float32", "tf32", "bf16")
COMPUTE = {"float32": "strict", "tf32": "tf32", "bf16": "bf16"}  # of our dense blocks
JOBS = ("forward", "inverse", "step")
KERNELS = ("layerwise", "fused")  # of our dense blocks on tensor cores
# PyTorch's four ways, and ours: with the default kernel, with the other one, in a CUDA graph.
IMPLEMENTATIONS = ("eager", "channels_last", "graph", "compile", "ours", "ours_other", "ours_graph")


@dataclass(frozen=True)
class Case:
    """What is measured: ``[batch, 2, size, size]``."""

    size: int
    batch: int
    precision: str
    blocks: int = BLOCKS

    @property
    def pixels(self) -> int:
        return self.batch * self.size * self.size

    @property
    def label(self) -> str:
        return f"{self.size}x{self.size} batch {self.batch} {self.precision}"

    def flops(self, job: str) -> float:
        """Useful operations: a multiply-add is two; a step is forward and backward of both directions."""
        widths = [32, 32, 32, 32, 1]
        dense = sum(9 * out * (1 + 32 * level) for level, out in enumerate(widths))
        direction = 2.0 * 3 * self.blocks * dense * self.pixels
        return 6 * direction if job == "step" else direction


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """PyTorch's arithmetic: float32 exactly, TF32 in products and convolutions, or bfloat16 autocast."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    torch.backends.cudnn.benchmark = True
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
        ) = before


def choose_kernel(name: str | None = None) -> str | None:
    """Chooses the dense block's CUDA kernel; default: that which users get. None in builds without CUDA."""
    global DEFAULT_KERNEL
    if not ivan_fast.build_info()["with_cuda"]:
        return None
    DEFAULT_KERNEL = DEFAULT_KERNEL or ops.dense_block_cuda_kernel()
    chosen = DEFAULT_KERNEL if name is None else name
    ops.set_dense_block_cuda_kernel(chosen)
    return chosen


DEFAULT_KERNEL: str | None = None


def our_network(precision_name: str, device: torch.device, blocks: int = BLOCKS) -> IVAN:
    torch.manual_seed(0)
    return IVAN(channels=CHANNELS, blocks=blocks, compute=COMPUTE[precision_name]).to(device)


def twin_of(ours: IVAN, channels_last: bool = False) -> EagerIVAN:
    """The eager twin with the same weights."""
    twin = EagerIVAN(channels=CHANNELS, blocks=len(ours.chain))
    with torch.no_grad():
        for block, like in zip(twin.blocks, ours.chain, strict=True):
            block.mix.copy_(like.mix.weight())
            couple = like.coupling
            for convs, dense in ((block.f, couple.F), (block.g, couple.G), (block.h, couple.H)):
                for conv, weight, bias in zip(convs.convs, dense.weights, dense.biases, strict=True):
                    conv.weight.copy_(weight)
                    conv.bias.copy_(bias)
    parameter = next(ours.parameters())
    twin = twin.to(parameter.device, parameter.dtype)
    return twin.to(memory_format=torch.channels_last) if channels_last else twin


def images(
    case: Case, device: torch.device, channels_last: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (case.batch, CHANNELS, case.size, case.size)
    x, y = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
    if channels_last:
        x, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y))
    return x, y


def make_job(
    model: nn.Module, job: str, x: Tensor, y: Tensor, precision_name: str, capturable: bool = False
) -> Callable[[], Tensor]:
    """Inference in one direction, or a training step: both directions, loss, backward, Adam."""
    device = x.device
    if job != "step":
        run = model if job == "forward" else model.inverse

        def infer() -> Tensor:
            with torch.no_grad(), precision(precision_name, device):
                return run(x)

        return infer
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, capturable=capturable)
    mse = nn.functional.mse_loss

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with precision(precision_name, device):
            loss = mse(model(x).float(), y) + mse(model.inverse(y).float(), x)
        with precision("float32" if precision_name == "bf16" else precision_name, device):
            loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def graphed(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call captured in a CUDA graph; its result is overwritten by every replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def build(name: str, case: Case, job: str, device: torch.device) -> Callable[[], Tensor]:
    """The job of an implementation, ready to be called again and again."""
    default = choose_kernel()
    if name == "ours_other":
        choose_kernel("layerwise" if default == "fused" else "fused")
    ours = our_network(case.precision, device, case.blocks)
    if name.startswith("ours"):
        model: nn.Module = ours
    else:
        # cuDNN's best layout is known to be channels_last where tensor cores are used
        fast_layout = name == "channels_last" or (name != "eager" and case.precision != "float32")
        model = twin_of(ours, fast_layout)
    x, y = images(case, device, name == "channels_last")
    if name == "compile":
        model.compile(mode="max-autotune")
        inverse = torch.compile(model.inverse, mode="max-autotune")
        object.__setattr__(model, "inverse", inverse)
    call = make_job(model, job, x, y, case.precision, capturable=name.endswith("graph"))
    return graphed(call) if name.endswith("graph") else call
