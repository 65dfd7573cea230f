"""All kernel tests of this folder once more, in a process under the address and undefined sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import emulation
import pytest

HERE = Path(__file__).resolve().parent
# Each fault in a process of its own, forked from one that has paid for its imports.
PLANTED = """
import os, sys, torch, emulation, test_planted
machine = emulation.load("asan")
for fault in sys.argv[1:]:
    sys.stderr.write(f"### {fault} ")
    sys.stderr.flush()
    if os.fork() == 0:
        test_planted.run(machine, fault)
        os._exit(0)
    print(fault, os.waitstatus_to_exitcode(os.wait()[1]))
"""
FAULTS = {
    "none": None,
    "shared_overrun": "AddressSanitizer: heap-buffer-overflow",
    "global_overrun": "AddressSanitizer: heap-buffer-overflow",
    "misaligned": "requires 16 byte alignment",
}

pytestmark = [
    pytest.mark.timeout(900),  # the build of the sanitized kernels is in it
    pytest.mark.skipif(emulation.compiler() is None, reason="no C++ compiler"),
    pytest.mark.skipif(os.environ.get("IVAN_CUDA_EMULATION") == "asan", reason="this is that process"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **emulation.sanitizer_environment(),
        "IVAN_CUDA_EMULATION": "asan",
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )


def test_kernels_are_clean(pytestconfig):
    chosen = ["-m", pytestconfig.getoption("markexpr")]
    run_of_all = run("-m", "pytest", "-q", "-x", str(HERE), "-p", "no:cacheprovider", *chosen)
    assert run_of_all.returncode == 0, run_of_all.stdout[-4000:] + run_of_all.stderr[-4000:]
    assert " passed" in run_of_all.stdout


def test_planted_faults_are_noticed():
    result = run("-c", PLANTED, *FAULTS)
    reports = {part.split()[0]: part for part in result.stderr.split("### ")[1:]}
    statuses = dict(line.split() for line in result.stdout.splitlines())
    for fault, message in FAULTS.items():
        assert (statuses[fault] == "0") == (message is None), reports[fault]
        assert message is None or message in reports[fault], reports[fault]
