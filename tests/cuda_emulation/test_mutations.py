"""Faults planted in the project's own kernels: each must make a test fail.

All of them are choices in one library for each variant (planting.py). Every barrier and every wait is left
out in turn under the race check; faults.py lists what a person could get wrong. A sweep: `make mutants`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import faults
import planting
import pytest
import test_dense_block_kernels as dense
import torch
from emulation import Emulator, compiler
from planting import Fault, Probe
from test_pointwise import run_coupling, run_mix
from test_state_kernels import run_backward, run_rounding, run_weight

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
    pytest.mark.skipif(os.environ.get("IVAN_CUDA_EMULATION") == "asan", reason="once is enough"),
    pytest.mark.timeout(900),  # the build is in it
]
FIELDS = [(group, name) for group, named in faults.FAULTS.items() for name in named]
EVERY = 3  # `make test` tries every third, `make test-all` all
WIDE, NARROW = (4, 90, 232448), (1, 86, 101376)  # strips


def values(*shapes: tuple[int, ...], compute: tuple[str, ...]) -> list[Probe]:
    return [
        (f"{c} {shape}", lambda e, s=shape, c=c: dense.test_against_float64(e, s, c))
        for shape in shapes
        for c in compute
    ]


def fused(*shapes: tuple[int, ...], compute: str = "bf16", device: tuple[int, ...] = WIDE) -> list[Probe]:
    return [
        (
            f"fused {shape}",
            lambda e, s=shape: dense.test_fused_is_layerwise_bit_for_bit(e, compute, s, device),
        )
        for shape in shapes
    ]


def one(test: Callable[..., object], *arguments: object) -> Probe:
    return f"{test.__name__} {arguments}", lambda emulator: test(emulator, *arguments)


COUPLING = (torch.float32, 3, 37, (1, 1, 1, 1), (4, 8, 0, 0), 1)
PROBES: dict[str, list[Probe]] = {
    "strict": [
        *values(dense.SMALL, dense.SHAPES[2], dense.SHAPES[3], compute=("strict",)),
        one(dense.test_derivative_at_zero_is_the_slope, "strict"),
        one(dense.test_strided_samples),
    ],
    "mma": values(dense.SMALL, dense.SHAPES[2], dense.SHAPES[3], compute=("bf16", "tf32")),
    "splits": [
        one(dense.test_several_splits_of_the_pixels, "bf16"),
        one(dense.test_several_splits_of_the_pixels, "strict"),
    ],
    "gradients": values(dense.SMALL, dense.SHAPES[2], dense.EDGES[-1], compute=("strict",)),
    "tiles": [
        one(dense.test_bits_do_not_depend_on_tiles_or_order, "bf16"),
        one(dense.test_bits_do_not_depend_on_tiles_or_order, "strict"),
        one(dense.test_tiles_of_several_images, "bf16", False, 1),
    ],
    "workspace": [
        *values(dense.SMALL, compute=("bf16",)),
        one(dense.test_two_nets_in_one_call_are_each_as_alone, (2, 1, 1, 20, 3, 5, 6), "bf16", False),
    ],
    "fused": [
        *fused(dense.SMALL, (2, 1, 9, 17, 3, 18, 30), dense.STRIPS),
        *fused((2, 1, 9, 17, 3, 18, 30), device=NARROW),
        *fused(dense.SHAPES[0], compute="tf32"),
        one(dense.test_tiles_of_several_images, "bf16", True, 1),
    ],
    "walk": [
        one(dense.test_walk_of_samples_that_lie_apart, "forward"),
        one(dense.test_two_nets_in_one_call_are_each_as_alone, (2, 1, 1, 20, 3, 5, 6), "bf16", False),
        one(dense.test_walk_through_a_coupling, "forward", torch.float32, 1, 2),
        one(dense.test_walk_through_a_coupling, "inverse", torch.float32, 1, 2),
    ],
    "state": [one(run_rounding, 2, 37, 0, 2)],
    "pointwise": [
        one(run_coupling, "forward", *COUPLING),
        one(run_coupling, "forward", torch.float32, 2, 39),
        one(run_coupling, "forward", torch.float32, 2, 37, (0, 1, 2, 3), (1, 3, 1, 2), 1),
        one(run_mix, torch.float32, 2, 3, 1500, 1, 0, 1),
        one(run_mix, torch.float32, 2, 5, 1500),
    ],
}
# Of the race check, by the file that holds the barrier.
RACES: dict[str, list[Probe]] = {
    "channel_mix.cu": [one(run_mix, torch.float32, 1, 2, 40)],
    "plu.cu": [
        one(run_weight, 3, torch.float32, False),
        one(run_backward, 3, torch.float32, torch.float32, True, True),
    ],
    "dense_block_layer.cuh": values(dense.SMALL, compute=("strict",)),
    "dense_block_wgrad.cuh": values(dense.SMALL, compute=("strict",)),
    "dense_block_fused.cuh": fused(dense.SMALL),
}
OTHERS = values(dense.SMALL, compute=("bf16",))


class Machine:
    """One library of several faults, built when the first of them is tried."""

    def __init__(self, variant: str, chosen: list[Fault]) -> None:
        self.variant, self.chosen = variant, chosen
        self.emulator: Emulator | None = None
        self.clean: set[str] = set()

    def built(self) -> Emulator:
        if self.emulator is None:
            changes = [fault.locate(planting.text_of(fault.file)) for fault in self.chosen]
            self.emulator = planting.load(self.variant, changes)
        return self.emulator

    def notices(self, fault: Fault, probes: list[Probe]) -> str | None:
        emulator = self.built()
        report = planting.attempt(emulator, self.chosen.index(fault), probes)
        # The probe that failed, or after a crash any, must pass without the fault: not tried in this process,
        # whose children would inherit what launchers remember.
        failed = [p for p in probes if report is not None and report.startswith(f"{p[0]}: ")] or probes
        for probe in failed:
            if probe[0] not in self.clean:
                assert planting.attempt(emulator, -1, [probe]) is None, f"fails without a fault: {probe[0]}"
                self.clean.add(probe[0])
        return report


@pytest.fixture(scope="module")
def plain() -> Machine:
    return Machine("plain", [f for named in faults.FAULTS.values() for f in named.values()])


@pytest.fixture(scope="module")
def race() -> Machine:
    return Machine("race", [*planting.barriers(), *faults.RACES.values()])


@pytest.mark.parametrize("barrier", planting.barriers(), ids=lambda f: f"{f.file}-{f.pattern[:9]}-{f.nth}")
def test_every_barrier_and_wait_is_needed(race, barrier):
    """Without any one of them the race check reports."""
    report = race.notices(barrier, RACES.get(barrier.file, OTHERS))
    assert report is not None, "not noticed"
    assert "race check: " in report


@pytest.mark.parametrize("name", faults.RACES)
def test_wrong_order_is_noticed(race, name):
    fault = faults.RACES[name]
    probes = PROBES["splits"][:1] if "splits" in name else RACES.get(fault.file, OTHERS)
    if "next tile" in name:
        probes = values(dense.SHAPES[2], compute=("bf16",))
    if name in ("strips overlap", "bands overlap"):
        probes = fused(dense.STRIPS)
    report = race.notices(fault, probes)
    assert report is not None, "not noticed"
    assert "race check: " in report


@pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(group, name, marks=[pytest.mark.slow] * (i % EVERY > 0), id=f"{group}: {name}")
        for i, (group, name) in enumerate(FIELDS)
    ],
)
def test_wrong_numbers_are_noticed(plain, group, name):
    assert plain.notices(faults.FAULTS[group][name], PROBES[group]) is not None, "not noticed"


def test_a_fault_that_no_longer_matches_says_so():
    with pytest.raises(AssertionError, match=r"common\.cuh holds 0 times no such text, expected more than 0"):
        Fault("common.cuh", "no such text", "").locate(planting.text_of("common.cuh"))


def test_crashes_and_endless_loops_count_as_noticed(race):
    def crash(emulator: Emulator) -> None:
        ctypes.string_at(0)

    def endless(emulator: Emulator) -> None:
        while True:
            pass

    assert "the process ended with -11" in str(planting.attempt(race.built(), -1, [("crash", crash)]))
    assert "no end within" in str(planting.attempt(race.built(), -1, [("endless", endless)], 1))
    assert planting.attempt(race.built(), -1, []) is None
