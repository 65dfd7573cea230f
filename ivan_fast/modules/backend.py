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


GRID_BITS = 22
"""A subnet's input is rounded to 3e-7 to 6e-7 of its sample's root mean square, as fine as float32."""
_GOLDEN = (5**0.5 - 1) / 2


def rounding_steps(x: Tensor) -> Tensor:
    """``[N]``, the steps that `as_parameters` rounds by: from the root mean square of ``[N, ...]``."""
    flat = x.detach().flatten(1) if x.dim() > 1 else x.detach()[None]
    rms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64) / max(flat.shape[1], 1) ** 0.5
    # Steps that are no power of 2: float32 images would often lie half-way between two of those.
    steps = _GOLDEN * torch.exp2(torch.frexp(rms).exponent.to(torch.float64) - (GRID_BITS - 1))
    return torch.where((rms > 0) & torch.isfinite(rms), steps, 2.0**-100)  # in effect no rounding


def as_parameters(module: nn.Module, x: Tensor, steps: Tensor | None = None) -> Tensor:
    """A float64 state in the dtype of the module's parameters; anything else as it is.

    A state recovered from a chain's output differs from the true one in its last bits. Rounded to steps far
    wider than that, the subnet's input is the very one it had: also in the tails behind the edge of a black
    background, whose values are smaller than the last bits of the state's large values and become exact
    zeros here.

    Args:
        steps: of `rounding_steps` ``[N]``; None does not round.
    """
    if x.dtype != torch.float64:
        return x
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), x.dtype)
    if steps is not None and own != x.dtype:
        if own == torch.float32 and x.dim() > 1 and isinstance(module, BackendModule):
            return module.functions.round_state(x, steps)
        x = reference.round_to_steps(x, steps)
    return x.to(own)


@torch.compiler.assume_constant_result  # which torch 2.10 cannot trace
def autocast_available(kind: str) -> bool:
    """Whether devices of this type have autocast at all; elsewhere asking for its state is an error."""
    return torch.amp.is_autocast_available(kind)


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on, here and now, for the device of ``x``."""
    return autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Suspends autocast: the state between blocks is never rounded to half precision."""
    return torch.autocast(x.device.type, enabled=False) if autocast_enabled(x) else nullcontext()
