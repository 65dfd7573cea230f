"""What is measured, the most important things first; what no longer fits is skipped by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import checks
from networks import BLOCKS, IMPLEMENTATIONS, JOBS, PRECISIONS, Case
from supervisor import Supervisor
from timing import Budget

# Size, job and precision of torch.compile, in this order.
COMPILED = tuple(
    (size, job, precision)
    for size in (256, 512)
    for precision in ("bf16", "tf32")
    for job in ("step", "forward")
)
GRAPH_SIZES = (256, 512)
COMPILE_SECONDS = 170.0  # max-autotune of one job, at most
TESTS_SECONDS = 200.0  # of all tests, at most
SANITIZER_SECONDS = 75.0  # of one tool, at most
START_SECONDS = 8.0  # of a new worker, until it answers
LARGE = 4096  # the slice that must train
Row = dict[str, Any]


@dataclass
class Options:
    device: str = "cuda"
    sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    batches: tuple[int, ...] = (1, 8)
    tiny: bool = False  # small problems everywhere: exercises the code on a CPU

    @property
    def blocks(self) -> int:
        return 2 if self.tiny else BLOCKS

    def case(self, size: int, batch: int, precision: str) -> Case:
        return Case(size, batch, precision, self.blocks)


@dataclass
class Run:
    """Measurements so far, and the processes that make them."""

    options: Options
    budget: Budget
    record: Row = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    save: Callable[[Row], object] | None = None  # called with the record after every part

    def __post_init__(self) -> None:
        self.workers = Supervisor(self.options.device)
        self.record |= {"began": self.budget.started, "errors": [], "times": self.rows}
        self.record |= {"environment": {}, "skipped": self.budget.skipped}

    def part(self, name: str, work: Callable[[], object]) -> None:
        """One part of the check: what goes wrong in it is noted and the next part begins; what is known by
        then is saved, so that nothing is lost with a process that is ended from outside."""
        try:
            work()
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            self.record["errors"].append(f"{name}: {type(error).__name__}: {text}")
        self.record["seconds"] = self.budget.total - self.budget.left()
        if self.save is not None:
            self.save(self.record)

    def say(self, text: str) -> None:
        print(f"[{self.budget.total - self.budget.left():4.0f} s] {text}", flush=True)

    def answer(self, what: str, request: Row, seconds: float) -> Row | None:
        """The worker's answer; None, noted as skipped, where the time of the whole run ends before it."""
        left = self.budget.left()
        answer = self.workers.ask(request, min(seconds, left))
        if answer.get("stopped") and left < seconds:
            self.budget.skipped.append(what)
            return None
        return answer

    def ask(self, what: str, request: Row, seconds: float) -> Any:
        """The worker's result; None, noted in the record, where there is none."""
        answer = self.answer(what, request, seconds)
        if answer is None:
            return None
        if "error" in answer:
            self.record["errors"].append(f"{what}: {answer['error']}")
            return None
        return answer["result"]


def times(
    options: Options, batches: tuple[int, ...] | None = None, sizes: tuple[int, ...] | None = None
) -> Iterator[tuple[str, Case, str]]:
    """Implementation, case and job, in the order in which they are measured; of some batches and sizes, or of
    all."""
    on_cpu = options.device == "cpu"
    sizes = options.sizes if sizes is None else sizes
    for batch in options.batches if batches is None else batches:
        for size in sizes:
            for precision in PRECISIONS:
                plain = ["ours", "eager", "channels_last"]
                if precision != "float32" and not on_cpu:  # which has one kernel only
                    plain.insert(1, "ours_other")
                for job in JOBS:
                    for name in plain:
                        yield name, options.case(size, batch, precision), job
        if batch == min(options.batches) and not on_cpu:
            for size in (s for s in sizes if s in GRAPH_SIZES):
                for precision in PRECISIONS:
                    for job in JOBS:
                        for name in ("ours_graph", "graph"):
                            yield name, options.case(size, batch, precision), job


def estimate(rows: list[Row], name: str, case: Case, job: str) -> float:
    """Seconds that measuring this takes, from the largest smaller case of the same kind."""
    alike = [r for r in rows if (r["name"], r["precision"], r["job"]) == (name, case.precision, job)]
    done = [r for r in alike if "seconds" in r]
    if not done:
        return 4.0
    last = max(done, key=lambda r: r["pixels"])
    return 2.0 + 6.0 * last["seconds"] * case.pixels / last["pixels"]


def measure_time(run: Run, name: str, case: Case, job: str, seconds: float | None = None) -> None:
    smaller = [r for r in run.rows if (r["name"], r["precision"], r["job"]) == (name, case.precision, job)]
    row: Row = {"name": name, "job": job, "size": case.size, "batch": case.batch, "precision": case.precision}
    row["pixels"] = case.pixels
    what = f"{name} {job} {case.label}"
    if any(r.get("error") == "does not fit" and r["pixels"] <= case.pixels for r in smaller):
        run.rows.append({**row, "error": "does not fit"})
        return
    expected = estimate(run.rows, name, case, job) + (0 if run.workers.running else START_SECONDS)
    if not run.budget.fits(what, expected):
        return
    request = {"kind": "time", "name": name, "job": job}
    request |= asdict(case)
    limit = seconds if seconds is not None else 30.0 + 5 * expected
    answer = run.answer(what, request, limit)
    if answer is None:
        return
    if "error" in answer:
        row["error"] = answer["error"]
    else:
        row |= answer["result"]
        row["flop_per_s"] = case.flops(job) / row["seconds"]
    run.rows.append(row)


def largest_slice(run: Run) -> None:
    """Memory of our training steps as a line through the measured sizes; then the large slice itself."""
    memory = run.record.get("environment", {}).get("memory_bytes")
    found = {}
    for name in ("ours", "eager"):
        for precision in PRECISIONS:
            steps = {
                r["size"]: r
                for r in run.rows
                if (r["name"], r["precision"], r["job"], r["batch"]) == (name, precision, "step", 1)
                and r.get("added_bytes") is not None
            }
            if len(steps) < 2 or memory is None:
                continue
            first, last = steps[min(steps)], steps[max(steps)]
            slope = (last["added_bytes"] - first["added_bytes"]) / (last["pixels"] - first["pixels"])
            fixed = last["peak_bytes"] - slope * last["pixels"]
            if slope > 0:
                side = int((max(0.95 * memory - fixed, 0) / slope) ** 0.5) // 16 * 16
                found[f"{name} {precision}"] = {
                    "bytes_per_pixel": slope,
                    "largest_side": side,
                    "how": "extrapolated",
                }
    run.record["largest_slice"] = found
    if not run.options.tiny:
        for precision in ("bf16", "float32"):
            measure_time(run, "ours", run.options.case(LARGE, 1, precision), "step")


def compiled(run: Run, jobs: tuple[tuple[int, str, str], ...]) -> None:
    """torch.compile in max-autotune, each job in a new process that may be stopped."""
    if run.options.device == "cpu":
        return
    for size, job, precision in jobs:
        case = run.options.case(size, 1, precision)
        if size in run.options.sizes and run.budget.fits(f"compile {job} {case.label}", 60.0):
            run.workers.stop()
            run.say(f"torch.compile: {job} {case.label}")
            measure_time(run, "compile", case, job, seconds=COMPILE_SECONDS)
    run.workers.stop()


def accuracies(run: Run) -> None:
    run.record["accuracy"] = []
    for precision in PRECISIONS:
        request = {"kind": "accuracy", "precision": precision, "blocks": run.options.blocks}
        request["size"] = 12 if run.options.tiny else 61
        run.record["accuracy"] += run.ask(f"accuracy {precision}", request, 60) or []
    run.record["official"] = run.ask("official vectors", {"kind": "official"}, 60)


def tests_of_the_device(run: Run) -> None:
    run.workers.stop()  # leaves the device to the tests
    run.say("tests")
    if not run.budget.fits("tests", 60):
        return
    left = run.budget.left() - 30
    found = checks.run_tests(min(TESTS_SECONDS, left))
    if found.get("stopped") and left < TESTS_SECONDS and not found["failures"]:
        run.budget.skipped.append("tests")
    else:
        run.record["tests"] = found


def sanitized(run: Run, tool: str) -> None:
    """Every kernel under a tool of compute-sanitizer."""
    if run.budget.fits(f"compute-sanitizer {tool}", SANITIZER_SECONDS + 30):
        run.workers.stop()
        run.say(f"compute-sanitizer {tool}")
        found = checks.run_sanitizer(run.options.device, tool, SANITIZER_SECONDS)
        run.record.setdefault("sanitizer", {})[tool] = found


def all_times(run: Run, batches: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    before = None
    for name, case, job in times(run.options, batches, sizes):
        if (here := (case.size, case.batch)) != before:
            run.say(f"times at {case.size}x{case.size}, batch {case.batch}")
            before = here
        measure_time(run, name, case, job)


def everything(run: Run, tests: bool = True) -> None:
    """The whole check. Results are in run.record and run.rows."""
    options, record = run.options, run.record

    def environment() -> None:
        record["environment"] = run.ask("environment", {"kind": "describe"}, 60) or {}
        run.say(f"{record['environment'].get('device', 'no device')}: accuracy")

    def rates() -> None:
        if run.budget.fits("rates", 0 if options.tiny else 30):
            run.say("peak rates")
            record["rates"] = run.ask("rates", {"kind": "rates", "tiny": options.tiny}, 90)

    few, more = options.batches[:1], options.batches[1:]
    # What the targets are about: graphs and torch.compile are measured at these sizes.
    near = tuple(size for size in options.sizes if size <= max(GRAPH_SIZES))
    far = tuple(size for size in options.sizes if size not in near)
    run.part("environment", environment)
    run.part("accuracy", lambda: accuracies(run))
    if tests:
        run.part("tests", lambda: tests_of_the_device(run))
        run.part("memcheck", lambda: sanitized(run, "memcheck"))
    run.part("rates", rates)
    run.part("times", lambda: all_times(run, few, near))
    if tests:
        run.part("racecheck", lambda: sanitized(run, "racecheck"))
    run.part("compile", lambda: compiled(run, COMPILED[:1]))  # takes minutes
    run.part("times of larger slices", lambda: all_times(run, few, far))
    run.part("largest slice", lambda: largest_slice(run))
    run.part("times of larger batches", lambda: all_times(run, more, options.sizes))
    run.part("compile", lambda: compiled(run, COMPILED[1:]))
    run.workers.stop()


def faults(record: Row) -> list[str]:
    """Why the check fails, one line each; empty where all is well."""
    found = list(record.get("errors", []))
    if not (accuracy := record.get("accuracy")):
        found.append("accuracy: not measured")
    for row in accuracy or []:
        if not row["good"]:
            found.append(
                f"accuracy: {row['what']} in {row['precision']}: error {row['ours']:.1e}, "
                f"PyTorch's own {row['eager']:.1e}, exact sums of rounded operands {row['rounded']:.1e}"
            )
    if (official := record.get("official")) is not None and not official["good"]:
        found.append(f"official vectors: relative errors {json.dumps(official['errors'])}")
    tests = record.get("tests")
    if tests is not None and not tests["good"]:
        found += [f"tests: {line}" for line in tests.get("failures", [])] or [f"tests: {tests.get('error')}"]
    for tool, result in record.get("sanitizer", {}).items():
        if result["good"] is False:
            found.append(f"compute-sanitizer {tool}: {result.get('error') or '; '.join(result['findings'])}")
    for row in record.get("times", []):
        if row["name"].startswith("ours") and row.get("error", "does not fit") != "does not fit":
            found.append(f"{row['name']} {row['job']} {row['size']} {row['precision']}: {row['error']}")
    return found


__all__ = ["IMPLEMENTATIONS", "Options", "Run", "everything", "faults"]
