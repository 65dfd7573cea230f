"""One block of a chain in one direction: how to run it, replay it and walk back through it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ivan_fast.modules import AffineCoupling, InvertibleBlock, InvertibleConv1x1
from ivan_fast.modules.dense_block import has_hooks
from ivan_fast.reversible import dense_walk, walk
from ivan_fast.reversible.replay import Evaluation, ParameterGradients, Recorder, call_method, rerun


class Step:
    """Any module with ``forward`` and ``inverse``, run in one direction.

    Walking back through it inverts it, then replays it with gradients: each subnet is evaluated twice.

    Args:
        name: of the block, for messages.
        block: the module.
        inverse: whether the step runs ``block.inverse``.

    Attributes:
        rounding: what inputs of this package's subnets are rounded by, of `rounding_steps` ``[N]``, or None.
    """

    rounding: Tensor | None = None

    def __init__(self, name: str, block: nn.Module, inverse: bool) -> None:
        self.name = name
        self.block = block
        self.method, self._undo = ("inverse", "forward") if inverse else ("forward", "inverse")

    def run(self, x: Tensor, recorder: Recorder | None) -> Tensor:
        """The step's output; `recorder` notes what it takes to repeat it."""
        if recorder is None:
            return call_method(self.block, self.method, x)
        return recorder.call("", self.block, x, method=self.method)

    def _more(self, recorder: Recorder | None) -> tuple[object, ...]:
        """What the block's method takes besides the state."""
        return ()

    def rerun(self, x: Tensor, recorder: Recorder) -> Tensor:
        """`run` again under the same conditions."""
        return rerun(self.block, self.method, x, recorder[""], *self._more(None))

    def replay(
        self, x: Tensor, grad_y: Tensor, recorder: Recorder, needs_x: bool
    ) -> tuple[Tensor | None, ParameterGradients]:
        """From the input: ``(grad_x, parameter gradients)``, with the very ops of `run`."""
        evaluation = Evaluation(self.block, self.method, x, recorder[""], needs_x, self._more(None))
        return evaluation.backward(grad_y)

    def invert(
        self, y: Tensor, grad_y: Tensor, recorder: Recorder, needs_x: bool, tiny: Tensor | None
    ) -> tuple[Tensor, Tensor | None, ParameterGradients]:
        """From the output: ``(x, grad_x, parameter gradients)``; `tiny` is that of `walk.without_noise`.

        May overwrite `y` and `grad_y`.
        """
        with torch.no_grad():
            x = rerun(self.block, self._undo, y, recorder[""])
            # Never the block's own tensor, which it may keep: later steps overwrite it.
            x = x.clone() if tiny is None else walk.without_noise(x, tiny)
        return (x, *self.replay(x, grad_y, recorder, needs_x))


class OwnStep(Step):
    """A block of this package: walking back evaluates each of its subnets once."""

    def __init__(self, name: str, block: nn.Module, inverse: bool) -> None:
        super().__init__(name, block, inverse)
        self._inverse = inverse
        self._mix = block if isinstance(block, InvertibleConv1x1) else getattr(block, "mix", None)
        self._coupling = block if isinstance(block, AffineCoupling) else getattr(block, "coupling", None)
        # Dense blocks draw no random numbers and change no buffers: nothing to note.
        self._fixed = self._coupling is None or walk.is_deterministic(self._coupling)

    def run(self, x: Tensor, recorder: Recorder | None) -> Tensor:
        if recorder is None or self._fixed:
            return call_method(self.block, self.method, x, *self._more(None))
        return recorder.call("", self.block, x, *self._more(recorder), method=self.method)

    def _more(self, recorder: Recorder | None) -> tuple[object, ...]:
        return () if self._coupling is None else (recorder, self.rounding)

    def invert(
        self, y: Tensor, grad_y: Tensor, recorder: Recorder, needs_x: bool, tiny: Tensor | None
    ) -> tuple[Tensor, Tensor | None, ParameterGradients]:
        state, grad, grads = y, grad_y, []
        layers = [self._mix, self._coupling]
        for layer in layers if self._inverse else reversed(layers):
            if isinstance(layer, AffineCoupling):
                subnets = dense_walk.dense_subnets(layer, state)
                if subnets is not None:
                    back_dense = dense_walk.coupling_inverse if self._inverse else dense_walk.coupling_forward
                    grads += back_dense(layer, subnets, state, grad, tiny, self.rounding)
                    continue
                back = walk.coupling_inverse if self._inverse else walk.coupling_forward
                state, grad, more = back(layer, state, grad, recorder, tiny, self.rounding)
                grads += more
            elif isinstance(layer, InvertibleConv1x1):
                back_mix = walk.mix_inverse if self._inverse else walk.mix_forward
                mixed, mixed_grad, more = back_mix(layer, state, grad, tiny)
                state.copy_(mixed)  # whoever called holds these two; two more would stay beside them
                grad.copy_(mixed_grad)
                del mixed, mixed_grad
                grads += more
        return state, grad if needs_x else None, grads


def make_step(name: str, block: nn.Module, inverse: bool) -> Step:
    """The efficient walk where it is known to be right: blocks of our very types that nobody hooked into."""
    if type(block) in (AffineCoupling, InvertibleConv1x1, InvertibleBlock):
        parts = [block]
        if type(block) is InvertibleBlock:
            parts += [block.mix, block.coupling]
        known = all(type(p) in (AffineCoupling, InvertibleConv1x1) for p in parts[-2:] if p is not block)
        if known and not any(has_hooks(p) for p in parts):
            return OwnStep(name, block, inverse)
    return Step(name, block, inverse)
