"""Builds ``ivan_fast._C`` with CMake: this file only turns the environment into explicit CMake arguments.

Environment:
    IVAN_FAST_CUDA        AUTO (default: where nvcc is found), ON (an error without nvcc) or OFF
    CUDACXX, CUDA_HOME    where nvcc is; otherwise PATH, then /usr/local/cuda
    TORCH_CUDA_ARCH_LIST  e.g. "8.0;9.0+PTX"; default: every supported architecture that nvcc knows
    IVAN_FAST_TORCH_DIR   directory of the torch package to build against; default: the installed one
    IVAN_FAST_WERROR      1: compiler warnings are errors
    MAX_JOBS              parallel compilations
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_torch() -> Path:
    """The directory of the installed torch, found without importing it (which takes seconds)."""
    if given := os.environ.get("IVAN_FAST_TORCH_DIR"):
        return Path(given)
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    # pip's build isolation hides the environment's packages from this process by these two variables: a fresh
    # Python without them sees what the environment does, also a base installation's or the user's packages.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    code = "import importlib.util as u; spec = u.find_spec('torch'); print(spec and spec.origin or '')"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if found := run.stdout.strip():
        return Path(found).parent
    raise SystemExit(
        "ivan_fast: no torch found; pip install torch first (2.10 or newer), then build again "
        "(with --no-build-isolation, or IVAN_FAST_TORCH_DIR set to its folder, where the build hides it)"
    )


def find_tool(name: str) -> str:
    """A build tool on PATH or beside this Python (a virtual environment that is not activated)."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if found is None:
        raise SystemExit(f"ivan_fast: {name} not found; pip install {name}, then build again")
    return found


def find_nvcc() -> str | None:
    """nvcc by CUDACXX, CUDA_HOME, PATH, then the usual place."""
    if given := os.environ.get("CUDACXX"):
        return given
    homes = [home for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    for candidate in [f"{home}/bin/nvcc" for home in homes]:
        if os.access(candidate, os.X_OK):
            return candidate
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def cuda_architectures(arch_list: str) -> str:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0a+PTX") in CMake's notation ("80-real;90a-real;90a-virtual")."""
    archs = []
    for item in re.split(r"[ ;,]+", arch_list.strip()):
        if not item:
            continue
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", item)
        if match is None:
            raise SystemExit(
                f'ivan_fast: TORCH_CUDA_ARCH_LIST holds {item!r}, expected numbers as in "8.0;9.0+PTX"'
            )
        number = "".join(match.group(1, 2, 3))
        archs += [f"{number}-real"] + ([f"{number}-virtual"] if match.group(4) else [])
    return ";".join(archs)


class CMakeBuild(build_ext):
    """build_ext that hands the one extension to CMake."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve()
        # pip gives an editable build a new folder each time; one that stays makes rebuilds incremental.
        editable = self.inplace or self.editable_mode
        build = (
            ROOT / "build" / f"editable-{sys.implementation.cache_tag}" if editable else Path(self.build_temp)
        )
        build = build.resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        cuda = os.environ.get("IVAN_FAST_CUDA", "AUTO").upper()
        nvcc = find_nvcc() if cuda != "OFF" else None
        cmake = find_tool("cmake")
        # Every option on every configure: nothing is left over from an earlier build in the same folder.
        options = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": out.parent,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "TORCH_DIR": find_torch(),
            "IVAN_FAST_VERSION": self.distribution.get_version(),
            "IVAN_FAST_CUDA": cuda,
            "IVAN_FAST_CUDA_ARCHS": cuda_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", "")),
            "IVAN_FAST_WERROR": "ON" if os.environ.get("IVAN_FAST_WERROR", "0") not in ("", "0") else "OFF",
        }
        if nvcc is not None:
            options["CMAKE_CUDA_COMPILER"] = nvcc
        arguments = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.check_call([cmake, "-S", str(ROOT), "-B", str(build), "-GNinja", *arguments])
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        subprocess.check_call([cmake, "--build", str(build), *jobs])
        if not out.exists():
            raise SystemExit(f"ivan_fast: the build ended without {out}")


setup(
    packages=find_packages(include=["ivan_fast", "ivan_fast.*"])
    + find_packages("python", include=["ivan", "ivan.*"]),
    package_dir={"ivan_fast": "ivan_fast", "ivan": "python/ivan"},
    package_data={"ivan_fast": ["py.typed", "*.pyi"], "ivan.report": ["page/*"], "ivan.prepare": ["page/*"]},
    ext_modules=[Extension("ivan_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
