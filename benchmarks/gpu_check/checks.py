"""The tests marked gpu, and compute-sanitizer over every kernel, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from supervisor import Supervisor

REPO = Path(__file__).resolve().parent.parent.parent
TESTS = ("tests/ivan_fast", "tests/test_build.py")
SANITIZER_TOOLS = ("memcheck", "racecheck")


def run_tests(seconds: float, marker: str = "gpu", tests: tuple[str, ...] = TESTS) -> dict[str, Any]:
    """Counts of pytest's outcomes, and its failures, one line each."""
    if importlib.util.find_spec("pytest") is None:
        return {"good": False, "error": "pytest is not installed: pip install pytest"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "no:cacheprovider", *tests]
    try:
        run = subprocess.run(
            command, cwd=REPO, capture_output=True, text=True, timeout=max(seconds, 1), check=False
        )
    except subprocess.TimeoutExpired:
        return {"good": False, "error": f"stopped after {seconds:.0f} s"}
    lines = (run.stdout + run.stderr).strip().splitlines() or ["no output"]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", lines[-1])}
    failures = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))][:20]
    good = run.returncode == 0 and counts.get("passed", 0) > 0
    result: dict[str, Any] = {"good": good, **counts, "failures": failures}
    if not good and not failures:
        result["error"] = lines[-1][:200]
    return result


def find_sanitizer() -> str | None:
    """compute-sanitizer: $COMPUTE_SANITIZER, PATH, or the CUDA toolkit."""
    if given := os.environ.get("COMPUTE_SANITIZER"):
        return given
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    for candidate in (shutil.which("compute-sanitizer"), f"{home}/bin/compute-sanitizer"):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    return None


def run_sanitizer(device: str, tool: str, seconds: float) -> dict[str, Any]:
    """Every kernel on small awkward sizes under one tool of compute-sanitizer."""
    program = find_sanitizer()
    if program is None:
        return {"good": None, "error": "not run: no compute-sanitizer (set COMPUTE_SANITIZER to its path)"}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # Its own words go to a file: it would write between the worker's answers otherwise.
        prefix = (program, "--tool", tool, "--error-exitcode", "9", "--log-file", str(log))
        watched = Supervisor(device, prefix)
        answer = watched.ask({"kind": "sanitize"}, seconds)
        status = None
        if "result" in answer and watched.process is not None:
            assert watched.process.stdin is not None
            watched.process.stdin.close()  # ends the worker; the sanitizer then says what it found
            try:
                status = watched.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                answer = {"error": "compute-sanitizer did not end"}
        watched.stop()
        words = log.read_text(errors="replace").splitlines() if log.exists() else []
    found = [w.strip() for w in words if "ERROR SUMMARY" in w or "RACECHECK SUMMARY" in w or " at " in w][:8]
    if answer.get("stopped") and not any("Invalid" in w or "hazard" in w for w in words):
        return {"good": None, "error": f"not finished: {answer['error']}, nothing found until then"}
    if any("not supported" in w.lower() for w in words):
        return {"good": None, "error": "not run: compute-sanitizer does not support this device here"}
    if "error" in answer:
        return {"good": False, "error": answer["error"], "findings": found}
    return {"good": status == 0, "exit": status, "findings": found}
