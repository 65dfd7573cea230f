"""What this device can do: matrix products, copies, and PyTorch's own rate for the main convolution."""

from __future__ import annotations

from typing import Any

import networks
import torch
from timing import Stopwatch

from ivan_fast import ops

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def seconds_for(watch: Stopwatch) -> float:
    """Of repeated calls: a CPU only shows that this works."""
    return 0.4 if watch.device.type == "cuda" else 0.0


def matmul_rate(watch: Stopwatch, precision: str, side: int) -> float:
    """FLOP/s of a square matrix product on random data."""
    a, b = (torch.randn(side, side, device=watch.device).to(DTYPES[precision]) for _ in range(2))
    with networks.precision("tf32" if precision == "tf32" else "float32", watch.device):
        seconds, _ = watch.median(lambda: a @ b, seconds_for(watch))
    return 2.0 * side**3 / seconds


def copy_rate(watch: Stopwatch, elements: int) -> float:
    """Bytes read and written per second by a device-to-device copy of float32."""
    a = torch.randn(elements, device=watch.device)
    b = torch.empty_like(a)
    return 8.0 * elements / watch.median(lambda: b.copy_(a), seconds_for(watch))[0]


def convolution_rate(watch: Stopwatch, precision: str, size: int) -> dict[str, float]:
    """FLOP/s of PyTorch's 3x3 convolution 128 -> 32 at size x size, in both memory layouts."""
    weight = torch.randn(32, 128, 3, 3, device=watch.device).to(DTYPES[precision])
    x = torch.randn(1, 128, size, size, device=watch.device).to(DTYPES[precision])
    found = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        xl, wl = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        with networks.precision("tf32" if precision == "tf32" else "float32", watch.device):
            seconds, _ = watch.median(lambda x=xl, w=wl: torch.conv2d(x, w, padding=1), seconds_for(watch))
        found[name] = 2.0 * 9 * 128 * 32 * size * size / seconds
    return found


def op_rates(watch: Stopwatch, size: int, copy: float) -> list[dict[str, Any]]:
    """Coupling and channel mix, float32, C = 2, at size x size: bytes per second, as a fraction of a copy.
    Planes much larger than the L2 cache: what an earlier call left there to be written counts little."""
    half = [torch.randn(1, 1, size, size, device=watch.device) for _ in range(4)]
    state, grad = (torch.randn(1, 2, size, size, device=watch.device) for _ in range(2))
    weight = torch.randn(2, 2, device=watch.device)
    clamp, plane = 0.8, 4.0 * size * size
    calls = {  # name: (call, planes of float32 that must move)
        "affine_coupling_forward": (lambda: ops.affine_coupling_forward(*half[:3], clamp), 4),
        "affine_coupling_recompute_backward": (
            lambda: ops.affine_coupling_recompute_backward(*half, clamp),
            7,
        ),
        "channel_mix": (lambda: ops.channel_mix(state, weight), 4),
        "channel_mix_backward": (lambda: ops.channel_mix_backward(grad, state, weight), 6),
    }
    rows = []
    for name, (call, planes) in calls.items():
        seconds, runs = watch.median(call, seconds_for(watch))
        rate = planes * plane / seconds
        rows.append(
            {
                "op": name,
                "size": size,
                "seconds": seconds,
                "calls": runs,
                "bytes_per_s": rate,
                "of_copy": rate / copy,
            }
        )
    return rows


def dense_block_rates(watch: Stopwatch, size: int, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """Dense block forward and backward, 1 -> 1 channels: useful FLOP/s, as a fraction of the peak."""
    block = networks.our_network("float32", watch.device, blocks=1).chain.blocks[0].coupling.F
    weights, biases = [w.detach() for w in block.weights], [b.detach() for b in block.biases]
    x, grad = (torch.randn(1, 1, size, size, device=watch.device) for _ in range(2))
    flops = 2.0 * sum(w.numel() for w in weights) * size * size
    rows = []
    for precision, compute in networks.COMPUTE.items():
        kernels = networks.KERNELS if watch.device.type == "cuda" and precision != "float32" else (None,)
        for kernel in kernels:
            networks.choose_kernel(kernel)
            calls = {
                "dense_block": (1, lambda c=compute: ops.dense_block(x, weights, biases, 0.2, c)),
                "dense_block_backward": (
                    3,
                    lambda c=compute: ops.dense_block_backward(grad, x, weights, biases, 0.2, c),
                ),
            }
            for name, (units, call) in calls.items():
                seconds, runs = watch.median(call, seconds_for(watch))
                rate = units * flops / seconds
                rows.append(
                    {"op": name, "size": size, "precision": precision, "kernel": kernel, "seconds": seconds,
                     "calls": runs, "flop_per_s": rate, "of_matmul": rate / peaks[precision]}
                )  # fmt: skip
    networks.choose_kernel()
    return rows


def measure(watch: Stopwatch, tiny: bool) -> dict[str, Any]:
    """All of the above. `tiny`: small sizes, to exercise the code on a CPU."""
    side, elements, size, op_size = (64, 1 << 12, 16, 24) if tiny else (8192, 1 << 28, 1024, 8192)
    if watch.device.type == "cuda" and torch.cuda.mem_get_info(watch.device)[0] < 8 << 30:
        op_size = 4096
    peaks = {p: matmul_rate(watch, p, side if p != "float32" or tiny else 4096) for p in networks.PRECISIONS}
    copy = copy_rate(watch, elements)
    return {
        "matmul_flop_per_s": peaks,
        "copy_bytes_per_s": copy,
        "convolution_128_to_32_flop_per_s": {
            p: convolution_rate(watch, p, size) for p in networks.PRECISIONS
        },
        "ops": op_rates(watch, op_size, copy) + dense_block_rates(watch, size, peaks),
    }
