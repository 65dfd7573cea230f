"""Fast, memory-saving ops and modules for invertible networks, on CPU and CUDA. Knows nothing of images."""

from importlib.metadata import version as _version
from typing import Any

import torch  # noqa: F401  (its libraries must be loaded before ours)

# _C registers torch.ops.ivan_fast; there is no fallback without it.
import ivan_fast._C as _C
from ivan_fast import ops, reference
from ivan_fast.modules import AffineCoupling, DenseBlock, InvertibleBlock, InvertibleConv1x1
from ivan_fast.reversible import InversionDriftWarning, ReversibleSequential

__version__ = _version("ivan_fast")


def build_info() -> dict[str, Any]:
    """What this build is and what it runs on.

    Returns:
        ``version``, ``compiler``, ``build_type``; ``torch_target``, the oldest torch it serves;
        ``cpu_isa``, the instruction set in use, ``cpu_isa_available``, ``cpu_isa_forced`` (the environment's
        ``IVAN_FAST_CPU_ISA`` or None); ``with_cuda``, ``cuda_runtime`` (1000 * major + 10 * minor, or None),
        ``cuda_archs``, ``cuda_compiler``; ``dense_block_cuda``, the kernels of the dense block for CUDA
        tensors: ``"layerwise"`` or ``"fused"`` (`ops.set_dense_block_cuda_kernel`), or None without CUDA.
    """
    return _C.build_info()


__all__ = [
    "AffineCoupling",
    "DenseBlock",
    "InversionDriftWarning",
    "InvertibleBlock",
    "InvertibleConv1x1",
    "ReversibleSequential",
    "__version__",
    "build_info",
    "ops",
    "reference",
]
