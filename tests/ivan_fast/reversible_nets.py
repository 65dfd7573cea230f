"""Small chains and gradients for the tests of the invertible modules."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ivan_fast import AffineCoupling, DenseBlock, InvertibleBlock, InvertibleConv1x1, ReversibleSequential

DIRECTIONS = ("forward", "inverse")
MEMORY = ("invert", "boundary", "store")


def dense_chain(
    channels: int = 2,
    blocks: int = 3,
    split: int = 1,
    growth: int = 4,
    nudge: float = 0.02,
    gain: float = 1.0,
    last_gain: float = 1.0,
    **options: object,
) -> ReversibleSequential:
    """A chain of iVAN blocks; parameters nudged, weights times `gain`, the last ones times `last_gain`."""
    rest = channels - split
    chain = ReversibleSequential(
        *[
            InvertibleBlock(
                InvertibleConv1x1(channels),
                AffineCoupling(
                    DenseBlock(rest, split, growth),
                    DenseBlock(split, rest, growth),
                    DenseBlock(split, rest, growth),
                    split=split,
                ),
            )
            for _ in range(blocks)
        ],
        **options,
    )
    with torch.no_grad():
        for module in chain.modules():
            if isinstance(module, DenseBlock):
                for weight in module.weights:
                    weight.mul_(gain)
                module.weights[-1].mul_(last_gain)
        for parameter in chain.parameters():
            parameter.add_(nudge * torch.randn_like(parameter))
    return chain


def foreign_subnet(inputs: int, outputs: int, *layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 6, 3, padding=1), *layers, nn.Tanh(), nn.Conv2d(6, outputs, 1))


class Scaling(nn.Module):
    """Somebody else's invertible block."""

    def __init__(self, factor: float = 1.3) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(factor).log())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log.exp()

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log).exp()


def gradients(
    chain: ReversibleSequential, x: Tensor, memory: str, direction: str = "forward"
) -> list[Tensor]:
    """Gradients of a fixed weighted sum of the output: of x (if wanted) and of all trained parameters."""
    before = chain.memory
    chain.memory = memory
    y = chain(x) if direction == "forward" else chain.inverse(x)
    chain.memory = before
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y)
    wanted = [t for t in (x, *chain.parameters()) if t.requires_grad]
    return list(torch.autograd.grad((y * weights).sum(), wanted))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def distance(tensors: list[Tensor], reference: list[Tensor]) -> float:
    """Relative L2 distance over all tensors."""
    return float((flat(tensors) - flat(reference)).norm() / flat(reference).norm())


def identical(tensors: list[Tensor], reference: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors, reference, strict=True))


def parameter_gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def train_in_parallel(rank: int, folder: str) -> None:
    """One of two processes: accumulates two backward passes on its sample, once per memory policy."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for memory in ("invert", "boundary"):
        torch.manual_seed(0)
        chain = dense_chain(blocks=2, memory=memory)
        parallel = nn.parallel.DistributedDataParallel(chain)
        x = torch.rand(2, 2, 5, 5)
        for _ in range(2):  # accumulates
            parallel(x[rank : rank + 1]).square().mean().backward()
        torch.save(parameter_gradients(chain), os.path.join(folder, f"{memory}-{rank}.pt"))
        del parallel
    dist.barrier()  # gloo aborts now and then if one process leaves while the other is still connected
    dist.destroy_process_group()
