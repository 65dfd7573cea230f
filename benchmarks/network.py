"""The whole network against its eager twin: inference and training step, time and memory, in one run.

    python benchmarks/network.py 128 256 [--rounds 5] [--memory 256 512] [--threads 2] [--json FILE]

Both compute the same function of the same weights (2 channels, 8 blocks, growth 32, float32). A training step
is both directions, loss, backward and Adam. Implementations are warmed up and then take turns; the medians of
the ratios are reported. Memory is the peak of a fresh process above its peak after one 16x16 step of the same
model and optimiser.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from network_twin import EagerIVAN
from torch import Tensor, nn

import ivan
from ivan.environment import collect

IMPLEMENTATIONS = ("eager", "strict", "fast")


def build(name: str) -> nn.Module:
    """The eager twin, or `ivan.IVAN` with the strict or the fast arithmetic."""
    torch.manual_seed(0)
    return EagerIVAN() if name == "eager" else ivan.IVAN(compute=name)


def copy_weights(eager: EagerIVAN, model: ivan.IVAN) -> None:
    """Give the twin the weights of `model`, so that both compute the same function."""
    with torch.no_grad():
        for twin, block in zip(eager.blocks, model.chain, strict=True):
            twin.mix.copy_(block.mix.weight())
            for ours, theirs in (
                (block.coupling.F, twin.f),
                (block.coupling.G, twin.g),
                (block.coupling.H, twin.h),
            ):
                for conv, weight, bias in zip(theirs.convs, ours.weights, ours.biases, strict=True):
                    conv.weight.copy_(weight)
                    conv.bias.copy_(bias)


def stepper(model: nn.Module, size: int) -> Callable[[], Any]:
    """A training step on one random pair of slices of `size` x `size`."""
    aug = ivan.VariableAugmentation(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    x, y = torch.rand(1, 1, size, size), torch.rand(1, 1, size, size)

    def step() -> None:
        loss = ivan.bidirectional_loss(model, x, y, aug)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inferrer(model: nn.Module, state: Tensor, inverse: bool) -> Callable[[], Tensor]:
    """Inference in one direction."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model.inverse(state) if inverse else model(state)

    return run


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(size: int, rounds: int) -> dict[str, Any]:
    """Median seconds of each implementation and the median of the ratios eager / ours."""
    models = {name: build(name) for name in IMPLEMENTATIONS}
    models["fast"].load_state_dict(models["strict"].state_dict())
    copy_weights(models["eager"], models["strict"])
    state = torch.rand(1, 2, size, size)
    outputs = {name: inferrer(model, state, False)() for name, model in models.items()}
    for name in ("strict", "fast"):
        error = (outputs[name] - outputs["eager"]).norm() / outputs["eager"].norm()
        assert error < 1e-4, f"{name} and eager disagree by {error:.1e}"
    result: dict[str, Any] = {}
    jobs: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {n: inferrer(m, state, False) for n, m in models.items()},
        "inverse": {n: inferrer(m, state, True) for n, m in models.items()},
        "step": {n: stepper(m, size) for n, m in models.items()},
    }
    for job, calls in jobs.items():
        for call in calls.values():
            call()
        times = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
        result[job] = {
            **{name: statistics.median(t[name] for t in times) for name in calls},
            **{
                f"eager/{name}": statistics.median(t["eager"] / t[name] for t in times)
                for name in ("strict", "fast")
            },
        }
    return result


def peak() -> int:
    """Largest memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def extra_memory(name: str, size: int, threads: int) -> int:
    """Bytes a training step of `size` adds to a fresh process that has done one 16x16 step."""
    words = [sys.executable, __file__, "--child", name, str(size), "--threads", str(threads)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", type=int, nargs="*", default=[128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="sizes whose memory is measured")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.child:
        model = build(args.child[0])
        stepper(model, 16)()
        before = peak()
        stepper(model, int(args.child[1]))()
        print(peak() - before)
        return
    record: dict[str, Any] = {
        "machine": platform.processor(),
        "environment": collect(),
        "sizes": {},
        "memory": {},
    }
    record["threads"] = torch.get_num_threads()
    for size in args.sizes:
        record["sizes"][size] = compare(size, args.rounds)
        for job, row in record["sizes"][size].items():
            columns = [f"{size:5} {job:8} eager {row['eager']:7.2f} s"]
            columns += [f"{n} {row[n]:7.2f} s ({row['eager/' + n]:.1f}x)" for n in ("strict", "fast")]
            print("   ".join(columns), flush=True)
    for size in args.memory:
        names = IMPLEMENTATIONS if size <= 256 else ("strict", "fast")
        row = {name: extra_memory(name, size, torch.get_num_threads()) for name in names}
        record["memory"][size] = row
        print(
            f"{size:5} memory   "
            + "   ".join(f"{n} {b / 2**20:.0f} MB ({b / size**2:.0f} B/px)" for n, b in row.items()),
            flush=True,
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1, default=str))


if __name__ == "__main__":
    main()
