"""Batches and devices: the same numbers as one by one, each with its protocol; golden values as a batch."""

import json

import numpy as np
import pytest
import torch

from ivan import metrics
from ivan.errors import InputError

NAMES = {"entropy_bits": "entropy", "mutual_information_bits": "mutual_information", "q_w_piella": "q_w"}
RULES = ["average", "maximum", "laplacian_like"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def as_kind(array, kind):
    return array if kind == "numpy" else torch.from_numpy(np.ascontiguousarray(array)).to(kind)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["numpy", *DEVICES])
def test_golden_values_of_a_batch(shared, kind):
    images = np.load(shared / "reference" / "metric_golden.npz", allow_pickle=False)
    values = json.loads((shared / "reference" / "metric_golden.json").read_text())
    fused = as_kind(np.stack([images[rule] for rule in RULES])[None].astype(np.float32), kind)  # [1, 3, H, W]
    a, b = (as_kind(np.stack([images[n]] * 3)[None].astype(np.float32), kind) for n in "AB")
    found = metrics.fusion_metrics(a, b, fused)
    for number, rule in enumerate(RULES):
        for name, expected in values["fusion"][rule].items():
            value = found[NAMES.get(name, name)]
            assert tuple(value.shape) == (1, 3)
            assert float(value[0, number]) == pytest.approx(expected, abs=1e-6, rel=1e-6), (rule, name)
    r, p = (as_kind(images[n][None, None], kind) for n in ("reference", "prediction"))
    expected = values["synthesis"]
    for variant, name in (("wang", "ssim_wang"), ("uniform7", "ssim_uniform7")):
        found = metrics.synthesis_metrics(r, p, 1.0, variant=variant)
        assert float(found["psnr"][0, 0]) == pytest.approx(expected["psnr"], abs=1e-6)
        assert float(found["nmse"][0, 0]) == pytest.approx(expected["nmse"], abs=1e-9)
        assert float(found["ssim"][0, 0]) == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize("kind", ["numpy", *DEVICES])
def test_flat_images_of_a_batch_are_as_sharp_as_each_other(kind):
    flat, image = np.zeros((1, 1, 12, 12)), np.random.default_rng(0).random((1, 1, 12, 12))
    reference, prediction = np.concatenate([flat, flat, image]), np.concatenate([flat, image, flat])
    found = metrics.synthesis_metrics(as_kind(reference, kind), as_kind(prediction, kind), 1.0)
    for name in ("sharpness_ag", "sharpness_sf"):
        assert [float(value) for value in found[name].flatten()] == [1.0, np.inf, 0.0]
    small = metrics.synthesis_metrics(as_kind(image, kind), as_kind(image, kind), 1.0, with_ssim=False)
    assert set(found) - set(small) == {"ssim"}


@pytest.mark.parametrize("kind", ["numpy", *DEVICES])
def test_a_batch_is_its_images_one_by_one_and_says_how(kind):
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (3, 2, 3, 14, 15)).astype(np.float64)  # three images of [N=2, C=3]
    a, b, f = (as_kind(x, kind) for x in batch)
    for found, single in (
        (metrics.fusion_metrics(a, b, f), lambda n, c: metrics.fusion_metrics(*batch[:, n, c])),
        (
            metrics.synthesis_metrics(a, f, 255.0),
            lambda n, c: metrics.synthesis_metrics(batch[0, n, c], batch[2, n, c], 255.0),
        ),
    ):
        for n in range(2):
            for c in range(3):
                alone = single(n, c)
                for name, value in found.items():
                    assert float(value[n, c]) == pytest.approx(float(alone[name]), rel=1e-9), name
        said = metrics.protocols(found)
        assert set(said) == set(found)
        assert all("each image" in text for text in said.values())
    value = metrics.psnr(a, f, data_range=255.0)
    assert "data range 255" in value.protocol
    if kind == "numpy":
        assert isinstance(value, metrics.MetricArray)
        assert value[0].protocol == value.protocol
    else:
        assert value.device.type == kind


def test_through_plane_by_hand():
    rng = np.random.default_rng(1)
    r, p = rng.random((6, 5, 4)), rng.random((6, 5, 4))
    found = metrics.through_plane(r, p, data_range=2.0, axis=2)
    dr, dp = np.diff(r, axis=2), np.diff(p, axis=2)
    assert found["through_plane_error"] == pytest.approx(np.sqrt(np.mean((dp - dr) ** 2)) / 2)
    assert found["through_plane_ratio"] == pytest.approx(np.abs(dp).mean() / np.abs(dr).mean())
    assert "data range 2" in found["through_plane_error"].protocol
    tensors = metrics.through_plane(torch.from_numpy(r), torch.from_numpy(p), data_range=2.0, axis=2)
    assert tensors == found
    mask = np.zeros(r.shape)
    mask[2:4, 1:3, 1:4] = 1
    inside = metrics.through_plane(r, p, data_range=1.0, axis=2, mask=mask)
    cut = (slice(2, 4), slice(1, 3), slice(1, 4))
    assert inside["through_plane_error"] == pytest.approx(
        metrics.through_plane(r[cut], p[cut], data_range=1.0, axis=2)["through_plane_error"]
    )


def test_through_plane_sees_flicker_and_not_a_constant_error():
    r = np.random.default_rng(2).random((8, 8, 6))
    shifted = metrics.through_plane(r, r + 0.1, data_range=1.0)
    assert shifted["through_plane_error"] == pytest.approx(0, abs=1e-12)
    flicker = r + 0.1 * np.array([1, -1, 1, -1, 1, -1])
    assert metrics.psnr(r, flicker, data_range=1) == pytest.approx(metrics.psnr(r, r + 0.1, data_range=1))
    found = metrics.through_plane(r, flicker, data_range=1.0)
    assert found["through_plane_error"] == pytest.approx(0.2)
    flat = np.ones((3, 3, 3))
    assert metrics.through_plane(flat, flat, data_range=1.0)["through_plane_ratio"] == 1
    assert "through_plane_error" in metrics.synthesis_metrics(np.pad(r, 3), np.pad(r, 3), 1.0)
    assert "through_plane_error" not in metrics.synthesis_metrics(*[np.random.rand(12, 12)] * 2, 1.0)  # noqa: NPY002


@pytest.mark.parametrize("case", ["one slice", "image", "shape", "range", "mask"])
def test_through_plane_refuses_what_has_no_neighbours(case):
    r = np.random.default_rng(0).random((5, 4, 3))
    p, options = r.copy(), {"data_range": 1.0}
    if case == "one slice":
        r = p = r[..., :1]
    elif case == "image":
        r = p = r[..., 0]
    elif case == "shape":
        p = p[:-1]
    elif case == "range":
        options["data_range"] = 0.0
    else:
        options["mask"] = np.zeros(r.shape)
        options["mask"][..., 1] = 1
    with pytest.raises(InputError):
        metrics.through_plane(r, p, **options)
