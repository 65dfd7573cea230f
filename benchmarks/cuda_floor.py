"""The floor of the CUDA dense block and of the network on paper: work, bytes, launches, and the time.

    python benchmarks/cuda_floor.py          prints what docs/performance.md shows

Nothing here is measured. Work is counted as the tensor-core kernels do it, padding included
(csrc/cuda/dense_block_geometry.h); peaks are those of data sheets, but the H100's.
"""

from __future__ import annotations

from dataclasses import dataclass

from ivan.benchmark.tables import Table, markdown
from ivan_fast import _C

SLICE = 16  # channels
SIZES = (256, 512, 1024, 2048, 4096)
BLOCKS, NETS, OPERAND = 8, 3, 2  # invertible blocks, dense blocks in each, bytes of an operand
SHARE = 0.4  # of the peak that the dense block aims at
LAUNCH = 3e-6  # seconds that a launch is taken to cost the host


@dataclass(frozen=True)
class Gpu:
    """FLOP/s of bf16 matrix products with float32 sums (T4: fp16), and bytes/s of its memory."""

    name: str
    flops: float
    bandwidth: float


GPUS = (
    Gpu("T4 (fp16)", 65e12, 0.32e12),
    Gpu("A100", 312e12, 2.0e12),
    Gpu("RTX 3090", 71e12, 0.94e12),
    Gpu("RTX 4090", 165e12, 1.01e12),
    Gpu("H100 (measured elsewhere)", 800e12, 3.0e12),
    Gpu("B200", 2250e12, 8.0e12),
    Gpu("RTX 5090", 209e12, 1.79e12),
)


@dataclass(frozen=True)
class DenseNet:
    """A dense block, or its mirrored net: `depth` convolutions of `growth` channels, the last `outputs`."""

    inputs: int = 1
    outputs: int = 1
    growth: int = 32
    depth: int = 5

    def work(self) -> dict[str, int]:
        """Of a pixel, as the kernels count: `csrc/cuda/dense_block_geometry.h`."""
        return _C.dense_block_cuda_work((1, self.inputs, self.outputs, self.growth, self.depth, 1, 1))

    def macs(self) -> int:
        """Multiply-adds of a pixel, padding included."""
        return self.work()["forward"]

    def layerwise_bytes(self) -> int:
        """Device memory a pixel, level by level: every slice before is read, the level's are written."""
        source, level = self.work()["source_slices"], self.work()["level_slices"]
        read = sum(source + before * level for before in range(self.depth))
        written = source + (self.depth - 1) * level
        return (read + written) * SLICE * OPERAND + 4 * (self.inputs + self.outputs)

    def fused_bytes(self, keeps: bool) -> int:
        """The same in one launch, where hidden rows reach device memory only to be kept."""
        kept = (self.depth - 1) * self.work()["level_slices"] * SLICE * OPERAND if keeps else 0
        return 4 * (self.inputs + self.outputs) + kept


def weight_gradient_macs(net: DenseNet) -> int:
    """Multiply-adds of a pixel: 32 x 32 products for pairs of slices, nine taps or one."""
    return net.work()["weights"]


# Launches of our kernels for one invertible block and direction, counted under emulation
# (tests/cuda_emulation): F, G and H together, coupling, channel mix, its weight, rounding of the
# inputs of F and of G and H.
FORWARD = {"layerwise": 7 + 7 + 1 + 1 + 1 + 2, "fused": 2 + 2 + 1 + 1 + 1 + 2}
BACKWARD = {"layerwise": 16 + 18 + 3 + 2 + 2, "fused": 8 + 10 + 3 + 2 + 2}


def work() -> Table:
    """A dense block, 1 channel in and out, growth 32, depth 5."""
    net = DenseNet()
    table = Table("A dense block, a pixel, 16-bit operands", ["", "multiply-adds", "layer-wise", "fused"])
    gradient, weights = net.work()["gradient"], weight_gradient_macs(net)
    table.rows = [
        ["forward", f"{net.macs():,}", f"{net.layerwise_bytes():,} B", f"{net.fused_bytes(False)} B"],
        ["recompute, kept", f"{net.macs():,}", f"{net.layerwise_bytes():,} B", f"{net.fused_bytes(True)} B"],
        [
            "gradient of the input",
            f"{gradient:,}",
            f"{net.layerwise_bytes():,} B",
            f"{net.fused_bytes(True)} B",
        ],
        ["gradient of the weights", f"{weights:,}", "not counted", "not counted"],
    ]
    table.notes.append(
        "Bytes of device memory if every value moves once for each launch that reads it; masks and halos are "
        "not counted, nor what stays in the second-level cache."
    )
    return table


def launches() -> Table:
    """Of our kernels, all eight blocks."""
    table = Table("Launches of our kernels, 8 blocks, one tile", ["", "layer-wise", "fused"])
    kinds = ("layerwise", "fused")
    table.rows = [
        ["forward or inverse", *(str(BLOCKS * FORWARD[k]) for k in kinds)],
        ["step, both directions", *(str(2 * BLOCKS * (FORWARD[k] + BACKWARD[k])) for k in kinds)],
    ]
    table.notes.append(
        "PyTorch's own small launches around them come on top; a CUDA graph replays all of them at once."
    )
    return table


def times() -> Table:
    """Of the network in both directions at the share of the peak that is aimed at, and what was measured."""
    net = DenseNet()
    forward = 2.0 * net.macs() * NETS * BLOCKS
    step = 2 * (3 * forward + 2.0 * weight_gradient_macs(net) * NETS * BLOCKS)
    table = Table(
        f"bf16 at {SHARE:.0%} of the peak: forward / step of both directions",
        ["", *(f"{size}x{size}" for size in SIZES), "measured"],
    )
    for gpu in GPUS:
        cells = [
            " / ".join(_milliseconds(f * size * size / gpu.flops / SHARE) for f in (forward, step))
            for size in SIZES
        ]
        table.rows.append([gpu.name, *cells, "not run"])
    h100 = next(g for g in GPUS if g.name.startswith("H100"))
    hosts = {k: 2 * BLOCKS * (FORWARD[k] + BACKWARD[k]) * LAUNCH for k in FORWARD}
    layerwise, fused, slice_256 = (
        _milliseconds(seconds)
        for seconds in (hosts["layerwise"], hosts["fused"], step * 256 * 256 / h100.flops / SHARE)
    )
    table.notes.append(
        f"At {LAUNCH * 1e6:.0f} µs each the host needs {layerwise} for the launches of a step level by level "
        f"and {fused} fused, beside {slice_256} of work for 256x256 on an H100: small slices want a CUDA "
        "graph, larger ones do not notice."
    )
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def text() -> str:
    """All tables as markdown."""
    return "\n\n".join(f"**{t.title}**\n\n{markdown(t)}" for t in (work(), launches(), times()))


if __name__ == "__main__":
    print(text())
