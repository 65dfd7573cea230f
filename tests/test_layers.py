"""The layers' arrows point down only: ivan -> ivan_fast -> csrc/torch -> csrc/{cpu,cuda} -> csrc/include."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
CXX_SUFFIXES = {".h", ".cuh", ".cpp", ".cu", ".inc"}
STANDARD_CXX = re.compile(r"[a-z_0-9]+|c?(std|math|float|string|limits|assert)[a-z]*\.h")
INTRINSICS = {"immintrin.h", "arm_neon.h"}
SYSTEM = {"malloc.h", "sys/mman.h"}
# What each folder of csrc may include, besides the C++ standard library: prefixes as written there.
ALLOWED = {
    "include": ("ivan_fast/",),
    "cpu": ("ivan_fast/", *INTRINSICS, *SYSTEM),
    "cuda": ("ivan_fast/", "cuda", "mma.h", "cooperative_groups"),
    "torch": ("ivan_fast/", "torch/csrc/stable/", "torch/csrc/inductor/aoti_torch/c/", "torch/headeronly/"),
}


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in CXX_SUFFIXES)


def forbidden_includes(layer: str, path: Path, text: str) -> Iterator[str]:
    """Includes of one file that leave the layer upwards or sideways."""
    for name in INCLUDE.findall(text):
        beside = (path.parent / name).resolve()
        own = beside.exists() and beside.is_relative_to(REPO / "csrc" / layer)
        allowed = any(name == p or (name.startswith(p) and not p.endswith(".h")) for p in ALLOWED[layer])
        if not (own or allowed or STANDARD_CXX.fullmatch(name)):
            yield f"{path.relative_to(REPO)} includes {name}"


@pytest.mark.parametrize("layer", ALLOWED)
def test_includes_point_down(layer):
    files = sources(REPO / "csrc" / layer)
    assert files
    assert [bad for path in files for bad in forbidden_includes(layer, path, path.read_text())] == []


def test_no_other_folder_of_sources():
    found = {p.relative_to(REPO / "csrc").parts[0] for p in sources(REPO / "csrc")}
    assert found == {*ALLOWED, "module.cpp"}


def test_module_touches_no_tensor():
    names = INCLUDE.findall((REPO / "csrc" / "module.cpp").read_text())
    assert [name for name in names if name.startswith(("torch", "ATen", "c10"))] == []


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("include", "#include <torch/csrc/stable/tensor.h>"),
        ("include", '#include "../cpu/isa.h"'),
        ("cpu", "#include <ATen/ATen.h>"),
        ("cpu", "#include <cuda_runtime.h>"),
        ("cpu", '#include "../torch/tensors.h"'),
        ("cuda", "  #  include <torch/headeronly/core/ScalarType.h>"),
        ("cuda", '#include "../cpu/isa.h"'),
        ("torch", "#include <torch/extension.h>"),
    ],
)
def test_a_wrong_include_is_noticed(layer, line):
    assert list(forbidden_includes(layer, REPO / "csrc" / layer / "new.cpp", f"#pragma once\n{line}\n"))


def imported_packages(text: str) -> set[str]:
    """Top-level packages that a Python file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_ivan_fast_imports_torch_and_the_standard_library_only():
    files = sorted((REPO / "ivan_fast").rglob("*.py"))
    assert files
    allowed = {"torch", "ivan_fast", *sys.stdlib_module_names}
    assert {
        str(p.relative_to(REPO)): bad for p in files if (bad := imported_packages(p.read_text()) - allowed)
    } == {}


def test_ivan_does_not_reach_below_ivan_fast():
    pattern = re.compile(r"ivan_fast\._|ivan_fast import _|torch\.ops\.ivan_fast")
    files = sorted((REPO / "python" / "ivan").rglob("*.py"))
    assert files
    assert [str(p.relative_to(REPO)) for p in files if pattern.search(p.read_text())] == []


def test_imports_inside_functions_are_noticed():
    assert imported_packages("def f():\n    import numpy.linalg\n    from ivan.data import x\n") == {
        "numpy",
        "ivan",
    }
