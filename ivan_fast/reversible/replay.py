"""Running a module again exactly as it ran the first time: same random numbers, buffers and autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from ivan_fast.modules.backend import autocast_available, full_precision
from ivan_fast.modules.dense_block import DenseBlock

ParameterGradients = list[tuple[Tensor, Tensor]]
"""Pairs (parameter, its gradient)."""


@dataclass(frozen=True)
class Conditions:
    """What one call of a module found and used up, to repeat it; empty for deterministic modules."""

    rng: dict[torch.device, Tensor] = field(default_factory=dict)
    """Generator states before the call, of the devices whose generator the call advanced."""
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """Values before the call of the buffers it may have changed, by their name in the module."""


NOTHING = Conditions()


class Recorder:
    """Notes the conditions of the calls that make up one step of a chain, by name ("" is the whole block)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._conditions: dict[str, Conditions] = {}

    def __getitem__(self, name: str) -> Conditions:
        return self._conditions.get(name, NOTHING)

    def call(self, name: str, module: nn.Module, *args: object, method: str = "forward") -> Tensor:
        """The module's output; its conditions are noted under `name`."""
        if type(module) is DenseBlock:  # deterministic
            return module(*args)
        rng = _generator_states(self.device, module)
        training = any(m.training for m in module.modules())
        # Not only those whose version changes: batch norm updates its statistics without a trace.
        buffers = {n: b.clone() for n, b in module.named_buffers()} if training else {}
        out = call_method(module, method, *args)
        used = {d: s for d, s in rng.items() if not torch.equal(s, _get_generator(d))}
        if used or buffers:
            self._conditions[name] = Conditions(used, buffers)
        return out


def call_method(module: nn.Module, method: str, *args: object) -> Tensor:
    """``module(*args)`` (hooks included) or another of its methods."""
    out = module(*args) if method == "forward" else getattr(module, method)(*args)
    if not isinstance(out, Tensor):
        raise TypeError(
            f"{type(module).__name__}.{method} returned {type(out).__name__}, expected one tensor"
        )
    return out


def rerun(module: nn.Module, method: str, x: Tensor, conditions: Conditions, *args: object) -> Tensor:
    """Call again under the first call's conditions; generators and buffers stay as they are now."""
    with _generators_set(conditions.rng):
        if not conditions.buffers:
            return call_method(module, method, x, *args)
        return functional_call(_Method(module, method), _buffer_copies(conditions), (x, *args))


class Evaluation:
    """One differentiable call of a module, made under the conditions of an earlier one.

    The parameters take part as aliases: hooks on the real ones fire once, when the chain returns gradients.

    Args:
        x: input, any shape. needs_x: whether its gradient is wanted. args: what else the method takes.
    """

    def __init__(
        self,
        module: nn.Module,
        method: str,
        x: Tensor,
        conditions: Conditions,
        needs_x: bool = True,
        args: tuple[object, ...] = (),
    ) -> None:
        named = dict(module.named_parameters())
        aliases = {n: p.detach().requires_grad_(p.requires_grad) for n, p in named.items()}
        replaced = {f"module.{n}": a for n, a in aliases.items()} | _buffer_copies(conditions)

        def run(leaf: Tensor) -> Tensor:
            return functional_call(_Method(module, method), replaced, (leaf, *args))

        self._prepare(run, x, list(named.values()), list(aliases.values()), conditions, needs_x)

    @classmethod
    def of_function(
        cls, function: Callable[[Tensor, list[Tensor]], Tensor], x: Tensor, parameters: list[Tensor]
    ) -> Evaluation:
        """The same for a deterministic function of x and of parameters."""
        self = cls.__new__(cls)
        aliases = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        self._prepare(lambda leaf: function(leaf, aliases), x, parameters, aliases, NOTHING, True)
        return self

    def _prepare(
        self,
        run: Callable[[Tensor], Tensor],
        x: Tensor,
        parameters: list[Tensor],
        aliases: list[Tensor],
        conditions: Conditions,
        needs_x: bool,
    ) -> None:
        self._x = x.detach().requires_grad_(needs_x)
        trained = [(p, a) for p, a in zip(parameters, aliases, strict=True) if a.requires_grad]
        self._parameters = [p for p, _ in trained]
        self._leaves = ([self._x] if needs_x else []) + [a for _, a in trained]
        with torch.enable_grad(), _generators_set(conditions.rng):
            self._result = run(self._x)
        self.output = self._result.detach()

    def backward(self, grad_output: Tensor) -> tuple[Tensor | None, ParameterGradients]:
        """Gradient of x (None if not wanted or not used) and of the trained parameters used; once."""
        result, leaves = self._result, self._leaves
        del self._result
        if not result.requires_grad:
            return None, []
        with full_precision(grad_output):  # as in any backward: autocast is for the forward
            grads = list(torch.autograd.grad(result, leaves, grad_output.to(result.dtype), allow_unused=True))
        grad_x = grads.pop(0) if self._x.requires_grad else None
        pairs = zip(self._parameters, grads, strict=True)
        return grad_x, [(p, g) for p, g in pairs if g is not None]


class AutocastState:
    """Autocast as it is now, for the CPU and for one device, to be restored in backward."""

    def __init__(self, device: torch.device) -> None:
        kinds = [k for k in sorted({"cpu", device.type}) if autocast_available(k)]
        self._states = [(k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """No cache of casts: one filled without gradients would be reused where gradients are needed."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self._states:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
            yield


class _Method(nn.Module):
    """A module's method as a forward, for functional_call."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, x: Tensor, *args: object) -> Tensor:
        return call_method(self.module, self.method, x, *args)


def _buffer_copies(conditions: Conditions) -> dict[str, Tensor]:
    """Copies, because the repeated call changes them once more."""
    return {f"module.{n}": b.clone() for n, b in conditions.buffers.items()}


def _generator_states(device: torch.device, module: nn.Module) -> dict[torch.device, Tensor]:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        if any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in module.modules()):
            raise RuntimeError(
                "ReversibleSequential: dropout cannot be replayed under CUDA graph capture; "
                "use memory='store', or capture without dropout"
            )
        return {}
    devices = [torch.device("cpu")]
    if device.type not in ("cpu", "meta"):
        devices.append(device)
    return {d: _get_generator(d) for d in devices}


def _get_generator(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _set_generator(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def _generators_set(states: dict[torch.device, Tensor]) -> Iterator[None]:
    """Generators in the given states, and as they were afterwards."""
    now = {d: _get_generator(d) for d in states}
    try:
        for device, state in states.items():
            _set_generator(device, state)
        yield
    finally:
        for device, state in now.items():
            _set_generator(device, state)
