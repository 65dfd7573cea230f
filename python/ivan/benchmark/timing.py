"""Times of the whole network: every implementation of the same function, taking turns in one process."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from ivan.benchmark.case import Case
from ivan.benchmark.implementations import IMPLEMENTATIONS, build
from ivan.benchmark.jobs import Call, job, ratio, take_turns
from ivan.benchmark.memory import Estimator, MeasurementError
from ivan.errors import RunError
from ivan.model import IVAN

AGREEMENT = 1e-4
"""Largest relative difference of the outputs from eager PyTorch's; above, different things would be timed."""

Row = dict[str, Any]


def compare(
    case: Case,
    names: Iterable[str],
    jobs: Iterable[str],
    rounds: int,
    *,
    limit: int,
    estimator: Estimator,
    done: Callable[[str, str], None] = lambda name, job: None,
) -> list[Row]:
    """Rows of times, and of what was skipped, for one case.

    Args:
        names: of implementations.
        limit: bytes that a job may take; one that is estimated to take more is skipped.
        estimator: of those bytes; its threads are the ones used.
        done: called after every call (one warm-up and `rounds`) with implementation and job.

    Raises:
        RunError: one of ours failed, or computes something else than eager PyTorch.
    """
    torch.set_num_threads(estimator.threads)
    torch.manual_seed(0)
    like = build("strict", case)
    assert isinstance(like, IVAN)
    rows: list[Row] = []
    models: dict[str, nn.Module] = {}
    for name in names:
        if reason := IMPLEMENTATIONS[name].missing(torch.device(case.device).type):
            rows += [_row("skip", name, j, case, estimator, reason=reason) for j in jobs]
        else:
            models[name] = build(name, case, like)
    for what in jobs:
        calls: dict[str, Call] = {}
        differences: dict[str, float | None] = {}
        expected: Any = None
        for name, model in models.items():
            if what not in IMPLEMENTATIONS[name].jobs:
                continue
            reason = too_large(name, case, what, limit, estimator)
            if reason is None:
                call = job(what, model, case)
                try:
                    output = call()  # the warm-up
                except Exception as error:
                    reason = f"failed: {' '.join(str(error).split())[:200]}"
                    if IMPLEMENTATIONS[name].ours:
                        raise RunError(f"{name} {what} at {case.size}: {reason}") from error
            if reason is not None:
                rows.append(_row("skip", name, what, case, estimator, reason=reason))
                continue
            done(name, what)
            calls[name] = call
            expected = output if name == "eager" else expected
            differences[name] = _difference(output, expected, f"{name} {what} at {case.size}")
        times = take_turns(calls, rounds, case.device, partial(named, done, what))
        rows += [
            _row(
                "time", name, what, case, estimator,
                **statistics_of(times, name, case.flops(what)), difference=differences[name],
            )
            for name in calls
        ]  # fmt: skip
    return rows


def too_large(name: str, case: Case, job: str, limit: int, estimator: Estimator) -> str | None:
    """Why a job is not tried: more than `limit` bytes are expected; None if it fits."""
    try:
        needed = estimator.bytes(name, case, job)
    except MeasurementError as error:
        return str(error)
    if needed <= limit:
        return None
    digits = 2 if needed < 10e9 else 0
    return f"does not fit: about {needed / 1e9:,.{digits}f} GB needed, {limit / 1e9:,.{digits}f} GB free"


def statistics_of(times: dict[str, list[float]], name: str, flops: int) -> Row:
    """The numbers of one implementation: median, extremes, ratio to eager in the same rounds, rate."""
    median = statistics.median(times[name])
    return {
        "seconds": median,
        "fastest": min(times[name]),
        "slowest": max(times[name]),
        "rounds": len(times[name]),
        "ratio": ratio(times, name),
        "gflops": flops / median / 1e9,
    }


def named(done: Callable[[str, str], None], job: str, name: str) -> None:
    """`done` with its arguments the other way round, to be bound to a job."""
    done(name, job)


def _difference(output: Any, expected: Any, what: str) -> float | None:
    """Relative 2-norm of output - expected, None for jobs without output. Raises RunError."""
    if not isinstance(output, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return None
    difference = float((output - expected).norm() / expected.norm().clamp_min(1e-30))
    if not difference <= AGREEMENT:
        raise RunError(
            f"{what}: differs from eager PyTorch by {difference:.1e}, at most {AGREEMENT:.0e} was expected; "
            "report it with the output of 'ivan info'"
        )
    return difference


def _row(what: str, name: str, job: str, case: Case, estimator: Estimator, **more: Any) -> Row:
    return {
        "what": what, "implementation": name, "job": job, "case": case.as_dict(),
        "threads": estimator.threads, **more,
    }  # fmt: skip
