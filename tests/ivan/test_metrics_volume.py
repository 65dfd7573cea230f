"""Volume and slice level figures of a case: what is pooled, what is skipped, what the protocol says."""

import math

import numpy as np
import pytest
import torch

from ivan import metrics
from ivan.errors import InputError


@pytest.fixture
def case():
    rng = np.random.default_rng(5)
    reference = rng.random((16, 18, 6))
    prediction = reference + 0.1 * rng.standard_normal(reference.shape)
    reference[..., 0] = prediction[..., 0] = 0  # a black slice at each end
    reference[..., 5] = 0
    return reference, prediction


def test_volume_psnr_pools_all_voxels(case):
    reference, prediction = case
    expected = -10 * math.log10(np.mean((reference - prediction) ** 2))
    for axis_order in ((0, 1, 2), (2, 0, 1)):
        r, p = reference.transpose(axis_order), prediction.transpose(axis_order)
        assert metrics.psnr(r, p, data_range=1) == pytest.approx(expected, abs=1e-10)
    assert "all voxels" in metrics.psnr(reference, prediction, data_range=1).protocol


def test_slice_means_skip_empty_slices(case):
    reference, prediction = case
    by_hand = [metrics.psnr(reference[..., z], prediction[..., z], data_range=1) for z in range(1, 5)]
    statistics = metrics.over_slices(metrics.psnr, reference, prediction, data_range=1)
    assert statistics.values == pytest.approx(by_hand)
    assert statistics.mean == pytest.approx(np.mean(by_hand))
    assert statistics.std == pytest.approx(np.std(by_hand))
    assert (statistics.counted, statistics.skipped) == (4, 2)
    assert "4 slices (2 empty skipped)" in statistics.mean.protocol
    # The trap: the black slice that both share is infinitely good.
    assert metrics.psnr(reference[..., 0], prediction[..., 0], data_range=1) == math.inf


def test_ssim_of_a_volume_needs_the_axis_and_skips_empty_slices(case):
    reference, prediction = case
    by_hand = [metrics.ssim(reference[..., z], prediction[..., z], data_range=1) for z in range(1, 5)]
    assert metrics.ssim(reference, prediction, data_range=1, axis=2) == pytest.approx(
        np.mean(by_hand), abs=1e-12
    )
    moved = metrics.ssim(np.moveaxis(reference, 2, 0), np.moveaxis(prediction, 2, 0), data_range=1, axis=0)
    assert moved == pytest.approx(np.mean(by_hand), abs=1e-12)
    with pytest.raises(InputError, match="axis"):
        metrics.ssim(reference, prediction, data_range=1)


def test_synthesis_metrics_of_a_case(case):
    reference, prediction = case
    result = metrics.synthesis_metrics(reference, prediction, 1.0)
    assert set(metrics.protocols(result)) == set(result)
    assert result["psnr"] == metrics.psnr(reference, prediction, data_range=1)
    assert result["nmse"] == metrics.nmse(reference, prediction)
    assert result["ssim"] == pytest.approx(
        metrics.ssim(reference, prediction, data_range=1, axis=2), abs=1e-12
    )
    inner = slice(1, 5)
    for name, metric in (("ag", metrics.average_gradient), ("sf", metrics.spatial_frequency)):
        expected = metric(prediction[..., inner], axis=2) / metric(reference[..., inner], axis=2)
        assert result[f"sharpness_{name}"] == pytest.approx(expected, abs=1e-12)
    as_tensors = metrics.synthesis_metrics(torch.from_numpy(reference), torch.from_numpy(prediction), 1.0)
    assert as_tensors == pytest.approx(result)
    one_image = metrics.synthesis_metrics(reference[..., 2], prediction[..., 2], 1.0)
    assert one_image["psnr"] == pytest.approx(one_image["psnr_slices_mean"])
    assert one_image["psnr_slices_std"] == 0


def test_variants_change_what_they_name(case):
    reference, prediction = case
    wang = metrics.synthesis_metrics(reference, prediction, 1.0)
    uniform = metrics.synthesis_metrics(reference, prediction, 1.0, variant="uniform7")
    notes = metrics.synthesis_metrics(reference, prediction, 1.0, variant="notes")
    assert {k for k in wang if wang[k] != uniform[k]} == {"ssim", "ssim_slices_std"}
    assert {k for k in wang if wang[k] != notes[k]} == {"nmse", "nmse_slices_mean", "nmse_slices_std"}
    assert "uniform7" in uniform["ssim"].protocol
    assert "notes" in notes["nmse"].protocol
    assert (
        "notes" in notes["sharpness_ag"].protocol
    )  # a ratio: the factors cancel, the protocol still says it
    with pytest.raises(InputError, match="uniform7"):
        metrics.synthesis_metrics(reference, prediction, 1.0, variant="gauss")


def test_equal_volumes_are_infinitely_good_and_never_nan(case):
    reference, _ = case
    result = metrics.synthesis_metrics(reference, reference.copy(), 1.0)
    assert result["psnr"] == result["psnr_slices_mean"] == math.inf
    assert result["psnr_slices_std"] == 0
    assert result["nmse"] == 0
    assert result["ssim"] == result["sharpness_ag"] == result["sharpness_sf"] == 1
    half = reference.copy()
    half[..., 1] += 0.5
    result = metrics.synthesis_metrics(reference, half, 1.0)
    assert result["psnr_slices_mean"] == result["psnr_slices_std"] == math.inf
    assert not any(math.isnan(v) for v in result.values())


def test_masks_reach_every_masked_metric(case):
    reference, prediction = case
    mask = np.zeros(reference.shape, bool)
    mask[6:10, 6:11, 2:4] = True
    mask[0, 0, 1] = True  # in the border, where no SSIM window is centred
    masked = metrics.synthesis_metrics(reference, prediction, 1.0, mask=mask)
    assert masked["psnr"] == pytest.approx(-10 * math.log10(np.mean((reference - prediction)[mask] ** 2)))
    assert "3 slices (3 empty" in masked["psnr_slices_mean"].protocol
    assert "2 slices (4 empty" in masked["ssim"].protocol
    slices = [
        metrics.ssim(reference[..., z], prediction[..., z], data_range=1, mask=mask[..., z])
        for z in range(2, 4)
    ]
    assert masked["ssim"] == pytest.approx(np.mean(slices), abs=1e-12)
    assert metrics.ssim(reference, prediction, data_range=1, axis=2, mask=mask) == pytest.approx(
        masked["ssim"]
    )


def test_foreground_mask_comes_from_the_reference(case):
    reference, _ = case
    mask = metrics.foreground_mask(reference, 0.5)
    np.testing.assert_array_equal(mask, reference > 0.5)
    assert isinstance(metrics.foreground_mask(torch.ones(2, 2)), torch.Tensor)
    with pytest.raises(InputError, match="threshold"):
        metrics.foreground_mask(np.zeros((3, 3)))


def test_empty_references_and_wrong_grids_are_refused(case):
    reference, prediction = case
    with pytest.raises(InputError, match="empty"):
        metrics.synthesis_metrics(np.zeros_like(reference), prediction, 1.0)
    with pytest.raises(InputError, match="resample"):
        metrics.synthesis_metrics(reference, prediction[1:], 1.0)
    with pytest.raises(InputError, match="mask"):
        metrics.synthesis_metrics(reference, prediction, 1.0, mask=np.ones((2, 2, 2)))
    with pytest.raises(InputError, match="11x11"):
        metrics.synthesis_metrics(reference[:8], prediction[:8], 1.0, mask=np.ones_like(reference[:8]))


def test_fusion_of_a_volume_skips_slices_without_sources():
    rng = np.random.default_rng(0)
    a, b, f = (rng.integers(0, 256, (3, 16, 17)).astype(np.uint8) for _ in range(3))
    a[1] = b[1] = 0
    result = metrics.fusion_metrics(a, b, f, axis=0)
    singles = [metrics.fusion_metrics(a[i], b[i], f[i]) for i in (0, 2)]
    for name, value in result.items():
        assert value == pytest.approx(np.mean([s[name] for s in singles]), abs=1e-12), name
    assert metrics.q_w(a, b, f, axis=0) == pytest.approx(result["q_w"])
    with pytest.raises(InputError, match="empty"):
        metrics.fusion_metrics(a[1:2], b[1:2], f[1:2], axis=0)


def test_chunks_do_not_change_the_values():
    from ivan.metrics.windows import UNIFORM_7, in_chunks, window_means

    x = torch.from_numpy(np.random.default_rng(2).random((5, 9, 12)))
    sizes = []

    def compute(part):
        sizes.append(part.shape[0])
        return window_means(part, UNIFORM_7)

    chunked = in_chunks(compute, (x,), pixels=2 * 9 * 12 + 5)
    assert sizes == [2, 2, 1]
    assert torch.equal(chunked, window_means(x, UNIFORM_7))
    torch.testing.assert_close(chunked[3, 2, 4], x[3, 2:9, 4:11].mean(), rtol=1e-14, atol=0)
