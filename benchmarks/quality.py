"""Quality at equal data and time: ours, the public network and loss, U-Nets, tables, and two known rivals.

    python benchmarks/quality.py run ms        --out runs/q-ms          T1 -> T2, one patient to another
    python benchmarks/quality.py run ms-flair  --out runs/q-ms-flair    T1 + FLAIR -> T2
    python benchmarks/quality.py run sri24     --out runs/q-sri24       T1 + PD -> T2, slabs of an atlas
    python benchmarks/quality.py run ixi       --out runs/q-ixi --data IXI --from T1 --to T2
    python benchmarks/quality.py run folder    --out runs/q --data DIR --split FILE --from T1 --to T2
    python benchmarks/quality.py measure ms    --out runs/q-ms       finished runs again, without training
    python benchmarks/quality.py headroom ms   --out runs/q-ms       what averaging could still bring
    python benchmarks/quality.py report        --out runs/q-ms       table.md and figure.png of what is there

Every method sees the same slices in the same order with the same augmentation and trains for --minutes of its
own time; the last weights count. A run that is stopped goes on where it was when the same command is given
again; finished ones are not repeated, so another day can add methods and seeds. `docs/quality.md` says what
the methods are.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METHODS = "ivan,public-twin,public-loss,unet,table,table+tv"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and measure")
    add_experiment(run)
    run.add_argument("--methods", default=METHODS, help=f"of {METHODS},hi-net,score")
    run.add_argument("--seeds", default="0,1,2", help="one run each")
    run.add_argument("--minutes", type=float, default=30.0, help="training time of each run")
    run.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="of the minutes; cpu: processor time of the training process on one thread, fair on a shared "
        "machine",
    )
    run.add_argument("--blocks", type=int, default=8, help="of the invertible networks")
    run.add_argument("--growth", type=int, default=32, help="of the invertible networks")
    run.add_argument("--batch", type=int, default=1, help="slices a step")
    run.add_argument("--patch", type=int, default=48, help="side of the random patches; 0: whole slices")
    run.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as PyTorch chooses")
    again = commands.add_parser("measure", help="measure finished runs again from their checkpoints")
    add_experiment(again)
    more = commands.add_parser("headroom", help="what averaging and intensities could still bring to them")
    add_experiment(more)
    report = commands.add_parser("report", help="table and figure of what was run")
    report.add_argument("--out", type=Path, required=True, help="folder for table.md and figure.png")
    report.add_argument("--results", type=Path, help="folder of the finished runs (default: OUT/results)")
    return main


def add_experiment(command: argparse.ArgumentParser) -> None:
    """The options that say what is trained and measured, and where it is kept."""
    command.add_argument("experiment", choices=("ms", "ms-flair", "sri24", "ixi", "folder"))
    command.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and results")
    command.add_argument("--data", type=Path, help="ixi, folder: folder of the images")
    command.add_argument("--split", type=Path, help="folder: split file; its validation part is measured")
    command.add_argument(
        "--from", dest="sources", action="append", default=[], help="ixi, folder: source modality"
    )
    command.add_argument(
        "--to", dest="targets", action="append", default=[], help="ixi, folder: target modality"
    )
    command.add_argument(
        "--results", type=Path, help="folder of one small file a finished run (default: OUT/results)"
    )


def plan_of(args: argparse.Namespace) -> Any:
    """The experiment that was asked for. Raises InputError."""
    from quality_lib import plans

    from ivan.errors import InputError

    if args.experiment in plans.SHARED:
        if args.data or args.split or args.sources or args.targets:
            raise InputError(
                f"--data, --split, --from, --to: go with ixi and folder, not with {args.experiment}"
            )
        return plans.shared_plan(args.experiment, args.out)
    if args.data is None or (args.experiment == "folder" and args.split is None):
        missing = "--data" if args.data is None else "--split"
        raise InputError(f"{missing}: not given; {args.experiment} needs it")
    if not args.sources or not args.targets:
        raise InputError("--from, --to: not given; name the modalities")
    if args.experiment == "ixi":
        return plans.ixi_plan(args.data, tuple(args.sources), tuple(args.targets))
    return plans.folder_plan(args.data, args.split, tuple(args.sources), tuple(args.targets))


def whole_numbers(option: str, text: str) -> list[int]:
    """ "0,1,2" as numbers. Raises InputError."""
    from ivan.errors import InputError

    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError(f"{option}: '{text}' given, expected whole numbers such as 0,1,2") from None


def check_numbers(args: argparse.Namespace) -> None:
    """Raise InputError for a budget or size that cannot be meant."""
    from ivan.errors import InputError

    if not (math.isfinite(args.minutes) and args.minutes > 0):
        raise InputError(f"--minutes: {args.minutes} given, must be above 0")
    for name, least in (("blocks", 1), ("growth", 1), ("batch", 1), ("patch", 0), ("threads", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}: {getattr(args, name)} given, must be at least {least}")
    if args.clock == "cpu" and args.threads > 1:
        raise InputError(
            f"--threads: {args.threads} given; --clock cpu measures one thread, give --threads 1"
        )


def run_all(args: argparse.Namespace) -> None:
    """Every method with every seed that has no result yet."""
    import torch
    from quality_lib.measure import check, measure, predictors, tables
    from quality_lib.methods import TRAINED, UNTRAINED, Size, build
    from quality_lib.plans import describe
    from quality_lib.results import read, same
    from quality_lib.train import Budget, train

    from ivan.benchmark.machine import commit
    from ivan.environment import collect
    from ivan.errors import InputError
    from ivan.training.files import replace_json

    check_numbers(args)
    if args.clock == "cpu":
        args.threads = 1
    if args.threads:
        torch.set_num_threads(args.threads)
    methods = list(dict.fromkeys(name.strip() for name in args.methods.split(",")))
    seeds = whole_numbers("--seeds", args.seeds)
    if strange := [name for name in methods if name not in (*TRAINED, *UNTRAINED)]:
        raise InputError(
            f"--methods: '{strange[0]}' given, expected some of {', '.join((*TRAINED, *UNTRAINED))}"
        )
    plan = plan_of(args)
    size, budget = (
        Size(args.blocks, args.growth),
        Budget(60 * args.minutes, args.batch, args.patch, clock=args.clock),
    )
    facts, code = collect(), commit()  # as they are now: the sources may change while it runs
    machine = {**facts["Devices"], "torch": facts["Versions"]["torch"]}
    settings = {"augmentation": plan.augmentation, "size": vars(size), "budget": vars(budget)}
    for path in sorted(args.results.glob("*-seed*.json")):  # before any training
        same(path, read(path), describe(plan), settings, "asked")
    # Nothing is random in a table: one run of seed 0, whatever the seeds.
    wanted = [(name, 0 if name in UNTRAINED else seed) for seed in seeds for name in methods]
    left = {
        run: path for run in wanted if not (path := args.results / f"{run[0]}-seed{run[1]}.json").exists()
    }
    if left:
        check(plan)
    for (name, seed), path in left.items():
        print(f"{plan.name}: {name}, seed {seed}", flush=True)
        training, parameters = {"steps": 0, "seconds": 0.0, "wall_seconds": 0.0}, 0
        if name in UNTRAINED:
            forward, reverse = tables(plan, smooth=name == "table+tv")
        else:
            method = build(name, len(plan.sources), len(plan.targets), size, seed)
            if method is None:
                print(f"{name}: does not apply to {len(plan.sources)} to {len(plan.targets)}, passed by")
                continue
            parameters = sum(p.numel() for p in method.parameters())
            checkpoint = args.out / "checkpoints" / f"{name}-seed{seed}.pt"
            training = train(method, plan, budget, seed, checkpoint, lambda line: print(line, flush=True))
            forward, reverse = predictors(method)
        result = {
            "plan": describe(plan),
            "protocol": plan.protocol,
            "method": name,
            "seed": seed,
            "parameters": parameters,
            "training": training,
            "settings": settings,
            "machine": machine,
            "commit": code,
            "rows": measure(plan, forward, reverse),
        }
        replace_json(path, result)
        for row in result["rows"]:
            print(f"  {row['direction']} {row['target']} {row['case']}: {row['values']['psnr']:.2f} dB")


def finished(plan: Any, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], Any, Any]]:
    """The finished runs whose weights are in OUT: (METHOD-seedN, result, forward, reverse).

    Raises:
        InputError: results of another experiment, or weights that are not those of the result.
    """
    import torch
    from quality_lib.measure import predictors, tables
    from quality_lib.methods import UNTRAINED
    from quality_lib.plans import describe
    from quality_lib.results import collect, same
    from quality_lib.train import trained

    for run in collect(args.results):
        name = f"{run['method']}-seed{run['seed']}"
        same(args.results / f"{name}.json", run, describe(plan), run["settings"], "asked")
        torch.set_num_threads(run["machine"]["threads"])
        if run["method"] in UNTRAINED:
            yield name, run, *tables(plan, smooth=run["method"] == "table+tv")
            continue
        checkpoint = args.out / "checkpoints" / f"{name}.pt"
        if checkpoint.is_file():
            yield name, run, *predictors(trained(run, plan, checkpoint))
        else:
            print(f"{name}: no {checkpoint}, passed by", flush=True)


def measure_again(args: argparse.Namespace) -> None:
    """New figures for every finished run whose weights are in OUT; its training stays as it was recorded."""
    from quality_lib.measure import measure

    from ivan.benchmark.machine import commit
    from ivan.training.files import replace_json

    plan, code = plan_of(args), commit()
    for name, run, forward, reverse in finished(plan, args):
        rows = measure(plan, forward, reverse)
        replace_json(args.results / f"{name}.json", {**run, "rows": rows, "measured_by": code})
        for row in rows:
            print(f"{name}: {row['direction']} {row['target']} {row['case']}: {row['values']['psnr']:.2f} dB")


def write_headroom(args: argparse.Namespace) -> None:
    """OUT/headroom.json and OUT/headroom.md of the finished runs whose weights are in OUT."""
    from quality_lib.headroom import headroom, markdown

    from ivan.benchmark.machine import commit
    from ivan.errors import InputError
    from ivan.training.files import replace_file, replace_json

    plan, code = plan_of(args), commit()
    runs = [(name, forward, reverse) for name, _, forward, reverse in finished(plan, args)]
    if not runs:
        raise InputError(
            f"{args.results}: no finished run with weights in {args.out}; run an experiment first"
        )
    rows = headroom(plan, runs, lambda line: print(line, flush=True))
    replace_json(
        args.out / "headroom.json",
        {"experiment": plan.name, "protocol": plan.protocol, "commit": code, "rows": rows},
    )
    text = markdown(rows, plan.protocol)
    replace_file(args.out / "headroom.md", text.encode())
    print(text)


def write_report(results: Path, out: Path) -> None:
    """OUT/table.md and OUT/figure.png of the finished runs."""
    from quality_lib.present import figure, markdown
    from quality_lib.results import collect

    from ivan.errors import InputError
    from ivan.training.files import replace_file

    runs = collect(results)
    if not runs:
        raise InputError(f"{results}: no finished run; run an experiment first")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "table.md", markdown(runs).encode())
    figure(runs, out / "figure.png")
    print(markdown(runs))


def main(arguments: list[str] | None = None) -> int:
    """Run; errors are one line, as those of the command line."""
    from ivan.errors import IvanError

    args = parser().parse_args(arguments)
    args.results = args.results or args.out / "results"
    try:
        if args.command == "run":
            run_all(args)
        elif args.command == "measure":
            measure_again(args)
        elif args.command == "headroom":
            write_headroom(args)
            return 0
        write_report(args.results, args.out)
    except IvanError as error:
        print(f"quality: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stopped:  # as train() raises it once its weights are saved
        print(f"quality: stopped; {stopped or 'the same command goes on'}", file=sys.stderr)
        return int(getattr(stopped, "exit_code", 130))
    return 0


if __name__ == "__main__":
    sys.exit(main())
