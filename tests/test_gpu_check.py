"""make gpu-check without a GPU: the same code on tiny problems on the CPU, and everything around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / "benchmarks" / "gpu_check"
# The application's libraries, which a machine with a GPU need not have.
BLOCK = """
import sys
class Block:
    names = ("monai", "nibabel", "scipy", "matplotlib", "lightning", "lightning_fabric", "typer", "rich",
             "safetensors", "PIL", "skimage", "tensorboard", "pytest_benchmark")
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} on a bare GPU machine")
sys.meta_path.insert(0, Block())
"""


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def modules():
    """The check's modules import each other by plain names, as scripts in one folder do."""
    names = [path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"]
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in [*names, "network_twin"]:
        sys.modules.pop(name, None)


def check(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER), "--results", str(folder / "results"), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=580, check=False, cwd=folder
    )


def test_whole_check_on_the_cpu(tmp_path):
    done = check("--device", "cpu", "--sizes", 16, "--batches", 1, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "gpu-check: all right"
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    assert record["faults"] == []
    timed = {(r["name"], r["size"], r["precision"], r["job"]) for r in record["times"] if "seconds" in r}
    expected = {
        (name, size, precision, job)
        for name in ("ours", "eager", "channels_last")
        for size in (16,)
        for precision in ("float32", "tf32", "bf16")
        for job in ("forward", "inverse", "step")
    }
    assert timed == expected
    assert {r["what"] for r in record["accuracy"]} == {"forward", "inverse", "gradient"}
    size = {"float32": (0, 0), "tf32": (1e-5, 1e-2), "bf16": (1e-4, 1e-1)}  # of rounding every operand
    for row in record["accuracy"]:
        assert size[row["precision"]][0] <= row["rounded"] <= size[row["precision"]][1], row
    assert len(record["rates"]["ops"]) == 4 + 2 * 3
    assert all(row["seconds"] > 0 for row in record["rates"]["ops"])
    table = [line for line in done.stdout.splitlines() if line.split()[:2] == ["16", "1"]]
    assert len(table) == 9
    assert "extrapolated" not in done.stdout  # no device memory here


def test_the_tests_for_a_gpu_are_found_by_pytest_alone(tmp_path):
    """None of its plugins need be there, nor the application's libraries."""
    import checks

    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", checks.MARKER, "-p", "no:cacheprovider", "--co"]
    done = subprocess.run(
        [*command, *checks.TESTS], env=environment, capture_output=True, text=True, check=False, cwd=REPO
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(found) > 300
    for file in ("test_build.py::test_cuda_kernels_are_registered", "test_metrics_batch.py::"):
        assert any(f"tests/{file}" in line for line in found), file


def test_nothing_fits_into_no_time(tmp_path):
    done = check("--device", "cpu", "--sizes", 16, "--batches", 1, "--budget", 0, folder=tmp_path)
    assert done.returncode == 1
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    assert record["times"] == []
    times = [name for name in record["skipped"] if "16x16" in name]
    assert len(times) == 27
    assert {"rates", "accuracy bf16", "environment"} < set(record["skipped"])
    assert record["faults"] == ["accuracy: not measured"]
    assert "skipped for want of time (33): environment; accuracy float32" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_in_one_line(tmp_path):
    done = check(folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "sees no CUDA device" in done.stderr


WORKER = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["kind"] == "die":
        sys.stderr.write("CUDA error: an illegal memory access\\n")
        sys.stderr.flush()
        os._exit(7)
    if request["kind"] == "hang":
        time.sleep(100)
    if request["kind"] == "raise":
        print(json.dumps({"error": request["error"]}), flush=True)
        continue
    print(json.dumps({"result": os.getpid()}), flush=True)
"""


def test_a_worker_that_dies_or_hangs_is_replaced(tmp_path):
    from supervisor import Supervisor

    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    workers = Supervisor("cpu", worker=script)
    first = workers.ask({"kind": "fine"}, 20)["result"]
    assert workers.ask({"kind": "fine"}, 20)["result"] == first
    died = workers.ask({"kind": "die"}, 20)
    assert died == {"error": "the process ended with 7: CUDA error: an illegal memory access"}
    second = workers.ask({"kind": "fine"}, 20)["result"]
    assert second != first
    begin = time.monotonic()
    assert workers.ask({"kind": "hang"}, 1) == {"error": "stopped after 1 s", "stopped": True}
    assert time.monotonic() - begin < 15
    third = workers.ask({"kind": "fine"}, 20)["result"]
    assert third not in (first, second)
    # Too large a problem does no harm; after anything else the device may be lost to the process.
    assert workers.ask({"kind": "raise", "error": "does not fit"}, 20) == {"error": "does not fit"}
    assert workers.ask({"kind": "fine"}, 20)["result"] == third
    assert workers.ask({"kind": "raise", "error": "RuntimeError: x"}, 20) == {"error": "RuntimeError: x"}
    assert not workers.running
    assert workers.ask({"kind": "fine"}, 20)["result"] != third
    workers.stop()


class FakeWorkers:
    """Answers time requests with a time proportional to the pixels, and nothing else."""

    running = True

    def __init__(self, fails: str = "") -> None:
        self.asked: list[dict] = []
        self.fails = fails

    def ask(self, request, seconds):
        self.asked.append(request)
        if request.get("name") == "eager" and request["size"] > 512:
            return {"error": "does not fit"}
        if self.fails and request.get("name") == self.fails:
            return {"error": "RuntimeError: wrong"}
        pixels = request["batch"] * request["size"] ** 2
        memory = 100 * pixels
        result = {"seconds": 1e-8 * pixels, "calls": 3, "added_bytes": memory, "peak_bytes": memory + 10**8}
        return {"result": result}

    def stop(self):
        pass


def simulated(**options):
    import plan
    from timing import Budget

    run = plan.Run(plan.Options(**options), Budget(1e9))
    run.workers = FakeWorkers()
    run.record["environment"] = {"memory_bytes": 80 * 10**9}
    return run


def test_what_does_not_fit_is_not_tried_larger():
    import plan

    run = simulated(batches=(1, 8))
    for name, case, job in plan.times(run.options):
        plan.measure_time(run, name, case, job)
    eager = [r for r in run.workers.asked if r["name"] == "eager"]
    # at 1024 once per precision and job; never again at 2048 or with more images of at least as many pixels
    assert sum(r["size"] > 512 for r in eager) == 9
    names = {r["name"] for r in run.workers.asked}
    assert names == {"ours", "ours_other", "eager", "channels_last", "graph", "ours_graph"}
    assert all(r["precision"] != "float32" for r in run.workers.asked if r["name"] == "ours_other")
    assert all(r["size"] <= 512 for r in run.workers.asked if "graph" in r["name"])
    largest = [r for r in run.rows if r["name"] == "ours" and r["size"] == 2048 and r["batch"] == 8]
    assert len(largest) == 9


def test_largest_slice_follows_from_the_measured_memory():
    import plan
    from networks import Case

    run = simulated()
    for size in (256, 512):
        plan.measure_time(run, "ours", Case(size, 1, "float32"), "step")
    run.options.tiny = True
    plan.largest_slice(run)
    found = run.record["largest_slice"]["ours float32"]
    assert found["bytes_per_pixel"] == 100
    side = found["largest_side"]
    assert abs(100 * side**2 + 10**8 - 0.95 * 80e9) < 100 * (2 * 16 * side)


def test_only_what_is_left_of_the_time_is_begun():
    import plan
    from networks import Case
    from timing import Budget

    run = simulated()
    run.budget = Budget(8.0)
    plan.measure_time(run, "ours", Case(1024, 1, "bf16"), "step")
    assert len(run.rows) == 1
    plan.measure_time(run, "ours", Case(16384, 1, "bf16"), "step")  # 256 times the first's time
    assert len(run.rows) == 1
    assert run.budget.skipped == ["ours step 16384x16384 batch 1 bf16"]


TESTS = """
import os, time
import pytest
def test_right(): pass
def test_wrong(): assert os.environ.get("RIGHT")
def test_device(): os.environ.get("DEVICE") or pytest.skip("no CUDA device")
def test_slow(): time.sleep(float(os.environ.get("SLEEP", 0)))
"""


def test_what_pytest_says_is_understood(tmp_path, monkeypatch):
    import checks

    (tmp_path / "test_x.py").write_text(TESTS)

    def run(seconds=100.0, **environment):
        for name in ("RIGHT", "DEVICE", "SLEEP"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return checks.run_tests(seconds, "not absent", (str(tmp_path),))

    assert run(RIGHT="1", DEVICE="1") == {"good": True, "passed": 4, "failures": [], "stopped": False}
    blind = run(RIGHT="1")
    assert (blind["good"], blind["skipped"], blind["error"]) == (False, 1, "pytest saw no CUDA device")
    wrong = run(DEVICE="1")
    assert (wrong["good"], wrong["failed"], wrong["passed"]) == (False, 1, 3)
    assert "test_wrong" in wrong["failures"][0]
    monkeypatch.setattr(checks, "TEST_SECONDS", 2)
    hangs = run(DEVICE="1", SLEEP="60")
    assert (hangs["good"], hangs["stopped"]) == (False, False)
    assert "test_wrong" in hangs["failures"][0]  # although pytest came to no summary
    assert "test_slow" in hangs["failures"][1]
    monkeypatch.setattr(checks, "TEST_SECONDS", 100)
    late = run(8.0, RIGHT="1", DEVICE="1", SLEEP="60")
    assert (late["good"], late["stopped"], late["failures"]) == (False, True, [])
    assert "test_slow" in late["error"]


def test_what_the_end_of_the_time_stops_is_skipped_and_no_fault(monkeypatch):
    import plan
    from networks import Case
    from timing import Budget

    run = simulated()
    monkeypatch.setattr(run.workers, "ask", lambda request, seconds: {"error": "stopped", "stopped": True})
    plan.measure_time(run, "ours", Case(512, 1, "bf16"), "step")
    assert [row["error"] for row in run.rows] == ["stopped"]  # longer than it may take: a fault
    run.rows.clear()
    run.budget = Budget(20.0)
    run.record["accuracy"] = [{"good": True}]
    plan.measure_time(run, "ours", Case(256, 1, "bf16"), "step")
    assert run.ask("rates", {"kind": "rates"}, 90) is None
    assert run.budget.skipped == ["ours step 256x256 batch 1 bf16", "rates"]
    late = {"good": False, "stopped": True, "failures": [], "error": "stopped after 45 s"}
    monkeypatch.setattr(plan.checks, "run_tests", lambda seconds: late)
    run.budget = Budget(75.0)
    plan.tests_of_the_device(run)
    assert run.budget.skipped == ["tests"]
    assert plan.faults(run.record) == []
    run.budget = Budget(1e9)
    plan.tests_of_the_device(run)  # all the time that tests may take was not enough
    assert plan.faults(run.record) == ["tests: stopped after 45 s"]


def test_the_start_of_a_worker_takes_time_too():
    import plan
    from networks import Case
    from timing import Budget

    run = simulated()
    for running in (True, False):
        run.workers.running = running
        run.budget = Budget(plan.START_SECONDS)
        plan.measure_time(run, "ours", Case(256, 1, "bf16"), "step")
        assert run.budget.skipped == ([] if running else ["ours step 256x256 batch 1 bf16"])


def test_every_kind_of_fault_fails_the_check():
    import plan

    step = {"name": "ours", "job": "step", "size": 2048, "precision": "bf16"}
    errors = {"ours": 1e-3, "eager": 1e-3, "rounded": 1e-3}
    good = {"what": "forward", "precision": "bf16", **errors, "good": True}
    record = {
        "errors": [],
        "accuracy": [good],
        "official": {"good": True, "errors": {"forward": 1e-7}},
        "tests": {"good": True, "passed": 3, "failures": []},
        "sanitizer": {"memcheck": {"good": True}, "racecheck": {"good": None, "error": "not run"}},
        "times": [{**step, "error": "does not fit"}],
    }
    assert plan.faults(record) == []
    faulty = {
        "errors": ["rates: stopped after 90 s"],
        "accuracy": [{**good, "good": False}],
        "official": {"good": False, "errors": {"forward": 0.1}},
        "tests": {"good": False, "failures": ["FAILED tests/a.py::b"]},
        "sanitizer": {"memcheck": {"good": False, "findings": ["1 error"]}},
        "times": [{**step, "error": "RuntimeError: x"}],
    }
    for key, value in faulty.items():
        assert len(plan.faults({**record, key: value})) == 1, key


def test_a_part_that_crashes_is_a_fault_and_the_rest_goes_on(tmp_path):
    """And a file is there from the first part on, whatever happens later."""
    import plan
    import report

    run = simulated(batches=(1,))
    run.save = lambda record: report.write({**record, "faults": plan.faults(record)}, tmp_path)
    run.record["environment"] = {"device": "a card"}

    def crash():
        raise RuntimeError("two\nlines")

    run.part("rates", crash)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["errors"] == ["rates: RuntimeError: two lines"]
    assert record["faults"] == [*record["errors"], "accuracy: not measured"]
    assert record["times"] == []
    run.part("times", lambda: plan.all_times(run, (1,), run.options.sizes))
    assert len(json.loads(path.read_text())["times"]) == len(run.rows) > 100
    assert len(list(tmp_path.iterdir())) == 1


def test_targets_come_before_larger_batches(monkeypatch):
    """Graphs and the compiled training step at 256 are asked for before slices of 1024 and any batch of 8."""
    import plan

    run = simulated()
    monkeypatch.setattr(
        run.workers, "ask", lambda r, s, ask=run.workers.ask: ask(r, s) if "size" in r else {"error": "no"}
    )
    plan.everything(run, tests=False)
    asked = [(r.get("name"), r.get("batch"), r.get("job")) for r in run.workers.asked]
    large = [i for i, r in enumerate(run.workers.asked) if r.get("size", 0) > 512 or r.get("batch") == 8]
    assert asked.index(("compile", 1, "step")) < large[0]
    assert max(i for i, a in enumerate(asked) if "graph" in str(a[0])) < large[0]
    assert sum(a[0] == "compile" for a in asked) == 8


SANITIZER = """#!{python}
# Talks as compute-sanitizer does: a word on its output, the rest in its log file; the program is its child.
import subprocess, sys
words = sys.argv[1:]
log = open(words[words.index("--log-file") + 1], "w")
log.write("========= COMPUTE-SANITIZER\\n")
log.flush()
print("========= some greeting", flush=True)
program = words[words.index("--log-file") + 2 :]
code = subprocess.call(program)
log.write("{report}\\n")
sys.exit({status} or code)
"""
SANITIZED = """
import json, sys, time
for line in sys.stdin:
    time.sleep({sleep})
    print("noise")
    print(json.dumps({{"result": {{"done": True}}}}), flush=True)
"""


@pytest.mark.parametrize(
    ("report", "status", "sleep", "good"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, 0, True),
        ("========= ERROR SUMMARY: 2 errors", 9, 0, False),
        ("", 0, 60, None),
    ],
)
def test_sanitizer_is_understood(tmp_path, monkeypatch, report, status, sleep, good):
    """A clean run, one with findings, and one that would take too long, whose child ends too."""
    import checks
    import supervisor

    program, worker = tmp_path / "compute-sanitizer", tmp_path / "worker.py"
    program.write_text(SANITIZER.format(python=sys.executable, report=report, status=status))
    program.chmod(0o755)
    worker.write_text(SANITIZED.format(sleep=sleep))
    monkeypatch.setenv("COMPUTE_SANITIZER", str(program))
    monkeypatch.setattr(checks, "Supervisor", lambda *a, **k: supervisor.Supervisor(*a, worker=worker, **k))
    begin = time.monotonic()
    found = checks.run_sanitizer("cpu", "memcheck", 5 if sleep else 50)
    assert found["good"] is good, found
    assert time.monotonic() - begin < 40
    assert good is None or report in found["findings"]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert str(worker) not in listed


def test_device_events_are_read_once_at_the_end(monkeypatch):
    from timing import Stopwatch

    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, end):
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Stopwatch, "synchronize", lambda self: log.append("synchronize"))
    watch = Stopwatch(torch.device("cpu"))
    watch.flush = torch.empty(8)
    seconds, calls = watch.median(lambda: log.append("call"), 0.01)
    assert seconds == 2e-3
    assert 3 <= calls <= 50
    assert log[-1] == "synchronize"
    measured = log[log.index("event") :]
    assert measured == ["event", "call", "event"] * calls + ["synchronize"]


def test_device_name_makes_the_file_name():
    import report

    record = {
        "environment": {"device": "NVIDIA H100 80GB HBM3"},
        "began": time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)),
    }
    assert report.file_name(record) == "gpu_nvidia_h100_80gb_hbm3_2026-01-02_030405.json"
