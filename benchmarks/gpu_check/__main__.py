"""One command on a machine with a GPU: is everything right, and how fast is it?

    make gpu-check            builds for this GPU, then runs this with the time that is left of ten minutes
    python benchmarks/gpu_check [--sizes 256 512] [--device cuda:1] [--budget 300]

Needs torch, numpy, pytest and the installed package. Prints one table and writes one JSON file.
`--device cpu` runs the same code on tiny problems: it shows that the check itself works, no more.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run")
    parser.add_argument("--sizes", type=int, nargs="+", help="image sides; default 256 512 1024 2048")
    parser.add_argument("--batches", type=int, nargs="+", help="images at once; default 1 8")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds in all; default 570")
    parser.add_argument("--started", type=float, default=time.time(), help="when they began, in Unix time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--no-tests", action="store_true", help="only the network's accuracy, and the times")
    args = parser.parse_args(arguments)
    import torch

    if args.device != "cpu" and not torch.cuda.is_available():
        print(
            f"gpu-check: torch {torch.__version__} sees no CUDA device; nothing was checked", file=sys.stderr
        )
        return 1
    import plan
    import report
    from timing import Budget

    cpu = args.device == "cpu"
    options = plan.Options(
        device=args.device,
        sizes=tuple(args.sizes or ((16, 24) if cpu else plan.Options.sizes)),
        batches=tuple(args.batches or plan.Options.batches),
        tiny=cpu,
    )
    run = plan.Run(options, Budget(args.budget, args.started))
    run.save = lambda record: report.write({**record, "faults": plan.faults(record)}, args.results)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        plan.everything(run, tests=not args.no_tests and not cpu)
    finally:
        run.workers.stop()
    faults = plan.faults(run.record)
    path = report.write({**run.record, "faults": faults}, args.results)
    print("\n".join(report.lines(run.record, faults)))
    print(f"written: {path}")
    print(f"gpu-check: {len(faults)} faults" if faults else "gpu-check: all right")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
