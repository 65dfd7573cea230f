"""`ivan benchmark`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ivan.errors import InputError

if TYPE_CHECKING:
    from ivan.benchmark.plan import Group, Report

_NETWORK = "Network"


def benchmark(
    sizes: Annotated[
        Optional[list[str]],  # noqa: UP045 - Typer evaluates it on Python 3.10 too
        typer.Option(
            "--sizes",
            metavar="SIZES",
            help="Image sizes in pixels, as 128,256 or 256x192 (height x width). "
            "[dim]\\[default: 128,256][/dim]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads; 0: as PyTorch chooses.")] = 0,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Measurements of each; medians are shown. More are steadier.")
    ] = 3,
    against: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME",
            help="Measure this too, beside eager PyTorch, ours strict and fast: compile, checkpoint, memcnn, "
            "freia, fast-boundary, fast-store or all. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels/--no-kernels", help="Also measure single operations.")
    ] = True,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also measure the peak memory of a training step.")
    ] = True,
    memory_limit: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="GB", help="Skip what would take more than this (default: 90 % of what is free)."
        ),
    ] = None,
    channels: Annotated[
        int, typer.Option(metavar="C", help="Channels of the state.", rich_help_panel=_NETWORK)
    ] = 2,
    blocks: Annotated[
        int, typer.Option(metavar="N", help="Invertible blocks.", rich_help_panel=_NETWORK)
    ] = 8,
    batch: Annotated[int, typer.Option(metavar="N", help="Images at once.", rich_help_panel=_NETWORK)] = 1,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Also write the numbers here.", show_default=False)
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress, only the tables.")] = False,
) -> None:
    """Measure this machine: time and memory of the network against plain PyTorch.

    Everything computes the same function of the same weights, is warmed up, and then takes turns. A ratio
    of 3x means three times faster than eager PyTorch in the same run; forward and inverse are inference, a
    step is both directions, loss, backward and Adam.

    Memory is what a step adds to the peak of a fresh process that has done one small step (on a GPU: of
    PyTorch's memory there). What would not fit is skipped, and the table says so.

    Close other programs first: on a busy machine single times mean little, and ratios less.

    Examples:

      ivan benchmark

      ivan benchmark --sizes 256x192 --threads 4 --against all --json here.json

      ivan benchmark --device cuda --sizes 256,512 --batch 4
    """
    from ivan.benchmark import record
    from ivan.benchmark.case import parse_sizes

    shapes = parse_sizes(sizes) if sizes else [(128, 128), (256, 256)]
    for option, value, least in (
        ("--rounds", rounds, 1), ("--threads", threads, 0), ("--channels", channels, 2),
        ("--blocks", blocks, 1), ("--batch", batch, 1),
    ):  # fmt: skip
        if value < least:
            raise InputError(f"{option}: {value} given, must be at least {least}")
    if memory_limit is not None and not memory_limit > 0:
        raise InputError(f"--memory-limit: {memory_limit} given, must be above 0 (GB)")
    if json_file:
        _writable(json_file)

    import torch

    from ivan.benchmark.case import Case
    from ivan.benchmark.machine import describe
    from ivan.benchmark.plan import run
    from ivan.training.build import choose_device

    place = str(choose_device(device))
    threads = threads or torch.get_num_threads()
    cases = [Case(h, w, channels=channels, blocks=blocks, batch=batch, device=place) for h, w in shapes]
    groups = plan(cases, names(against or []), rounds, threads, kernels, memory)
    machine = {**describe(place), "threads": threads}
    with progress(not quiet) as report:
        rows = run(groups, None if memory_limit is None else int(memory_limit * 1e9), report)
    measured = record.new(machine, rows, "ivan benchmark")
    if json_file:
        record.save(measured, json_file)
    show(measured)
    if json_file:
        typer.echo(f"wrote {json_file}")


def names(against: list[str]) -> tuple[str, ...]:
    """Eager PyTorch, ours strict and fast, and what `against` adds. Raises InputError."""
    from ivan.benchmark.implementations import IMPLEMENTATIONS, implementation

    asked = {part.strip() for value in against for part in value.split(",") if part.strip()}
    if "all" in asked:
        return tuple(IMPLEMENTATIONS)
    wanted = {"eager", "strict", "fast", *(implementation(name, "--against").name for name in asked)}
    return tuple(name for name in IMPLEMENTATIONS if name in wanted)


def plan(
    cases: list[Any], implementations: tuple[str, ...], rounds: int, threads: int, kernels: bool, memory: bool
) -> list[Group]:
    """What one call of the command measures, smallest images first."""
    from ivan.benchmark.plan import Kernels, Memory, Times

    groups: list[Group] = []
    for case in sorted(cases, key=lambda case: case.pixels):
        if kernels:
            groups.append(Kernels(case, 3 * rounds, threads))  # short calls vary more
        groups.append(Times(case, implementations, rounds, threads))
        if memory:
            groups += [Memory(case, name, threads) for name in implementations]
    return groups


@contextmanager
def progress(shown: bool) -> Iterator[Report]:
    """A bar with the time left on standard error (the tables go to standard output)."""
    if not shown:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: float, total: float, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield report


def show(measured: dict[str, Any]) -> None:
    """Print the machine and the tables of a record."""
    from rich.console import Console

    from ivan.benchmark import tables

    machine, rows = measured["machine"], measured["rows"]
    console = Console(soft_wrap=False)
    where = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    typer.echo(
        f"{where}, {machine['isa']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"{machine['precision']}, load {machine['load']}"
    )
    if (machine["load"] or 0) > 0.5:
        typer.echo("other programs were running: read the ratios, not the single times")
    shown = tables.time_tables(rows)
    for table in [*shown, *tables.kernel_tables(rows)]:
        console.print(tables.rich_table(table))


def _writable(path: str) -> None:
    """InputError if a file cannot be written there: better now than after minutes."""
    import os
    from pathlib import Path

    folder = Path(path).resolve().parent
    if Path(path).is_dir():
        raise InputError(f"--json: {path} is a folder, expected a file name")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--json: {folder} is not a folder that can be written to; create it first")
