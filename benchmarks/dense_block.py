"""The dense block's CPU kernels against plain PyTorch, in one run.

    python benchmarks/dense_block.py [sizes ...] [--channels 1] [--rounds 9] [--json FILE]

Eager PyTorch (NCHW, torch.cat, stored activations), the strict and the fast kernels are warmed up and then
take turns; medians are compared. Rates count the multiply-adds of direct convolutions, whatever is computed,
and are given as a fraction of the measured rate of independent multiply-adds (of one thread, times threads).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from fma_peak import peak_rate

from ivan.benchmark import record
from ivan.benchmark.case import Case, parse_sizes
from ivan.benchmark.kernels import compare_kernels
from ivan.benchmark.machine import describe
from ivan.benchmark.tables import KERNEL_TITLES

DENSE_KERNELS = ("dense_block", "dense_block_backward", "dense_block training")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=["96", "128", "256", "512"], help="N or HxW")
    parser.add_argument("--channels", type=int, default=1, help="in and out of the block")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    one = peak_rate()
    peak = None if one is None else one * args.threads / 1e9
    machine = {**describe(), "threads": args.threads, "fma_gflops": peak}
    print(
        f"torch {machine['torch']}, {machine['isa']}, {args.threads} threads, load {machine['load']}, ",
        end="",
    )
    print("no g++: peak unknown" if peak is None else f"peak {peak:.0f} GFLOP/s")
    rows = []
    for height, width in parse_sizes(args.sizes, "sizes"):
        case = Case(height, width, channels=2 * args.channels, split=args.channels, batch=args.batch)
        found = compare_kernels(case, DENSE_KERNELS, args.rounds, threads=args.threads)
        rows += found
        for row in found:
            share = "" if peak is None else f" = {row['gflops'] / peak:.0%} of peak"
            print(
                f"{case.size:>9} {KERNEL_TITLES[row['kernel']]:44} {row['implementation']:6} "
                f"{row['seconds'] * 1e3:8.1f} ms {row['gflops']:5.0f} GFLOP/s{share}, {row['ratio']:.2f}x",
                flush=True,
            )
    if args.json:
        record.save(record.new(machine, rows, "benchmarks/dense_block.py"), args.json)
        print(f"wrote {args.json}")


if __name__ == "__main__":
    main()
