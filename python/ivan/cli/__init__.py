"""The command line `ivan`: one file per command, and one rule for every error: one line, no traceback.

Exit codes: 0 done, 1 a run that failed, 2 bad usage or bad input, 130 and 143 stopped by Ctrl-C or SIGTERM.
Only Typer and the standard library are imported here and at the top of the commands, so that --help answers
at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from ivan.cli.app import app
from ivan.errors import IvanError

__all__ = ["app", "main", "run"]


def main() -> None:
    """Entry point of the `ivan` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are printed as one line on standard error."""
    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code = app(arguments, prog_name="ivan", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer makes this of a Ctrl-C
            return _fail("stopped", 130)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # the reader of a pipe has left, as in 'ivan info | head -1'
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _note(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning as one line, without the place in the source that gave it."""
    print("ivan: note: " + " ".join(str(message).split()), file=sys.stderr)


def _explain(error: Exception) -> int:
    """Print the one line of an error and return its exit code."""
    if isinstance(error, IvanError):
        return _fail(str(error), error.exit_code)
    usage = getattr(error, "format_message", None)  # a usage error of Click, whichever copy Typer brings
    if usage is not None:
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "ivan")
        return _fail(f"{str(usage()).rstrip('.')}; see '{command} --help'", 2)
    if type(error).__name__ == "Abort":
        return _fail("stopped", 130)
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    if "out of memory" in str(error) or isinstance(error, MemoryError):
        return _fail("out of memory; use a smaller --batch-size, --patch-size, or --memory invert", 1)
    if isinstance(error, OSError) and error.filename is not None:
        return _fail(
            f"{error.filename}: {error.strerror}; check the path, its permissions and the free space", 1
        )
    detail = f"{type(error).__name__}: {error}"
    return _fail(f"unexpected error: {detail}; run again with --debug for the traceback and report it", 1)


def _fail(message: str, code: int) -> int:
    print("ivan: " + " ".join(message.split()), file=sys.stderr)
    return code
