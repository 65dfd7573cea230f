"""Metrics of single images: identities, definitions spelled out, variants, and bad input."""

import json
import math
import pickle

import numpy as np
import pytest
import torch

from ivan import metrics
from ivan.errors import InputError

PERFECT_EDGES = 0.9994 / (1 + math.exp(-15 * 0.5)) * 0.9879 / (1 + math.exp(-22 * 0.2))


def gray(seed=0, shape=(24, 31)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_identities_when_fused_and_sources_are_one_image():
    a = gray()
    assert metrics.q_piella(a, a, a) == pytest.approx(1, abs=1e-12)
    assert metrics.q_w(a, a, a) == pytest.approx(1, abs=1e-12)
    assert metrics.q_0(a, a) == pytest.approx(1, abs=1e-12)
    assert metrics.q_mi(a, a, a) == pytest.approx(2, abs=1e-12)
    assert metrics.q_abf(a, a, a) == pytest.approx(PERFECT_EDGES, abs=1e-12)
    assert round(PERFECT_EDGES, 4) == 0.9748
    assert metrics.ssim(a, a, data_range=255) == 1
    assert metrics.nmse(a, a) == 0
    assert metrics.psnr(a, a, data_range=255) == math.inf


@pytest.mark.parametrize("value", [0, 7, 255])
def test_identities_of_a_constant_fused_image(value):
    flat = np.full((9, 12), value, np.uint8)
    assert metrics.entropy(flat) == 0
    assert metrics.average_gradient(flat) == 0
    assert metrics.spatial_frequency(flat) == 0
    # 0 / 0 everywhere: flat images that agree are perfect, never NaN.
    for quality, best in (("q_piella", 1), ("q_w", 1), ("q_mi", 2), ("q_abf", PERFECT_EDGES)):
        assert getattr(metrics, quality)(flat, flat, flat) == pytest.approx(best, abs=1e-12)


def test_q_mi_does_not_depend_on_the_logarithm():
    a, b, f = gray(1) // 32 * 32, gray(2) // 64 * 64, (gray(1) // 2 + gray(2) // 2) // 16 * 16

    def h(*images):
        counts = (
            np.unique(np.stack([i.ravel() for i in images]), axis=1, return_counts=True)[1] / images[0].size
        )
        return -(counts * np.log(counts)).sum()  # in nats

    nats_a, nats_b = h(a) + h(f) - h(a, f), h(b) + h(f) - h(b, f)
    expected = 2 * (nats_a / (h(a) + h(f)) + nats_b / (h(b) + h(f)))
    assert metrics.q_mi(a, b, f) == pytest.approx(expected, abs=1e-12)
    bits = metrics.mutual_information(a, b, f)
    assert bits == pytest.approx((nats_a + nats_b) / math.log(2), abs=1e-12)
    assert metrics.entropy(a) == pytest.approx(h(a) / math.log(2), abs=1e-12)


def test_q0_of_flat_windows_by_hand():
    x, y = np.full((8, 8), 10.0), np.full((8, 8), 30.0)
    assert metrics.q_0(x, y) == pytest.approx(2 * 10 * 30 / (10**2 + 30**2), abs=1e-15)
    assert metrics.q_0(np.zeros((8, 8)), np.zeros((8, 8))) == 1
    assert metrics.q_0(np.zeros((8, 8)), y) == 0
    # One flat, one structured window: nothing in common. 0.3 is no binary fraction: rounding must not count.
    structured = np.random.default_rng(0).random((8, 8))
    assert metrics.q_0(np.full((8, 8), 0.3), structured) == 0
    assert metrics.q_0(np.full((8, 8), 0.3), np.full((8, 8), 0.3)) == pytest.approx(1, abs=1e-15)


def test_scale_free_metrics_do_not_depend_on_the_units():
    a, b, f = (gray(i).astype(np.float64) for i in range(3))
    for name in ("q_piella", "q_w", "q_abf"):
        metric = getattr(metrics, name)
        assert metric(a / 255, b / 255, f / 255) == pytest.approx(metric(a, b, f), abs=1e-9), name


def test_average_gradient_and_spatial_frequency_by_hand():
    x = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]])
    gy, gx = np.gradient(x)
    assert metrics.average_gradient(x) == pytest.approx(
        np.sqrt((gx**2 + gy**2) / 2).sum() / (1 * 2), abs=1e-14
    )
    notes = np.sqrt(gx**2 + gy**2).sum() / (2 * 3)
    assert metrics.average_gradient(x, variant="notes") == pytest.approx(notes, abs=1e-14)
    rows, columns = (1 + 9 + 0 + 0) / 4, (4 + 1 + 4) / 3
    assert metrics.spatial_frequency(x) == pytest.approx(math.sqrt(rows + columns), abs=1e-14)


def test_nmse_variants_and_zero_denominators():
    r, p = np.array([[1.0, 2.0]]), np.array([[2.0, 0.0]])
    assert metrics.nmse(r, p) == pytest.approx(5 / 5)
    assert metrics.nmse(r, p, variant="notes") == pytest.approx(5 / 4)
    zero = np.zeros((1, 2))
    assert metrics.nmse(zero, zero) == 0
    assert metrics.nmse(zero, p) == math.inf
    assert metrics.nmse(r, zero) == 1


def test_unsigned_integers_do_not_wrap_around():
    r, p = np.array([[10]], np.uint8), np.array([[250]], np.uint8)
    assert metrics.psnr(r, p, data_range=255) == pytest.approx(20 * math.log10(255 / 240))


def test_masks_count_only_inside():
    rng = np.random.default_rng(0)
    r, p = rng.random((20, 22)), rng.random((20, 22))
    mask = np.zeros((20, 22), bool)
    mask[6:12, 7:15] = True
    assert metrics.psnr(r, p, data_range=1, mask=mask) == pytest.approx(
        -10 * math.log10(np.mean((r - p)[mask] ** 2))
    )
    assert metrics.nmse(r, p, mask=mask) == pytest.approx(((r - p)[mask] ** 2).sum() / (r[mask] ** 2).sum())
    # A mask whose every window centre lies inside the crop sees exactly the windows of the padded crop.
    crop = (slice(1, 17), slice(2, 20))
    assert metrics.ssim(r, p, data_range=1, mask=mask) == pytest.approx(
        metrics.ssim(r[crop], p[crop], data_range=1)
    )
    assert "mask" in metrics.psnr(r, p, data_range=1, mask=mask).protocol
    with pytest.raises(InputError, match="mask"):
        metrics.psnr(r, p, data_range=1, mask=np.zeros_like(mask))
    border = np.zeros_like(mask)
    border[0] = True
    with pytest.raises(InputError, match="border"):
        metrics.ssim(r, p, data_range=1, mask=border)


def test_a_metric_is_a_float_with_its_protocol():
    value = metrics.psnr(np.zeros((2, 2)), np.ones((2, 2)), data_range=1)
    assert isinstance(value, float)
    assert json.loads(json.dumps(value)) == 0
    assert "data range 1" in value.protocol
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert again.protocol == value.protocol
    assert f"{value:.1f}" == "0.0"
    assert metrics.protocols({"psnr": value, "n": 3}) == {"psnr": value.protocol}


def test_batches_give_one_value_per_image():
    rng = np.random.default_rng(1)
    r, p = rng.random((2, 3, 16, 18)).astype(np.float32), rng.random((2, 3, 16, 18)).astype(np.float32)
    for name, options in (
        ("psnr", {"data_range": 1.0}),
        ("nmse", {}),
        ("ssim", {"data_range": 1.0}),
        ("q_0", {}),
    ):
        metric = getattr(metrics, name)
        values = metric(r, p, **options)
        assert isinstance(values, np.ndarray)
        assert values.dtype == np.float64
        assert values.shape == (2, 3)
        singles = [[metric(r[n, c], p[n, c], **options) for c in range(3)] for n in range(2)]
        np.testing.assert_allclose(values, singles, rtol=1e-12, err_msg=name)
        tensor = metric(torch.from_numpy(r).requires_grad_(), torch.from_numpy(p), **options)
        assert isinstance(tensor, torch.Tensor)
        assert not tensor.requires_grad
        np.testing.assert_array_equal(tensor.numpy(), values)
    a, b, f = (gray(i, (2, 3, 16, 18)) for i in range(3))
    for name in ("mutual_information", "q_mi", "q_piella", "q_w", "q_abf"):
        metric = getattr(metrics, name)
        singles = [[metric(a[n, c], b[n, c], f[n, c]) for c in range(3)] for n in range(2)]
        np.testing.assert_allclose(metric(a, b, f), singles, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16, torch.uint8, torch.bool])
def test_any_real_dtype(dtype):
    r, p = torch.ones(4, 4).to(dtype), torch.zeros(4, 4).to(dtype)
    assert metrics.psnr(r, p, data_range=1) == 0


def test_strided_and_big_endian_arrays():
    a = np.arange(64, dtype=">f4").reshape(8, 8)
    reversed_view = a[::-1, ::2]
    assert metrics.psnr(reversed_view, reversed_view.astype(np.float32), data_range=1) == math.inf


BAD = {
    "shapes": (lambda: metrics.psnr(np.zeros((3, 4)), np.zeros((4, 3)), data_range=1), "shape"),
    "nan": (lambda: metrics.psnr(np.full((3, 3), np.nan), np.zeros((3, 3)), data_range=1), "NaN"),
    "inf": (lambda: metrics.nmse(np.zeros((3, 3)), np.full((3, 3), np.inf)), "infinity"),
    "complex": (lambda: metrics.entropy(torch.zeros(3, 3, dtype=torch.complex64)), "complex"),
    "text": (lambda: metrics.entropy(np.array([["a"]])), "dtype"),
    "no pixel": (lambda: metrics.entropy(np.zeros((0, 3))), "empty"),
    "1D": (lambda: metrics.entropy(np.zeros(3)), "dimensions"),
    "range": (lambda: metrics.psnr(np.zeros((3, 3)), np.zeros((3, 3)), data_range=0), "data_range"),
    "range nan": (lambda: metrics.ssim(gray(), gray(), data_range=math.nan), "data_range"),
    "variant": (lambda: metrics.ssim(gray(), gray(), data_range=255, variant="best"), "wang"),
    "ssim window": (lambda: metrics.ssim(gray(0, (10, 40)), gray(0, (10, 40)), data_range=255), "11x11"),
    "piella window": (lambda: metrics.q_piella(*[gray(0, (7, 9))] * 3), "8x8"),
    "one row": (lambda: metrics.average_gradient(np.zeros((1, 9))), "2x2"),
    "negative gray": (lambda: metrics.entropy(np.array([[-1, 3]])), "0..255"),
    "unit range gray": (lambda: metrics.entropy(np.random.default_rng(0).random((8, 8))), "255"),
    "volume": (lambda: metrics.entropy(np.zeros((4, 4, 4))), "axis"),
    "axis": (lambda: metrics.entropy(np.zeros((4, 4, 4)), axis=3), "axis"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_to_do(case):
    call, words = BAD[case]
    with pytest.raises(InputError, match=words):
        call()
