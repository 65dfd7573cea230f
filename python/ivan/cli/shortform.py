"""The options of the public iVAN code, `--task`, `--root1/2/3`, `--out_path`, in terms of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ivan.errors import InputError

PANEL = "Short form of the public code"

Task = Annotated[
    Optional[str],  # noqa: UP045 - Typer evaluates it on Python 3.10 too
    typer.Option(
        "--task",
        metavar="1to1|2to1|1to2|fusion",
        rich_help_panel=PANEL,
        help="Sources to targets, in numbers; or fusion: two sources in one image.",
    ),
]
OutPath = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--out_path", "--out-path", metavar="DIR", rich_help_panel=PANEL, help="The run is DIR/TASK."
    ),
]


def _root(number: int) -> Any:
    return typer.Option(
        f"--root{number}",
        metavar="DIR",
        rich_help_panel=PANEL,
        help=f"Folder of modality {number}, sources first.",
    )


Root1 = Annotated[Optional[str], _root(1)]  # noqa: UP045
Root2 = Annotated[Optional[str], _root(2)]  # noqa: UP045
Root3 = Annotated[Optional[str], _root(3)]  # noqa: UP045


def task_counts(task: str) -> tuple[int, int]:
    """(sources, targets) of "2to1". Raises InputError."""
    match = re.fullmatch(r"([1-9])to([1-9])", task)
    if not match:
        raise InputError(f"--task: '{task}' given, expected NtoM such as 1to1 or 2to1, or fusion")
    return int(match[1]), int(match[2])


def expand(
    settings: dict[str, Any], task: str | None, out_path: str | None, roots: Sequence[str | None]
) -> dict[str, Any]:
    """Settings of `TrainConfig` with the short form replaced by what it stands for.

    `--root1 A/T1 --root2 A/T2 --task 1to1` is `--from T1 --to T2` with these two folders: the modalities are
    called as their folders (the last part of the paths that differs), unless --from and --to name them.

    Raises:
        InputError: the options contradict each other or one is missing.
    """
    settings = dict(settings)
    if out_path is not None:
        if "out" in settings:
            raise InputError("--out_path: given together with --out; give one of them")
        if task is None:
            raise InputError(
                "--out_path: needs --task, because the run folder is OUT_PATH/TASK; or use --out RUN"
            )
        settings["out"] = str(Path(out_path) / task)
    folders = [root for root in roots if root is not None]
    if folders and list(roots[: len(folders)]) != folders:
        raise InputError("--root1/2/3: one in the middle is missing; number them from 1, sources first")
    if folders and "data" in settings:
        raise InputError("--root1: given together with --data; give one of them")
    if task is None:
        if folders:
            raise InputError("--root1: needs --task to tell sources from targets, for example --task 1to1")
        return settings
    fusion = task == "fusion"
    if fusion:
        settings["task"] = task
        labels = len(settings.get("targets", ()))
        count, targets = 2, max(labels, len(folders) - 2) if folders else labels
    else:
        count, targets = task_counts(task)
    if folders:
        if len(folders) != count + targets:
            raise InputError(
                f"--task: {task} needs {count + targets} folders, {len(folders)} given with --root1/2/3"
            )
        names = [*settings.get("sources", ()), *settings.get("targets", ())] or modality_names(folders)
        if len(names) != len(folders):
            raise InputError(
                f"--task: {task} needs {len(folders)} modalities, {len(names)} named with --from and --to"
            )
        settings["roots"] = dict(zip(names, folders, strict=True))
        settings.setdefault("sources", tuple(names[:count]))
        if names[count:]:
            settings.setdefault("targets", tuple(names[count:]))
    given = (len(settings.get("sources", ())), len(settings.get("targets", ())))
    if not fusion and given != (count, targets) and given != (0, 0):
        raise InputError(
            f"--task: {task} given, but --from and --to name {given[0]} and {given[1]} modalities"
        )
    return settings


def modality_names(folders: Sequence[str]) -> list[str]:
    """Names of modalities from their folders: the last part of the paths in which all differ."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for back in range(1, min(len(p) for p in parts) + 1):
        names = [p[-back] for p in parts]
        if len(set(names)) == len(names) and "/" not in names:
            return names
    raise InputError(
        f"--root1/2/3: {', '.join(folders)} are not different folders; give one folder for each modality"
    )
