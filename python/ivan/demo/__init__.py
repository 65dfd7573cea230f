"""`ivan demo`: the main job on embedded data, T1 + PD to T2 and back, in minutes on two cores."""

from __future__ import annotations

from typing import Any

__all__ = ["run_demo"]


def __getattr__(name: str) -> Any:
    # PyTorch is imported on first use: the command line looks at this package for its --help.
    if name == "run_demo":
        from .job import run_demo

        return run_demo
    raise AttributeError(f"module 'ivan.demo' has no attribute {name!r}")
