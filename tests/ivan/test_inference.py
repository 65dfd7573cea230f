"""Synthesised images: place, shape, affine, units, directions, any numbers of modalities."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ivan.cli import run as ivan
from ivan.errors import InputError
from ivan.inference import load_predictor, load_run, synthesize


def test_load_run(tiny_run: Path) -> None:
    model, aug, config = load_run(tiny_run)
    assert not model.training
    assert (aug.sources, aug.targets) == (1, 1)
    assert config.sources == ("T1",)
    x = torch.rand(1, 2, 9, 7)
    assert torch.allclose(model.inverse(model(x)), x, atol=1e-4)


@pytest.mark.parametrize("inverse", [False, True])
def test_grid_and_units(tiny_run: Path, tiny_data: Path, tmp_path: Path, inverse: bool) -> None:
    given, made = ("T2", "T1") if inverse else ("T1", "T2")
    source = tmp_path / "data"
    shutil.copytree(tiny_data / given, source / given)  # the modality to synthesise is absent
    paths = synthesize(tiny_run, source, tmp_path / "out", inverse=inverse, progress=False, device="cpu")
    assert paths == [tmp_path / "out" / made / f"sub-{i:02d}.nii.gz" for i in range(3)]
    scale = json.loads((tiny_run / "normalisation.json").read_text())["scales"][made]
    predictor = load_predictor(tiny_run, device="cpu")
    for path in paths:
        result, like = nib.load(path), nib.load(source / given / path.name)
        assert result.shape == like.shape
        assert np.array_equal(result.affine, like.affine)
        assert nib.aff2axcodes(result.affine) == ("L", "A", "S")
        values = np.asarray(result.dataobj)
        assert values.min() >= 0  # magnitude images
        # The same by hand: voxels as stored -> slices -> network -> voxels, in the training scale.
        stored = np.asarray(like.dataobj, np.float32)
        high = np.percentile(stored[stored > 0], 99.5)
        slices = torch.from_numpy((stored / np.float32(high))[::-1].transpose(2, 1, 0)[:, None, ::-1].copy())
        state = slices.expand(-1, 2, -1, -1).contiguous()
        with torch.no_grad():
            output = predictor.model.inverse(state) if inverse else predictor.model(state)
        wanted = output.mean(1).numpy()[:, ::-1].transpose(2, 1, 0)[::-1].clip(0) * scale["high"]
        assert np.allclose(values, wanted, atol=1e-4 * scale["high"])


def test_batches_do_not_change_the_result(tiny_run: Path) -> None:
    slices = np.random.default_rng(0).random((5, 1, 12, 10), np.float32)
    one = load_predictor(tiny_run, device="cpu", pixels=1).predict(slices)
    all_ = load_predictor(tiny_run, device="cpu").predict(slices)
    assert one.shape == (5, 1, 12, 10)
    assert np.allclose(one, all_, atol=1e-6)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [(("T1", "PD"), ("T2",)), (("T1",), ("T2", "PD")), (("T1", "FLAIR"), ("T2", "PD"))],
    ids=["2to1", "1to2", "2to2"],
)
def test_any_number_of_modalities(
    train: Callable[..., Path], tiny_data: Path, tmp_path: Path, sources: Any, targets: Any
) -> None:
    run = train(sources=sources, targets=targets, epochs=1)
    forward = synthesize(run, tiny_data, tmp_path / "f", progress=False, device="cpu")
    backward = synthesize(run, tiny_data, tmp_path / "b", inverse=True, progress=False, device="cpu")
    assert {p.parent.name for p in forward} == set(targets)
    assert {p.parent.name for p in backward} == set(sources)
    assert len(forward) == 3 * len(targets)
    assert len(backward) == 3 * len(sources)


def test_an_older_result_is_replaced_and_an_older_checkpoint_can_be_chosen(
    train: Callable[..., Path], tiny_data: Path, tmp_path: Path
) -> None:
    run = train(checkpoint_every=5)
    synthesize(run, tiny_data, tmp_path / "out", progress=False, device="cpu")
    path = tmp_path / "out" / "T2" / "sub-00.nii.gz"
    before = path.read_bytes()
    synthesize(run, tiny_data, tmp_path / "out", checkpoint="step-5", progress=False, device="cpu")
    assert path.read_bytes() != before


@pytest.mark.parametrize("inverse", [False, True])
def test_no_image_beside_the_given_ones_is_replaced(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, inverse: bool
) -> None:
    """Not by way of a link either; where nothing is in the way, results may lie beside the images."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (tmp_path / "link").symlink_to(data)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for out in (data, tmp_path / "link"):
        with pytest.raises(InputError, match="lies among the images of --data and would be replaced"):
            synthesize(tiny_run, data, out, inverse=inverse, device="cpu", progress=False)
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    shutil.rmtree(data / ("T1" if inverse else "T2"))
    assert synthesize(tiny_run, data, data, inverse=inverse, device="cpu", progress=False)


def test_negative_values_are_kept_where_training_had_some(
    train: Callable[..., Path], tiny_data: Path, tmp_path: Path
) -> None:
    """Images from -1 to 1 that are taken as they are; a run without that record cuts at 0, as before."""
    data = tmp_path / "data"
    for path in tiny_data.glob("T[12]/*.nii.gz"):
        image = nib.load(path)
        values = image.get_fdata()
        target = data / path.relative_to(tiny_data)
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.float32(values / values.max() * 2 - 1), image.affine), target)
    run = train(data=str(data), normalise="none")
    for inverse, name in ((False, "T2"), (True, "T1")):
        synthesize(run, data, tmp_path / "out", inverse=inverse, progress=False, device="cpu")
        assert nib.load(tmp_path / "out" / name / "sub-00.nii.gz").get_fdata().min() < -0.5
    path = run / "normalisation.json"
    content = json.loads(path.read_text())
    for profiles in content["profiles"].values():
        for profile in profiles.values():
            assert profile.pop("lowest") == -1
    path.write_text(json.dumps(content))
    synthesize(run, data, tmp_path / "out", progress=False, device="cpu")
    assert nib.load(tmp_path / "out" / "T2" / "sub-00.nii.gz").get_fdata().min() == 0


def test_clipping_is_told_with_an_uncertainty_too(
    train: Callable[..., Path], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(last_scale=1.0, epochs=1)
    told = []
    for uncertainty in (False, True):
        synthesize(run, tiny_data, tmp_path / "out", uncertainty=uncertainty, progress=False, device="cpu")
        told.append([line for line in capsys.readouterr().err.splitlines() if "set to 0" in line])
    assert told[0] == told[1] != []


def test_weights_in_use_are_the_averages(train: Callable[..., Path]) -> None:
    from ivan.training.checkpoint import read_checkpoint

    run = train(ema=0.9)
    tensors = read_checkpoint(run).tensors
    model, _, _ = load_run(run)
    name = "chain.blocks.0.coupling.F.weights.0"
    assert torch.equal(model.state_dict()[name], tensors["model"][name])
    assert not torch.equal(tensors["model"][name], tensors["training"][name])


def test_a_bad_case_does_not_cost_the_others(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "T1").mkdir()
    for number, name in enumerate(("a", "b", "c")):
        content = (tiny_data / "T1" / f"sub-{number:02d}.nii.gz").read_bytes()
        (tmp_path / "T1" / f"{name}.nii.gz").write_bytes(content[:200] if name == "a" else content)
    arguments = [
        "synthesize",
        "--run",
        str(tiny_run),
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert ivan([*arguments, "--device", "cpu"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "a.nii.gz" in line]
    assert error[0].startswith("ivan: note: a left out:")
    assert "1 of 3 cases could not be used, the others are written" in error[1]
    assert sorted(path.name for path in (tmp_path / "out" / "T2").iterdir()) == ["b.nii.gz", "c.nii.gz"]
