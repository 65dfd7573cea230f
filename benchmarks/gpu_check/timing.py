"""Clocks: of the whole run, which decides what still fits, and of single calls, by device events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Call = Callable[[], object]


class Budget:
    """Seconds of the whole run. What no longer fits is skipped, and `skipped` says what."""

    def __init__(self, total: float, started: float | None = None) -> None:
        self.total = total
        self.started = time.time() if started is None else started
        self.skipped: list[str] = []

    def left(self) -> float:
        return self.total - (time.time() - self.started)

    def fits(self, what: str, seconds: float) -> bool:
        """Whether `seconds` are left for `what`; otherwise it is noted as skipped."""
        if self.left() >= seconds:
            return True
        self.skipped.append(what)
        return False


class Stopwatch:
    """Seconds of a call: on CUDA between device events, with the L2 cache overwritten before every call and
    no synchronisation between them; on the CPU by the wall clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flush: torch.Tensor | None = None
        if device.type == "cuda":
            cache = torch.cuda.get_device_properties(device).L2_cache_size
            self.flush = torch.empty(max(4 * cache, 64 << 20), dtype=torch.uint8, device=device)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, call: Call) -> float:
        """Seconds of one call by the wall clock, everything finished."""
        self.synchronize()
        begin = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - begin

    def median(self, call: Call, seconds: float, warmed_up: bool = False) -> tuple[float, int]:
        """Median seconds of a call and the number of calls: as many as fit into `seconds`, 3 to 50."""
        if not warmed_up:
            call()
        calls = max(3, min(50, int(seconds / max(self.once(call), 1e-6))))
        if self.flush is None:
            return statistics.median(self.once(call) for _ in range(calls)), calls
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)
        ]
        for begin, end in events:
            self.flush.zero_()
            begin.record()
            call()
            end.record()
        self.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3, calls
