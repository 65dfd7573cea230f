"""The commands: what they print, what they write, and the public code's short form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from rich.ansi import AnsiDecoder

from ivan.cli import run as ivan
from ivan.cli.shortform import expand, modality_names
from ivan.errors import InputError
from ivan.training import TrainConfig
from ivan.training.settings import flag


def plain(text: str) -> str:
    return "\n".join(line.plain for line in AnsiDecoder().decode(text))


@pytest.mark.parametrize("command", ["", "demo", "train", "synthesize", "evaluate", "fuse", "test", "info"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ivan([*command.split(), "--help"]) == 0
    assert "Usage: ivan" in plain(capsys.readouterr().out)


def test_train_help_shows_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    ivan(["train", "--help"])
    shown = plain(capsys.readouterr().out)
    for item in fields(TrainConfig):
        if item.name != "roots":
            assert flag(item) in shown, item.name
    for word in ("0.002 (notes), 0.0001 (public)", "identity (notes), rotation (public)"):
        assert word in " ".join(shown.replace("│", " ").split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ivan.cli import run; run(['train', '--help']); "
        "slow = {'torch', 'monai', 'numpy', 'nibabel', 'scipy', 'matplotlib', 'lightning_fabric'}; "
        "heavy = slow & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_train_synthesize_evaluate(
    tiny_data: Path, tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    options = f"train --data {tiny_data} --from T1 --from PD --to T2 --out {run} --no-flips".split()
    assert ivan([*options, *tiny_options]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["sources"], config["targets"], config["flips"]) == (["T1", "PD"], ["T2"], False)
    assert ivan(f"synthesize --run {run} --data {tiny_data} --out {out} --inverse".split()) == 0
    assert (out / "PD" / "sub-02.nii.gz").exists()
    capsys.readouterr()
    assert ivan(f"evaluate --run {run} --data {tiny_data} --slices 0:2".split()) == 0
    printed = capsys.readouterr().out
    for word in ("sub-00", "T2", "inverse", "PSNR", "SSIM", "data range: 1.0", "wang"):
        assert word in printed
    assert (run / "evaluation" / "metrics.csv").exists()
    assert ivan(f"evaluate --prediction {out} --reference {tiny_data} --quiet".split()) == 0
    assert capsys.readouterr().out == ""
    assert (out / "evaluation" / "metrics.json").exists()


def test_short_form(tiny_data: Path, tmp_path: Path, tiny_options: list[str]) -> None:
    roots = f"--root1 {tiny_data / 'T1'} --root2 {tiny_data / 'T2'}"
    line = f"--task 1to1 {roots} --out_path {tmp_path}"
    assert ivan(["train", *line.split(), *tiny_options]) == 0
    run = tmp_path / "1to1"
    assert json.loads((run / "config.json").read_text())["roots"] == {
        n: str(tiny_data / n) for n in ("T1", "T2")
    }
    assert ivan(["test", *line.split(), "--quiet"]) == 0
    assert (run / "test" / "forward" / "T2" / "sub-00.nii.gz").exists()
    assert (run / "test" / "inverse" / "T1" / "sub-00.nii.gz").exists()
    rows = json.loads((run / "test" / "metrics.json").read_text())["cases"]
    assert {row["direction"] for row in rows} == {"forward", "inverse"}


def public_weights(folder: Path) -> Path:
    """A checkpoint as the public code writes it."""
    import torch

    from ivan import IVAN
    from ivan.official import official_state_dict

    torch.save(official_state_dict(IVAN(blocks=2, growth=8)), folder / "latest.pth")  # tells its shape
    return folder / "latest.pth"


def test_short_form_with_a_public_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    weights = public_weights(tmp_path)
    line = f"test --task 1to1 --data {tiny_data} --from T1 --to T2 --out_path {tmp_path} --ckpt {weights}"
    assert ivan([*line.split(), "--quiet"]) == 0
    assert (tmp_path / "1to1" / "test" / "inverse" / "T1" / "sub-00.nii.gz").exists()


def test_short_form_leaves_out_a_damaged_case(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, weights = tmp_path / "data", public_weights(tmp_path)
    shutil.copytree(tiny_data, data)
    (data / "T2" / "sub-00.nii.gz").write_bytes(b"not an image")
    line = f"test --task 1to1 --data {data} --from T1 --to T2 --out_path {tmp_path} --ckpt {weights} --quiet"
    assert ivan(line.split()) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of" in said
    assert "the others are written and measured" in said
    assert "sub-00.nii.gz" in said
    rows = json.loads((tmp_path / "1to1" / "test" / "metrics.json").read_text())["cases"]
    assert {"sub-01"} <= {row["case"] for row in rows}
    assert "sub-00" not in {row["case"] for row in rows}
    assert "sub-00 left out" in (tmp_path / "1to1" / "test" / "report.html").read_text()


def test_short_form_mapping() -> None:
    found = expand({}, "2to1", "exp", ("a/T1", "a/PD", "a/T2"))
    assert found["sources"] == ("T1", "PD")
    assert found["targets"] == ("T2",)
    assert found["out"] == "exp/2to1"
    assert list(found["roots"]) == ["T1", "PD", "T2"]
    assert modality_names(["x/T1/train", "x/T2/train"]) == ["T1", "T2"]
    for task, roots in (
        ("1to1", ("a/T1", None, None)),
        ("1to1", ("a/T1", None, "a/T2")),
        (None, ("a/T1", None, None)),
    ):
        with pytest.raises(InputError, match=r"--root|--task"):
            expand({}, task, None, roots)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert ivan(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["Versions"]["torch"]
    assert facts["Kernels"]
    assert facts["Devices"]["cores"] >= 1
    assert ivan(["info"]) == 0
    assert "processor" in capsys.readouterr().out
    assert ivan(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ivan ")


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ivan", "trian"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    from ivan import environment

    def collect() -> dict[str, dict[str, str]]:
        warnings.warn("something\ndrifted", RuntimeWarning, stacklevel=1)
        return {}

    monkeypatch.setattr(environment, "collect", collect)
    assert ivan(["info"]) == 0
    assert capsys.readouterr().err == "ivan: note: something drifted\n"
