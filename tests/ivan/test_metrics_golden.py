"""Metrics against golden values of independent code, and SSIM and PSNR against scikit-image."""

import json

import numpy as np
import pytest
import torch

from ivan import metrics

GOLDEN_NAMES = {
    "entropy_bits": "entropy",
    "mutual_information_bits": "mutual_information",
    "q_w_piella": "q_w",
}


@pytest.fixture(scope="module")
def golden(shared):
    images = np.load(shared / "reference" / "metric_golden.npz", allow_pickle=False)
    return images, json.loads((shared / "reference" / "metric_golden.json").read_text())


@pytest.mark.data
@pytest.mark.parametrize("rule", ["average", "maximum", "laplacian_like"])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["numpy", "torch"])
def test_fusion_golden(golden, rule, as_tensor):
    images, values = golden
    a, b, fused = images["A"], images["B"], images[rule]
    if as_tensor:
        a, b, fused = (torch.from_numpy(x) for x in (a, b, fused))
    result = metrics.fusion_metrics(a, b, fused)
    assert len(result) == len(values["fusion"][rule])
    for name, expected in values["fusion"][rule].items():
        assert result[GOLDEN_NAMES.get(name, name)] == pytest.approx(expected, abs=1e-6, rel=1e-6), name


@pytest.mark.data
@pytest.mark.parametrize("as_tensor", [False, True], ids=["numpy", "torch"])
def test_synthesis_golden(golden, as_tensor):
    images, values = golden
    r, p, expected = images["reference"], images["prediction"], values["synthesis"]
    if as_tensor:
        r, p = torch.from_numpy(r), torch.from_numpy(p)
    assert metrics.psnr(r, p, data_range=1.0) == pytest.approx(expected["psnr"], abs=1e-6)
    assert metrics.ssim(r, p, data_range=1.0) == pytest.approx(expected["ssim_wang"], abs=1e-6)
    uniform = metrics.ssim(r, p, data_range=1.0, variant="uniform7")
    assert uniform == pytest.approx(expected["ssim_uniform7"], abs=1e-6)
    assert metrics.nmse(r, p) == pytest.approx(expected["nmse"], abs=1e-9)


@pytest.mark.parametrize("shape", [(11, 11), (12, 40), (33, 17)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_against_scikit_image(shape, data_range):
    from skimage import metrics as skimage

    rng = np.random.default_rng(3)
    r = rng.random(shape) * data_range
    p = r + 0.1 * data_range * rng.standard_normal(shape)
    wang = skimage.structural_similarity(
        r, p, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(r, p, data_range=data_range) == pytest.approx(wang, abs=1e-12)
    uniform = skimage.structural_similarity(r, p, data_range=data_range)
    assert metrics.ssim(r, p, data_range=data_range, variant="uniform7") == pytest.approx(uniform, abs=1e-12)
    expected = skimage.peak_signal_noise_ratio(r, p, data_range=data_range)
    assert metrics.psnr(r, p, data_range=data_range) == pytest.approx(expected, abs=1e-10)
