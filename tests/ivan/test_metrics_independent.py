"""Fusion metrics against loops written from the definitions, on images that no golden value was made from."""

import math

import numpy as np
import pytest
from scipy.signal import convolve2d

from ivan import metrics


def windows(image):
    h, w = image.shape
    return [image[i : i + 8, j : j + 8] for i in range(h - 7) for j in range(w - 7)]


def q0(x, y):
    mx, my, vx, vy = x.mean(), y.mean(), x.var(), y.var()
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


@pytest.mark.parametrize("seed", range(3))
def test_fusion_metrics(seed):
    rng = np.random.default_rng(seed)
    smooth = np.ones((3, 3)) / 9
    a, b = (np.rint(convolve2d(rng.integers(0, 256, (24, 27)), smooth, "same")) for _ in range(2))
    a[:10, :12] = 0  # a black corner in both: flat windows
    b[:10, :12] = 0
    f = np.rint(np.maximum(a, b) * 0.8 + 0.2 * np.minimum(a, b))
    found = metrics.fusion_metrics(a, b, f)
    q, qw = piella(a, b, f)
    assert found["q_piella"] == pytest.approx(q, abs=1e-9)
    assert found["q_w"] == pytest.approx(qw, abs=1e-9)
    assert found["q_abf"] == pytest.approx(xydeas(a, b, f), abs=1e-9)
    (ia, ha, hf), (ib, hb, _) = information(a, f), information(b, f)
    assert found["entropy"] == pytest.approx(hf, abs=1e-9)
    assert found["mutual_information"] == pytest.approx(ia + ib, abs=1e-9)
    assert found["q_mi"] == pytest.approx(2 * (ia / (ha + hf) + ib / (hb + hf)), abs=1e-9)
    gy, gx = np.gradient(f)
    assert found["average_gradient"] == pytest.approx(np.sqrt((gx**2 + gy**2) / 2).sum() / (23 * 26))
    rows, columns = (np.diff(f, axis=1) ** 2).mean(), (np.diff(f, axis=0) ** 2).mean()
    assert found["spatial_frequency"] == pytest.approx(math.sqrt(rows + columns))


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
