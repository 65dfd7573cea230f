"""Builds csrc/cuda for the CPU emulation and calls its launchers through ctypes.

Variants: ``plain``; ``asan`` (address and undefined-behaviour sanitizers, needs libasan preloaded, see
`sanitizer_environment`); ``race`` (every load and store is checked against the barriers, race.cpp).
Objects are kept in build/cuda-emulation under a hash of everything they are made of.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
KERNELS = REPO / "csrc" / "cuda"
CACHE = REPO / "build" / "cuda-emulation"
COMMON = ["-std=c++20", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
COMMON += ["-Wno-unknown-pragmas", "-DIVAN_EMU"]
# Shared memory is static variables of templates; by default one of a name serves all libraries of a process.
COMMON += ["-fno-gnu-unique"]
UNDEFINED = "alignment,bounds,float-cast-overflow,null,shift,signed-integer-overflow"  # what compiles quickly
SANITIZE = [f"-fsanitize=address,{UNDEFINED}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# Flags of kernels, of the emulator, of the link. -fsanitize=thread makes the calls that race.cpp answers.
VARIANTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "plain": (["-O2"], ["-O2"], []),
    "asan": (["-O1", *SANITIZE], ["-O1", *SANITIZE], SANITIZE),
    "race": (["-O1", "-fsanitize=thread", "-DIVAN_EMU_RACE"], ["-O2", "-DIVAN_EMU_RACE"], []),
}


class CompilationError(Exception):
    """What the compiler said."""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def included(source: Path, kernels: Path) -> set[str]:
    """Names of the files in the folder `kernels` that a source includes, directly or not."""
    found: set[str] = set()
    waiting = [source]
    while waiting:
        for name in re.findall(r'^#include "([^"/]+)"', waiting.pop().read_text(), re.MULTILINE):
            if name not in found and (kernels / name).exists():
                found.add(name)
                waiting.append(kernels / name)
    return found


def ingredients(source: Path, kernels: Path) -> bytes:
    """The contents of a source and of every header that it may include."""
    folders = (HERE, HERE / "include", REPO / "csrc" / "include" / "ivan_fast")
    files = [p for folder in folders for p in sorted(folder.iterdir()) if p.suffix in (".h", ".cuh")]
    files += [kernels / name for name in sorted(included(source, kernels))]
    return b"".join(p.read_bytes() for p in [*files, source])


def edited(changed: Mapping[str, str]) -> Path:
    """A copy of csrc/cuda in which the files of those names have those texts."""
    texts = {p.name: p.read_text() for p in sorted(KERNELS.iterdir())}
    unknown = changed.keys() - texts.keys()
    assert not unknown, f"csrc/cuda holds no {sorted(unknown)}"
    texts |= changed
    folder = CACHE / f"edited-{hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:20]}"
    if not folder.exists():
        part = folder.with_suffix(f".{os.getpid()}.part")
        part.mkdir(parents=True)
        for name, text in texts.items():
            (part / name).write_text(text)
        try:
            part.replace(folder)
        except OSError:  # another process made it meanwhile, with the same texts
            shutil.rmtree(part)
    return folder


def build_object(source: Path, flags: Sequence[str], kernels: Path) -> Path:
    """The compiled object of `source`, which may include headers of the folder `kernels`."""
    include = [HERE / "include", REPO / "csrc" / "include", kernels, HERE]
    command = [str(compiler()), *COMMON, *flags, *(f"-I{folder}" for folder in include)]
    key = hashlib.sha256(ingredients(source, kernels) + "\0".join([str(source), *command]).encode())
    target = CACHE / f"{source.stem}-{key.hexdigest()[:20]}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        run = subprocess.run(
            [*command, "-x", "c++", "-c", str(source), "-o", part],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise CompilationError(run.stderr)
        part.replace(target)
    return target


def build(
    variant: str,
    changed: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Path:
    """The shared library of the kernels.

    Args:
        changed: other texts of files in csrc/cuda, by name. Only sources that include them are compiled anew.
        only: stems of the kernels' sources and of exports_*.cpp; default: all.
        flags: of the compiler, for sources that are changed.
    """
    kernel_flags, emulator_flags, link_flags = VARIANTS[variant]
    native = ["-mfma"] if platform.machine() in ("x86_64", "AMD64") else []
    kernel_flags = [*kernel_flags, *native, "-Wno-maybe-uninitialized"]
    changed = changed or {}
    folder = edited(changed) if changed else KERNELS
    sources = [*sorted(KERNELS.glob("*.cu")), HERE / "planted.cu"]
    hosts = [HERE / "emulator.cpp", HERE / "tensor_core.cpp"]
    hosts += [HERE / "race.cpp"] if variant == "race" else []
    exports = sorted(HERE.glob("exports_*.cpp"))
    if only:
        sources, exports = ([p for p in paths if p.stem in only] for paths in (sources, exports))
    jobs: list[tuple[Path, list[str], Path]] = []
    for source in sources:
        if changed.keys() & {source.name, *included(source, KERNELS)}:
            own = folder / source.name if source.parent == KERNELS else source
            jobs.append((own, [*kernel_flags, *flags], folder))
        else:
            jobs.append((source, kernel_flags, KERNELS))
    jobs += [(source, emulator_flags, KERNELS) for source in (*hosts, *exports)]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda job: build_object(*job), jobs))
    key = hashlib.sha256("".join(o.name for o in objects).encode()).hexdigest()[:20]
    library = CACHE / f"lib{variant}-{key}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}.part")
        command = [str(compiler()), "-shared", *link_flags, "-Wl,-z,defs", *map(str, objects)]
        subprocess.run([*command, "-ldl", "-o", part], check=True)
        part.replace(library)
    return library


def sanitizer_environment() -> dict[str, str]:
    """The environment of a process that may load the asan variant."""
    names = ("libasan.so", "libstdc++.so")  # the second because the first looks for it as the process starts
    commands = [[str(compiler()), f"-print-file-name={name}"] for name in names]
    paths = [subprocess.run(c, capture_output=True, text=True, check=True).stdout.strip() for c in commands]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


class Emulator:
    """The launchers of one library. ``call("channel_mix", ...)`` runs ``emulated_channel_mix``; tensors are
    passed as pointers, lists of tensors as arrays of pointers, integers as int64, floats as double."""

    def __init__(self, variant: str, library: Path) -> None:
        self.variant = variant
        self.path = library
        self.library = ctypes.CDLL(str(library))

    def call(self, name: str, *arguments: object) -> None:
        function = getattr(self.library, f"emulated_{name}")
        function.restype = ctypes.c_char_p
        message = function(*(as_c(a) for a in arguments))
        if message is not None:
            raise RuntimeError(re.sub(r"\+0x[0-9a-f]+", self.line_of, message.decode()))

    def line_of(self, offset: re.Match[str]) -> str:
        """The source line of an offset into the library, where addr2line can tell."""
        if shutil.which("addr2line") is None:
            return offset[0]
        command = ["addr2line", "-e", str(self.path), offset[0][1:]]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]

    def launches(self) -> int:
        """Kernels launched so far."""
        self.library.emulation_launches.restype = ctypes.c_int64
        return int(self.library.emulation_launches())

    def bank_conflicts(self) -> int:
        """Pairs of rows so far that lie in one bank, so that ldmatrix reads them one after the other."""
        self.library.emulation_bank_conflicts.restype = ctypes.c_int64
        return int(self.library.emulation_bank_conflicts())

    def schedule(self, seed: int) -> None:
        """The order of threads and blocks: 0 ascending, 1 descending, else a shuffle of this seed."""
        self.library.emulation_set_schedule(ctypes.c_uint64(seed))

    def plant(self, fault: int) -> None:
        """Makes the fault of that number (planting.py); none where the number is -1."""
        self.library.emulation_plant(ctypes.c_int(fault))

    def device(
        self,
        multiprocessors: int = 4,
        capability: int = 90,
        shared_bytes: int = 232448,
        compiled: int = 120,
    ) -> None:
        """What the launchers learn of the device, and of the architecture they were compiled for."""
        self.library.emulation_set_device(multiprocessors, capability, shared_bytes, compiled)


def as_c(argument: object) -> object:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, (list, tuple)):
        return (ctypes.c_void_p * len(argument))(*(None if t is None else t.data_ptr() for t in argument))
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    raise TypeError(f"cannot pass {type(argument).__name__} to a launcher")


def load(
    variant: str,
    changed: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Emulator:
    return Emulator(variant, build(variant, changed, only, flags))
