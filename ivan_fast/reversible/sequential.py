"""A chain of invertible blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ivan_fast.modules.backend import BackendModule, autocast_enabled, checked_backend, rounding_steps
from ivan_fast.modules.dense_block import REDUCED_COMPUTE, DenseBlock
from ivan_fast.reversible.chain import Chain, Pass, warn_of_drift
from ivan_fast.reversible.guard import NOISE, TOLERANCE, TOLERANCE_REDUCED, TOLERANCE_ROUNDED
from ivan_fast.reversible.steps import OwnStep, Step, make_step

MEMORY_POLICIES = ("invert", "boundary", "store")


class ReversibleSequential(nn.Module):
    """Blocks one after the other, with a backward that does not need their activations, in both directions.

    The states between blocks of this package are float64, their subnets compute in the dtype of the
    parameters: float32 states drift by 1e-6 on the way back, and a drift of d costs about ``sqrt(d)`` in
    the gradient, because it flips the sign of a few pre-activations of LeakyReLU. Recovered float64 states
    round to the very float32 inputs the subnets had (`ivan_fast.modules.backend.as_parameters`).

    Args:
        blocks: any modules with ``forward(x) -> y`` and ``inverse(y) -> x``, one tensor each, ``[N, ...]``.
            Blocks of this package are walked back with one evaluation of each subnet, others with two.
        memory: ``"invert"`` keeps the chain's input and output and recovers every state in between from the
            output; where that drifts, the gradient is computed again from the input (see `tol`).
            ``"boundary"`` keeps the input of every block; its gradient is bit for bit that of ``"store"``,
            plain autograd.
        tol: relative drift ``||x^ - x|| / ||x||`` of a recovered state above which the ``"invert"``
            gradient is not trusted. Default: 1e-10 for float64 states around float32 subnets, 1e-12
            around float64 ones; for float32 states 2e-6, or 1e-3 where subnets compute in reduced precision.
        backend: sets the backend of every module of this package inside; ``None`` leaves them as they are.
            Only ``"reference"`` supports double backward.
        state_dtype: of the states between blocks for a float32 input, float64 or float32 (half the memory,
            larger drift). A chain with somebody else's blocks keeps the dtype of its input.

    Attributes:
        guard_trips: how many backward passes were computed again because states could not be recovered. The
            first one also warns (`ivan_fast.reversible.InversionDriftWarning`). Under CUDA graph capture
            nothing can be computed again: the gradient becomes NaN instead.

    Raises:
        TypeError: a block without ``inverse``. ValueError: unknown `memory` or `backend`, `tol` not positive.
    """

    def __init__(
        self,
        *blocks: nn.Module,
        memory: str = "invert",
        tol: float | None = None,
        backend: str | None = None,
        state_dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        for i, block in enumerate(blocks):
            if not isinstance(block, nn.Module) or not callable(getattr(block, "inverse", None)):
                raise TypeError(
                    f"ReversibleSequential: block {i} is {type(block).__name__}, "
                    "expected a module with an inverse method"
                )
        if tol is not None and not tol > 0:
            raise ValueError(f"ReversibleSequential: tol is {tol}, expected a positive number or None")
        self.blocks = nn.ModuleList(blocks)
        self.memory = memory
        self.tol = tol
        if state_dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"ReversibleSequential: state_dtype is {state_dtype}, expected float32 or float64"
            )
        self.state_dtype = state_dtype
        self.guard_trips = 0
        if backend is not None:
            checked_backend(backend)
            for module in self.modules():
                if isinstance(module, BackendModule):
                    module.backend = backend

    @property
    def memory(self) -> str:
        """``"invert"``, ``"boundary"`` or ``"store"``; may be changed at any time."""
        return self._memory

    @memory.setter
    def memory(self, policy: str) -> None:
        if policy not in MEMORY_POLICIES:
            raise ValueError(f"memory is {policy!r}, expected one of {', '.join(map(repr, MEMORY_POLICIES))}")
        self._memory = policy

    @property
    def backend(self) -> str:
        """``"reference"`` if every module of this package inside is, otherwise ``"fast"``."""
        names = {m.backend for m in self.modules() if isinstance(m, BackendModule)}
        return "reference" if names == {"reference"} else "fast"

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same, float32 or float64; inside autocast half precision is widened."""
        return self._run(x, [make_step(n, b, False) for n, b in self._named_blocks()])

    def inverse(self, y: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H, W]``; differentiable and as memory-saving as `forward`."""
        return self._run(y, [make_step(n, b, True) for n, b in reversed(list(self._named_blocks()))])

    def note_trip(self, step: int, drift: float, block: str, tol: float) -> None:
        """Count a backward pass whose recovered states could not be trusted; the first time, warn."""
        self.guard_trips += 1
        if self.guard_trips == 1:
            warn_of_drift(block, drift, tol)

    def _named_blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for i, block in enumerate(self.blocks):
            yield f"the input of block {i} ({type(block).__name__})", block

    def _run(self, x: Tensor, steps: list[Step]) -> Tensor:
        if getattr(self, "_is_replica", False):
            raise RuntimeError(
                "ReversibleSequential: torch.nn.DataParallel hides the parameters of its replicas; "
                "use torch.nn.parallel.DistributedDataParallel"
            )
        if x.dtype in (torch.bfloat16, torch.float16) and autocast_enabled(x):
            x = x.float()
        wanted = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        )
        if not steps:
            return x
        if wanted and self.memory != "store":
            return self._recorded(x, steps)
        state = x.to(self._dtype_of_states(x, steps))
        self._set_rounding(x, state.dtype, steps)
        for step in steps:
            state = step.run(state, None)
        return state.to(x.dtype)

    # One break of torch.compile's graph instead of an attempt at every step: the fused kernels are compiled
    # already, and what is recorded is not a graph's business. Subnets that are compiled themselves stay so.
    @torch.compiler.disable
    def _recorded(self, x: Tensor, steps: list[Step]) -> Tensor:
        dtype = self._dtype_of_states(x, steps)
        self._set_rounding(x, dtype, steps)
        noise = 0.0 if self._rounds(dtype) else NOISE.get(dtype, 0.0)
        run = Pass(self, steps, self.memory, x, dtype, self._tolerance(x, dtype), noise)
        return Chain.apply(run, x, *run.trained).to(x.dtype)

    def _set_rounding(self, x: Tensor, dtype: torch.dtype, steps: list[Step]) -> None:
        if dtype == torch.float64:
            rounding = rounding_steps(x)
            for step in steps:
                step.rounding = rounding

    def _dtype_of_states(self, x: Tensor, steps: list[Step]) -> torch.dtype:
        """Somebody else's blocks get the dtype of the input: they may not be able to take another."""
        widened = x.dtype == torch.float32 and all(isinstance(step, OwnStep) for step in steps)
        return self.state_dtype if widened else x.dtype

    def _tolerance(self, x: Tensor, dtype: torch.dtype) -> float:
        if self.tol is not None:
            return self.tol
        if self._rounds(dtype):
            return TOLERANCE_ROUNDED  # whatever the subnets compute in: their inputs are recovered exactly
        if dtype != torch.float64 and self._reduced_precision(x):
            return TOLERANCE_REDUCED
        return TOLERANCE.get(dtype, TOLERANCE_REDUCED)

    def _rounds(self, dtype: torch.dtype) -> bool:
        """Whether subnets take narrower inputs than the states of this dtype."""
        return dtype == torch.float64 and any(p.dtype != dtype for p in self.parameters())

    def _reduced_precision(self, x: Tensor) -> bool:
        if autocast_enabled(x):
            return True
        dense = [m for m in self.modules() if isinstance(m, DenseBlock)]
        if any(block.compute_for(x) in REDUCED_COMPUTE for block in dense):
            return True
        plain = self.backend == "reference" or not dense  # these use PyTorch's convolutions
        return plain and x.is_cuda and tf32_allowed()

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.blocks)

    def __getitem__(self, index: int) -> nn.Module:
        return self.blocks[index]

    def extra_repr(self) -> str:
        return f"memory={self.memory!r}, tol={self.tol}"


def tf32_allowed() -> bool:
    """Whether PyTorch's own convolutions or products of float32 may run in TF32 on CUDA.

    By the names that torch has had since 2.9, which also tell what was set by the old ones: reading those is
    an error once a new one was set.
    """
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return "tf32" in (convolutions.fp32_precision, torch.backends.cuda.matmul.fp32_precision)
