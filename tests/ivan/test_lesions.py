"""Errors inside lesions beside the brain: the numbers, masks on other grids, cases without lesions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ivan.cli import run as ivan
from ivan.evaluation import evaluate
from ivan.metrics import lesion_contrast, region_metrics


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4) if affine is None else affine), path)


def test_region_metrics_by_hand() -> None:
    rng = np.random.default_rng(0)
    r, p, inside = rng.random((6, 7, 5)), rng.random((6, 7, 5)), rng.random((6, 7, 5)) > 0.7
    found = region_metrics(r, p, inside, "lesion", 2.0)
    error = (p - r)[inside]
    assert found["lesion_mae"] == pytest.approx(np.abs(error).mean())
    assert found["lesion_bias"] == pytest.approx(error.mean())
    assert found["lesion_psnr"] == pytest.approx(10 * np.log10(4 / np.mean(error**2)))
    assert f"{inside.sum()} voxels" in found["lesion_mae"].protocol


def test_contrast_of_a_lesion_that_fades() -> None:
    r = np.full((11, 11, 3), 0.5)
    lesion = np.zeros(r.shape, bool)
    lesion[4:7, 4:7, 1] = True
    r[lesion] = 0.9
    brain = np.ones(r.shape)
    for share in (1.0, 0.25, 0.0):
        p = np.where(lesion, 0.5 + share * 0.4, 0.5)
        assert lesion_contrast(r, p, lesion, brain)["lesion_contrast"] == pytest.approx(share)
    assert lesion_contrast(r, r, np.zeros(r.shape), brain) == {}
    assert lesion_contrast(np.full(r.shape, 0.5), r, lesion, brain) == {}


@pytest.fixture
def heads(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Real and predicted T2 of two cases; `a` has lesions that the prediction does not show."""
    rng = np.random.default_rng(3)
    lesion = np.zeros((16, 14, 4), bool)
    lesion[6:9, 6:9, 1:3] = True
    real = np.zeros((16, 14, 4))
    real[2:14, 2:12] = rng.uniform(90, 110, (12, 10, 4))
    made = real + rng.normal(0, 1, real.shape) * (real > 0)
    real[lesion] += 80
    for case in ("a", "b"):
        save(tmp_path / "real/T2" / f"{case}.nii.gz", real)
        save(tmp_path / "made/T2" / f"{case}.nii.gz", made)
    save(tmp_path / "real/lesion/a.nii.gz", lesion)
    return tmp_path / "real", tmp_path / "made", lesion, real


def test_files(heads: tuple[Path, Path, np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    real, made, lesion, values = heads
    line = f"evaluate --prediction {made} --reference {real} --lesions lesion --slices 0:3"
    assert ivan(line.split()) == 0
    assert "PSNR lesions" in capsys.readouterr().out
    rows = {
        r["case"]: r["values"] for r in json.loads((made / "evaluation/metrics.json").read_text())["cases"]
    }
    assert "lesion_mae" not in rows["b"]
    found = rows["a"]
    high = np.percentile(values[values > 0], 99.5)
    assert found["lesion_mae"] == pytest.approx(80 / high, rel=0.1)
    assert found["lesion_bias"] == pytest.approx(-80 / high, rel=0.1)
    assert found["brain_mae"] < found["lesion_mae"] / 5
    assert found["lesion_psnr"] < found["brain_psnr"] - 5
    assert abs(found["lesion_contrast"]) < 0.15
    cut = (slice(None), slice(None), slice(0, 3))
    stored = nib.load(made / "T2/a.nii.gz").get_fdata()
    expected = np.abs(stored - values)[cut][lesion[cut]].mean() / high
    assert found["lesion_mae"] == pytest.approx(expected, rel=1e-5)
    assert (made / "evaluation/metrics.csv").read_text().splitlines()[0].count("lesion_mae") == 1


def test_what_has_no_mask_and_what_a_mean_counts_is_said(
    heads: tuple[Path, Path, np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    """Case b has no mask, c an empty one: the means of brain and lesions are over other cases than PSNR's."""
    real, made, _, values = heads
    save(real / "T2/c.nii.gz", values)
    save(made / "T2/c.nii.gz", values + 1)
    save(real / "lesion/c.nii.gz", np.zeros(values.shape))
    assert ivan(f"evaluate --prediction {made} --reference {real} --lesions lesion".split()) == 0
    found = json.loads((made / "evaluation/metrics.json").read_text())
    assert found["warnings"] == [
        "b: no lesion mask, no figures of brain and lesions",
        "c: its lesion mask is empty in the measured slices, no figures of lesions",
    ]
    counts = found["means"][0]["counts"]
    assert counts["brain_psnr"] == 2
    assert counts["lesion_psnr"] == counts["lesion_contrast"] == 1
    assert "psnr" not in counts
    assert found["protocol"]["brain"] == "reference above 0.05 of its scale"
    said = capsys.readouterr().out
    assert "(of 1)" in said
    assert "(of 2)" in said


def test_run_and_masks_on_another_grid(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    for name in ("T1", "T2"):
        shutil.copytree(tiny_data / name, data / name)
    image = nib.load(tiny_data / "T2" / "sub-01.nii.gz")
    lesion = np.zeros(image.shape)
    lesion[5:8, 4:7, 1] = 1
    save(data / "lesion" / "sub-01.nii.gz", lesion, image.affine)
    result = evaluate(run=tiny_run, data=data, lesions="lesion", device="cpu")
    assert "sub-00: no lesion mask, no figures of brain and lesions" in result.warnings
    wanted = result.cases
    found = {(r.case, r.direction): r.values for r in wanted}
    assert "lesion_mae" in found["sub-01", "forward"]
    assert "lesion_mae" in found["sub-01", "inverse"]
    assert "lesion_mae" not in found["sub-00", "forward"]
    # The same mask stored in another order gives the same numbers; so does an empty one in another case.
    flipped = image.affine @ np.diag([-1, 1, 1, 1])
    flipped[:3, 3] = (image.affine @ [image.shape[0] - 1, 0, 0, 1])[:3]
    save(data / "lesion" / "sub-01.nii.gz", lesion[::-1], flipped)
    save(data / "lesion" / "sub-00.nii.gz", np.zeros(image.shape), image.affine)
    again = {
        (r.case, r.direction): r.values
        for r in evaluate(run=tiny_run, data=data, lesions="lesion", device="cpu").cases
    }
    assert again["sub-01", "forward"] == found["sub-01", "forward"]
    assert "brain_mae" in again["sub-00", "forward"]
    assert "lesion_mae" not in again["sub-00", "forward"]


def test_masks_that_do_not_exist(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ivan(f"evaluate --run {tiny_run} --data {tiny_data} --lesions mask --device cpu".split()) == 2
    error = capsys.readouterr().err
    assert "--lesions" in error
    assert error.count("\n") == 1
