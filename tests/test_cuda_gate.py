"""The machine-code gate: it reads compiled kernels and notices what rules forbid."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PLANTED = """
struct alignas(16) Four { float v[4]; };
__global__ void good_kernel(const Four* x, Four* y) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ void narrow_kernel(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ void local_kernel(const float* x, float* y, int k) {
  float a[64];
  for (int i = 0; i < 64; ++i) a[i] = x[i * k] * i;
  float sum = 0;
  for (int i = 0; i < 64; ++i) sum += a[(i * k) & 63];
  y[threadIdx.x] = sum;
}
"""
RULES = r"""
[all]
forbid = ["LDL", "STL"]
[[kernel]]
name = "good_kernel|narrow_kernel"
require = ['LDG\S*\.128', 'STG\S*\.128']
max_registers = 32
[[kernel]]
name = "local_kernel"
"""


@pytest.fixture(scope="module")
def gate():
    spec = importlib.util.spec_from_file_location("cuda_gate", REPO / "cmake" / "cuda_gate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_gate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def planted(gate, tmp_path_factory):
    """An object with one good and two bad kernels."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")
    if nvcc is None:
        pytest.skip("no nvcc here")
    try:
        gate.find_tools()
    except gate.GateError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("gate")
    (folder / "planted.cu").write_text(PLANTED)
    subprocess.run([nvcc, "-arch=sm_80", "-c", "planted.cu", "-o", "planted.o"], cwd=folder, check=True)
    return folder / "planted.o"


def kernel(gate, name="ivan_fast::cuda::f_kernel<float, 4>(int)", arch="sm_80", opcodes=(), **use):
    return gate.Kernel(name, arch, opcodes=gate.Counter(opcodes), **use)


def test_planted_faults_are_found(gate, planted, tmp_path, capsys):
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    assert gate.main([str(rules), str(planted)]) == 1
    said = capsys.readouterr()
    wrong = [line for line in said.err.splitlines() if line]
    assert not any("good_kernel" in line for line in wrong)
    assert any("narrow_kernel: no LDG" in line for line in wrong)
    assert any("narrow_kernel: no STG" in line for line in wrong)
    assert any("local_kernel" in line and "x STL" in line for line in wrong)
    assert any("local_kernel" in line and "bytes of stack, at most 0" in line for line in wrong)
    assert "3 kernels for sm_80: " in said.out


def test_good_kernel_alone_passes(gate, planted):
    rules = {"kernel": [{"name": "good_kernel", "require": [r"LDG\S*\.128"], "max_registers": 32}]}
    only = [k for k in gate.read_kernels([planted]) if "good_kernel" in k.name]
    assert len(only) == 1
    assert only[0].registers > 0
    assert gate.check(only, rules) == []


@pytest.mark.parametrize(
    ("rule", "use", "message"),
    [
        ({"require": ["HMMA"]}, {}, "sm_80 f_kernel<float, 4>: no HMMA"),
        ({"forbid": ["DFMA"]}, {"opcodes": ["DFMA", "DFMA"]}, "sm_80 f_kernel<float, 4>: 2 x DFMA"),
        ({"max_registers": 64}, {"registers": 65}, "65 registers, at most 64"),
        ({"max_shared": 100}, {"shared": 101}, "101 bytes of shared memory, at most 100"),
        ({}, {"stack": 8}, "8 bytes of stack, at most 0"),
        ({}, {"opcodes": ["LDL.64"]}, "1 x LDL"),
        ({"arch": "sm_90"}, {}, "no rule knows this kernel"),
        ({"name": "g_kernel"}, {}, "rule 'g_kernel' : no kernel matches"),
    ],
)
def test_each_rule(gate, rule, use, message):
    rules = {"all": {"forbid": ["LDL", "STL"]}, "kernel": [{"name": "f_kernel", **rule}]}
    assert any(message in line for line in gate.check([kernel(gate, **use)], rules))


def test_a_kernel_without_one_architecture_is_noticed(gate):
    kernels = [kernel(gate), kernel(gate, arch="sm_90"), kernel(gate, "other_kernel()")]
    wrong = gate.check(kernels, {"kernel": [{"name": "kernel"}]})
    assert wrong == ["other_kernel: not compiled for sm_90"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[kernel]]\nname = 'a'\nregs = 3", "unknown key 'regs'"),
        ("[[kernel]]\narch = 'a'", "without name"),
        ("[[kernel]]\nname = '('", "no regular expression"),
        ("kernel = [", "rules.toml: "),
    ],
)
def test_bad_rules_are_named(gate, tmp_path, text, message, capsys):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    assert gate.main([str(path), "missing.o"]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


def test_the_projects_rules_are_readable(gate):
    rules = gate.read_rules(REPO / "cmake" / "cuda_gate.toml")
    assert {"LDL", "STL"} <= set(rules["all"]["forbid"])
