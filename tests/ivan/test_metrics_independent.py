"""Metrics against loops written from the definitions, on images that no golden value was made from: arrays,
tensors and batches, float32 and float64, constant images, any data range."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from ivan import metrics

KINDS = ("array", "tensor", "batch", "batch of tensors")


def as_kind(image, kind, dtype):
    """An image as a metric may get it; a batch holds it beside its mirror image."""
    values = image.astype(dtype)
    if kind.startswith("batch"):
        values = np.ascontiguousarray(np.stack([values[::-1], values])[:, None])  # [2, 1, H, W]
    return torch.from_numpy(values) if kind.endswith(("tensor", "tensors")) else values


def of_image(value, kind):
    """The value of the image of `as_kind`; what holds it has the right type."""
    if kind.startswith("batch"):
        assert tuple(value.shape) == (2, 1)
        assert value.dtype == (torch.float64 if kind.endswith("tensors") else np.float64)
        return float(value[1, 0])
    assert isinstance(value, metrics.Metric)
    return float(value)


def windows(image, k=8):
    h, w = image.shape
    return [image[i : i + k, j : j + k] for i in range(h - k + 1) for j in range(w - k + 1)]


def q0(x, y):
    mx, my = x.mean(), y.mean()
    vx, vy = (0.0 if z.min() == z.max() else z.var() for z in (x, y))  # rounding is no variance
    if vx == 0 and vy == 0:
        return 1.0 if mx == my == 0 else 2 * mx * my / (mx**2 + my**2)
    return 4 * ((x - mx) * (y - my)).mean() * mx * my / ((vx + vy) * (mx**2 + my**2))


def piella(a, b, f):
    values, weights = [], []
    for x, y, z in zip(windows(a), windows(b), windows(f), strict=True):
        lam = 0.5 if x.var() + y.var() == 0 else x.var() / (x.var() + y.var())
        values.append(lam * q0(x, z) + (1 - lam) * q0(y, z))
        weights.append(max(x.var(), y.var()))
    return np.mean(values), np.average(values, weights=weights)


def edges(image):
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    sx, sy = convolve2d(image, kernel, "same"), convolve2d(image, -kernel.T, "same")
    angle = np.array([[math.pi / 2 if x == 0 else math.atan(y / x) for x, y in zip(*r)] for r in zip(sx, sy)])  # noqa: B905
    return np.hypot(sx, sy), angle


def xydeas(a, b, f):
    gf, af = edges(f)
    total = weight = 0.0
    for source in (a, b):
        g, angle = edges(source)
        low, high = np.minimum(g, gf), np.maximum(g, gf)
        ratio = np.where(g == gf, 1.0, low / np.where(high > 0, high, 1))
        align = 1 - np.abs(angle - af) / (math.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (align - 0.8)))
        total, weight = total + (quality * g).sum(), weight + g.sum()
    return total / weight


def information(a, f):
    joint = np.histogram2d(a.ravel(), f.ravel(), bins=256, range=((-0.5, 255.5),) * 2)[0] / a.size
    pa, pf = joint.sum(1), joint.sum(0)
    inside = joint > 0
    h = [-(p[p > 0] * np.log2(p[p > 0])).sum() for p in (pa, pf)]
    return (joint[inside] * np.log2(joint[inside] / np.outer(pa, pf)[inside])).sum(), *h


def entropy(f):
    p = np.bincount(f.astype(int).ravel(), minlength=256) / f.size
    return -(p[p > 0] * np.log2(p[p > 0])).sum()


def average_gradient(f):
    gy, gx = np.gradient(f)
    return np.sqrt((gx**2 + gy**2) / 2).sum() / ((f.shape[0] - 1) * (f.shape[1] - 1))


def spatial_frequency(f):
    return math.sqrt((np.diff(f, axis=1) ** 2).mean() + (np.diff(f, axis=0) ** 2).mean())


def ssim(r, p, span, variant):
    k, sample = (11, 1.0) if variant == "wang" else (7, 49 / 48)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2)) if variant == "wang" else np.ones(7)
    weight = np.outer(line, line) / line.sum() ** 2
    values = []
    for x, y in zip(windows(r, k), windows(p, k), strict=True):
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy = (sample * (weight * (z - m) ** 2).sum() for z, m in ((x, mx), (y, my)))
        covariance = sample * (weight * (x - mx) * (y - my)).sum()
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        values.append((2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(values)


def fusion_by_hand(a, b, f):
    q, qw = piella(a, b, f)
    terms = [(2 * i / (h + hf) if h + hf > 0 else 1.0, i) for i, h, hf in (information(s, f) for s in (a, b))]
    return {
        "entropy": entropy(f),
        "average_gradient": average_gradient(f),
        "spatial_frequency": spatial_frequency(f),
        "mutual_information": sum(i for _, i in terms),
        "q_mi": sum(term for term, _ in terms),
        "q_abf": xydeas(a, b, f),
        "q_piella": q,
        "q_w": qw,
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
@pytest.mark.parametrize("kind", KINDS)
def test_fusion_metrics(kind, dtype):
    rng = np.random.default_rng(0)
    smooth = np.ones((3, 3)) / 9
    a, b = (np.rint(convolve2d(rng.integers(0, 256, (24, 27)), smooth, "same")) for _ in range(2))
    a[:10, :12] = 0  # a black corner in both: flat windows
    b[:10, :12] = 0
    flat, black = np.full(a.shape, 99.0), np.zeros(a.shape)
    f = np.rint(np.maximum(a, b) * 0.8 + 0.2 * np.minimum(a, b))
    for three in ((a, b, f), (a, b, a), (a, flat, f), (black, b, flat), (a, b, black), (a, a, a)):
        found = metrics.fusion_metrics(*(as_kind(x, kind, dtype) for x in three))
        by_hand = fusion_by_hand(*three)
        assert set(found) == set(by_hand)
        for name, value in by_hand.items():
            assert of_image(found[name], kind) == pytest.approx(value, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize(("low", "span"), [(0, 1), (0, 255), (-1024, 4095), (-0.2, 0.37)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_any_range(kind, dtype, low, span):
    """Hounsfield units, gray levels and fractions, negative values too; a flat corner."""
    rng = np.random.default_rng(1)
    r = low + span * rng.random((13, 31))
    r[:5, :9] = low
    p = r + rng.normal(0, 0.1 * span, r.shape)
    p[:5, :9] = low + span / 2
    r, p = (x.astype(dtype).astype(float) for x in (r, p))  # what is measured is what is stored
    reference, made = (as_kind(x, kind, dtype) for x in (r, p))
    found = {
        "psnr": (
            metrics.psnr(reference, made, data_range=span),
            10 * math.log10(span**2 / ((r - p) ** 2).mean()),
        ),
        "nmse": (metrics.nmse(reference, made), ((r - p) ** 2).sum() / (r**2).sum()),
        "average_gradient": (metrics.average_gradient(made), average_gradient(p)),
        "spatial_frequency": (metrics.spatial_frequency(made), spatial_frequency(p)),
        "q_0": (
            metrics.q_0(reference, made),
            np.mean([q0(x, y) for x, y in zip(windows(r), windows(p), strict=True)]),
        ),
    }
    for variant in ("wang", "uniform7"):
        value = metrics.ssim(reference, made, data_range=span, variant=variant)
        found[variant] = (value, ssim(r, p, span, variant))
    for name, (value, by_hand) in found.items():
        assert of_image(value, kind) == pytest.approx(by_hand, rel=1e-9), name


@pytest.mark.parametrize("kind", ["float64", "float32", "uint8", "uint16", "int16"])
def test_synthesis_metrics(kind):
    """Of unequal, odd sizes and of every stored type, against the formulas written out."""
    rng = np.random.default_rng(len(kind))
    reference = (rng.random((19, 24, 5)) * 200).astype(kind)
    reference[..., 0] = 0  # an empty slice
    prediction = np.clip(reference + rng.normal(0, 9, reference.shape), 0, 250).astype(kind)
    r, p = reference.astype(float), prediction.astype(float)
    error = (r - p) ** 2
    found = metrics.synthesis_metrics(reference, prediction, 255.0)
    slices = [10 * math.log10(255**2 / error[..., k].mean()) for k in range(1, 5)]
    ag = [sum(np.hypot(*np.gradient(x[..., k])).sum() for k in range(1, 5)) for x in (p, r)]
    sf = [
        sum(math.sqrt(sum((np.diff(x[..., k], axis=i) ** 2).mean() for i in (0, 1))) for k in range(1, 5))
        for x in (p, r)
    ]
    expected = {
        "psnr": 10 * math.log10(255**2 / error.mean()),
        "nmse": error.sum() / (r**2).sum(),
        "psnr_slices_mean": np.mean(slices),
        "psnr_slices_std": np.std(slices),
        "sharpness_ag": ag[0] / ag[1],
        "sharpness_sf": sf[0] / sf[1],
    }
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-12), name
