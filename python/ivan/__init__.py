"""iVAN: invertible and variable augmented networks for medical image synthesis.

``import ivan`` is cheap: every name below is imported on first use, so the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivan import metrics
    from ivan.errors import InputError, IvanError, RunError
    from ivan.evaluation import evaluate
    from ivan.fusion import decompose, fuse
    from ivan.inference import load_run, synthesize
    from ivan.losses import LOSS_RECIPES, bidirectional_loss
    from ivan.model import IVAN
    from ivan.official import load_official
    from ivan.training import TrainConfig, fit
    from ivan.variables import VariableAugmentation

# Where each public name lives; None is the submodule of that name itself.
_HOME: dict[str, str | None] = {
    "IVAN": "ivan.model",
    "LOSS_RECIPES": "ivan.losses",
    "InputError": "ivan.errors",
    "IvanError": "ivan.errors",
    "RunError": "ivan.errors",
    "TrainConfig": "ivan.training",
    "VariableAugmentation": "ivan.variables",
    "bidirectional_loss": "ivan.losses",
    "decompose": "ivan.fusion",
    "evaluate": "ivan.evaluation",
    "fit": "ivan.training",
    "fuse": "ivan.fusion",
    "load_official": "ivan.official",
    "load_run": "ivan.inference",
    "metrics": None,
    "synthesize": "ivan.inference",
}

__all__ = [
    "IVAN",
    "LOSS_RECIPES",
    "InputError",
    "IvanError",
    "RunError",
    "TrainConfig",
    "VariableAugmentation",
    "bidirectional_loss",
    "decompose",
    "evaluate",
    "fit",
    "fuse",
    "load_official",
    "load_run",
    "metrics",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("ivan_fast")
    elif name in _HOME:
        home = _HOME[name]
        value = (
            importlib.import_module(f"ivan.{name}")
            if home is None
            else getattr(importlib.import_module(home), name)
        )
    else:
        raise AttributeError(f"module 'ivan' has no attribute {name!r}")
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
