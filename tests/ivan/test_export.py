"""An exported network runs without this package and gives what `ivan synthesize` gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ivan.cli import run as ivan
from ivan.data import find_cases
from ivan.data.writing import _owner
from ivan.fusion.fuser import Fuser
from ivan.fusion.measure import OURS
from ivan.inference import load_predictor

ALONE = """
import json, sys
import numpy as np
for name in ("ivan", "ivan_fast", "monai"):
    sys.modules[name] = None  # importing them fails
import torch
torch.set_num_threads(1)
for number, file in enumerate(sys.argv[2:]):
    extra = {"ivan.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    about = json.loads(extra["ivan.json"])
    given = np.load(f"{sys.argv[1]}/{number}.npy")
    with torch.inference_mode():
        made = program(torch.from_numpy(given))
    np.save(f"{sys.argv[1]}/{number}-made.npy", made.numpy())
    print(json.dumps(about))
"""


def run_alone(folder: Path, programs: list[Path], given: list[np.ndarray]) -> list[tuple[Any, np.ndarray]]:
    """(ivan.json, output) of each program on its input, in a process that cannot import this package."""
    for number, images in enumerate(given):
        np.save(folder / f"{number}.npy", images)
    command = [sys.executable, "-c", ALONE, str(folder), *map(str, programs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr
    about = [json.loads(line) for line in done.stdout.splitlines()]
    return [(a, np.load(folder / f"{n}-made.npy")) for n, a in enumerate(about)]


def exported(run: Path, out: Path, *flags: str) -> Path:
    assert ivan(["export", "--run", str(run), "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize("fill", [pytest.param("copy", marks=pytest.mark.slow), "noise"])
def test_exported_programs_run_alone_and_agree(fill: str, train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(sources=("T1", "PD"), targets=("T2",), channels=4, fill=fill, epochs=4, growth=6, blocks=2)
    predictor = load_predictor(run, device="cpu")
    rng = np.random.default_rng(0)
    files, given = [], []
    for inverse in (False, True):
        flags = ["--inverse"] if inverse else []
        files.append(exported(run, tmp_path / f"{len(files)}.pt2", *flags))
        shape = (5, 1, 31, 18) if inverse else (2, 2, 40, 57)  # neither the example's nor the training's
        given.append(rng.uniform(0, 1.2, shape).astype(np.float32))
    for number, (about, made) in enumerate(run_alone(tmp_path, files, given)):
        expected = predictor.predict(given[number], inverse=bool(number))
        assert about["given"] == (["T2"] if number else ["T1", "PD"])
        assert about["predicted"] == (["T1", "PD"] if number else ["T2"])
        assert made.shape == expected.shape
        assert expected.std() > 0.01
        assert np.abs(made - expected).max() < 1e-4


def test_neighbouring_slices_are_channels_of_the_program(train: Callable[..., Path], tmp_path: Path) -> None:
    """The channels as ivan.json says them, gathered here by its words alone, give what `predict` gives."""
    run = train(sources=("T1", "PD"), targets=("T2",), context=2, epochs=3, growth=6)
    predictor = load_predictor(run, device="cpu")
    rng = np.random.default_rng(1)
    volume = rng.uniform(0, 1.1, (7, 2, 21, 26)).astype(np.float32)  # [S, sources, H, W]
    target = rng.uniform(0, 1.1, (3, 1, 21, 26)).astype(np.float32)
    files = [exported(run, tmp_path / "on.pt2"), exported(run, tmp_path / "back.pt2", "--inverse")]

    extra = {"ivan.json": ""}
    torch.export.load(files[0], extra_files=extra)
    channels = json.loads(extra["ivan.json"])["channels_given"]
    assert channels[:3] == [
        {"modality": "T1", "slice": 0}, {"modality": "PD", "slice": 0}, {"modality": "T1", "slice": -1},
    ]  # fmt: skip
    assert len(channels) == 10
    gathered = np.empty((7, 10, 21, 26), np.float32)
    for index in range(7):
        for number, channel in enumerate(channels):
            neighbour = min(max(index + channel["slice"], 0), 6)
            gathered[index, number] = volume[neighbour, ["T1", "PD"].index(channel["modality"])]

    (_, made), (about, back) = run_alone(tmp_path, files, [gathered, target])
    assert np.abs(made - predictor.predict(volume)).max() < 1e-4
    assert about["channels_made"] == [{"modality": "T1", "slice": 0}, {"modality": "PD", "slice": 0}]
    assert back.shape == (3, 2, 21, 26)
    assert np.abs(back - predictor.predict(target, inverse=True)).max() < 1e-4


@pytest.mark.parametrize(
    "label", [pytest.param((), marks=pytest.mark.slow, id="rule"), pytest.param(("PD",), id="label")]
)
def test_fusion_in_both_directions(
    label: tuple[str, ...], train: Callable[..., Path], tiny_data: Path, tmp_path: Path
) -> None:
    """The fused image, its sources from it alone, the state, and the sources exactly from that."""
    run = train(
        "fuser", task="fusion", sources=("T1", "FLAIR"), targets=label, epochs=3, growth=6, channels=3
    )
    predictor = load_predictor(run, device="cpu")
    programs = [
        exported(run, tmp_path / "fuse.pt2"),
        exported(run, tmp_path / "approximate.pt2", "--inverse"),
        exported(run, tmp_path / "state.pt2", "--state"),
        exported(run, tmp_path / "exact.pt2", "--state", "--inverse"),
    ]
    case = find_cases(tiny_data, ["T1", "FLAIR"])[0]
    loaded = predictor.load(case, ("T1", "FLAIR"))
    fuser = Fuser(("T1", "FLAIR"), "", predictor, "axial", "percentile", 99.5)
    fused, output = fuser.fuse(loaded)
    assert output is not None
    image = fused[OURS][:, None]
    answers = run_alone(tmp_path, programs, [loaded.slices, image, loaded.slices, output])
    expected = [image, predictor.predict(image, inverse=True), output, loaded.slices]
    for (about, made), right in zip(answers, expected, strict=True):
        assert about["task"] == "fusion"
        assert made.shape == right.shape
        assert right.std() > 0.01
        assert np.abs(made - right).max() < 1e-4
    empty = (loaded.slices == 0).all(axis=1)
    assert empty.any()
    assert not answers[0][1][:, 0][empty].any()
    assert answers[2][1].mean(axis=1)[empty].any()  # the network itself leaves traces there
    assert answers[2][0]["channels_made"] == answers[3][0]["channels_given"] == [
        "state 0", "state 1", "state 2",
    ]  # fmt: skip


def test_what_cannot_be_exported(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.pt2").mkdir()
    for arguments, said in (
        (["--run", str(tiny_run), "--out", str(tmp_path / "a.onnx")], ".pt2"),
        (["--run", str(tmp_path / "none"), "--out", str(tmp_path / "a.pt2")], "no such run"),
        (["--run", str(tiny_run), "--out", str(tmp_path / "a.pt2"), "--state"], "a run of synthesis"),
        (["--run", str(tiny_run), "--out", str(tmp_path / "folder.pt2")], "is a folder"),
    ):
        assert ivan(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error
    assert [path.name for path in tmp_path.glob("*.pt2")] == ["folder.pt2"]


def test_what_a_killed_export_left_is_removed(tiny_run: Path, tmp_path: Path) -> None:
    machine = _owner().partition("+")[0]
    (tmp_path / f".a.pt2.{machine}+999999999.abc.part").write_bytes(b"killed")
    assert ivan(["export", "--run", str(tiny_run), "--out", str(tmp_path / "a.pt2")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
