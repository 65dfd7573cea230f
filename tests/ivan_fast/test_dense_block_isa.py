"""The dense block with each instruction set forced, and its source under the sanitizers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ivan_fast

FLAGS = {  # cmake/IvanFastCpu.cmake
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"],
}
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

PROGRAM = """
import ivan_fast, torch
from ivan_fast import ops, reference
assert ivan_fast.build_info()["cpu_isa"] == {isa!r}
torch.set_num_threads(2)
cases = ((1, 1, 19, 22), 32, "strict"), ((2, 3, 7, 9), 8, "fast"), ((1, 1, 9, 70), 32, "fast")
for shape, growth, compute in cases:
    torch.manual_seed(0)
    inputs = shape[1]
    weights = [torch.randn(growth if i < 4 else 2, inputs + i * growth, 3, 3) * 0.05 for i in range(5)]
    biases = [torch.randn(w.shape[0]) * 0.1 for w in weights]
    x, grad = torch.randn(shape), torch.randn(shape[0], 2, *shape[2:])
    y = ops.dense_block(x, weights, biases, 0.2, compute)
    ours = ops.dense_block_backward(grad, x, weights, biases, 0.2, compute)
    assert torch.equal(y, ours[0])
    double = lambda tensors: [t.double() for t in tensors]
    truth = reference.dense_block_backward(grad.double(), x.double(), double(weights), double(biases))
    for a, b in zip([*ours[:2], *ours[2], *ours[3]], [*truth[:2], *truth[2], *truth[3]]):
        assert (a - b).norm() < 1e-5 * b.norm(), (compute, a.shape)
    case = [grad.double(), x.double(), double(weights), double(biases)]
    for a, b in zip(ops.dense_block_backward(*case)[:2], truth[:2]):
        assert (a - b).norm() < 1e-13 * b.norm()
print("done")
"""


@pytest.mark.parametrize("isa", FLAGS)
def test_forced_instruction_set(isa: str) -> None:
    if isa not in ivan_fast.build_info()["cpu_isa_available"]:
        pytest.skip(f"this machine has no {isa}")
    environment = {**os.environ, "IVAN_FAST_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(isa=isa)], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is absent")
    return found


def test_flags_are_those_of_the_build(repo: Path) -> None:
    text = (repo / "cmake/IvanFastCpu.cmake").read_text()
    for isa, flags in FLAGS.items():
        (built,) = re.findall(rf"set\(IVAN_ISA_FLAGS_{isa} (.*)\)", text)
        assert [f for f in built.replace('"', "").split() if not f.startswith("-mprefer")] == flags


def build_check(repo: Path, folder: Path, sets: dict[str, list[str]], flags: list[str]) -> str:
    """Compiles tests/csrc/dense_block_check.cpp with the kernels of each set; the path of the program."""
    common = [compiler(), "-std=c++20", "-O1", "-pthread", "-ffp-contract=off", *flags]
    common += [f"-I{repo}/csrc/include", f"-I{repo}/csrc/cpu"]
    jobs, objects = [], []
    for isa, isa_flags in sets.items():
        objects.append(str(folder / f"{isa}.o"))
        source = f"{repo}/csrc/cpu/dense_block_kernel.cpp"
        jobs.append(
            subprocess.Popen([*common, *isa_flags, f"-DIVAN_ISA={isa}", "-c", source, "-o", objects[-1]])
        )
    codes = [job.wait() for job in jobs]
    assert codes == [0] * len(codes)
    program = str(folder / "check")
    kernels = ("dense_block", "dense_block_team", "dense_block_workspace", "isa")
    sources = ["tests/csrc/dense_block_check.cpp", *(f"csrc/cpu/{name}.cpp" for name in kernels)]
    subprocess.run([*common, *(f"{repo}/{s}" for s in sources), *objects, "-o", program], check=True)
    return program


def run_check(program: str, isa: str, *words: str) -> None:
    environment = {**os.environ, "IVAN_FAST_CPU_ISA": isa}
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "9 dense blocks\n"


@pytest.mark.timeout(900)  # compiles three times
def test_sanitizers(repo: Path, tmp_path: Path) -> None:
    """Address and undefined-behaviour sanitizers over awkward shapes, with every set this machine runs; the
    portable one with AVX-512's shapes, blocks of 14 pixels and 16 lanes, in generic vectors."""
    sets = {**FLAGS, "portable": ["-DIVAN_DENSE_BLOCK_WIDE", "-Wno-psabi"]}
    program = build_check(repo, tmp_path, sets, SANITIZE)
    for isa in ivan_fast.build_info()["cpu_isa_available"]:
        run_check(program, isa)


@pytest.mark.timeout(900)
def test_no_data_race_between_threads_that_share_a_tile(repo: Path, tmp_path: Path) -> None:
    """The thread sanitizer; with the best set of this machine, as vectors do not matter here."""
    best = ivan_fast.build_info()["cpu_isa_available"][-1]
    sets = {isa: [*flags, *([] if isa == best else ["-O0"])] for isa, flags in FLAGS.items()}
    run_check(build_check(repo, tmp_path, sets, ["-fsanitize=thread"]), best, "threads")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sanitizers_with_the_portable_set_as_built(repo: Path, tmp_path: Path) -> None:
    """The narrow shapes that AVX2 has too."""
    sets = {isa: [*flags, *([] if isa == "portable" else ["-O0"])] for isa, flags in FLAGS.items()}
    run_check(build_check(repo, tmp_path, sets, SANITIZE), "portable")


def test_no_symbol_is_shared_between_instruction_sets(repo: Path, tmp_path: Path) -> None:
    """A function that two sets both define could be linked from the wrong one."""
    gxx = compiler()
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is absent")
    out = str(tmp_path / "kernel.o")
    includes = [f"-I{repo}/csrc/include", f"-I{repo}/csrc/cpu"]
    source = f"{repo}/csrc/cpu/dense_block_kernel.cpp"
    subprocess.run(
        [gxx, "-std=c++20", "-O1", "-DIVAN_ISA=portable", *includes, "-c", source, "-o", out], check=True
    )
    listing = subprocess.run(
        [nm, "-C", "--defined-only", "--extern-only", out], capture_output=True, text=True
    )
    names = [line.split(" ", 2)[2] for line in listing.stdout.splitlines()]
    assert names
    # DW.ref.*: where the C++ runtime's exception handler is, whatever the set.
    assert [n for n in names if "::portable::" not in n and not n.startswith("DW.ref.")] == []
