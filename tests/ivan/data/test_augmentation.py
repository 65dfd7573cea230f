"""Augmentation: spatially the same for all modalities, brightness where asked for, off means untouched."""

from __future__ import annotations

import numpy as np
import pytest

from ivan.data import Augmentation
from ivan.errors import InputError


def rng(seed=0):
    return np.random.default_rng(seed)


def smooth(size=32):
    """A smooth image and a fixed function of it: any joint spatial change keeps that relation."""
    y, x = np.mgrid[:size, :size] / size
    image = (1 + np.sin(5 * x + y) * np.cos(3 * y)).astype(np.float32)
    return np.stack([image, 3 * image + 1])


def test_turns_are_the_eight_symmetries_of_a_square():
    stack = np.arange(2 * 9, dtype=np.float32).reshape(2, 3, 3)
    expected = {
        np.rot90(flipped, k, axes=(1, 2)).tobytes()
        for flipped in (stack, stack[:, :, ::-1])
        for k in range(4)
    }
    found = [Augmentation().turn(stack, rng(seed)) for seed in range(200)]
    assert {array.tobytes() for array in found} == expected
    assert {
        Augmentation(quarter_turns=False, flips=False).turn(stack, rng(s)).tobytes() for s in range(20)
    } == {stack.tobytes()}
    flips_only = {Augmentation(quarter_turns=False).turn(stack, rng(s)).tobytes() for s in range(50)}
    assert flips_only == {stack[:, ::v, ::h].tobytes() for v in (1, -1) for h in (1, -1)}


def test_slices_that_are_not_square_keep_their_shape():
    stack = np.arange(2 * 12, dtype=np.float32).reshape(2, 3, 4)
    found = {Augmentation().turn(stack, rng(seed)).tobytes() for seed in range(100)}
    assert found == {stack[:, ::v, ::h].tobytes() for v in (1, -1) for h in (1, -1)}


@pytest.mark.parametrize("change", [{"rotate": 20}, {"scale": 0.2}, {"translate": 4}])
def test_affine_changes_move_all_modalities_alike(change):
    stack = smooth()
    moved = Augmentation(**change, probability=1.0).warp(stack, rng(1))
    assert moved.shape == stack.shape
    assert np.abs(moved - stack).max() > 0.05
    assert np.allclose(moved[1], 3 * moved[0] + 1, atol=1e-4)


@pytest.mark.parametrize("change", [{"bias_field": 0.3}, {"contrast": 0.5}, {"brightness": 0.3}])
def test_brightness_of_sources_or_of_all(change):
    stack = smooth()
    before = stack.copy()
    sources = Augmentation(**change, probability=1.0, intensity_on="sources").recolour(stack, 1, rng(1))
    assert np.abs(sources[0] - stack[0]).max() > 0.01
    assert np.array_equal(sources[1], stack[1])
    everything = Augmentation(**change, probability=1.0, intensity_on="all").recolour(stack, 1, rng(1))
    assert np.abs(everything - stack).max(axis=(1, 2)).min() > 0.01
    assert np.array_equal(stack, before)  # the cached slice is never written to
    if "contrast" not in change:  # fields and factors are the same number for every modality
        assert np.allclose(everything[0] / stack[0], everything[1] / stack[1], rtol=1e-4)


def test_changed_inputs_leave_what_they_are_compared_with():
    stack = smooth()
    inputs = Augmentation(brightness=0.3, probability=1.0)
    assert inputs.changes_inputs
    changed = inputs.recolour(stack, 1, rng(1))
    factors = (changed / stack).reshape(2, -1)
    assert np.allclose(factors, factors[:, :1], rtol=1e-4)
    assert abs(factors[0, 0] - factors[1, 0]) > 0.01  # source and target each get a factor of their own
    assert not Augmentation(brightness=0.3, intensity_on="all").changes_inputs
    assert not Augmentation().changes_inputs


def test_off_is_untouched_and_probability_zero_too():
    stack = smooth()
    off = Augmentation(flips=False, quarter_turns=False)
    assert off.warp(stack, rng()) is stack
    assert off.recolour(stack, 1, rng()) is stack
    never = Augmentation(rotate=20, bias_field=0.3, contrast=0.3, brightness=0.3, probability=0.0)
    assert np.array_equal(never.warp(stack, rng()), stack)
    assert np.array_equal(never.recolour(stack, 1, rng()), stack)


def test_repeated_calls_with_one_state_are_equal():
    augmentation = Augmentation(rotate=10, bias_field=0.3, probability=0.5)
    stack = smooth()
    first = [augmentation.recolour(augmentation.warp(stack, rng(s)), 1, rng(s)) for s in range(6)]
    again = [augmentation.recolour(augmentation.warp(stack, rng(s)), 1, rng(s)) for s in reversed(range(6))][
        ::-1
    ]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, stack) for a in first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rotate": -1}, "rotate -1"),
        ({"scale": 1}, "scale 1"),
        ({"bias_field": float("nan")}, "bias_field nan"),
        ({"probability": 2}, "probability 2"),
        ({"intensity_on": "targets"}, "intensity_on 'targets'"),
    ],
)
def test_refused(options, words):
    with pytest.raises(InputError, match=words):
        Augmentation(**options)
