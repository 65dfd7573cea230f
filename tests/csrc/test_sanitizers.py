"""The CPU kernels, without torch, under the address and undefined behaviour sanitizers, per vector set."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import ivan_fast

REPO = Path(__file__).resolve().parent.parent.parent
FLAGS = ["-std=c++20", "-O1", "-g1", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
X86_ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"],
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("sanitizers")
    isas = {"portable": [], **(X86_ISAS if platform.machine() in ("x86_64", "AMD64") else {})}
    kernels = ["coupling", "channel_mix", "round_state"]
    jobs = [("kernels_main", REPO / "tests/csrc/kernels_main.cpp", [])]
    jobs += [(name, REPO / f"csrc/cpu/{name}.cpp", []) for name in ["isa", "plu", *kernels]]
    for isa, flags in isas.items():
        jobs += [
            (f"{name}_{isa}", REPO / f"csrc/cpu/{name}_kernel.cpp", [f"-DIVAN_ISA={isa}", *flags])
            for name in kernels
        ]
    include = [f"-I{REPO}/csrc/include", f"-I{REPO}/csrc/cpu"]
    objects = []
    for name, source, flags in jobs:
        objects.append(str(folder / f"{name}.o"))
        subprocess.run(
            [compiler, *FLAGS, *SANITIZE, *include, *flags, "-c", source, "-o", objects[-1]], check=True
        )
    subprocess.run([compiler, *SANITIZE, *objects, "-o", folder / "driver"], check=True)
    return folder / "driver"


@pytest.mark.parametrize("isa", ivan_fast.build_info()["cpu_isa_available"])
def test_kernels_are_clean(driver, isa):
    environment = {**os.environ, "IVAN_FAST_CPU_ISA": isa}
    environment.pop("LD_PRELOAD", None)
    run = subprocess.run([driver], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "all right\n"
