"""Faults planted in the project's own kernels: each must make their tests fail."""

from __future__ import annotations

import emulation
import pytest
import torch
from test_pointwise import run_coupling, run_mix

pytestmark = pytest.mark.skipif(emulation.compiler() is None, reason="no C++ compiler")
POINTWISE = ("coupling", "channel_mix", "exports_pointwise")
BARRIER = r"__syncthreads\(\);"


def mutant(variant, *edits):
    return emulation.load(variant, edits, POINTWISE)


@pytest.mark.parametrize("nth", range(2))
def test_every_barrier_of_the_channel_mix_is_needed(nth):
    """Without any one of them the race check reports."""
    before = rf"(?s)((?:.*?{BARRIER}){{{nth}}}.*?){BARRIER}"
    machine = mutant("race", ("channel_mix.cu", before, r"\1"))
    with pytest.raises(RuntimeError, match=r"race check: .*shared memory.*channel_mix\.cu:\d+"):
        run_mix(machine, torch.float32, 2, 3, 300)


WRONG = {
    "tail is forgotten": ("pointwise_geometry.h", r"packs \+ \(length - packs \* width\)\};", "packs};"),
    "stride of another operand": ("coupling.cu", r"o\.h_stride \+", "o.state_stride +"),
    "weight is not transposed": ("channel_mix.cu", r"transposed \? 1 : channels", "channels"),
    "one block's sums are lost": ("channel_mix.cu", r"block < blocks", "block < blocks - 1"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_numbers_are_noticed(fault):
    machine = mutant("plain", WRONG[fault])
    with pytest.raises(AssertionError):  # noqa: PT012
        run_coupling(machine, "forward", torch.float32, 3, 37, (1, 1, 1, 1), (4, 8, 0, 0), 1)
        run_coupling(machine, "forward", torch.float32, 2, 39)
        run_mix(machine, torch.float32, 2, 3, 1500, 1, 0, 1)
