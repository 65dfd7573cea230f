"""The build: what it contains, what it refuses, and what the environment asks of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ivan_fast

REPO = Path(__file__).resolve().parent.parent
STABLE_HEADER = "include/torch/csrc/stable/library.h"
INFO = ivan_fast.build_info()
SCHEMAS = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("ivan_fast::")]


@pytest.fixture
def setup_module() -> ModuleType:
    """setup.py as a module, without running setup()."""
    source = (REPO / "setup.py").read_text()
    module = ModuleType("ivan_fast_setup")
    module.__file__ = str(REPO / "setup.py")
    exec(compile(source[: source.index("\nsetup(\n")], "setup.py", "exec"), module.__dict__)
    return module


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def has_kernel(op: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(op, key)


def test_version():
    assert INFO["version"] == ivan_fast.__version__ == version("ivan_fast")


def test_every_op_has_cpu_kernel_fake_and_autograd_formula():
    assert len(SCHEMAS) >= 7
    for op in SCHEMAS:
        assert has_kernel(op, "CPU"), op
        assert has_kernel(op, "Autograd"), op
        name = op.split("::")[1]
        assert torch._C._dispatch_has_kernel_for_dispatch_key(op, "Meta"), f"{name} has no fake kernel"


@pytest.mark.cuda_build
def test_nvcc_means_cuda_kernels():
    """A machine with nvcc never gets a CPU-only build by accident."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None or os.environ.get("IVAN_FAST_CUDA", "AUTO").upper() == "OFF":
        pytest.skip("no nvcc here, or IVAN_FAST_CUDA=OFF")
    assert INFO["with_cuda"]
    assert INFO["cuda_runtime"] >= 12000
    assert INFO["cuda_archs"]


@pytest.mark.cuda_build
@pytest.mark.skipif(not INFO["with_cuda"], reason="built without nvcc")
def test_cuda_kernels_are_registered():
    for op in SCHEMAS:
        assert has_kernel(op, "CUDA"), op


@pytest.mark.parametrize("isa", INFO["cpu_isa_available"])
def test_instruction_set_can_be_forced(isa):
    code = "import ivan_fast; i = ivan_fast.build_info(); print(i['cpu_isa'], i['cpu_isa_forced'])"
    run = run_python(code, IVAN_FAST_CPU_ISA=isa)
    assert run.stdout.split() == [isa, isa], run.stderr


@pytest.mark.parametrize("isa", ["sse9", "AVX2", *({"avx2", "avx512"} - set(INFO["cpu_isa_available"]))])
def test_impossible_instruction_set_is_refused_at_import(isa):
    run = run_python("import ivan_fast", IVAN_FAST_CPU_ISA=isa)
    assert run.returncode != 0
    assert f"IVAN_FAST_CPU_ISA={isa}" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("isa", INFO["cpu_isa_available"])
def test_instruction_sets_agree(isa):
    """The same numbers to rounding, whichever set is chosen; the full tests run on the best one."""
    code = (
        "import torch; from ivan_fast import ops, reference as r\n"
        "torch.manual_seed(0)\n"
        "for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):\n"
        "    x, h, g, d = (torch.randn(2, 3, 37, 41, dtype=dtype) for _ in range(4))\n"
        "    w = torch.randn(3, 3, dtype=dtype)\n"
        "    for name, args in (('affine_coupling_recompute_backward', (x, h, g, d, 0.8)),\n"
        "                       ('affine_coupling_inverse_backward', (x, h, g, 0.8)),\n"
        "                       ('channel_mix_backward', (d, x, w))):\n"
        "        truth = getattr(r, name)(*(a.double() if torch.is_tensor(a) else a for a in args))\n"
        "        for ours, true in zip(getattr(ops, name)(*args), truth):\n"
        "            assert (ours - true).norm() <= tolerance * true.norm(), name\n"
    )
    run = run_python(code, IVAN_FAST_CPU_ISA=isa)
    assert run.returncode == 0, run.stderr


def test_torch_is_not_imported_by_the_build(setup_module):
    found = setup_module.find_torch()
    assert (found / STABLE_HEADER).exists()
    source = (REPO / "setup.py").read_text()
    assert "import torch" not in source


def environment_with_torch(folder: Path, module: ModuleType, **options: bool) -> Path:
    """A virtual environment with torch: its own, or with system_site_packages one of the user's packages."""
    venv.create(folder, **options)
    python = folder / "bin" / "python"
    code = (
        "import site, sysconfig; print(site.getusersitepackages(), sysconfig.get_path('purelib'), sep='\\n')"
    )
    env = {**os.environ, "PYTHONUSERBASE": str(folder / "user")}
    run = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=True)
    packages = Path(run.stdout.splitlines()[0 if options else 1])
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "torch").symlink_to(module.find_torch())
    return python


@pytest.mark.parametrize("options", [{}, {"system_site_packages": True}], ids=["own", "lent"])
def test_torch_is_found_under_build_isolation(setup_module, tmp_path, options):
    """As pip does it: a PYTHONPATH whose sitecustomize takes the environment's packages off sys.path."""
    python = environment_with_torch(tmp_path / "env", setup_module, **options)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\nsys.path = [p for p in sys.path if not p.endswith('site-packages')]\n"
    )
    source = (REPO / "setup.py").read_text()
    code = (
        "import importlib.util; assert importlib.util.find_spec('torch') is None\n"
        "import os, subprocess, sys; from pathlib import Path\n"
        f"{source[source.index('def find_torch') : source.index('def find_tool(')]}"
        "print(find_torch())\n"
    )
    env = {
        **{k: v for k, v in os.environ.items() if k != "IVAN_FAST_TORCH_DIR"},
        "PYTHONPATH": str(hidden),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUSERBASE": str(tmp_path / "env" / "user"),
    }
    run = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (Path(run.stdout.strip()) / STABLE_HEADER).exists()


def test_without_torch_the_build_says_what_to_do(setup_module, monkeypatch, tmp_path):
    monkeypatch.delenv("IVAN_FAST_TORCH_DIR", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    venv.create(tmp_path)
    monkeypatch.setattr(setup_module.sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(SystemExit, match="pip install torch first"):
        setup_module.find_torch()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("9.0", "90-real"),
        ("8.0;9.0+PTX", "80-real;90-real;90-virtual"),
        ("7.5 8.6, 12.0", "75-real;86-real;120-real"),
        ("9.0a", "90a-real"),
    ],
)
def test_architecture_list(setup_module, given, expected):
    assert setup_module.cuda_architectures(given) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((75, 80, 90), "75-real;80-real;90-real;90-virtual"),
        ((80, 100, 110, 120, 121), "80-real;100-real;120-real;100-virtual;120-virtual"),
    ],
)
def test_default_architectures_are_what_nvcc_knows(setup_module, tmp_path, known, expected):
    """And PTX for every device that comes later or between."""
    nvcc, script = tmp_path / "nvcc", tmp_path / "list.cmake"
    nvcc.write_text("#!/bin/sh\n" + "".join(f"echo compute_{arch}\n" for arch in known))
    nvcc.chmod(0o755)
    script.write_text(
        f"include({REPO}/cmake/IvanFastCuda.cmake)\n"
        f'ivan_fast_default_archs({nvcc} found)\nmessage("${{found}}")\n'
    )
    command = [setup_module.find_tool("cmake"), "-P", script]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr.strip() == expected


@pytest.mark.parametrize("given", ["Hopper", "90", "9.0;;x", "9.0+ptx"])
def test_wrong_architecture_is_refused(setup_module, given):
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST holds"):
        setup_module.cuda_architectures(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-DIVAN_FAST_CUDA=ON", "-DCMAKE_CUDA_COMPILER=", "-DIVAN_FAST_NVCC="], "no nvcc was found"),
        (["-DIVAN_FAST_CUDA=MAYBE"], "expected AUTO, ON or OFF"),
        (["-DTORCH_DIR=/nonexistent"], "install torch 2.10 or newer"),
        (["-DTORCH_DIR="], "TORCH_DIR is empty"),
    ],
)
def test_cmake_refuses(setup_module, tmp_path, options, message):
    command = [setup_module.find_tool("cmake"), "-S", REPO, "-B", tmp_path, "-GNinja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={setup_module.find_tool('ninja')}"]
    command += [f"-DTORCH_DIR={setup_module.find_torch()}", f"-DPython_EXECUTABLE={sys.executable}", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert message in " ".join(run.stderr.split())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("9.0\n9.0", "9.0"),
        ("9.0\n6.1\n8.6", "8.6 9.0"),  # which torch calls cuda:0 is not known here; sm_61 is too old
        ("NVIDIA-SMI has failed: no driver", "8.0+PTX"),
        ("[N/A]", "8.0+PTX"),
    ],
)
def test_make_builds_for_the_gpus_that_are_there(tmp_path, answer, expected):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is absent")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    smi.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for name in ("IVAN_CUDA_ARCH", "MAKEFLAGS", "MAKELEVEL"):
        env.pop(name, None)
    show = "show: ; @echo $$TORCH_CUDA_ARCH_LIST"
    command = [make, "-s", "-C", REPO, "--no-print-directory", "--eval", show, "show"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == expected, run.stderr


def test_a_bare_gpu_machine_needs_no_network(tmp_path):
    """A Python with torch and the build tools, but without ensurepip: what `make gpu-check` builds with."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is absent")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path)
    lender = tmp_path / "bin" / "python3"
    lender.parent.mkdir()
    lender.write_text(
        "#!/bin/sh\n"
        'case "$*" in "-m venv .venv") echo "ensurepip is not available"; mkdir .venv; exit 1;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    lender.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "nothing")}
    command = [make, "-s", "-C", tmp_path, f"PYTHON={lender}", ".venv/stamps/build-tools"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    python = tmp_path / ".venv" / "bin" / "python"
    code = "import pip, pybind11, setuptools, torch; print(setuptools.__version__.split('.')[0])"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) >= 77
