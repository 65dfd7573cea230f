"""Kill -9 at random moments of training, checkpointing, preparing, synthesising and exporting (`make soak`).

Every job runs in a process forked from this one (so that a start costs milliseconds) and is killed at a
random moment. After each kill: nothing half-written is visible, no finished checkpoint is lost, and the same
command (with --resume where there is a run) goes on. At the end the results are those of a job that nobody
killed, bit for bit. Exit code 1 and the seed of the failure otherwise.

    python tests/soak/soak.py --kills 50 --seed 0 [--only train]
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # no thread pool in this process: forked children could not use it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helpers"))

import nibabel as nib
import numpy as np
import torch
from dicom_phantom import grid, head, write_series
from safetensors.torch import load

from ivan.cli import run as ivan
from ivan.training.checkpoint import has_checkpoint, read_checkpoint


@dataclass(frozen=True)
class Job:
    """A kind of work to be killed.

    Attributes:
        name: of the job.
        command: the arguments of `ivan` for an output folder, which may hold what an earlier try left.
        check: raises AssertionError where a killed try left something that must not be.
        result: what a finished job made, by name, comparable with that of another.
    """

    name: str
    command: Callable[[Path], list[str]]
    check: Callable[[Path], None]
    result: Callable[[Path], dict[str, bytes]]


def fork(arguments: Sequence[str], log: Path, modules: Path | None = None) -> int:
    """Start `ivan` in a child of this process, return its number; at its end it writes its `modules`."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = ivan(arguments)
        if modules is not None:
            modules.write_text("\n".join(sys.modules))
    finally:
        os._exit(code)


def load_modules(arguments: Sequence[str], log: Path) -> None:
    """Run a job once and import here what it imports: later children start at the work itself."""
    names = log.with_suffix(".modules")
    finish(arguments, log, names)
    for name in names.read_text().splitlines():
        with contextlib.suppress(Exception):  # some are made by other modules and cannot be imported by name
            importlib.import_module(name)


def finish(arguments: Sequence[str], log: Path, modules: Path | None = None) -> float:
    """Run to the end; return the seconds it took. Raises AssertionError where it fails."""
    started = time.monotonic()
    _, status = os.waitpid(fork(arguments, log, modules), 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, f"exit code {code} of {' '.join(arguments)}: {log.read_text()[-800:]}"
    return time.monotonic() - started


def soak(job: Job, kills: int, rng: random.Random, folder: Path, say: Callable[[str], None]) -> int:
    """Kill `job` this often while it runs, at random moments, and let it go on; return the moments tried."""
    log = folder / f"{job.name}.log"
    whole = folder / f"{job.name}-whole"
    duration = finish(job.command(whole), log)
    expected = job.result(whole)
    assert expected, f"{job.name}: made nothing"
    done = hits = 0
    while hits < kills:
        assert done < 20 * kills + 20, f"{job.name}: {hits} of {done} kills met it running"
        out = folder / f"{job.name}-{done}"
        tries = rng.randint(1, 4)  # kills that one output folder has to survive
        for _ in range(tries):
            child = fork(job.command(out), log)
            time.sleep(rng.uniform(0, duration))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(
                    child, signal.SIGKILL
                )
            _, status = os.waitpid(child, 0)
            killed = os.WIFSIGNALED(status)
            assert killed or os.waitstatus_to_exitcode(status) == 0, log.read_text()[-800:]
            hits += killed
            done += 1
            job.check(out)
        finish(job.command(out), log)
        job.check(out)
        leftovers = [path for path in out.rglob("*") if ".part" in path.name or ".writing-" in path.name]
        assert leftovers == [], f"left behind: {leftovers}"
        found = job.result(out)
        assert found.keys() == expected.keys(), f"{sorted(found)} instead of {sorted(expected)}"
        different = [name for name in expected if found[name] != expected[name]]
        assert different == [], f"different from a job nobody killed: {different}"
        shutil.rmtree(out)
        say(f"{job.name}: {hits} of {kills} kills while it was running, {duration:.1f} s a job")
    return done


# --- the jobs ---


def train_job(name: str, data: Path, *settings: str) -> Job:
    """Training; with checkpoints at every step, most moments are those of writing one."""
    newest: dict[Path, int] = {}

    def command(run: Path) -> list[str]:
        if (run / "config.json").exists():
            return ["train", "--resume", "--out", str(run), "--quiet"]
        fixed = [
            "--from",
            "T1",
            "--to",
            "T2",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--no-tensorboard",
            "--quiet",
        ]
        return ["train", "--data", str(data), "--out", str(run), *fixed, *settings]

    def check(run: Path) -> None:
        if not run.exists() or not has_checkpoint(run):
            assert newest.get(run, 0) == 0, f"all checkpoints of {run} are gone"
            return
        problems: list[str] = []
        step = int(read_checkpoint(run, notice=problems.append).state["step"])
        assert problems == [], f"a damaged checkpoint is visible: {problems}"
        assert step >= newest.get(run, 0), f"{run} fell back from step {newest[run]} to {step}"
        newest[run] = step

    def result(run: Path) -> dict[str, bytes]:
        folder = run / "checkpoint" / (run / "checkpoint" / "latest").read_text().strip()
        weights = load((folder / "model.safetensors").read_bytes())
        found = {key: value.numpy().tobytes() for key, value in weights.items()}
        return {**found, "report": b"there" if (run / "report.html").exists() else b"missing"}

    return Job(name, command, check, result)


def images(out: Path) -> dict[str, bytes]:
    """All NIfTI files below a folder; each must be whole."""
    found = {}
    for path in sorted(out.rglob("*.nii.gz")):
        if not path.name.startswith("."):
            found[str(path.relative_to(out))] = gzip.decompress(path.read_bytes())
    return found


def programs(out: Path) -> dict[str, bytes]:
    """All exported programs below a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.pt2"))}


def write_raw(raw: Path) -> None:
    """Four patients of two small DICOM series each."""
    for number, name in enumerate(("anna", "ben", "carla", "dora")):
        for position, contrast in enumerate(("T1", "T2")):
            folder = raw / name / contrast
            shape, spacing = ((24, 28, 8), (7.0, 7.0, 18.0)) if position else ((28, 32, 10), (6.0, 6.0, 14.0))
            write_series(
                folder,
                contrast,
                patient=name,
                study=f"1.{number}",
                number=position,
                shape=shape,
                spacing=spacing,
            )


def write_data(data: Path) -> None:
    """Three small cases of T1 and T2."""
    affine = np.diag([8.0, 8.0, 20.0, 1.0])
    affine[:3, 3] = (-64, -72, -50)
    for contrast in ("T1", "T2"):
        (data / contrast).mkdir(parents=True)
        for number in range(3):
            points = grid((16, 18, 6), affine) + number
            nib.save(nib.Nifti1Image(head(points, contrast), affine), data / contrast / f"p{number}.nii.gz")


def all_jobs(folder: Path) -> dict[str, Job]:
    """The jobs, with the data and the run that they need."""
    data, raw, run = folder / "data", folder / "raw", folder / "run"
    write_data(data)
    write_raw(raw)
    small = ["--blocks", "1", "--growth", "4", "--lr", "1e-3"]
    training = train_job("train", data, *small, "--epochs", "6", "--checkpoint-every", "5", "--keep", "2")
    wide = ["--blocks", "2", "--growth", "24", "--max-steps", "5", "--checkpoint-every", "1", "--keep", "1"]
    checkpoints = train_job("checkpoint", data, *wide, "--patch-size", "16", "--validate-epochs", "0")
    load_modules(training.command(run), folder / "run.log")

    def intact(
        expected: dict[str, bytes], found: Callable[[Path], dict[str, bytes]]
    ) -> Callable[[Path], None]:
        def check(out: Path) -> None:
            for name, content in found(out).items():
                assert name in expected, f"{name} is nothing that the job makes"
                assert content == expected[name], f"{name} is not what it must be"

        return check

    def prepare(out: Path) -> list[str]:
        return ["prepare", str(raw), "--out", str(out), "--quiet"]

    def synthesize(out: Path) -> list[str]:
        return [
            "synthesize",
            "--run",
            str(run),
            "--data",
            str(data),
            "--out",
            str(out),
            "--device",
            "cpu",
            "--quiet",
        ]

    def export(out: Path) -> list[str]:
        return ["export", "--run", str(run), "--out", str(out / "network.pt2")]

    jobs = [training, checkpoints]
    for name, command, result in (
        ("prepare", prepare, images),
        ("synthesize", synthesize, images),
        ("export", export, programs),
    ):
        first = folder / f"{name}-first"
        load_modules(command(first), folder / f"{name}.log")
        jobs.append(Job(name, command, intact(result(first), result), result))
    return {job.name: job for job in jobs}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="kills of each job (default 50)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments (default: a new one)")
    parser.add_argument("--only", default="", help="train, checkpoint, prepare, synthesize or export")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ivan-soak-") as temporary:
        folder = Path(temporary)
        jobs = all_jobs(folder)
        for name, job in jobs.items():
            if options.only in ("", name):
                try:
                    moments = soak(job, options.kills, random.Random(f"{seed} {name}"), folder, print)
                except AssertionError as error:
                    print(f"soak: {name} FAILED with --seed {seed}: {error}", file=sys.stderr)
                    return 1
                print(
                    f"soak: {name} survived {options.kills} kills ({moments} moments tried), seed {seed}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
