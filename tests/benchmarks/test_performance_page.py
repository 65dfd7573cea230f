"""The scripts of benchmarks/: the page never says anything but what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_floor
import fma_peak
import performance
import performance_plots
import plans
import pytest

from ivan.benchmark import machine, record
from ivan.benchmark.case import Case
from ivan.benchmark.plan import Memory, Times


def row(what: str, name: str, case: Case, **more: Any) -> dict[str, Any]:
    return {"what": what, "implementation": name, "case": case.as_dict(), "threads": 2, **more}


def timed(name: str, case: Case, seconds: float, **more: Any) -> dict[str, Any]:
    numbers = {"seconds": seconds, "fastest": seconds, "slowest": seconds, "rounds": 3, "gflops": 61.0}
    return row("time", name, case, job="step", ratio=12.25 / seconds, difference=None, **numbers, **more)


@pytest.fixture
def measured() -> dict[str, Any]:
    rows = []
    for side in (128, 256):
        case = Case(side, side)
        rows += [timed("eager", case, 12.25), timed("fast", case, 3.5)]
        rows += [
            row("memory", name, case, job="step", bytes=per * case.pixels, baseline=400_000_000)
            for name, per in (("eager", 87_000), ("fast", 300))
        ]
    deep = Case(128, 128, blocks=80)
    rows += [row("memory", "fast", deep, job="step", bytes=6_000_000, baseline=1), timed("fast", deep, 33.0)]
    rows.append(
        row("skip", "eager", deep, job="step", reason="does not fit: about 14.3 GB needed, 1 GB free")
    )
    facts = {**machine.describe(), "fma_gflops": 122.0, "threads": 2}
    kernel = {"seconds": 0.5, "fastest": 0.5, "slowest": 0.5, "rounds": 3, "gflops": 61.0, "ratio": 4.5}
    rows.append(row("kernel", "fast", Case(128, 128), kernel="dense_block", **kernel))
    return record.new(facts, rows, "made up for a test")


def test_the_page_agrees_with_the_results() -> None:
    found = record.load(performance.RESULTS)
    page = performance.PAGE.read_text(encoding="utf-8")
    assert performance.filled(page, found) == page, "run python benchmarks/performance.py"
    for name in ("size", "depth"):
        assert (performance.IMAGES / f"performance_{name}.png").exists()


def test_every_number_comes_from_the_file(measured: dict[str, Any]) -> None:
    page = performance.PAGE.read_text(encoding="utf-8")
    text = performance.filled(page, measured)
    for words in (
        "| ours, fast | 3.5 s (3.50x) | 5 MB |",
        "5,702 MB (87,000 B/px)",
        "500 ms (4.50x)",
        "61 (50%)",
        "does not fit: about 14.3 GB",
        "33 s",
        "made up for a test",
        "| 8 GB | 288x288 | 5032x5032 |",
        "at 16,384, 65,536 pixels",
    ):
        assert words in text
    assert performance.filled(text, measured) == text
    measured["rows"][1]["seconds"] = 3.25
    assert performance.filled(text, measured) != text


def test_nothing_measured_says_not_run(measured: dict[str, Any]) -> None:
    texts = performance.parts({**measured, "rows": [], "note": "later"})
    assert texts.pop("machine") == "**Not run yet: later.**"
    assert "not run" in texts.pop("cuda"), "paper work, with a column for what is measured"
    assert set(texts.values()) == {"Not run."}


def test_a_page_without_a_marker_is_refused(measured: dict[str, Any]) -> None:
    page = performance.PAGE.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="budget"):
        performance.filled(page.replace("begin budget", "begin purse"), measured)


def test_the_command(
    measured: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, page = tmp_path / "a.json", tmp_path / "page.md"
    record.save(measured, source)
    page.write_text(performance.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    options = [
        "performance.py",
        "--json",
        str(source),
        "--page",
        str(page),
        "--images",
        str(tmp_path / "images"),
    ]
    for extra, code in (["--check"], 1), ([], 0), (["--check"], 0):
        monkeypatch.setattr(sys, "argv", [*options, *extra])
        assert performance.main() == code
    assert "the page agrees" in capsys.readouterr().out
    assert (tmp_path / "images" / "performance_depth.png").read_bytes().startswith(b"\x89PNG")


def test_plots_of_nothing(measured: dict[str, Any], tmp_path: Path) -> None:
    paths = performance_plots.draw({**measured, "rows": []}, tmp_path)
    assert [path.name for path in paths] == ["performance_size.png", "performance_depth.png"]


def test_the_plan_of_the_figures() -> None:
    groups = plans.figures(Case(1, 1), threads=2, rounds=3)
    times = {(g.case.height, g.case.blocks, g.threads): g.names for g in groups if isinstance(g, Times)}
    assert times[128, 8, 2] == times[256, 8, 2] == plans.ALL
    assert times[512, 8, 2] == ("eager", "strict", "fast")
    assert times[256, 8, 1] == ("eager", "fast")
    assert times[128, 80, 2] == ("fast",)
    memory = {(g.case.height, g.case.blocks, g.name) for g in groups if isinstance(g, Memory)}
    assert {(side, 8, name) for side in (128, 256, 512, 1024) for name in ("eager", "fast")} <= memory
    assert {(128, blocks, "fast") for blocks in (8, 16, 40, 80)} <= memory
    assert len(groups) == len(set(groups)), "measured twice"


def test_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = fma_peak.peak_rate()
    assert rate is None or 1e8 < rate < 1e13
    monkeypatch.setattr(fma_peak.shutil, "which", lambda name: None)
    assert fma_peak.peak_rate() is None


def test_the_suites_leave_their_numbers(repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    # pytest-benchmark measures nothing in a process that it takes for one of pytest-xdist's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "benchmarks/bench_kernels.py",
         "-k", "channel_mix-", "-p", "no:cacheprovider",
         "-o", "python_files=bench_*.py", f"--benchmark-json={out}"],
        cwd=repo, capture_output=True, text=True, check=False,
        env={**environment, "IVAN_BENCH_SIZES": "8", "IVAN_BENCH_ROUNDS": "2", "IVAN_BENCH_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = json.loads(out.read_text())
    assert "node" not in found["machine_info"]
    assert found["machine_info"]["ivan"]["precision"] == "float32"
    ours = next(b["extra_info"] for b in found["benchmarks"] if "strict" in b["name"])
    assert ours["ratio_to_eager"] > 0
    assert {"gflops", "fraction_of_fma_peak", "threads", "load"} <= set(ours)


def test_the_floor_counts_what_the_kernels_do() -> None:
    """1 to 1 channels, growth 32, depth 5: docs/cuda.md's 66.7 thousand multiply-adds."""
    net = cuda_floor.DenseNet()
    assert net.macs() == 66_688
    assert cuda_floor.DenseNet(depth=2).macs() < cuda_floor.DenseNet(depth=3).macs() < net.macs()
    true = 9 * (32 * sum(1 + 32 * level for level in range(4)) + 129)
    assert true <= net.macs() <= 1.2 * true
    assert true <= cuda_floor.weight_gradient_macs(net) <= 1.2 * true
