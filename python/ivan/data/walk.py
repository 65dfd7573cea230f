"""The files below a folder, as every command sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def not_raw(folder: Path) -> set[str]:
    """Subfolders of a folder that hold no raw images: of a BIDS data set those that BIDS keeps apart."""
    if os.path.isfile(folder / "dataset_description.json"):  # False, too, where permission lacks
        return {"derivatives", "sourcedata", "code"}
    return set()


def files_below(
    root: Path,
    onerror: Callable[[OSError], None] | None = None,
    ignored: Callable[[Path], set[str]] = lambda folder: set(),
) -> Iterator[Path]:
    """Files below `root`, folder by folder, sorted; hidden ones are left out, links are followed once.

    Args:
        root: where to begin.
        onerror: receives a folder that cannot be read; by default it is passed over.
        ignored: names of subfolders of a folder that are not looked into.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=onerror, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        without = ignored(Path(folder))
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and name not in without
        )
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)
