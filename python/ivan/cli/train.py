"""`ivan train`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ivan.cli import shortform
from ivan.cli.options import with_train_options


@with_train_options(leave_out=("task",))
def train(
    *,
    settings: dict[str, Any],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the run in --out from its last checkpoint.", rich_help_panel="Run"
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.", rich_help_panel="Run")] = False,
    task: shortform.Task = None,
    out_path: shortform.OutPath = None,
    root1: shortform.Root1 = None,
    root2: shortform.Root2 = None,
    root3: shortform.Root3 = None,
) -> None:
    """Train a network that maps source modalities to target modalities and back.

    \b DATA holds T1/case.nii.gz and T2/case.nii.gz, or case_T1.nii.gz files, or a BIDS data set; .mat, .npy
    and PNG work the same way. RUN receives config.json, metrics.jsonl, images/, tensorboard/, checkpoint/ and
    report.html.

    Examples:

      ivan train --data DATA --from T1 --to T2 --out RUN

      ivan train --data DATA --from T1 --from PD --to T2 --out RUN --epochs 100 --precision bf16-mixed

      ivan train --resume --out RUN

      ivan train --task fusion --data DATA --from MRI --from CT --out RUN

      ivan train --task 1to1 --root1 DATA/T1 --root2 DATA/T2 --out_path EXP
    """
    from ivan.errors import RunError
    from ivan.training import Stopped, fit

    settings = shortform.expand(settings, task, out_path, (root1, root2, root3))
    try:
        fit(resume=resume, progress=not quiet, **settings)
    except Stopped as stop:  # Typer would take it for a Ctrl-C of its own and drop the message
        error = RunError(str(stop))
        error.exit_code = stop.exit_code
        raise error from None
