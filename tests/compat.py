"""One built library on several versions of torch: make compat.

    python tests/compat.py [--torch "2.10.0 2.14.1"]

Builds one wheel against the torch of this environment, then for every version makes a fresh environment,
installs that torch and the very same wheel, and runs all tests of `ivan_fast` there. Without --torch: the
oldest supported torch and the newest that pip offers. An environment takes 5 GB where torch comes with CUDA;
it is removed afterwards. 10 to 20 minutes, most of them downloads.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
WORK = REPO / "build" / "compat"
OLDEST = (2, 10)
PROBE = """
import sys, torch, ivan_fast
info = ivan_fast.build_info()
assert ivan_fast.__file__.startswith(sys.argv[1]), ivan_fast.__file__
kernels = "CPU and CUDA kernels" if info["with_cuda"] else "CPU kernels"
print(f"torch {torch.__version__}: build for torch {info['torch_target']}, {kernels}")
"""


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], check=True, text=True, **options)


def offered() -> list[str]:
    """Released versions of torch that pip would install here, oldest first."""
    listing = run(sys.executable, "-m", "pip", "index", "versions", "torch", stdout=subprocess.PIPE).stdout
    found = re.search(r"Available versions: (.*)", listing)
    versions = found[1].split(", ") if found else []
    numbers = [v for v in versions if re.fullmatch(r"\d+(\.\d+)*", v)]
    return sorted(numbers, key=lambda v: tuple(map(int, v.split("."))))


def oldest_and_newest() -> list[str]:
    supported = [v for v in offered() if tuple(map(int, v.split(".")[:2])) >= OLDEST]
    if not supported:
        raise SystemExit(
            'compat: pip offers no torch from 2.10 on; name versions with COMPAT_TORCH="2.10.0 ..."'
        )
    oldest = [v for v in supported if v.split(".")[:2] == supported[0].split(".")[:2]][-1]
    return list(dict.fromkeys([oldest, supported[-1]]))


def build_wheel() -> Path:
    wheels = WORK / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", wheels, REPO)
    (wheel,) = wheels.glob("ivan_fast-*.whl")
    return wheel


def copy_tests() -> Path:
    """A folder with the tests as tests/ivan_fast and a pytest.ini beside it. A copy, since the sources beside
    the original would hide the installed package; one folder further down than pytest's root, since pytest
    would make the tests' own folder the package `ivan_fast` otherwise."""
    suite = WORK / "suite"
    shutil.rmtree(suite, ignore_errors=True)
    for name in ("ivan_fast", "cuda_emulation"):  # the latter holds helpers of the former
        shutil.copytree(REPO / "tests" / name, suite / "tests" / name)
    shutil.copy(REPO / "tests" / "conftest.py", suite / "tests")
    (suite / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib -p no:cacheprovider\n"
        "pythonpath = tests/ivan_fast tests/cuda_emulation\n"
        "markers =\n    gpu: needs CUDA\n    slow: slow\n    data: data\n    timeout: of pytest-timeout\n"
    )
    return suite


def run_tests(python: Path, suite: Path) -> str:
    """pytest's closing line; what it printed is shown where it fails."""
    command = [python, "-m", "pytest", "-q", "-m", "not gpu and not slow and not data", "tests/ivan_fast"]
    command += ["--ignore", "tests/ivan_fast/test_dense_block_isa.py"]  # compiles the sources
    done = subprocess.run(
        [str(c) for c in command],
        cwd=suite,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    if done.returncode != 0 or " passed" not in last:
        print(done.stdout[-6000:], flush=True)
        raise subprocess.CalledProcessError(done.returncode, command)
    return last


def check(version: str, wheel: Path) -> str:
    """What was found on this version of torch; raises CalledProcessError where anything fails."""
    environment = WORK / f"torch-{version}"
    shutil.rmtree(environment, ignore_errors=True)
    try:
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        install = [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", "--no-cache-dir"]
        run(*install, f"torch=={version}", "numpy<2.4", "pytest>=8")  # the oldest torch precedes numpy 2.4
        run(*install, "--no-deps", wheel)
        said = run(python, "-c", PROBE, environment, cwd=WORK, stdout=subprocess.PIPE).stdout.strip()
        return f"{said}; {run_tests(python, copy_tests())}"
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="", help="versions, separated by spaces")
    args = parser.parse_args()
    versions = args.torch.split() or oldest_and_newest()
    WORK.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel()
    failed = 0
    for version in versions:
        begin = time.monotonic()
        try:
            found = check(version, wheel)
            minutes = (time.monotonic() - begin) / 60
            print(f"compat: torch {version}: passed ({found}; {minutes:.1f} minutes)", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"compat: torch {version}: FAILED: {' '.join(map(str, error.cmd))[:200]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
