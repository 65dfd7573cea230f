"""`ivan benchmark`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivan.benchmark import memory, plan, record
from ivan.cli import run as ivan

TINY = ["benchmark", "--device", "cpu", "--sizes", "16", "--threads", "1", "--rounds", "1", "--blocks", "1"]


def test_tables_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "here.json"
    assert ivan([*TINY, "--json", str(path), "--no-memory"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "eager PyTorch",
        "ours, strict",
        "16x16, blocks 1, 1 thread",
        "dense block",
        "torch",
        "x)",
    ):
        assert words in shown
    measured = record.load(path)
    assert measured["machine"]["threads"] == 1
    assert {row["what"] for row in measured["rows"]} == {"time", "kernel"}
    assert {row["implementation"] for row in measured["rows"]} == {"eager", "strict", "fast"}


def test_memory_and_a_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "here.json"
    needed = {"eager": 5_000_000_000, "strict": 7_000, "fast": 7_000}
    monkeypatch.setattr(memory.Estimator, "bytes", lambda self, name, case, job: needed[name])
    monkeypatch.setattr(plan, "measure", lambda name, cases, threads: (10, [40_000_000]))
    line = f"--no-kernels --quiet --memory-limit 0.25 --json {path}"
    assert ivan([*TINY, *line.split()]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    for words in ("skipped [1]", "[1] does not fit: about 5.00 GB needed, 0.25 GB free", "40 MB"):
        assert words in found.out
    rows = record.load(path)["rows"]
    assert {row["implementation"] for row in rows if row["what"] == "skip"} == {"eager"}
    assert {row["implementation"] for row in rows if row["what"] == "memory"} == {"strict", "fast"}


def test_everything_skipped_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(memory.Estimator, "bytes", lambda self, name, case, job: 10**15)
    assert ivan([*TINY, "--no-kernels", "--quiet"]) == 0
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("--sizes 0", ("--sizes", "256x192")),
        ("--sizes ,", ("--sizes",)),
        ("--rounds 0", ("--rounds", "1")),
        ("--threads -1", ("--threads",)),
        ("--channels 40", ("channels", "16")),
        ("--against tensorflow", ("--against", "memcnn")),
        ("--device abacus", ("--device", "cuda")),
        ("--memory-limit 0", ("--memory-limit",)),
        ("--json {out}/absent/a.json", ("--json", "absent")),
        ("--json {out}", ("--json", "folder")),
    ],
)
def test_bad_usage_is_one_line(
    options: str, names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ivan(["benchmark", *options.format(out=tmp_path).split()]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("ivan: ")
    for name in names:
        assert name in errors


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert ivan(["benchmark", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("eager PyTorch", "fresh process", "--sizes", "--json"):
        assert words in shown
