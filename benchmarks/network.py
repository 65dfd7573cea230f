"""The whole network against its rivals: inference, training step and memory, in one run.

    python benchmarks/network.py 128 256x192 [--rounds 5] [--threads 1 2] [--with eager fast] [--json FILE]
    python benchmarks/network.py --plan figures         what docs/performance.md shows -> results/network.json
    python benchmarks/network.py --plan quick --json F  a check of the tools on tiny images
    python benchmarks/network.py --plan nothing --json F  measures nothing: the page then says "not run"

All implementations compute the same function of the same weights (checked), are warmed up and take turns;
medians of the ratios are reported. A training step is both directions, loss, backward and Adam. Memory is the
peak of a fresh process above its peak after one 16x16 step of the same model and optimiser. What would not
fit is skipped, and the tables say so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import plans
import torch
from fma_peak import peak_rate
from rich.console import Console

from ivan.benchmark import record, tables
from ivan.benchmark.case import JOBS, Case, parse_sizes
from ivan.benchmark.implementations import implementation
from ivan.benchmark.machine import describe
from ivan.benchmark.plan import Group, run
from ivan.cli.benchmark import progress
from ivan.errors import IvanError

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    args = arguments()
    network = Case(1, 1, channels=args.channels, blocks=args.blocks, batch=args.batch, device=args.device)
    groups = groups_of(args, network)
    machine = describe(args.device)
    if args.device == "cpu":
        one = peak_rate()  # of one thread, before anything else runs
        machine["fma_gflops"] = None if one is None else one * args.threads[0] / 1e9
    machine["threads"] = args.threads[0]
    with progress(True) as report:
        rows = run(groups, int(args.memory_limit * 1e9), report)
    measured = record.new(machine, rows, args.note or NOTES[args.plan])
    console = Console(width=160)
    for table in [*tables.time_tables(rows), *tables.kernel_tables(rows)]:
        console.print(tables.rich_table(table))
    path = args.json or (RESULTS / "network.json" if args.plan == "figures" else None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        record.save(measured, path)
        print(f"wrote {path}")


NOTES = {
    "figures": "",
    "nothing": "the figures are taken on a quiet machine once the kernels are final",
    "quick": "a quick check of the tools on tiny images: these numbers mean nothing",
    "sizes": "",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=["128"], help="N or HxW")
    parser.add_argument("--plan", choices=sorted(NOTES), default="sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--with", dest="names", nargs="+", default=plans.ALL, metavar="NAME")
    parser.add_argument("--jobs", nargs="+", default=JOBS, choices=JOBS)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-limit", type=float, default=20.0, help="GB; never more than what is free")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--note", default="", help="what to remember of this run, shown beside its numbers")
    return parser.parse_args()


def groups_of(args: argparse.Namespace, network: Case) -> list[Group]:
    """The plan that the arguments ask for."""
    if args.plan == "figures":
        return plans.figures(network, args.threads[0], args.rounds)
    if args.plan == "nothing":
        return []
    if args.plan == "quick":
        return plans.quick(network, args.threads[0], args.rounds)
    names = tuple(implementation(name, "--with").name for name in args.names)
    cases = [network.at(*size) for size in parse_sizes(args.sizes, "sizes")]
    return plans.custom(cases, names, tuple(args.jobs), args.rounds, args.threads, not args.no_memory)


if __name__ == "__main__":
    try:
        main()
    except IvanError as error:
        sys.exit(f"network.py: {error}")
