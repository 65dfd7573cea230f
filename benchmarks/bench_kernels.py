"""Single operations against plain PyTorch: make bench. Timings never fail."""

from __future__ import annotations

import pytest
from suite import CASES, against

from ivan.benchmark.kernels import KERNELS, kernel_calls, kernel_flops


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.size)
@pytest.mark.parametrize(("kernel", "name"), [(k, n) for k, names in KERNELS.items() for n in names])
def test_kernel(benchmark, kernel, name, case):
    """Two channels; see `ivan.benchmark.kernels.KERNELS`."""
    calls = kernel_calls(kernel, case)
    benchmark.group = f"{kernel} {case.label()}"
    against(benchmark, None if name == "eager" else calls["eager"], calls[name], kernel_flops(kernel, case))
