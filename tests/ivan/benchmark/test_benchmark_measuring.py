"""Cases, memory, times, records and budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ivan.benchmark import budget, machine, memory, plan, record, tables, timing
from ivan.benchmark.case import Case, dense_flops, parse_size, parse_sizes
from ivan.benchmark.kernels import KERNELS, kernel_calls, kernel_flops
from ivan.errors import InputError, RunError

TINY = Case(8, 6, blocks=1, growth=4)
PLENTY = 1 << 40


class Small:
    """An estimator for which everything is small."""

    threads = 1

    def bytes(self, name: str, case: Case, job: str) -> int:
        return 0


def memory_row(name: str, side: int, grown: int, baseline: int = 500) -> dict[str, Any]:
    case = Case(side, side).as_dict()
    row = {"implementation": name, "job": "step", "case": case, "threads": 2}
    return {"what": "memory", **row, "bytes": grown, "baseline": baseline}


def test_sizes() -> None:
    assert parse_sizes(["128,256x192", " 8 "]) == [(128, 128), (256, 192), (8, 8)]
    for text in ("0", "x", "12x", "-3", "1e3", "256x0", "999999"):
        with pytest.raises(InputError, match="--sizes"):
            parse_size(text)
    for wrong in ({"channels": 1}, {"channels": 17}, {"split": 2}, {"batch": 0}, {"blocks": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Case(4, 4, **wrong)


def test_flops_are_those_of_the_convolutions() -> None:
    convolutions = sum(9 * cin * cout for cin, cout in ((1, 32), (33, 32), (65, 32), (97, 32), (129, 1)))
    assert dense_flops(1, 1) == 2 * convolutions
    case = Case(3, 5, batch=2)
    assert case.flops("forward") == 30 * 8 * (3 * 2 * convolutions + 2 * 4)
    assert case.flops("step") == 6 * case.flops("inverse")


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compute_the_same(kernel: str) -> None:
    calls = kernel_calls(kernel, Case(9, 7, channels=3, growth=4, dtype="float64", batch=2))
    assert tuple(calls) == KERNELS[kernel]
    assert kernel_flops(kernel, TINY) > 0
    if kernel.startswith("dense") and kernel != "dense_block":
        assert all(call() is None for call in calls.values())
        return
    expected = calls.pop("eager")()
    for call in calls.values():
        torch.testing.assert_close(call(), expected)


def test_memory_of_a_fresh_process_does_not_see_ours() -> None:
    torch.ones(100_000_000).add_(1)  # 400 MB that the measuring process has had, and its child has not
    small, large = Case(32, 32, blocks=2), Case(96, 96, blocks=2)
    baseline, (first, second) = memory.measure("eager", [(small, "step"), (large, "step")], 1)
    assert 0 < first < second
    assert second > 9 * 64 * 96 * 96  # at least the hidden rows of six dense blocks
    assert baseline > 50e6
    _, (ours,) = memory.measure("fast", [(large, "step")], 1)
    assert ours < second / 4


def test_a_failing_process_says_why() -> None:
    with pytest.raises(memory.MeasurementError, match=r"fast at 8x8.*ComplexDouble"):
        memory.measure("fast", [(Case(8, 8, dtype="complex128"), "step")], 1)


def test_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(name: str, jobs: Any, threads: int) -> tuple[int, list[int]]:
        asked.append((name, [(case.blocks, case.batch, job) for case, job in jobs]))
        return 0, [(1000 if job == "step" else 10) * case.pixels + 7 for case, job in jobs]

    monkeypatch.setattr(memory, "measure", measure)
    estimator = memory.Estimator(1)
    assert estimator.bytes("eager", Case(256, 128), "step") == 1000 * 256 * 128 + 7
    assert estimator.bytes("eager", Case(100, 100, batch=3), "inverse") == 10 * 30_000 + 7
    assert len(asked) == 1
    assert estimator.bytes("eager", Case(80, 80, blocks=80), "step") == 10 * (6_400_000 + 7)
    assert estimator.bytes("compile", Case(100, 100), "step") == 10_000_007  # taken from eager's
    assert len(asked) == 1
    assert estimator.bytes("memcnn", Case(96, 96), "step") == 0  # no larger than the measurement
    assert len(asked) == 1
    reason = timing.too_large("eager", Case(256, 256), "step", 10_000_000, estimator)  # type: ignore[arg-type]
    assert reason == "does not fit: about 0.07 GB needed, 0.01 GB free"
    assert memory.available("cpu") > 0


def test_what_does_not_fit_is_skipped_and_what_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(Small):
        def bytes(self, name: str, case: Case, job: str) -> int:
            return 10**12 if (name, job) == ("eager", "step") else 1

    from ivan.benchmark import implementations

    gone = implementations.IMPLEMENTATIONS["freia"]
    monkeypatch.setitem(
        implementations.IMPLEMENTATIONS,
        "freia",
        implementations.Implementation(
            "freia", gone.title, gone.build, missing=lambda device: "not installed"
        ),
    )
    calls: list[tuple[str, str]] = []
    found = timing.compare(
        TINY, ("eager", "freia", "fast", "fast-store"), ("forward", "step"), 2, limit=10**9,
        estimator=Huge(), done=lambda name, job: calls.append((name, job)),  # type: ignore[arg-type]
    )  # fmt: skip
    kinds = {(row["implementation"], row["job"]): row for row in found}
    assert "does not fit" in kinds["eager", "step"]["reason"]
    assert kinds["freia", "forward"]["reason"] == "not installed"
    assert kinds["fast", "step"]["ratio"] is None  # nothing to compare with
    assert kinds["fast", "forward"]["ratio"] > 0
    assert kinds["fast", "forward"]["difference"] < 1e-5
    assert kinds["fast", "forward"]["rounds"] == 2
    assert ("fast-store", "forward") not in kinds
    assert calls.count(("fast", "step")) == 3  # one warm-up
    record.new(machine.describe(), found)
    shown = tables.markdown(tables.time_tables(found)[0])
    for words in (
        "skipped [1]",
        "[2] not installed",
        "as ours, fast",
        "[1] does not fit: about 1,000 GB needed, 1 GB free",
    ):
        assert words in shown


def test_timing_other_work_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, case: Case, like: Any = None) -> Any:
        return original(name, case, None)  # every one with weights of its own

    original = timing.build
    monkeypatch.setattr(timing, "build", build)
    with pytest.raises(RunError, match="fast forward at 8x6: differs from eager PyTorch"):
        timing.compare(TINY, ("eager", "fast"), ("forward",), 1, limit=PLENTY, estimator=Small())  # type: ignore[arg-type]


def test_run_reports_all_its_work_and_restores_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Estimator", lambda threads: Small())
    monkeypatch.setattr(plan, "measure", lambda name, cases, threads: (10, [5]))
    groups = [
        plan.Kernels(TINY, 1, 1),
        plan.Times(TINY, ("eager", "fast"), 1, 1),
        plan.Memory(TINY, "fast", 1),
    ]
    seen: list[float] = []
    before = torch.get_num_threads()
    rows = plan.run(groups, report=lambda done, total, text: seen.append(done / total))
    assert torch.get_num_threads() == before
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    assert {row["what"] for row in rows} == {"kernel", "time", "memory"}
    record.new(machine.describe(), rows)


def test_record_keeps_its_form(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = record.new(machine.describe(), [memory_row("fast", 64, 7)], "a note")
    record.save(good, path)
    assert record.load(path) == good
    row = good["rows"][0]
    for change, words in (
        ({"schema": 7}, "schema is 7"),
        ({"machine": {}}, "machine lacks"),
        ({"rows": None}, "no rows"),
        ({"rows": [{"what": "guess"}]}, "row 0 is none of"),
        ({"rows": [{**row, "bytes": "many"}]}, "bytes is 'many'"),
        ({"rows": [{**row, "colour": 1}]}, "colour"),
        ({"rows": [{**row, "job": "sleep"}]}, "job is 'sleep'"),
        ({"rows": [{**row, "case": {"side": 3}}]}, "case is not one"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=words):
            record.load(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        record.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        record.load(tmp_path / "absent.json")


def test_budget_is_the_line_through_the_points() -> None:
    rows = [memory_row("fast", side, 1000 + 50 * side * side) for side in (64, 128, 256)]
    fit = budget.fit(rows, "fast")
    assert fit is not None
    assert fit.per_pixel == pytest.approx(50)
    assert fit.fixed == pytest.approx(1500)
    assert fit.largest_side(1500 + 50 * 1000 * 1000) == 1000
    assert fit.largest_side(100) == 0
    assert budget.fit(rows[:1], "fast") is None
    assert budget.fit(rows, "eager") is None
    assert budget.fit([memory_row("fast", 64, 9), memory_row("fast", 128, 9)], "fast") is None


def test_commit_is_of_a_checkout_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "PACKAGE", tmp_path / "a" / "b" / "c" / "d.py")
    assert machine.commit() is None
