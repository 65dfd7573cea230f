"""What the pytest-benchmark suites share: what to measure, and on what it was measured. Run by `make bench`.

Environment: IVAN_BENCH_SIZES (default 128; as 128,256x192), IVAN_BENCH_ROUNDS (3), IVAN_BENCH_WITH (eager,
strict, fast; any names of `ivan.benchmark.implementations`, or all), IVAN_BENCH_THREADS (as PyTorch chooses),
IVAN_BENCH_DEVICE (cpu).
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import torch
from fma_peak import peak_rate

from ivan.benchmark.case import Case, parse_sizes
from ivan.benchmark.implementations import IMPLEMENTATIONS, implementation
from ivan.benchmark.jobs import Call, seconds

DEVICE = os.environ.get("IVAN_BENCH_DEVICE", "cpu")
ROUNDS = int(os.environ.get("IVAN_BENCH_ROUNDS", "3"))
THREADS = int(os.environ.get("IVAN_BENCH_THREADS", "0")) or torch.get_num_threads()
SIZES = parse_sizes([os.environ.get("IVAN_BENCH_SIZES", "128")], "IVAN_BENCH_SIZES")
_WITH = os.environ.get("IVAN_BENCH_WITH", "eager,strict,fast").split(",")
NAMES = (
    tuple(IMPLEMENTATIONS)
    if "all" in _WITH
    else tuple(implementation(n, "IVAN_BENCH_WITH").name for n in _WITH)
)
CASES = [Case(height, width, device=DEVICE) for height, width in SIZES]
_PEAK: list[float | None] = []


def fma_gflops() -> float | None:
    """Multiply-add peak of all threads in GFLOP/s, measured once; None on a GPU or without a compiler."""
    if not _PEAK:
        one = peak_rate() if DEVICE == "cpu" else None
        _PEAK.append(None if one is None else one * THREADS / 1e9)
    return _PEAK[0]


def against(benchmark: Any, base: Call | None, call: Call, flops: int) -> None:
    """Benchmark `call`; before each of its rounds `base` has its turn, so that ratios are of one moment.

    Leaves in `extra_info` the median ratio base / call (None without a base), GFLOP/s, their share of the
    multiply-add peak (and why it is unknown), the threads and the load.
    """
    times: dict[str, list[float]] = {"base": [], "call": []}

    def turn() -> None:
        if base is not None:
            times["base"].append(seconds(base, DEVICE))

    def timed() -> None:
        times["call"].append(seconds(call, DEVICE))

    call()
    if base is not None:
        base()
    benchmark.pedantic(timed, setup=turn, rounds=ROUNDS, iterations=1)
    pairs = zip(times["base"], times["call"], strict=False)
    median, peak = statistics.median(times["call"]), fma_gflops()
    benchmark.extra_info.update(
        ratio_to_eager=statistics.median(b / t for b, t in pairs) if base else None,
        gflops=flops / median / 1e9,
        fraction_of_fma_peak=None if peak is None else flops / median / 1e9 / peak,
        fma_peak="measured" if peak is not None else "unknown: no compiler, or not a CPU",
        threads=THREADS,
        load=os.getloadavg()[0],
    )
