"""Which functions a module computes with, and the precision it keeps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch
from torch import Tensor, nn

from ivan_fast import ops, reference

_BACKENDS: dict[str, ModuleType] = {"fast": ops, "reference": reference}


class BackendModule(nn.Module):
    """A module computing with the compiled ops (``"fast"``) or their plain PyTorch twins (``"reference"``).

    Only ``"reference"`` supports double backward.
    """

    def __init__(self, backend: str = "fast") -> None:
        super().__init__()
        self.backend = backend

    @property
    def backend(self) -> str:
        """``"fast"`` or ``"reference"``."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        self._backend = checked_backend(name)

    @property
    def functions(self) -> ModuleType:
        """``ivan_fast.ops`` or ``ivan_fast.reference``: the same names and signatures in both."""
        return _BACKENDS[self._backend]


def checked_backend(name: str) -> str:
    """`name`, or ValueError if there is no such backend."""
    if name not in _BACKENDS:
        raise ValueError(f"backend is {name!r}, expected one of {', '.join(map(repr, _BACKENDS))}")
    return name


def as_parameters(module: nn.Module, x: Tensor) -> Tensor:
    """A float64 state in the dtype of the module's parameters; anything else as it is."""
    if x.dtype != torch.float64:
        return x
    return x.to(next((p.dtype for p in module.parameters() if p.is_floating_point()), x.dtype))


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Suspends autocast: the state between blocks is never rounded to half precision."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
