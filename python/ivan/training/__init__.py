"""Training: settings (`TrainConfig`), `fit`, checkpoints, the log of a run.

`docs/training.md` explains them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ivan.training.config import TrainConfig

if TYPE_CHECKING:
    from ivan.training.run import fit
    from ivan.training.stop import Stopped

__all__ = ["Stopped", "TrainConfig", "fit"]


def __getattr__(name: str) -> Any:
    # PyTorch is imported on first use: the command line reads TrainConfig for its --help.
    if name == "fit":
        from ivan.training.run import fit

        return fit
    if name == "Stopped":
        from ivan.training.stop import Stopped

        return Stopped
    raise AttributeError(f"module 'ivan.training' has no attribute {name!r}")
