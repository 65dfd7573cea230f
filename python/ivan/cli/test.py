"""`ivan test`: the public code's habit, both directions synthesised and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ivan.cli import shortform
from ivan.errors import InputError


def run_test(
    task: shortform.Task = None,
    out_path: shortform.OutPath = None,
    root1: shortform.Root1 = None,
    root2: shortform.Root2 = None,
    root3: shortform.Root3 = None,
    ckpt: Annotated[
        Optional[str],  # noqa: UP045 - Typer evaluates it on Python 3.10 too
        typer.Option(
            "--ckpt",
            metavar="FILE",
            rich_help_panel=shortform.PANEL,
            help="Weights (default: those of the run).",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder of the images, instead of --root1/2/3.", show_default=False),
    ] = "",
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="NAME", help="Source modality; repeat for several."),
    ] = None,
    targets: Annotated[
        Optional[list[str]], typer.Option("--to", metavar="NAME", help="Target modality; repeat for several.")  # noqa: UP045
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Synthesise and evaluate both directions, with the options of the public iVAN code.

    The weights are those of the run OUT_PATH/TASK, or of --ckpt: a run folder, or a checkpoint (.pth) of the
    public code, which is read without executing anything in it. Results go to OUT_PATH/TASK/test.

    Examples:

      ivan test --task 1to1 --root1 TEST/T1 --root2 TEST/T2 --out_path EXP

      ivan test --task 2to1 --data TEST --from T1 --from PD --to T2 --out_path EXP --ckpt latest.pth
    """
    if task is None or out_path is None:
        raise InputError("--task, --out_path: both are needed, as in 'ivan test --task 1to1 --out_path EXP'")
    if task == "fusion":
        raise InputError(
            "--task: fusion given; measure a fusion run with 'ivan fuse --run RUN --data DIR --out OUT'"
        )
    given: dict[str, Any] = {"sources": tuple(sources or ()), "targets": tuple(targets or ())}
    settings = {name: value for name, value in given.items() if value}
    if data:
        settings["data"] = data
    settings = shortform.expand(settings, task, out_path, (root1, root2, root3))

    from ivan.cli.evaluate import show
    from ivan.evaluation import write
    from ivan.evaluation.measure import ranges_of
    from ivan.evaluation.run import evaluate_cases
    from ivan.inference import LeftOut, find, predictor_of, synthesize_case

    run = Path(settings["out"])
    predictor = predictor_of(run, Path(ckpt) if ckpt else None, settings, device)
    config = predictor.config
    count = f"{len(config.sources)}to{len(config.targets)}"
    if count != task:
        raise InputError(
            f"--task: {task} given, but {predictor.origin} maps {'+'.join(config.sources)} to "
            f"{'+'.join(config.targets)}; give --task {count}, or other weights"
        )
    data = settings.get("data", "") or ("" if settings.get("roots") else config.data)
    roots = settings.get("roots") or (None if data else config.roots)
    if roots:  # by position: the run may call its modalities otherwise than these folders are called
        roots = dict(zip((*config.sources, *config.targets), roots.values(), strict=False))
    cases = find((*config.sources, *config.targets), data, roots)
    folder = run / "test"
    left_out, usable = LeftOut(len(cases)), []
    for case in cases:
        try:
            for inverse in (False, True):
                to = folder / ("inverse" if inverse else "forward")
                _, paths = synthesize_case(predictor, case, to, inverse=inverse)
                if not quiet:
                    for path in paths:
                        typer.echo(f"wrote {path}")
        except InputError as error:  # one bad file must not cost the other cases
            left_out.add(case.name, error)
            continue
        left_out.done()
        usable.append(case)
    failed = left_out.summary("written and measured")
    result = evaluate_cases(predictor, ranges_of(usable, "", None))
    result.warnings = [*left_out.lines, *result.warnings]
    written = write(result, folder, run if (run / "config.json").exists() else None)
    if not quiet:
        show(result)
        typer.echo(f"wrote {', '.join(map(str, written))}")
    if failed := failed or result.left_out:
        raise failed
