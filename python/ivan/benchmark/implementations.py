"""Everything that is measured: ours and its rivals, all computing the same function of the same weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ivan.benchmark.case import JOBS, Case
from ivan.benchmark.twin import EagerIVAN
from ivan.errors import InputError
from ivan.model import IVAN


@dataclass(frozen=True)
class Implementation:
    """One way to compute the network.

    Attributes:
        name: what it is called on the command line and in JSON.
        title: what tables call it.
        build: the network of a case, freshly initialised, on the case's device.
        ours: whether it is `ivan.IVAN`.
        jobs: what it does differently from the implementation named in `as_in`; other jobs are not timed.
        as_in: the implementation whose inference it shares.
        memory_as: the implementation whose memory is taken for its own when it is estimated what fits.
        missing: why it cannot run on a device (``cpu`` or ``cuda``), or None.
    """

    name: str
    title: str
    build: Callable[[Case], nn.Module]
    ours: bool = False
    jobs: tuple[str, ...] = JOBS
    as_in: str = ""
    memory_as: str = ""
    missing: Callable[[str], str | None] = lambda device: None


class CheckpointedTwin(EagerIVAN):
    """`EagerIVAN` that keeps each block's input only, through `torch.utils.checkpoint`."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            y = checkpoint(block.inverse, y, use_reentrant=False)
        return y


def _shape(case: Case) -> dict[str, Any]:
    return {"channels": case.channels, "blocks": case.blocks, "split": case.split, "growth": case.growth}


def _compiled(case: Case) -> nn.Module:
    from torch._inductor import config

    # Dynamo compiles one code object eight times, then quietly runs it uncompiled: earlier sizes must go.
    torch._dynamo.reset()
    # Compiled code has its threads built in; said here, their number becomes part of the compile cache's key.
    config.cpp.threads = torch.get_num_threads()
    model = EagerIVAN(**_shape(case))
    # Block by block: all blocks share one compilation, and there is nothing to fuse between them.
    blocks: Any = model.blocks
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=False)
        block.inverse = torch.compile(block.inverse, dynamic=False)
    return model


def _memcnn(case: Case) -> nn.Module:
    from ivan.benchmark.memcnn_twin import MemCNNTwin

    return MemCNNTwin(**_shape(case))


def _freia(case: Case) -> nn.Module:
    from ivan.benchmark.freia_twin import FreiaTwin

    return FreiaTwin(case.height, case.width, **_shape(case))


def _ours(compute: str, memory: str = "invert") -> Callable[[Case], nn.Module]:
    return lambda case: IVAN(**_shape(case), compute=compute, memory=memory)


def _no_compiler(device: str) -> str | None:
    if device == "cuda":
        return None if importlib.util.find_spec("triton") else "torch.compile needs triton on CUDA"
    found = any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)
    return None if found else "torch.compile needs a C++ compiler, none found"


def _no_package(package: str, module: str) -> Callable[[str], str | None]:
    def missing(device: str) -> str | None:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed (pip install --no-deps {package})"
        try:
            importlib.import_module(f"ivan.benchmark.{module}")
        except Exception as error:
            return f"{package} cannot be imported with torch {torch.__version__}: {error}"
        return None

    return missing


IMPLEMENTATIONS: dict[str, Implementation] = {
    entry.name: entry
    for entry in (
        Implementation("eager", "eager PyTorch", lambda case: EagerIVAN(**_shape(case))),
        # Compiling the small jobs of an estimate would take minutes; compiled code needs no more than eager.
        Implementation("compile", "torch.compile", _compiled, memory_as="eager", missing=_no_compiler),
        Implementation(
            "checkpoint",
            "torch.utils.checkpoint",
            lambda case: CheckpointedTwin(**_shape(case)),
            jobs=("step",),
            as_in="eager",
        ),
        Implementation("memcnn", "MemCNN", _memcnn, missing=_no_package("memcnn", "memcnn_twin")),
        Implementation("freia", "FrEIA", _freia, missing=_no_package("FrEIA", "freia_twin")),
        Implementation("strict", "ours, strict", _ours("strict"), ours=True),
        Implementation("fast", "ours, fast", _ours("fast"), ours=True),
        Implementation(
            "fast-boundary",
            'ours, fast, memory="boundary"',
            _ours("fast", "boundary"),
            ours=True,
            jobs=("step",),
            as_in="fast",
        ),
        Implementation(
            "fast-store",
            'ours, fast, memory="store"',
            _ours("fast", "store"),
            ours=True,
            jobs=("step",),
            as_in="fast",
        ),
    )
}


def implementation(name: str, option: str = "implementation") -> Implementation:
    """The implementation of that name. Raises InputError."""
    if name not in IMPLEMENTATIONS:
        raise InputError(f"{option}: '{name}' given, expected any of {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]


def build(name: str, case: Case, like: IVAN | None = None) -> nn.Module:
    """The network of an implementation, on the case's device and in its dtype.

    Args:
        like: take this one's weights.
    """
    model = implementation(name).build(case)
    model.to(torch.device(case.device), getattr(torch, case.dtype))
    if like is not None:
        adopt(model, like)
    return model


def adopt(model: nn.Module, like: IVAN) -> None:
    """Give an implementation the weights of `like`, so that both compute the same function."""
    if isinstance(model, IVAN):
        model.load_state_dict(like.state_dict())
        return
    blocks: Any = model.blocks
    with torch.no_grad():
        for twin, block in zip(blocks, like.chain, strict=True):
            theirs: Any = twin
            ours: Any = block
            theirs.mix.copy_(ours.mix.weight())
            for subnet, dense in (
                (theirs.f, ours.coupling.F),
                (theirs.g, ours.coupling.G),
                (theirs.h, ours.coupling.H),
            ):
                for conv, weight, bias in zip(subnet.convs, dense.weights, dense.biases, strict=True):
                    conv.weight.copy_(weight)
                    conv.bias.copy_(bias)
