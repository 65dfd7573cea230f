"""What every job on a folder of images does: find its cases, say what the user should know, show progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError

if TYPE_CHECKING:
    from ivan.data import Case, CaseList


def find(
    required: Sequence[str],
    data: str | Path,
    roots: dict[str, str] | None = None,
    *,
    optional: Sequence[str] = (),
) -> CaseList:
    """The cases in `data` (or in one folder a modality); those left out are told on standard error."""
    from ivan.data import find_cases, find_cases_in_folders
    from ivan.data.datalist import is_datalist, read_datalist

    if roots:
        if missing := [name for name in required if name not in roots]:
            raise InputError(f"--root1/2/3: no folder for {missing[0]}; give one folder for each modality")
        extra = {name: roots[name] for name in optional if name in roots}
        cases = find_cases_in_folders({name: roots[name] for name in required}, optional=extra)
    elif str(data) and is_datalist(data):
        cases = read_datalist(data, required, optional=optional)
    elif str(data):
        cases = find_cases(data, required, optional=optional)
    else:
        raise InputError("--data: no folder of images given")
    for line in [*cases.skipped, *cases.notes]:
        warn(line)
    return cases


def warn(line: str) -> None:
    """One line on standard error, for what the user should know although the work goes on."""
    print(f"ivan: note: {line}", file=sys.stderr)


class LeftOut:
    """Cases whose files cannot be used: each is named, and does not cost the others.

    Where not one can be used it is rather an option that is wrong, and said once.

    Attributes:
        lines: one for each of them.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.lines: list[str] = []
        self._first: InputError | None = None
        self._named = 0
        self._any_done = False

    def add(self, case: str, error: InputError) -> None:
        """Take note of a case that failed. Raises the error where there is no other case."""
        if self.total == 1:
            raise error
        self._first = self._first or error
        self.lines.append(f"{case} left out: {error}")
        if self._any_done:
            self.done()

    def done(self) -> None:
        """A case went well: name those that failed before it."""
        for line in self.lines[self._named :]:
            warn(line)
        self._named, self._any_done = len(self.lines), True

    def summary(self, done: str) -> InputError | None:
        """What to raise once the others are `done` (written, measured); None where no case failed.

        Raises:
            InputError: no case could be used.
        """
        if self._first is None:
            return None
        failed = len(self.lines)
        if failed == self.total:
            raise InputError(f"none of {failed} cases could be used; the first: {self._first}")
        return InputError(
            f"{failed} of {self.total} cases could not be used, the others are {done}; the first: "
            f"{self._first}"
        )


def write_each(
    cases: Sequence[Case], what: str, show: bool, write: Callable[[Case], list[Path]]
) -> list[Path]:
    """The files that `write` makes of every case, each told as it is written.

    Raises:
        InputError: cases that cannot be used, once the others are written.
    """
    written: list[Path] = []
    left_out = LeftOut(len(cases))
    with progress_over(cases, what, show) as (items, say):
        for case in items:
            started = time.perf_counter()
            try:
                paths = write(case)
            except InputError as error:  # one bad file must not cost the cases after it
                left_out.add(case.name, error)
                continue
            left_out.done()
            seconds = time.perf_counter() - started
            written += paths
            for path in paths:
                say(f"wrote {path} ({seconds:.1f} s)")
    if failure := left_out.summary("written"):
        raise failure
    return written


def results_folder(out: str | Path) -> Path:
    """The folder for results. Raises InputError where none is given or it is a file."""
    if not str(out):
        raise InputError("--out: no folder given for the results")
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the results; choose another --out")
    return Path(out)


def keep_images(out: Path, folders: Sequence[str], cases: Sequence[Case], first: str) -> None:
    """Refuse to write over images: OUT/FOLDER/case may be what lies beside the images that are given.

    Args:
        folders: below `out`, in which a file of each case is going to be written.
        first: modality whose file gives the results their format.

    Raises:
        InputError: such a file is there, and `out` is the folder that the case's images come from.
    """
    for case in cases:
        origins = {file.parent.parent.resolve() for file in case.files.values()}
        given = {file.resolve() for file in case.files.values()}
        for folder in folders:
            path = out / folder / f"{case.name}{output_suffix(case.files[first])}"
            if path.exists() and (out.resolve() in origins or path.resolve() in given):
                raise InputError(
                    f"--out: {path} lies among the images of --data and would be replaced; choose another "
                    "folder"
                )


def output_suffix(source: Path) -> str:
    """The format of a result: compressed NIfTI for NIfTI, otherwise that of the source."""
    return ".nii.gz" if source.name.lower().endswith((".nii", ".nii.gz")) else source.suffix.lower()


def set_threads(threads: int) -> None:
    """Use this many CPU threads; 0 changes nothing."""
    if threads < 0:
        raise InputError(f"--threads: {threads} given, must be at least 0")
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def progress_over(items: Sequence[Any], what: str, show: bool) -> Iterator[tuple[Iterable[Any], Any]]:
    """(the items, a function that prints a line): with a progress bar on a terminal, silent unless `show`."""
    if not show:
        yield items, lambda line: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield items, lambda line: console.print(line, markup=False)
        return
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield bar.track(items), lambda line: console.print(line, markup=False)
