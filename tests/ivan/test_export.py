"""An exported network runs without this package and gives what `ivan synthesize` gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ivan.cli import run as ivan
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


def test_exported_programs_run_alone_and_agree(train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(sources=("T1", "PD"), targets=("T2",), channels=3, epochs=4, growth=6, blocks=2)
    predictor = load_predictor(run, device="cpu")
    rng = np.random.default_rng(0)
    files, expected = [], []
    for number, inverse in enumerate((False, True)):
        files.append(tmp_path / f"{number}.pt2")
        assert (
            ivan(["export", "--run", str(run), "--out", str(files[-1]), *(["--inverse"] if inverse else [])])
            == 0
        )
        shape = (5, 1, 31, 18) if inverse else (2, 2, 40, 57)  # neither the example's nor the training's
        given = rng.uniform(0, 1.2, shape).astype(np.float32)
        np.save(tmp_path / f"{number}.npy", given)
        expected.append(predictor.predict(given, inverse))
    command = [sys.executable, "-c", ALONE, str(tmp_path), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number, line in enumerate(done.stdout.splitlines()):
        about = json.loads(line)
        assert about["given"] == (["T2"] if number else ["T1", "PD"])
        assert about["predicted"] == (["T1", "PD"] if number else ["T2"])
        made = np.load(tmp_path / f"{number}-made.npy")
        assert made.shape == expected[number].shape
        assert expected[number].std() > 0.01
        assert np.abs(made - expected[number]).max() < 1e-4


def test_what_cannot_be_exported(
    train: Callable[..., Path], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = train(fill="noise", channels=3, max_steps=1)
    for arguments, said in (
        (["--run", str(tiny_run), "--out", str(tmp_path / "a.onnx")], ".pt2"),
        (["--run", str(tmp_path / "none"), "--out", str(tmp_path / "a.pt2")], "no such run"),
        (["--run", str(noisy), "--out", str(tmp_path / "a.pt2")], "--fill noise"),
    ):
        assert ivan(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error
    assert not list(tmp_path.glob("*.pt2"))
