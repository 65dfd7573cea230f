"""The work that is timed, as functions without arguments, and the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ivan.benchmark.case import Case
from ivan.losses import bidirectional_loss
from ivan.variables import VariableAugmentation

Call = Callable[[], Any]


def job(name: str, model: nn.Module, case: Case, optimizer: torch.optim.Optimizer | None = None) -> Call:
    """One job of `ivan.benchmark.case.JOBS` on random images, ready to be called again and again.

    Args:
        optimizer: of a step; a new Adam by default.
    """
    if name == "step":
        return _step(model, case, optimizer or adam(model))
    return _inference(model, case, inverse=name == "inverse")


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a step; its rate is small, so that many steps change little."""
    return torch.optim.Adam(model.parameters(), lr=1e-5)


def full_float32() -> bool:
    """Keep PyTorch's CUDA convolutions from rounding to TF32, their default. Returns what was set before."""
    before = bool(torch.backends.cudnn.allow_tf32)
    torch.backends.cudnn.allow_tf32 = False
    return before


def _random(case: Case, channels: int) -> Tensor:
    """Values in [0, 1), the same for every implementation."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(case.batch, channels, case.height, case.width, generator=generator)
    return images.to(case.device, getattr(torch, case.dtype))


def _step(model: nn.Module, case: Case, optimizer: torch.optim.Optimizer) -> Call:
    """Both directions on one modality each, loss, backward and Adam."""
    aug = VariableAugmentation(1, 1, channels=case.channels)
    sources, targets = _random(case, 2).chunk(2, dim=1)
    network: Any = model

    def step() -> None:
        loss = bidirectional_loss(network, sources, targets, aug)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _inference(model: nn.Module, case: Case, inverse: bool) -> Call:
    network: Any = model
    with torch.inference_mode():
        state = _random(case, case.channels)

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = network.inverse(state) if inverse else network(state)
            return result

    return run


def seconds(call: Call, device: str) -> float:
    """How long one call takes; on a GPU by its own events, so that waiting for the host does not count."""
    if torch.device(device).type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def take_turns(
    calls: Mapping[str, Call], rounds: int, device: str, done: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """Seconds of every call in every round; within a round each is called once, one after the other.

    Args:
        calls: warmed up already.
        done: called after each call with its name.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
            done(name)
    return times


def ratio(times: Mapping[str, list[float]], name: str, base: str = "eager") -> float | None:
    """Median over the rounds of base / name: how many times faster; None without the base."""
    if base not in times:
        return None
    return statistics.median(b / t for b, t in zip(times[base], times[name], strict=True))
