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
TESTS = ("tests/ivan_fast", "tests/test_build.py", "tests/test_metrics_batch.py")
MARKER = "gpu or cuda_build"
TEST_SECONDS = 60.0  # of one test, at most
# torch's allocator puts small tensors side by side, where a kernel that runs over one of them meets no end;
# and what libraries try out at their start, and the driver answers with an error, is no fault of a kernel.
SANITIZERS = {
    "memcheck": (("--report-api-errors", "no"), {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
    "racecheck": ((), {}),
}


def run_tests(seconds: float, marker: str = MARKER, tests: tuple[str, ...] = TESTS) -> dict[str, Any]:
    """Counts of pytest's outcomes, and its failures, one line each."""
    if importlib.util.find_spec("pytest") is None:
        return {"good": False, "error": "pytest is not installed: pip install pytest"}
    command = [sys.executable, "-m", "pytest", "-v", "-ra", "-m", marker, "-p", "no:cacheprovider", *tests]
    if importlib.util.find_spec("pytest_timeout") is not None:  # names the test that hangs, wherever it does
        command += ["-o", f"timeout={TEST_SECONDS:.0f}", "-o", "timeout_method=thread"]
    try:
        run = subprocess.run(
            command, cwd=REPO, capture_output=True, text=True, timeout=max(seconds, 1), check=False
        )
        printed, status = run.stdout or run.stderr, run.returncode
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""  # bytes, whatever `text` says
        printed, status = said if isinstance(said, str) else said.decode(errors="replace"), None
    return _understood(printed, status, seconds)


def _understood(printed: str, status: int | None, seconds: float) -> dict[str, Any]:
    """What pytest said; `status` is None where it was stopped after `seconds`."""
    lines = printed.strip().splitlines() or ["no output"]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", lines[-1])}
    of_test = re.compile(r"(\S+::.+?)(?: (PASSED|FAILED|ERROR|SKIPPED)|$)")
    told = [match for line in lines if (match := of_test.match(line))]
    failures = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
    if not failures:  # where pytest did not come to its summary
        failures = [f"{m[2]} {m[1]}"[:200] for m in told if m[2] in ("FAILED", "ERROR")]
    failures = failures[:20]
    without = "no CUDA device" in printed  # those that need one were skipped
    good = status == 0 and counts.get("passed", 0) > 0 and not without
    result: dict[str, Any] = {"good": good, **counts, "failures": failures, "stopped": status is None}
    if status is None or not counts:
        how = f"stopped after {seconds:.0f} s" if status is None else "pytest ended without a summary"
        result["error"] = f"{how}; the last line of a test was: {told[-1][0] if told else lines[-1]}"[:300]
        if failures:
            failures.append(result["error"])
    elif without:
        result["error"] = "pytest saw no CUDA device"
    elif not good and not failures:
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
        options, environment = SANITIZERS[tool]
        prefix = (program, "--tool", tool, *options, "--error-exitcode", "9", "--log-file", str(log))
        watched = Supervisor(device, prefix, environment=environment)
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
