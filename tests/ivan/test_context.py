"""Neighbouring slices: their order, the ends of the volume, ranges, and a network that needs them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ivan.cli import run as ivan
from ivan.data import Augmentation, CaseRange, SliceDataset, find_cases, load_case
from ivan.data.context import neighbours, offsets, with_context
from ivan.errors import InputError


def test_order_and_ends() -> None:
    assert offsets(2) == [0, -1, 1, -2, 2]
    assert neighbours(np.array([0, 3]), 4, 1).tolist() == [[0, 0, 1], [3, 2, 3]]
    slices = np.arange(5 * 2, dtype=np.float32).reshape(5, 2, 1, 1)  # value 2 s + m
    stacked = with_context(slices, 1)[..., 0, 0]
    assert stacked[2].tolist() == [4, 5, 2, 3, 6, 7]  # both modalities of slices 2, 1, 3
    assert stacked[0].tolist() == [0, 1, 0, 1, 2, 3]
    assert np.array_equal(with_context(slices, 1, (1, 3)), with_context(slices, 1)[1:3])
    assert np.shares_memory(with_context(slices, 0), slices)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_data_set_gives_the_neighbours_of_the_whole_volume(tmp_path: Path, cache: str) -> None:
    for number, name in enumerate(("T1", "T2")):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(number).uniform(0.5, 1, (12, 12, 8))
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name / "a.nii.gz")
    case = find_cases(tmp_path, ["T1", "T2"])[0]
    whole = load_case(case, ["T1", "T2"]).slices
    for training in (True, False):
        data = SliceDataset(
            [CaseRange(case, 2, 4)], ["T1"], ["T2"], training=training, context=1, cache=cache,
            cache_dir=tmp_path / "cache", augmentation=Augmentation(flips=False, quarter_turns=False),
        )  # fmt: skip
        assert [number for _, number in data.entries] == [2, 3]
        item = data[1]
        assert item["source"].shape[0] == 3
        assert np.array_equal(item["source"].numpy(), whole[[3, 2, 4], 0])  # 4 lies beyond the range
        assert np.array_equal(item["target"].numpy(), whole[3, 1:])
    strong = Augmentation(rotate=10, contrast=0.3, probability=1.0)
    data = SliceDataset(
        [CaseRange(case)], ["T1"], ["T2"], training=True, context=2, augmentation=strong, min_foreground=0
    )
    assert data[0]["source"].shape[0] == data[0]["source_input"].shape[0] == 5
    assert data[0]["target_input"].shape[0] == 1
    # The first slice has itself below it: all channels are changed alike.
    assert torch.equal(data[0]["source"][0], data[0]["source"][1])


def test_through_the_command_line(
    tiny_data: Path, tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from ivan.inference import load_predictor

    run, out = tmp_path / "run", tmp_path / "out"
    line = f"train --data {tiny_data} --from T1 --from PD --to T2 --context 1 --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    for flags in ([], ["--inverse"]):
        line = f"synthesize --run {run} --data {tiny_data} --out {out} --device cpu --quiet"
        assert ivan([*line.split(), *flags]) == 0
    assert {path.name for path in out.iterdir()} == {"T1", "PD", "T2"}
    predictor = load_predictor(run, device="cpu")
    assert predictor.model.channels == 6
    slices = load_case(find_cases(tiny_data, ["T1", "PD"])[0], ["T1", "PD"]).slices
    made = predictor.predict(slices)
    with torch.no_grad():
        state = torch.from_numpy(with_context(slices, 1))
        wanted = predictor.aug.collapse_targets(predictor.model(state)).numpy().clip(0)
    assert np.allclose(made, wanted, atol=1e-6)
    assert np.allclose(predictor.predict(slices, span=(1, 2)), made[1:2], atol=1e-6)
    capsys.readouterr()
    assert ivan(f"evaluate --run {run} --data {tiny_data} --slices 1:3 --device cpu".split()) == 0
    assert "through-plane" in capsys.readouterr().out


def test_a_network_with_context_learns_what_only_a_neighbour_shows(tmp_path: Path) -> None:
    """The target is the source of the next slice: without context it cannot be known."""
    from ivan.evaluation import evaluate
    from ivan.training import fit

    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        source = rng.uniform(0.2, 1, (18, 18, 7))
        for name, values in (("T1", source[..., :-1]), ("T2", source[..., 1:])):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values * 500, np.eye(4)), tmp_path / "data" / name / f"{case}.nii.gz")
    split = {"training": ["a"], "validation": [{"case": "b", "slices": [0, 5]}]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    psnr = {}
    for context in (0, 1):
        run = fit(
            data=str(tmp_path / "data"), split=str(tmp_path / "split.json"), sources=("T1",), targets=("T2",),
            context=context, epochs=12, lr=1e-2, blocks=1, growth=4, last_scale=0.1, validate_epochs=0,
            tensorboard=False, device="cpu", threads=1, out=str(tmp_path / f"run{context}"), progress=False,
        )  # fmt: skip
        result = evaluate(
            run=run, data=tmp_path / "data", direction="forward", split=tmp_path / "split.json", device="cpu"
        )
        psnr[context] = result.cases[0].values["psnr"]
    assert psnr[1] > psnr[0] + 2


def test_what_cannot_be_meant(
    tiny_data: Path, tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    line = f"train --data {tiny_data} --from T1 --from PD --from FLAIR --to T2 --context 3 --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 2
    assert "--context" in capsys.readouterr().err
    for name in ("T1", "T2"):
        (tmp_path / "one" / name).mkdir(parents=True)
        image = np.random.default_rng(0).random((14, 16)).astype(np.float32)
        np.save(tmp_path / "one" / name / "a.npy", image)
    line = f"train --data {tmp_path / 'one'} --from T1 --to T2 --context 1 --validation 0 --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 2
    assert "single image" in capsys.readouterr().err
    from ivan.training import TrainConfig

    config = TrainConfig(data="d", sources=("T1",), targets=("T2",), out="o", context=8)
    with pytest.raises(InputError, match="--context"):
        config.check()
