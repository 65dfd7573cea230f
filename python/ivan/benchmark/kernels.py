"""Times of single operations, compiled against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ivan.benchmark.case import Case, dense_flops
from ivan.benchmark.jobs import Call, take_turns
from ivan.benchmark.timing import Row, named, statistics_of
from ivan_fast import ops, reference

DENSE = ("eager", "strict", "fast")
KERNELS: dict[str, tuple[str, ...]] = {
    "dense_block": DENSE,
    "dense_block_backward": DENSE,
    "dense_block training": DENSE,
    "affine_coupling_forward": ("eager", "strict"),
    "affine_coupling_recompute_backward": ("eager", "strict"),
    "channel_mix": ("eager", "strict"),
    "channel_mix_backward": ("eager", "strict"),
}
"""What is measured, and by which implementations. ``dense_block`` is that of G and H. Ours recomputes in its
backward, so PyTorch's forward and backward, with stored activations, stand beside ``dense_block_backward``
and beside ``training``, which is our forward and our backward."""


def kernel_calls(kernel: str, case: Case) -> dict[str, Call]:
    """One call of each implementation of `kernel`, on the tensors it meets in the network of `case`."""
    if kernel.startswith("dense_block"):
        return _dense_block(case, kernel)
    halves = [_random(case, case.channels - case.split, seed) for seed in range(4)]
    state, grad = (_random(case, case.channels, seed) for seed in (4, 5))
    weight = torch.linalg.qr(_random(case.at(case.channels, batch=1), 1, 6)[0, 0].double())[0].to(state.dtype)
    arguments: dict[str, tuple[Any, ...]] = {
        "affine_coupling_forward": (*halves[:3], 0.8),
        "affine_coupling_recompute_backward": (*halves, 0.8),
        "channel_mix": (state, weight.contiguous()),
        "channel_mix_backward": (grad, state, weight.contiguous()),
    }
    given = arguments[kernel]
    return {
        "eager": lambda: getattr(reference, kernel)(*given),
        "strict": lambda: getattr(ops, kernel)(*given),
    }


def kernel_flops(kernel: str, case: Case) -> int:
    """Multiplications and additions of one call; the coupling's exponentials count as 0.

    Recomputation counts in ``dense_block_backward``, which returns what it recomputes, not in ``training``.
    """
    per_pixel = {
        "dense_block": dense_flops(case.split, case.channels - case.split, case.growth),
        "dense_block_backward": 3 * dense_flops(case.split, case.channels - case.split, case.growth),
        "dense_block training": 3 * dense_flops(case.split, case.channels - case.split, case.growth),
        "affine_coupling_forward": 2 * (case.channels - case.split),
        "affine_coupling_recompute_backward": 4 * (case.channels - case.split),
        "channel_mix": 2 * case.channels**2,
        "channel_mix_backward": 4 * case.channels**2,
    }
    return per_pixel[kernel] * case.pixels


def compare_kernels(
    case: Case,
    kernels: Iterable[str],
    rounds: int,
    *,
    threads: int,
    done: Callable[[str, str], None] = lambda name, kernel: None,
) -> list[Row]:
    """Rows of times of each kernel for one case; `done` as in `ivan.benchmark.timing.compare`."""
    torch.set_num_threads(threads)
    rows: list[Row] = []
    for kernel in kernels:
        calls = kernel_calls(kernel, case)
        for name, call in calls.items():
            call()
            done(name, kernel)
        times = take_turns(calls, rounds, case.device, partial(named, done, kernel))
        for name in calls:
            numbers = statistics_of(times, name, kernel_flops(kernel, case))
            rows.append(
                {
                    "what": "kernel",
                    "kernel": kernel,
                    "implementation": name,
                    "case": case.as_dict(),
                    "threads": threads,
                    **numbers,
                }
            )
    return rows


def _dense_block(case: Case, kernel: str) -> dict[str, Call]:
    inputs, outputs = case.split, case.channels - case.split
    generator = torch.Generator().manual_seed(0)
    weights: list[Tensor] = []
    for level in range(5):
        shape = (case.growth if level < 4 else outputs, inputs + case.growth * level, 3, 3)
        weight = torch.nn.init.xavier_normal_(torch.empty(shape), generator=generator)
        weights.append(weight.to(case.device, getattr(torch, case.dtype)))
    biases = [torch.zeros(len(w), device=w.device, dtype=w.dtype) for w in weights]
    x, grad_y = _random(case, inputs, 0), _random(case, outputs, 1)
    if kernel == "dense_block":
        return {
            "eager": lambda: reference.dense_block(x, weights, biases),
            "strict": lambda: ops.dense_block(x, weights, biases, 0.2, "strict"),
            "fast": lambda: ops.dense_block(x, weights, biases, 0.2, "fast"),
        }
    leaves = [t.clone().requires_grad_() for t in (x, *weights, *biases)]

    def eager() -> None:
        y = reference.dense_block(leaves[0], leaves[1:6], leaves[6:])
        torch.autograd.grad(y, leaves, grad_y)

    def ours(compute: str) -> Call:
        def run() -> None:
            if kernel == "dense_block training":
                ops.dense_block(x, weights, biases, 0.2, compute)
            ops.dense_block_backward(grad_y, x, weights, biases, 0.2, compute)

        return run

    return {"eager": eager, "strict": ours("strict"), "fast": ours("fast")}


def _random(case: Case, channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(case.batch, channels, case.height, case.width, generator=generator)
    return values.to(case.device, getattr(torch, case.dtype))
