"""The coupling and channel mix ops against their plain PyTorch twins: make bench. Timings never fail."""

from __future__ import annotations

import pytest
import torch

from ivan_fast import ops, reference

SIZES = (256, 512)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPS = {
    "affine_coupling_forward": ("half", "half", "half", 0.8),
    "affine_coupling_recompute_backward": ("half", "half", "half", "half", 0.8),
    "channel_mix": ("state", "weight"),
    "channel_mix_backward": ("state", "state", "weight"),
}


@pytest.mark.parametrize("backend", ["ops", "reference"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", OPS)
def test_op(benchmark, op, device, size, backend):
    """C = 2 channels, float32, batch 1."""
    shapes = {"half": (1, 1, size, size), "state": (1, 2, size, size), "weight": (2, 2)}
    arguments = [torch.randn(shapes[a], device=device) if isinstance(a, str) else a for a in OPS[op]]
    function = getattr(ops if backend == "ops" else reference, op)

    def run():
        function(*arguments)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{op} {device} {size}x{size}"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark(run)
