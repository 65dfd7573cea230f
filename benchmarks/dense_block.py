"""The dense block's CPU kernels against plain PyTorch, in one run.

    python benchmarks/dense_block.py [sizes ...] [--channels 1] [--rounds 9] [--json FILE]

Eager PyTorch (NCHW, torch.cat, stored activations), the strict and the fast kernels are warmed up and then
take turns; medians are compared. Rates count the multiply-adds of direct convolutions, whatever is computed,
and are given as a fraction of the measured rate of independent multiply-adds (of one thread, times threads).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ivan_fast
from ivan_fast import ops, reference

PEAK_SOURCE = """
#include <chrono>
typedef float V __attribute__((vector_size(BYTES)));
extern "C" double peak() {
  V a[CHAINS] = {}, b = {}, c = {};
  b += 1.0001f; c += 0.5f;
  double best = 0;
  for (int run = 0; run < 40; ++run) {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 50000; ++i) {
      #pragma GCC unroll 24
      for (int j = 0; j < CHAINS; ++j) a[j] = a[j] * b + c;
      asm volatile("" : "+x"(b), "+x"(c));
    }
    double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double rate = 2.0 * BYTES / 4 * CHAINS * 50000 / s;
    if (rate > best) best = rate;
  }
  volatile float sink = 0;
  for (int j = 0; j < CHAINS; ++j) sink = sink + a[j][0];
  return best;
}
"""
ISA_FLAGS = {
    "avx512": ["-mavx512f", "-mfma", "-DBYTES=64", "-DCHAINS=24"],
    "avx2": ["-mavx2", "-mfma", "-DBYTES=32", "-DCHAINS=12"],
    "portable": ["-DBYTES=16", "-DCHAINS=12"],
}


def peak_rate() -> float | None:
    """Operations a second of one thread in the instruction set in use; None without a compiler."""
    gxx = shutil.which("g++")
    if gxx is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "peak.cpp"), Path(folder, "peak.so")
        source.write_text(PEAK_SOURCE)
        flags = ["-O3", "-ffp-contract=fast", *ISA_FLAGS[ivan_fast.build_info()["cpu_isa"]]]
        subprocess.run([gxx, *flags, "-shared", "-fPIC", source, "-o", library], check=True)
        peak = ctypes.CDLL(str(library)).peak
        peak.restype = ctypes.c_double
        return float(peak())


def make(size: int, channels: int) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    torch.manual_seed(0)
    weights = []
    for i in range(5):
        shape = (32 if i < 4 else channels, channels + 32 * i, 3, 3)
        weights.append(torch.nn.init.xavier_normal_(torch.empty(shape)).requires_grad_())
    biases = [torch.zeros(w.shape[0], requires_grad=True) for w in weights]
    return torch.randn(1, channels, size, size), weights, biases, torch.randn(1, channels, size, size)


def candidates(size: int, channels: int) -> dict[str, Callable[[], object]]:
    x, weights, biases, grad_y = make(size, channels)
    leaf = x.clone().requires_grad_()
    fixed = [w.detach() for w in weights], [b.detach() for b in biases]

    def eager_training() -> None:
        y = reference.dense_block(leaf, weights, biases)
        torch.autograd.grad(y, [leaf, *weights, *biases], grad_y)

    found: dict[str, Callable[[], object]] = {
        "eager forward": lambda: reference.dense_block(x, *fixed),
        "eager forward and backward": eager_training,
    }
    for mode in ("strict", "fast"):
        found[f"{mode} forward"] = lambda mode=mode: ops.dense_block(x, *fixed, 0.2, mode)
        found[f"{mode} backward"] = lambda mode=mode: ops.dense_block_backward(grad_y, x, *fixed, 0.2, mode)
    return found


def measure(size: int, channels: int, rounds: int) -> dict[str, Any]:
    """Median seconds of each candidate, and of their ratios round by round."""
    functions = candidates(size, channels)
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    pixel = 2 * 9 * sum((32 if i < 4 else channels) * (channels + 32 * i) for i in range(5))
    result: dict[str, Any] = {"size": size, "channels": channels, "gflop": pixel * size * size / 1e9}
    result["seconds"] = {name: statistics.median(values) for name, values in seconds.items()}
    for mode in ("strict", "fast"):
        forward, backward = seconds[f"{mode} forward"], seconds[f"{mode} backward"]
        eager, training = seconds["eager forward"], seconds["eager forward and backward"]
        result[f"{mode} ratios"] = {
            "forward": statistics.median(e / f for e, f in zip(eager, forward, strict=True)),
            "backward with its recompute": statistics.median(
                e / b for e, b in zip(training, backward, strict=True)
            ),
            "forward and backward": statistics.median(
                e / (f + b) for e, f, b in zip(training, forward, backward, strict=True)
            ),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[96, 128, 256, 512])
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    threads, peak = torch.get_num_threads(), peak_rate()
    print(f"torch {torch.__version__}, {ivan_fast.build_info()['cpu_isa']}, {threads} threads, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, ", end="")
    print("peak unknown" if peak is None else f"peak {peak / 1e9:.0f} GFLOP/s a thread")
    results = []
    for size in args.sizes:
        result = measure(size, args.channels, args.rounds)
        results.append(result)
        for mode in ("strict", "fast"):
            parts = []
            for name, units in ((f"{mode} forward", 1), (f"{mode} backward", 3)):
                rate = units * result["gflop"] * 1e9 / result["seconds"][name]
                share = "" if peak is None else f" = {rate / peak / threads:.0%} of peak"
                parts.append(
                    f"{name} {result['seconds'][name] * 1e3:.1f} ms, {rate / 1e9:.0f} GFLOP/s{share}"
                )
            ratios = ", ".join(f"{name} {value:.2f}x" for name, value in result[f"{mode} ratios"].items())
            print(f"{size}x{size}: {'; '.join(parts)}; against eager: {ratios}", flush=True)
    if args.json:
        machine = {
            "machine": platform.machine(),
            "torch": torch.__version__,
            "threads": threads,
            "peak": peak,
        }
        args.json.write_text(json.dumps({**machine, **ivan_fast.build_info(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
