"""One built library on several versions of torch: make compat.

    python tests/compat.py [--torch "2.10.0 2.14.1"]

Builds one wheel against the torch of this environment, then for every version makes a fresh environment,
installs that torch and the very same wheel, and runs the op tests there. Without --torch: the oldest
supported torch and the newest that pip offers. An environment takes several GB where torch comes with CUDA;
it is removed afterwards.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
WORK = REPO / "build" / "compat"
OLDEST = (2, 10)
TESTS = (
    "test_ops_values.py",
    "test_ops_layout.py",
    "test_ops_autograd.py",
    "test_plu.py",
    "test_dense_block.py",
)
PROBE = """
import sys, torch, ivan_fast
info = ivan_fast.build_info()
assert sys.argv[1] in ivan_fast.__file__, ivan_fast.__file__
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


def check(version: str, wheel: Path) -> str:
    """What the probe says on this version of torch; raises CalledProcessError where anything fails."""
    environment = WORK / f"torch-{version}"
    shutil.rmtree(environment, ignore_errors=True)
    try:
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        # numpy below 2.4: the oldest torch was built before
        run(
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-cache-dir",
            f"torch=={version}",
            "numpy<2.4",
            "pytest>=8",
        )
        run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
        said = run(python, "-c", PROBE, environment, cwd=WORK, stdout=subprocess.PIPE).stdout.strip()
        tests = WORK / "tests"  # a copy: the sources beside the original would hide the installed package
        shutil.rmtree(tests, ignore_errors=True)
        shutil.copytree(REPO / "tests" / "ivan_fast", tests / "ivan_fast")
        shutil.copy(REPO / "tests" / "conftest.py", tests)
        (tests / "pytest.ini").write_text(
            "[pytest]\naddopts = --import-mode=importlib\npythonpath = ivan_fast\nmarkers =\n"
            "    gpu: needs CUDA\n    slow: slow\n    data: data\n"
        )
        files = [tests / "ivan_fast" / name for name in TESTS]
        run(python, "-m", "pytest", "-q", "-m", "not gpu and not slow and not data", *files, cwd=tests)
        return said
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
        try:
            print(f"compat: torch {version}: passed ({check(version, wheel)})", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"compat: torch {version}: FAILED: {' '.join(map(str, error.cmd))[:200]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
