"""The rate of independent multiply-adds in registers. Only Winograd kernels can seem to exceed it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import ivan_fast

PEAK_SOURCE = """
#include <chrono>
typedef float V __attribute__((vector_size(BYTES)));
extern "C" double peak() {
  V a[CHAINS] = {}, b = {}, c = {};
  b += 1.0001f; c += 0.5f;
  double best = 0;
  for (int run = 0; run < 40; ++run) {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 50000; ++i) {
      #pragma GCC unroll 24
      for (int j = 0; j < CHAINS; ++j) a[j] = a[j] * b + c;
      asm volatile("" : "+x"(b), "+x"(c));
    }
    double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double rate = 2.0 * BYTES / 4 * CHAINS * 50000 / s;
    if (rate > best) best = rate;
  }
  volatile float sink = 0;
  for (int j = 0; j < CHAINS; ++j) sink = sink + a[j][0];
  return best;
}
"""
ISA_FLAGS = {
    "avx512": ["-mavx512f", "-mfma", "-DBYTES=64", "-DCHAINS=24"],
    "avx2": ["-mavx2", "-mfma", "-DBYTES=32", "-DCHAINS=12"],
    "portable": ["-DBYTES=16", "-DCHAINS=12"],
}


def peak_rate() -> float | None:
    """Operations a second of one thread in the instruction set in use; None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "peak.cpp"), Path(folder, "peak.so")
        source.write_text(PEAK_SOURCE)
        flags = ["-O3", "-ffp-contract=fast", *ISA_FLAGS[ivan_fast.build_info()["cpu_isa"]]]
        subprocess.run([compiler, *flags, "-shared", "-fPIC", source, "-o", library], check=True)
        peak = ctypes.CDLL(str(library)).peak
        peak.restype = ctypes.c_double
        return float(peak())
