"""Intensity scales: exact on data whose percentiles are known, robust to a few outliers, undone exactly."""

from __future__ import annotations

import numpy as np
import pytest

from ivan.data import Scale, estimate_scale
from ivan.errors import InputError


def test_percentile_of_the_foreground_only():
    data = np.concatenate([np.zeros(100_000), np.arange(1, 1001)])
    assert estimate_scale(data, 99.5) == Scale(0.0, pytest.approx(995, abs=0.01))
    assert estimate_scale(data, 100) == Scale(0.0, 1000.0)


def test_a_few_bright_voxels_do_not_matter():
    data = np.random.default_rng(0).uniform(100, 200, 100_000)
    clean = estimate_scale(data)
    data[:100] = 1e6
    assert estimate_scale(data).high == pytest.approx(clean.high, rel=0.01)


def test_negative_values_keep_their_range():
    """CT in Hounsfield units: air stays near 0, the scale starts at the low percentile."""
    rng = np.random.default_rng(0)
    data = np.concatenate([np.full(50_000, -1000.0), rng.uniform(-100, 1000, 50_000)])
    scale = estimate_scale(data)
    assert scale.low == -1000
    assert scale.high == pytest.approx(994.5, abs=3)


def test_apply_and_undo_without_clipping():
    scale = Scale(-1000.0, 3000.0)
    data = np.array([-1200, -1000, 0, 3000, 9000], dtype=np.float32)
    assert np.allclose(scale.apply(data), [-0.05, 0, 0.25, 1, 2.5])
    assert scale.apply(data).dtype == np.float32
    assert np.allclose(scale.undo(scale.apply(data)), data, rtol=1e-6)


def test_nearly_empty_volume_still_has_a_scale():
    data = np.zeros(10_000)
    data[0] = 7
    assert estimate_scale(data) == Scale(0.0, 7.0)


@pytest.mark.parametrize(
    ("data", "percentile", "words"),
    [
        (np.zeros(5), 99.5, "every voxel has the value 0"),
        (np.full(5, 3), 99.5, "every voxel has the value 3"),
        (np.arange(5), 0, "percentile"),
        (np.arange(5), 101, "percentile"),
        (np.zeros(0), 99.5, "no voxels"),
    ],
)
def test_refused(data, percentile, words):
    with pytest.raises(InputError, match=words):
        estimate_scale(data, percentile)
