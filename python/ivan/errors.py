"""The errors a user sees: one line that says what was found, what was expected and what to do."""

from __future__ import annotations


class IvanError(Exception):
    """Base of all errors that the command line prints as one line without a traceback.

    Attributes:
        exit_code: the process exit code of the command line for this error.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        # One line always: file names and library messages may carry line breaks.
        super().__init__(" ".join(str(message).split()))


class InputError(IvanError):
    """Bad usage or bad input: a file, folder, option or checkpoint that cannot be used (exit code 2)."""

    exit_code = 2


class RunError(IvanError):
    """A run that failed although its input was good: disk full, out of memory (exit code 1)."""

    exit_code = 1
