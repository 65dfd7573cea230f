"""What a run measures, in which order, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ivan.benchmark.case import JOBS, Case
from ivan.benchmark.implementations import IMPLEMENTATIONS
from ivan.benchmark.jobs import full_float32
from ivan.benchmark.kernels import KERNELS, compare_kernels, kernel_flops
from ivan.benchmark.memory import Estimator, MeasurementError, available, measure
from ivan.benchmark.timing import Row, compare, too_large
from ivan.errors import RunError

Report = Callable[[float, float, str], None]
"""Gets the work done, the work in all (both in arbitrary units) and what is being measured."""

START = 2e11
"""Work of starting a process that imports torch, in multiplications and additions, for the time left."""


@dataclass(frozen=True)
class Times:
    """Jobs of implementations that take turns."""

    case: Case
    names: tuple[str, ...]
    rounds: int
    threads: int
    jobs: tuple[str, ...] = JOBS

    def work(self) -> float:
        return sum(self._work(name, job) for name in self.names for job in self.jobs) * (self.rounds + 1)

    def _work(self, name: str, job: str) -> float:
        return self.case.flops(job) if job in IMPLEMENTATIONS[name].jobs else 0

    def measure(self, limit: int, estimator: Estimator, advance: Callable[[float, str], None]) -> list[Row]:
        def done(name: str, job: str) -> None:
            advance(self._work(name, job), f"{job} at {self.case.label()}: {IMPLEMENTATIONS[name].title}")

        return compare(
            self.case, self.names, self.jobs, self.rounds, limit=limit, estimator=estimator, done=done
        )


@dataclass(frozen=True)
class Kernels:
    """Single operations."""

    case: Case
    rounds: int
    threads: int
    kernels: tuple[str, ...] = tuple(KERNELS)

    def work(self) -> float:
        return sum(len(KERNELS[k]) * kernel_flops(k, self.case) for k in self.kernels) * (self.rounds + 1)

    def measure(self, limit: int, estimator: Estimator, advance: Callable[[float, str], None]) -> list[Row]:
        def done(name: str, kernel: str) -> None:
            advance(kernel_flops(kernel, self.case), f"{kernel} at {self.case.label()}")

        return compare_kernels(self.case, self.kernels, self.rounds, threads=self.threads, done=done)


@dataclass(frozen=True)
class Memory:
    """Activation memory of one job of one implementation, in a fresh process."""

    case: Case
    name: str
    threads: int
    job: str = "step"

    def work(self) -> float:
        return START + self.case.flops(self.job)

    def measure(self, limit: int, estimator: Estimator, advance: Callable[[float, str], None]) -> list[Row]:
        entry = IMPLEMENTATIONS[self.name]
        advance(0, f"memory at {self.case.label()}: {entry.title}")
        row: Row = {
            "implementation": self.name,
            "job": self.job,
            "case": self.case.as_dict(),
            "threads": self.threads,
        }
        reason = entry.missing(torch.device(self.case.device).type) or too_large(
            self.name, self.case, self.job, limit, estimator
        )
        if reason is None:
            try:
                baseline, (grown,) = measure(self.name, [(self.case, self.job)], self.threads)
                return [{"what": "memory", **row, "bytes": grown, "baseline": baseline}]
            except MeasurementError as error:
                if entry.ours:
                    raise RunError(str(error)) from None
                reason = str(error)
        return [{"what": "skip", **row, "reason": reason}]


Group = Times | Kernels | Memory


def run(groups: Iterable[Group], limit: int | None = None, report: Report = lambda *_: None) -> list[Row]:
    """Measure the groups one after the other.

    Args:
        limit: bytes that one job may take; by default nine tenths of what is free. Never more than that.
        report: called as the work goes on.

    Returns:
        Rows as `ivan.benchmark.record` describes them.

    Raises:
        RunError: one of ours failed.
    """
    groups = list(groups)
    total = sum(group.work() for group in groups)
    estimators: dict[int, Estimator] = {}
    rows: list[Row] = []
    before = torch.get_num_threads()
    finished = 0.0
    tf32 = full_float32()
    try:
        for group in groups:
            current = finished

            def advance(work: float, text: str) -> None:
                nonlocal current
                current += work
                report(current, total, text)

            free = int(0.9 * available(group.case.device))
            estimator = estimators.setdefault(group.threads, Estimator(group.threads))
            rows += group.measure(free if limit is None else min(limit, free), estimator, advance)
            finished += group.work()  # also what was skipped
            report(finished, total, "done")
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.allow_tf32 = tf32
    return rows
