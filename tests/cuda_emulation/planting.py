"""Faults planted in csrc/cuda, as many as one likes in one library: each becomes a choice at run time
(planting.h), so that one compilation serves all. Each is
then tried in a process of its own, which it may crash."""

from __future__ import annotations

import faulthandler
import inspect
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import emulation
import torch

FLAGS = ["-include", str(emulation.HERE / "planting.h"), "-w"]
Probe = tuple[str, Callable[[emulation.Emulator], object]]
# A position in the text, that of the other half (or the same), and what is put before its character.
Insertion = tuple[int, int, str]


@dataclass(frozen=True)
class Change:
    """A fault at a place of a file: insertions in which ``{n}`` stands for the fault's number."""

    file: str
    line: int
    what: str
    insertions: tuple[Insertion, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Fault:
    """The `nth` match of a regular expression in a file of csrc/cuda (its first group, where it has one)
    becomes `wrong`: an expression, or a statement that ends in ``;``, left out where `wrong` is empty."""

    file: str
    pattern: str
    wrong: str
    nth: int = 0

    def locate(self, text: str) -> Change:
        matches = list(re.finditer(self.pattern, text))
        assert len(matches) > self.nth, (
            f"csrc/cuda/{self.file} holds {len(matches)} times {self.pattern}, expected more than "
            f"{self.nth}: adapt the planted fault to the new text"
        )
        match = matches[self.nth]
        group = 1 if match.re.groups else 0
        begin, end = match.span(group)
        line = text.count("\n", 0, begin) + 1
        if match[group].endswith(";"):
            inserted = [(begin, end, f"if (emulation_planted({{n}})) {{{{ {self.wrong} }}}} else ")]
        else:
            inserted = [
                (begin, end, f"(emulation_planted({{n}}) ? ({self.wrong}) : ("),
                (end, begin, "))"),
            ]
        return Change(self.file, line, f"{match[group]} -> {self.wrong or 'nothing'}", tuple(inserted))


def text_of(file: str) -> str:
    return (emulation.KERNELS / file).read_text()


def planted(changes: Sequence[Change]) -> dict[str, str]:
    """The texts of the files with all changes in them, change i chosen by the number i."""
    texts: dict[str, str] = {}
    for file in {change.file for change in changes}:
        own = [(n, i) for n, change in enumerate(changes) if change.file == file for i in change.insertions]
        # Nested halves: what ends here before what begins here; inner ends first, outer beginnings first.
        own.sort(key=lambda item: (item[1][0], item[1][1] > item[1][0], -item[1][1]))
        parts, done, text = [], 0, text_of(file)
        for number, (position, _, inserted) in own:
            parts += [text[done:position], inserted.format(n=number)]
            done = position
        texts[file] = "".join(parts) + text[done:]
    return texts


def load(variant: str, changes: Sequence[Change], only: Sequence[str] = ()) -> emulation.Emulator:
    return emulation.load(variant, planted(changes), only, FLAGS)


def load_what_compiles(variant: str, changes: Sequence[Change]) -> tuple[emulation.Emulator, list[Change]]:
    """Without the changes that stand where the compiler wants a constant."""
    left = list(changes)
    while True:
        try:
            return load(variant, left), left
        except emulation.CompilationError as error:
            found = re.findall(r"([\w.]+):(\d+):\d+: error:", str(error))
            found += re.findall(r"([\w.]+):(\d+):\d+:   (?:required from|in .constexpr.)", str(error))
            places = {(file, int(line)) for file, line in found}
            fewer = [c for c in left if (c.file, c.line) not in places]
            if len(fewer) == len(left):
                raise
            left = fewer


def barriers() -> list[Fault]:
    """Every barrier and every wait for asynchronous copies in csrc/cuda, left out."""
    found = []
    for path in sorted(emulation.KERNELS.iterdir()):
        if path.name == "tensor_core.cuh":  # defines the wait
            continue
        for pattern in (r"__syncthreads\(\);", r"__syncwarp\(\);", r"cp_async_wait<\d+>\(\);"):
            count = len(re.findall(pattern, path.read_text()))
            found += [Fault(path.name, pattern, "", nth) for nth in range(count)]
    return found


def probes_of(module: ModuleType) -> Iterator[Probe]:
    """The tests of a module that take `emulator`, one probe for each of their parameters' combinations."""
    for name, function in vars(module).items():
        if not name.startswith("test_") or "emulator" not in inspect.signature(function).parameters:
            continue
        combinations: list[dict[str, Any]] = [{}]
        for mark in getattr(function, "pytestmark", []):
            if mark.name != "parametrize":
                continue
            words, values = mark.args[:2]
            words = [w.strip() for w in words.split(",")] if isinstance(words, str) else list(words)
            rows = [dict(zip(words, [v] if len(words) == 1 else v, strict=True)) for v in values]
            combinations = [{**c, **row} for c in combinations for row in rows]
        for arguments in combinations:
            label = f"{name}[{'-'.join(map(str, arguments.values()))}]"
            yield label, lambda emulator, f=function, a=arguments: f(emulator, **a)


def first_failure(emulator: emulation.Emulator, fault: int, probes: Sequence[Probe]) -> str | None:
    """The first probe that fails with this fault, and how; None where all pass. In this process."""
    emulator.plant(fault)
    try:
        for label, probe in probes:
            torch.manual_seed(0)
            emulator.schedule(0)
            emulator.device()
            try:
                probe(emulator)
            except BaseException as error:  # pytest's own failures too
                lines = str(error).strip().splitlines() or [""]
                return f"{label}: {type(error).__name__}: {lines[0][:160]}"
        return None
    finally:
        emulator.plant(-1)


def attempt(
    emulator: emulation.Emulator, fault: int, probes: Sequence[Probe], seconds: int = 60
) -> str | None:
    """`first_failure` in a forked process, where a crash or `seconds` of processor time are failures too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            torch.set_num_threads(1)
            os.write(write, ("=" + (first_failure(emulator, fault, probes) or "")).encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said:
        return said[1:] or None
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"no end within {seconds} s"
    return f"the process ended with {status}"
