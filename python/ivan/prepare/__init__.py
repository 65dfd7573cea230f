"""`ivan prepare`: DICOM, NIfTI and BIDS trees into paired volumes on one grid. `docs/prepare.md` explains it.

- `dicom`: which files are DICOM, and what their headers say; `pixels`: their slices
- `series`: slices into a volume; missing and mixed slices are found here
- `contrast`: the modality that a series' description names
- `find`: cases in a folder, whatever it is made of
- `grid`, `crop`, `register`, `check`: geometry of one case
- `case`: one case from files to files; `job`: all of them, restartable; `page`: the quality-control page
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivan.prepare.job import prepare

__all__ = ["prepare"]


def __getattr__(name: str) -> Any:
    if name == "prepare":
        from ivan.prepare.job import prepare

        return prepare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
