"""The autograd function of a whole chain: walking back, or replaying from each block's input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ivan_fast import _C
from ivan_fast.reversible.guard import Fingerprints, Guard, InversionDriftWarning
from ivan_fast.reversible.replay import AutocastState, ParameterGradients, Recorder
from ivan_fast.reversible.steps import Step

if TYPE_CHECKING:
    from ivan_fast.reversible.sequential import ReversibleSequential

NO_DOUBLE_BACKWARD = (
    "ReversibleSequential: double backward (the gradient of a gradient) needs plain PyTorch; "
    "build the modules with backend='reference'"
)


class Pass:
    """One pass through a chain: everything its backward needs besides the saved tensors.

    Args:
        chain: the module. steps: its blocks in the order they run.
        memory: ``"invert"`` or ``"boundary"``.
        x: the input, ``[N, C, H, W]``. dtype: of the states in between.
        tol, noise: of the guard.
    """

    def __init__(
        self,
        chain: ReversibleSequential,
        steps: list[Step],
        memory: str,
        x: Tensor,
        dtype: torch.dtype,
        tol: float,
        noise: float,
    ) -> None:
        self.chain, self.steps, self.memory, self.dtype = chain, steps, memory, dtype
        self.tol, self.noise = tol, noise
        self.recorders = [Recorder(x.device) for _ in steps]
        self.autocast = AutocastState(x.device)
        # The parameters as they are in this very call: functional_call may put others back afterwards.
        self._named: dict[str, Tensor] = dict(chain.named_parameters())
        self._versions = {n: _version(p) for n, p in self._named.items()}
        self.trained = [p for p in self._named.values() if p.requires_grad]
        self.stop = 0 if x.requires_grad else self._first_trained()
        """The walk ends at this step: nothing before it wants a gradient."""

    def _first_trained(self) -> int:
        for i, step in enumerate(self.steps):
            if any(p.requires_grad for p in step.block.parameters()):
                return i
        return len(self.steps)

    def check_parameters(self) -> None:
        """Raises RuntimeError if a parameter was changed in place since the forward pass."""
        for name, parameter in self._named.items():
            if _version(parameter) != self._versions[name]:
                raise RuntimeError(
                    f"ReversibleSequential: parameter {name} was modified by an in-place operation between "
                    "forward and backward; call backward before the optimiser's step"
                )

    def with_parameters(self, function: Callable[[], Any], aliases: list[Tensor] | None = None) -> Any:
        """``function()`` with the parameters as they were in the forward pass, or with aliases."""
        now = dict(self.chain.named_parameters())
        wanted: dict[str, Tensor] = dict(self._named)
        if aliases is not None:
            trained = (n for n, p in self._named.items() if p.requires_grad)
            wanted |= dict(zip(trained, aliases, strict=True))
        if now.keys() == wanted.keys() and all(now[n] is p for n, p in wanted.items()):
            return function()
        replaced = {f"chain.{n}": p for n, p in wanted.items()}
        return functional_call(_Within(self.chain), replaced, (function,))

    def inputs_of_blocks(self, x: Tensor) -> list[Tensor]:
        """The input of every block, recomputed from the chain's."""
        inputs = [x.to(self.dtype)]
        for step, recorder in zip(self.steps[:-1], self.recorders[:-1], strict=True):
            inputs.append(step.rerun(inputs[-1], recorder))
        return inputs

    def replay(self, inputs: list[Tensor], grad: Tensor, needs_x: bool) -> tuple[Tensor | None, Gradients]:
        """Gradients from the inputs of the steps from `stop` on; consumes the list."""
        grads = Gradients(self.trained)
        grad_state: Tensor | None = grad
        for i in reversed(range(self.stop, len(self.steps))):
            if grad_state is None:
                break
            wanted = needs_x or i > self.stop
            grad_state, more = self.steps[i].replay(
                inputs.pop().to(self.dtype), grad_state, self.recorders[i], wanted
            )
            grads.add(more)
        return grad_state if needs_x else None, grads

    def walk_back(
        self, x: Tensor, y: Tensor, guard: Guard, grad: Tensor, needs_x: bool
    ) -> tuple[Tensor | None, Gradients]:
        """Gradients from the output. On the CPU the walk ends where the guard trips."""
        grads = Gradients(self.trained)
        state, grad_state = y.clone(), grad.clone()  # steps may overwrite them
        for i in reversed(range(self.stop, len(self.steps))):
            wanted = needs_x or i > self.stop
            state, found, more = self.steps[i].invert(
                state, grad_state, self.recorders[i], wanted, guard.tiny(i)
            )
            grads.add(more)
            guard.check(i, state, x if i == 0 else None, last=i == self.stop)
            if not wanted or (state.device.type == "cpu" and guard.tripped(guard.checks - 1)):
                return None, grads
            grad_state = torch.zeros_like(state) if found is None else found
        return grad_state if needs_x else None, grads

    def gradients(
        self, x: Tensor, y: Tensor, values: Tensor, norms: Tensor, grad: Tensor, needs_x: bool
    ) -> tuple[Tensor | None, Gradients]:
        """`walk_back`, and if the guard trips the same from the chain's input."""
        guard = Guard(values, norms, self.tol, self.noise)
        grad_x, grads = self.walk_back(x, y, guard, grad, needs_x)
        if y.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            poison = guard.poison()  # no host read, no redo: a wrong gradient must at least be seen
            grads.shift(poison)
            return None if grad_x is None else grad_x + poison.to(grad_x.dtype), grads
        tripped = guard.tripped()
        if tripped is None:
            return grad_x, grads
        del grad_x, grads
        self.chain.note_trip(*tripped, self.steps[tripped[0]].name, self.tol)
        return self.replay(self.inputs_of_blocks(x), grad, needs_x)


class Gradients:
    """Sums of the parameters' gradients, by parameter.

    Their memory is taken at once: small tensors that come between the large ones of the walk and outlive
    them would keep the C library's heap from using the large ones' places again.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._room = {id(p): torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters}
        self._sums: dict[int, Tensor] = {}

    def add(self, pairs: ParameterGradients) -> None:
        new: dict[int, Tensor] = {}
        for parameter, grad in pairs:
            key = id(parameter)
            if key in self._sums:
                self._sums[key].add_(grad)
            elif key in new:
                new[key] = new[key] + grad
            else:
                new[key] = grad
        if new:  # all in one launch
            rooms = {key: self._room[key] for key in new}
            torch._foreach_copy_(list(rooms.values()), list(new.values()))
            self._sums |= rooms

    def shift(self, by: Tensor) -> None:
        for grad in self._sums.values():
            grad += by.to(grad.dtype)

    def of(self, parameters: list[Tensor]) -> list[Tensor | None]:
        return [self._sums.get(id(p)) for p in parameters]


class Chain(torch.autograd.Function):
    """The chain's output; the trained parameters are inputs, so that gradients reach them the usual way."""

    @staticmethod
    def forward(ctx: Any, run: Pass, x: Tensor, *trained: Tensor) -> Tensor:
        ctx.run = run
        ctx.set_materialize_grads(False)
        if x.device.type == "cpu":
            _tune_heap()
        state, inputs = x.to(run.dtype), []
        marks = Fingerprints(len(run.steps)) if run.memory == "invert" else None
        with run.autocast.restored():
            for i, (step, recorder) in enumerate(zip(run.steps, run.recorders, strict=True)):
                if marks is not None:
                    marks.add(state)
                elif i >= run.stop:
                    inputs.append(state if i > 0 else x)
                state = step.run(state, recorder)
        if marks is None:
            ctx.save_for_backward(*inputs if run.stop == 0 else (x, *inputs))
        else:
            marks.add(state)
            ctx.save_for_backward(x, state, *marks.stacked())
        return state

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
        run: Pass = ctx.run
        saved = list(ctx.saved_tensors)
        x = saved[0]
        run.check_parameters()
        if grad_y is None:
            return None, None, *([None] * len(run.trained))
        differentiable = torch.is_grad_enabled()
        if differentiable and run.chain.backend == "reference":
            return None, *_differentiable_gradients(run, x, grad_y, ctx.needs_input_grad[1])
        grad_y = grad_y.detach().contiguous()

        def compute() -> tuple[Tensor | None, Gradients]:
            if run.memory == "boundary":
                return run.replay(saved if run.stop == 0 else saved[1:], grad_y, ctx.needs_input_grad[1])
            _, y, values, norms = saved
            return run.gradients(x, y, values, norms, grad_y, ctx.needs_input_grad[1])

        with torch.no_grad(), run.autocast.restored():
            grad_x, sums = run.with_parameters(compute)
        grads = [None if grad_x is None else grad_x.to(x.dtype), *sums.of(run.trained)]
        return None, *(_final(grads) if differentiable else grads)


class _Final(torch.autograd.Function):
    """Gradients that refuse to be differentiated."""

    @staticmethod
    def forward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.view_as(g) for g in grads)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(NO_DOUBLE_BACKWARD)


def _final(grads: list[Tensor | None]) -> list[Tensor | None]:
    found = [g.detach().requires_grad_() for g in grads if g is not None]
    final = iter(_Final.apply(*found) if found else ())
    return [None if g is None else next(final) for g in grads]


def _differentiable_gradients(run: Pass, x: Tensor, grad_y: Tensor, needs_x: bool) -> list[Tensor | None]:
    """Gradients that can be differentiated again: the chain once more, from its input, under autograd."""
    aliases = [p.view_as(p) for p in run.trained]  # connected to the parameters, without their hooks
    leaf = x.view_as(x) if needs_x else x

    def compute() -> Tensor:
        state = leaf.to(run.dtype)
        for step, recorder in zip(run.steps, run.recorders, strict=True):
            state = step.rerun(state, recorder)
        return state

    with run.autocast.restored():
        y = run.with_parameters(compute, aliases)
    wanted = [leaf, *aliases] if needs_x else aliases
    grads: list[Tensor | None] = list(
        torch.autograd.grad(y, wanted, grad_y, create_graph=True, allow_unused=True)
    )
    return grads if needs_x else [None, *grads]


class _Within(nn.Module):
    """Runs a function while functional_call has replaced the chain's parameters."""

    def __init__(self, chain: nn.Module) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


@cache
def _tune_heap() -> None:
    """Once a process, when the first chain is trained on the CPU: see csrc/cpu/heap.h."""
    _C.return_large_blocks()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def warn_of_drift(block: str, drift: float, tol: float) -> None:
    """One warning that names the block."""
    warnings.warn(
        f"ReversibleSequential: {block} was recovered with relative error {drift:.1e}, tolerance {tol:.1e}; "
        "the gradient was computed again from the chain's input (right, but slower and with every "
        "block's state in memory). The network has become hard to invert: lower the learning rate, "
        "clip gradients, or set memory='boundary'. This is said once; guard_trips counts.",
        InversionDriftWarning,
        stacklevel=2,
    )
