"""The whole network against its eager twin: make bench. Timings never fail; wrong results do."""

from __future__ import annotations

import pytest
import torch
from suite import CASES, DEVICE, NAMES, THREADS, against

from ivan.benchmark.case import JOBS
from ivan.benchmark.implementations import IMPLEMENTATIONS, build
from ivan.benchmark.jobs import full_float32, job
from ivan.benchmark.memory import Estimator, available, measure
from ivan.benchmark.timing import AGREEMENT, too_large


@pytest.fixture(scope="module")
def estimator():
    """What fits, from small measurements that all tests share."""
    return Estimator(THREADS)


def skip_unless_it_fits(name, case, what, estimator):
    missing = IMPLEMENTATIONS[name].missing(torch.device(DEVICE).type)
    if reason := missing or too_large(name, case, what, int(0.9 * available(DEVICE)), estimator):
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.size)
@pytest.mark.parametrize(
    ("what", "name"), [(j, n) for j in JOBS for n in NAMES if j in IMPLEMENTATIONS[n].jobs]
)
def test_job(benchmark, what, name, case, estimator):
    """Two channels, eight blocks, the same weights in all."""
    full_float32()
    torch.manual_seed(0)
    like = build("strict", case)
    for needed in {name, "eager"}:
        skip_unless_it_fits(needed, case, what, estimator)
    call, eager = (job(what, build(n, case, like), case) for n in (name, "eager"))
    if what != "step":
        expected = eager()
        assert (call() - expected).norm() <= AGREEMENT * expected.norm()
    benchmark.group = f"{what} {case.label()}"
    against(benchmark, None if name == "eager" else eager, call, case.flops(what))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.size)
@pytest.mark.parametrize("name", NAMES)
def test_step_memory(benchmark, name, case, estimator):
    """Activation memory of a step in a fresh process; the time is that of the whole process."""
    skip_unless_it_fits(name, case, "step", estimator)
    benchmark.group = f"memory {case.label()}"
    baseline, (grown,) = benchmark.pedantic(
        measure, args=(name, [(case, "step")], THREADS), rounds=1, iterations=1
    )
    benchmark.extra_info.update(
        peak_bytes=baseline + grown,
        activation_bytes=grown,
        bytes_per_pixel=grown / case.pixels,
        threads=THREADS,
    )
