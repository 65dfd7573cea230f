"""The CPU kernels as ARM builds have them: portable only, cross-compiled for AArch64 and run in an emulator.

Needs aarch64-linux-gnu-g++ and qemu-aarch64-static (Debian: g++-aarch64-linux-gnu, qemu-user-static).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
FLAGS = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        COMPILER is None or EMULATOR is None, reason="no AArch64 compiler or emulator: ARM was NOT tried"
    ),
]


def sources() -> list[tuple[Path, list[str]]]:
    """Every CPU source that CMake compiles, with its definitions on a processor without AVX."""
    text = (REPO / "CMakeLists.txt").read_text(encoding="utf-8")
    library = re.search(r"ivan_fast_cpu_library\(ivan_cpu(.*?)\n\)", text, re.DOTALL)
    assert library is not None
    plain, kernels = library[1].split("ISA_SOURCES")
    found = [(REPO / name, []) for name in re.findall(r"csrc/\S+\.cpp", plain)]
    found += [(REPO / name, ["-DIVAN_ISA=portable"]) for name in re.findall(r"csrc/\S+\.cpp", kernels)]
    assert len(found) >= 7
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All CPU kernels, compiled for AArch64; no warning is accepted."""
    folder = tmp_path_factory.mktemp("arm")
    include = [f"-I{REPO}/csrc/include", f"-I{REPO}/csrc/cpu"]
    made = []
    for source, definitions in sources():
        made.append(str(folder / f"{source.stem}.o"))
        subprocess.run([COMPILER, *FLAGS, *include, *definitions, "-c", source, "-o", made[-1]], check=True)
    return made


@pytest.mark.parametrize("driver", ["kernels_main", "dense_block_check"])
def test_kernels_are_right_on_arm(objects: list[str], tmp_path: Path, driver: str) -> None:
    program = tmp_path / driver
    include = [f"-I{REPO}/csrc/include", f"-I{REPO}/csrc/cpu"]
    source = REPO / "tests" / "csrc" / f"{driver}.cpp"
    subprocess.run([COMPILER, *FLAGS, *include, "-static", source, *objects, "-o", program], check=True)
    run = subprocess.run([EMULATOR, program], capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
