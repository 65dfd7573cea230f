"""Uncertainty: the formula, that it ranks the true error better than chance, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from ivan.cli import run as ivan
from ivan.errors import InputError
from ivan.inference import load_predictor
from ivan.metrics import uncertainty_ranking
from ivan.uncertainty import predict_with_uncertainty


def test_ranking_by_hand() -> None:
    rng = np.random.default_rng(0)
    reference, error = rng.random((9, 8, 7)), rng.exponential(size=(9, 8, 7))
    doubt = error + rng.random(error.shape)
    found = uncertainty_ranking(reference, reference + error, doubt)
    assert found["uncertainty_spearman"] == pytest.approx(spearmanr(error.ravel(), doubt.ravel())[0])
    by_doubt, by_error = (error.ravel()[np.argsort(-x.ravel())] for x in (doubt, error))
    curves = [
        [c[c.size - int(np.ceil(c.size * (1 - s / 100))) :].mean() for s in range(100)]
        for c in (by_doubt, by_error)
    ]
    mean = error.mean()
    assert found["uncertainty_aurg"] == pytest.approx(np.mean(mean - np.array(curves[0])) / mean)
    assert found["uncertainty_ause"] == pytest.approx(np.mean(np.array(curves[0]) - curves[1]) / mean)
    tensors = uncertainty_ranking(*(torch.from_numpy(x) for x in (reference, reference + error, doubt)))
    assert tensors == found


def test_ranking_of_perfect_constant_and_reversed_maps() -> None:
    error = np.random.default_rng(1).random(5000)
    zero = np.zeros_like(error)
    perfect = uncertainty_ranking(zero, error, error)
    assert perfect["uncertainty_spearman"] == pytest.approx(1)
    assert perfect["uncertainty_ause"] == pytest.approx(0, abs=1e-12)
    constant = uncertainty_ranking(zero, error, zero)
    assert constant["uncertainty_spearman"] == 0
    assert constant["uncertainty_aurg"] == pytest.approx(0, abs=1e-9)
    assert uncertainty_ranking(zero, error, -error)["uncertainty_aurg"] < -0.2
    chance = np.random.default_rng(2).random(5000)
    assert abs(uncertainty_ranking(zero, error, chance)["uncertainty_aurg"]) < 0.05
    assert uncertainty_ranking(zero, zero, error)["uncertainty_aurg"] == 0
    mask = np.zeros(5000)
    with pytest.raises(InputError, match="two to rank"):
        uncertainty_ranking(zero, error, error, mask)


@pytest.mark.parametrize("inverse", [False, True])
def test_map_by_hand(tiny_run: Path, inverse: bool) -> None:
    predictor = load_predictor(tiny_run, device="cpu")
    slices = np.random.default_rng(0).random((3, 1, 12, 11), np.float32)
    made, doubt = predict_with_uncertainty(predictor, slices, inverse, span=(1, 3))
    there, back = predictor.model, predictor.model.inverse
    if inverse:
        there, back = back, there
    with torch.no_grad():
        x = torch.from_numpy(slices[1:])
        output = there(x.repeat(1, 2, 1, 1))
        mean = output.mean(1, keepdim=True)
        returned = back(mean.repeat(1, 2, 1, 1)).mean(1, keepdim=True)
        wanted = (output.var(1, correction=0, keepdim=True) + (returned - x).square()).sqrt().numpy()
    assert np.allclose(doubt, wanted, atol=1e-6)
    assert np.allclose(made, mean.numpy().clip(0), atol=1e-6)


def hard_head(root: Path, case: str, seed: int) -> None:
    """T2 follows T1 in one half; in the other, dark in T1, it is noise that T1 does not tell."""
    rng = np.random.default_rng(seed)
    t1 = gaussian_filter(rng.uniform(0.2, 1, (24, 24, 4)), 1.0, axes=(0, 1))
    t1 = (t1 - t1.min()) / (t1.max() - t1.min()) * 0.8 + 0.2
    t2 = 1.2 - t1
    t2[12:] = 0.2 + 0.8 * rng.random(t2[12:].shape)
    t1[12:] *= 0.5
    for name, values in (("T1", t1), ("T2", t2)):
        (root / name).mkdir(parents=True, exist_ok=True)
        nib.save(
            nib.Nifti1Image((values * 500).astype(np.float32), np.eye(4)), root / name / f"{case}.nii.gz"
        )


def test_better_than_chance_on_an_unseen_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    hard_head(data, "a", 0)
    hard_head(data, "b", 1)
    split = tmp_path / "split.json"
    split.write_text('{"training": ["a"], "validation": ["b"]}')
    line = (
        f"train --data {data} --split {split} --from T1 --to T2 --out {run} --blocks 2 --growth 8 --epochs "
        "40 "
        "--lr 5e-3 --last-scale 0.1 --validate-epochs 0 --no-tensorboard --device cpu --threads 1 --quiet"
    )
    assert ivan(line.split()) == 0
    line = (
        f"evaluate --run {run} --data {data} --split {split} --direction forward --uncertainty --device cpu"
    )
    capsys.readouterr()
    assert ivan(line.split()) == 0
    assert "0 is chance" in capsys.readouterr().out
    row = json.loads((run / "evaluation" / "metrics.json").read_text())["cases"][0]
    assert "reference exceeds 0.05 of its scale" in row["protocol"]["uncertainty_aurg"]  # which mask
    values = row["values"]
    assert values["uncertainty_spearman"] > 0.3
    assert values["uncertainty_aurg"] > 0.2
    assert values["uncertainty_ause"] < 0.6  # chance would leave all that is possible
    # The same through files: the map that synthesize writes ranks the error of the image that it writes.
    out = tmp_path / "out"
    assert (
        ivan(f"synthesize --run {run} --data {data} --out {out} --uncertainty --device cpu --quiet".split())
        == 0
    )
    real, made, doubt = (
        nib.load(folder / "b.nii.gz").get_fdata()
        for folder in (data / "T2", out / "T2", out / "T2_uncertainty")
    )
    assert spearmanr(np.abs(real - made).ravel(), doubt.ravel())[0] > 0.3
    assert doubt.min() >= 0
    # The maps are no predictions.
    assert ivan(f"evaluate --prediction {out} --reference {data} --quiet".split()) == 0
    rows = json.loads((out / "evaluation" / "metrics.json").read_text())["cases"]
    assert {row["target"] for row in rows} == {"T2"}


def test_without_spare_channels_it_is_refused(
    tiny_data: Path, tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    line = f"train --data {tiny_data} --from T1 --to T2 --to PD --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    start = (
        f"synthesize --run {run} --data {tiny_data} --out {tmp_path / 'o'} --uncertainty --device cpu --quiet"
    )
    capsys.readouterr()
    assert ivan(start.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1  # of the option, not of each case
    assert "--channels 3" in said[0]
    assert ivan([*start.split(), "--inverse"]) == 0  # one source in two channels
    assert (tmp_path / "o" / "T1_uncertainty" / "sub-00.nii.gz").exists()
    more = tmp_path / "more"
    line = f"train --data {tiny_data} --from T1 --to T2 --to PD --channels 3 --fill zero --out {more}"
    assert ivan([*line.split(), *tiny_options]) == 0
    assert ivan(start.replace(str(run), str(more)).split()) == 0
    capsys.readouterr()
    line = f"evaluate --run {run} --data {tiny_data} --uncertainty --device cpu --quiet"
    assert ivan([*line.split(), "--direction", "forward"]) == 2
    assert ivan(line.split()) == 0  # the inverse has one
    assert "none for the forward" in capsys.readouterr().err
    rows = json.loads((run / "evaluation" / "metrics.json").read_text())["cases"]
    assert {r["direction"] for r in rows if "uncertainty_aurg" in r["values"]} == {"inverse"}
    assert ivan(f"evaluate --prediction {tmp_path} --reference {tiny_data} --uncertainty".split()) == 2
