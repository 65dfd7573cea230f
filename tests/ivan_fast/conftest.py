"""Every compiled op with inputs for it: one test covers them all, on the CPU and (marked gpu) on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ivan_fast import ops, reference

CLAMP = 0.8
COUPLING_TENSORS = {
    "affine_coupling_forward": ("x", "h", "g"),
    "affine_coupling_inverse": ("y", "h", "g"),
    "affine_coupling_backward": ("grad_y", "x", "h"),
    "affine_coupling_inverse_backward": ("grad_x", "x", "h"),
    "affine_coupling_recompute_backward": ("y", "h", "g", "grad_y"),
}
MIX_TENSORS = {"channel_mix": ("x", "weight"), "channel_mix_backward": ("grad_y", "x", "weight")}


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@dataclass(frozen=True)
class OpCase:
    """One op, its twin, the names of its tensor arguments."""

    name: str
    tensors: tuple[str, ...]

    @property
    def coupling(self) -> bool:
        return self.name in COUPLING_TENSORS

    @property
    def is_gradient(self) -> bool:
        return self.name.endswith("backward")

    @property
    def overload(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.ivan_fast, self.name).default

    def inputs(
        self,
        shape: tuple[int, ...] = (2, 3, 5, 7),
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        make: Callable[..., Tensor] = torch.randn,
    ) -> tuple[Tensor, ...]:
        """Random state tensors of the shape, h of the spread that networks have; weight ``[C, C]``."""
        result = []
        for name in self.tensors:
            t = make((shape[1], shape[1]) if name == "weight" else shape, dtype=dtype)
            result.append((3 * t if name == "h" else t).to(device))
        return tuple(result)

    def arguments(self, tensors: tuple[Tensor, ...]) -> tuple:
        return (*tensors, CLAMP) if self.coupling else tensors

    def op(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return as_tuple(getattr(ops, self.name)(*self.arguments(tensors)))

    def twin(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return as_tuple(getattr(reference, self.name)(*self.arguments(tensors)))


CASES = [OpCase(name, tensors) for name, tensors in {**COUPLING_TENSORS, **MIX_TENSORS}.items()]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> OpCase:
    return request.param


@pytest.fixture(params=[c for c in CASES if c.is_gradient], ids=lambda case: case.name)
def gradient_case(request: pytest.FixtureRequest) -> OpCase:
    return request.param


@pytest.fixture(params=[c for c in CASES if not c.is_gradient], ids=lambda case: case.name)
def differentiable_case(request: pytest.FixtureRequest) -> OpCase:
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param
