"""Writing the files of a run: a crash at any moment leaves the old or the new content, never half of one."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

from ivan.errors import RunError


def failed_write(path: Path, error: OSError) -> RunError:
    """The one-line error of a file that could not be written."""
    reason = error.strerror or str(error)
    return RunError(
        f"{path}: cannot be written ({reason}); free disk space or change the permissions, then run again"
    )


def resume_command(run: Path) -> str:
    """What to type to go on with a run: also where its path has spaces."""
    return f"ivan train --resume --out {shlex.quote(str(run))}"


def write_bytes(path: Path, content: bytes) -> None:
    """Write and fsync one file in place (the caller makes it visible by renaming the folder around it)."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that renames inside it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file through a temporary name and a rename. Raises RunError; nothing half-written remains."""
    from ivan.data import atomic_file

    with atomic_file(path) as file:
        file.write(content)


def replace_json(path: Path, value: Any) -> None:
    """`replace_file` with indented JSON."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())
