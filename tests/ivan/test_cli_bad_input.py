"""What a user can get wrong: one line with culprit and remedy, the exit code, nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.io
import torch

from ivan.cli import run as ivan

Prepare = Callable[[Path, Path], None]  # (data folder, run folder of a finished run)


def replace(data: Path, values: np.ndarray, name: str = "T2/sub-00.nii.gz") -> None:
    affine = nib.load(data / name).affine
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), data / name)


def voxels(data: Path, name: str = "T2/sub-00.nii.gz") -> np.ndarray:
    return np.asarray(nib.load(data / name).dataobj, np.float32)


def truncated(data: Path, run: Path) -> None:
    path = data / "T2" / "sub-00.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def text_file(data: Path, run: Path) -> None:
    (data / "T2" / "sub-00.nii.gz").write_bytes(gzip.compress(b"not an image " * 100))


def nan_voxel(data: Path, run: Path) -> None:
    values = voxels(data)
    values[4, 4, 1] = np.nan
    replace(data, values)


def infinite_voxel(data: Path, run: Path) -> None:
    values = voxels(data)
    values[4, 4, 1] = np.inf
    replace(data, values)


def all_zero(data: Path, run: Path) -> None:
    replace(data, np.zeros_like(voxels(data)))


def other_grid(data: Path, run: Path) -> None:
    image = nib.Nifti1Image(
        voxels(data), np.diag([1.0, 1, 1, 1]) + np.array([[0, 0, 0, 5000.0]] + [[0] * 4] * 3)
    )
    nib.save(image, data / "T2" / "sub-00.nii.gz")


def huge_header(data: Path, run: Path) -> None:
    path = data / "T2" / "sub-00.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def unpaired(data: Path, run: Path) -> None:
    for index, path in enumerate(sorted((data / "T2").iterdir())):
        path.rename(path.with_name(f"other-{chr(97 + index)}.nii.gz"))


def wrong_mat_key(data: Path, run: Path) -> None:
    for modality in ("T1", "T2"):
        for path in (data / modality).iterdir():
            scipy.io.savemat(
                path.with_name(path.name[:6] + ".mat"), {"image": voxels(data, f"{modality}/{path.name}")}
            )
            path.unlink()


def one_patient(data: Path, run: Path) -> None:
    for modality in ("T1", "T2"):
        for name in ("sub-01", "sub-02"):
            (data / modality / f"{name}.nii.gz").unlink()


def nothing(data: Path, run: Path) -> None:
    """The data are fine: the options are not."""


TRAIN_CASES: dict[str, tuple[Prepare, str, tuple[str, ...]]] = {
    # what is done to the data -> options, and what the line must name
    "missing folder": (nothing, "--data {data}/absent --from T1 --to T2", ("absent",)),
    "truncated gz": (truncated, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz",)),
    "not NIfTI": (text_file, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz",)),
    "NaN": (nan_voxel, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz",)),
    "infinite": (infinite_voxel, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz", "inf")),
    "all zero": (all_zero, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz",)),
    "far away grid": (other_grid, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz",)),
    "huge header": (huge_header, "--data {data} --from T1 --to T2", ("T2/sub-00.nii.gz",)),
    "unpaired": (unpaired, "--data {data} --from T1 --to T2", ("T1", "T2", "name")),
    "wrong modality": (nothing, "--data {data} --from T1 --to T7", ("T7", "T2")),
    "unknown .mat key": (wrong_mat_key, "--data {data} --from T1 --to T2", (".mat", "data")),
    "one patient": (one_patient, "--data {data} --from T1 --to T2", ("patient", "split")),
    "negative epochs": (nothing, "--data {data} --from T1 --to T2 --epochs -3", ("--epochs", "-3")),
    "not a number": (nothing, "--data {data} --from T1 --to T2 --epochs many", ("--epochs", "integer")),
    "lr 0": (nothing, "--data {data} --from T1 --to T2 --lr 0", ("--lr",)),
    "lr nan": (nothing, "--data {data} --from T1 --to T2 --lr nan", ("--lr",)),
    "no target": (nothing, "--data {data} --from T1", ("--to",)),
    "same modality twice": (nothing, "--data {data} --from T1 --to T1", ("T1", "twice")),
    "unknown option": (nothing, "--data {data} --from T1 --to T2 --epoch 3", ("--epoch",)),
    "unknown precision": (
        nothing,
        "--data {data} --from T1 --to T2 --precision 8",
        ("--precision", "bf16-mixed"),
    ),
    "missing split file": (nothing, "--data {data} --from T1 --to T2 --split {data}/s.json", ("s.json",)),
    "missing weights": (nothing, "--data {data} --from T1 --to T2 --ckpt {data}/w.pth", ("w.pth",)),
    "task against modalities": (nothing, "--data {data} --from T1 --to T2 --task 2to1", ("2to1",)),
    "task in words": (nothing, "--data {data} --from T1 --to T2 --task many", ("--task", "many")),
    "patch of nothing": (nothing, "--data {data} --from T1 --to T2 --patch-size -4", ("--patch-size",)),
}


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    for modality in ("T1", "T2"):
        shutil.copytree(tiny_data / modality, copy / modality)
    return copy


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "trained"))


def one_line(capsys: pytest.CaptureFixture[str], names: tuple[str, ...]) -> str:
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert errors.startswith("ivan: ")
    assert "Traceback" not in errors
    for name in names:
        assert name in errors
    return errors


def leftovers(folder: Path) -> list[Path]:
    """Temporary files, under any of the names that writers use."""
    marks = (".writing-", ".part", ".tmp")
    return [p for p in folder.rglob("*") if any(mark in p.name for mark in marks)]


@pytest.mark.parametrize("case", TRAIN_CASES)
def test_train(
    case: str,
    data: Path,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_options: list[str],
) -> None:
    prepare, options, names = TRAIN_CASES[case]
    prepare(data, run)
    out = tmp_path / "new"
    arguments = ["train", "--out", str(out), *tiny_options, *options.format(data=data).split()]
    assert ivan(arguments) == 2
    one_line(capsys, names)
    assert not out.exists()


def damaged_config(data: Path, run: Path) -> None:
    (run / "config.json").write_text('{"blocks": ')


def edited_config(data: Path, run: Path) -> None:
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "blocks": 3}))


def strange_config(data: Path, run: Path) -> None:
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "colour": "red"}))


def no_checkpoint(data: Path, run: Path) -> None:
    shutil.rmtree(run / "checkpoint")


def no_scales(data: Path, run: Path) -> None:
    (run / "normalisation.json").unlink()


class Payload:
    """Unpickling this would create a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (os.environ["IVAN_TEST_PAYLOAD"], "w")


def pickled_checkpoint(data: Path, run: Path) -> None:
    for folder in (run / "checkpoint").glob("step-*"):
        (folder / "model.safetensors").write_bytes(pickle.dumps(Payload()))


RUN_CASES: dict[str, tuple[Prepare, str, tuple[str, ...]]] = {
    "missing run": (nothing, "synthesize --run {run}-gone --data {data} --out {out}", ("-gone",)),
    "damaged config": (damaged_config, "synthesize --run {run} --data {data} --out {out}", ("config.json",)),
    "unknown setting": (strange_config, "synthesize --run {run} --data {data} --out {out}", ("colour",)),
    "checkpoint of another shape": (
        edited_config,
        "synthesize --run {run} --data {data} --out {out}",
        ("step-",),
    ),
    "no checkpoint": (
        no_checkpoint,
        "synthesize --run {run} --data {data} --out {out}",
        ("no checkpoint", "--resume"),
    ),
    "pickle as checkpoint": (
        pickled_checkpoint,
        "synthesize --run {run} --data {data} --out {out}",
        ("damaged",),
    ),
    "no scales": (no_scales, "synthesize --run {run} --data {data} --out {out}", ("normalisation.json",)),
    "unknown checkpoint": (
        nothing,
        "synthesize --run {run} --data {data} --out {out} --checkpoint step-7",
        ("step-7",),
    ),
    "no option": (nothing, "synthesize --data {data} --out {out}", ("--run",)),
    "no such device": (
        nothing,
        "synthesize --run {run} --data {data} --out {out} --device abacus",
        ("abacus",),
    ),
    "evaluate without data": (nothing, "evaluate --run {run} --out {out}", ("--data",)),
    "evaluate two ways": (nothing, "evaluate --run {run} --prediction {data} --out {out}", ("--run",)),
    "evaluate nothing": (nothing, "evaluate --out {out}", ("--run",)),
    "slices in words": (
        nothing,
        "evaluate --run {run} --data {data} --out {out} --slices all",
        ("--slices",),
    ),
    "slices beyond": (
        nothing,
        "evaluate --run {run} --data {data} --out {out} --slices 2:90",
        ("90", "--slices"),
    ),
    "unknown variant": (
        nothing,
        "evaluate --run {run} --data {data} --out {out} --variant x",
        ("--variant", "wang"),
    ),
    "plane of a run": (
        nothing,
        "evaluate --run {run} --data {data} --out {out} --plane coronal",
        ("--plane",),
    ),
    "direction of images": (
        nothing,
        "evaluate --prediction {data} --reference {data} --out {out} --inverse",
        ("--direction",),
    ),
    "no reference": (nothing, "evaluate --prediction {data} --out {out}", ("--reference",)),
    "batch of nothing": (
        nothing,
        "synthesize --run {run} --data {data} --out {out} --pixels 0",
        ("--pixels",),
    ),
    "weights of another task": (
        nothing,
        "test --task 2to1 --root1 {data}/T1 --root2 {data}/T2 --root3 {data} --out_path {out} --ckpt {run}",
        ("2to1", "T1 to T2"),
    ),
    "no range": (
        nothing,
        "evaluate --prediction {data} --reference {data} --scale none --out {out}",
        ("--data-range",),
    ),
    "resume nothing": (nothing, "train --resume --out {run}-gone", ("-gone",)),
    "run not empty": (nothing, "train --data {data} --from T1 --to T2 --out {run}", ("--resume",)),
    "other architecture": (nothing, "train --resume --out {run} --growth 8", ("--growth",)),
    "unknown command": (nothing, "tarin", ("tarin",)),
}


@pytest.mark.parametrize("case", RUN_CASES)
def test_run(
    case: str,
    data: Path,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = tmp_path / "executed"
    monkeypatch.setenv("IVAN_TEST_PAYLOAD", str(payload))
    prepare, line, names = RUN_CASES[case]
    prepare(data, run)
    before = sorted(run.rglob("*"))
    out = tmp_path / "out"
    assert ivan(line.format(data=data, run=run, out=out).split()) == 2
    one_line(capsys, names)
    assert not out.exists()
    assert sorted(run.rglob("*")) == before
    assert not payload.exists()


def test_a_damaged_case_costs_only_itself(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are written; the last line says what was not, and the exit code that something was not."""
    truncated(data, run)
    out = tmp_path / "out"
    assert ivan(["synthesize", "--run", str(run), "--data", str(data), "--out", str(out), "--inverse"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum("sub-00 left out" in line for line in lines) == 1
    assert "1 of 3 cases could not be used, the others are written" in lines[-1]
    assert "sub-00.nii.gz: damaged or truncated" in lines[-1]
    assert not any("Traceback" in line for line in lines)
    written = sorted(p.name.split(".")[0] for p in out.rglob("*.nii.gz"))
    assert written == ["sub-01", "sub-02"]


@pytest.mark.parametrize("kind", ["pickle", "text", "shape"])
def test_weights_of_the_public_code(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    payload, path = tmp_path / "executed", tmp_path / "latest.pth"
    monkeypatch.setenv("IVAN_TEST_PAYLOAD", str(payload))
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "text":
        path.write_text("weights")
    else:
        torch.save({"operations.0.F.conv1.weight": torch.zeros(3, 3)}, path)
    arguments = f"test --task 1to1 --data {data} --from T1 --to T2 --out_path {tmp_path / 'e'} --ckpt {path}"
    assert ivan(arguments.split()) == 2
    one_line(capsys, ("latest.pth",))
    assert not payload.exists()
    assert not (tmp_path / "e").exists()


def test_full_disk_while_writing_an_image(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ivan.data import writing

    def full(*details: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_write", full)
    out = tmp_path / "out"
    assert ivan(f"synthesize --run {run} --data {data} --out {out} --quiet".split()) == 1
    one_line(capsys, ("T2/sub-00.nii.gz", "No space left"))
    assert not [p for p in out.rglob("*") if p.is_file()]


def test_full_disk_while_training(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ivan.training import checkpoint

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    out = tmp_path / "new"
    line = f"train --data {data} --from T1 --to T2 --out {out}"
    assert ivan([*line.split(), *tiny_options]) == 1
    one_line(capsys, ("step-", "No space left"))
    assert not leftovers(out)


def test_output_that_is_a_file(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_options: list[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert ivan(f"synthesize --run {run} --data {data} --out {out}".split()) == 2
    one_line(capsys, (str(out),))
    assert ivan([*f"train --data {data} --from T1 --to T2 --out {out}".split(), *tiny_options]) == 2
    one_line(capsys, (str(out),))
    assert out.read_text() == "mine"


def test_read_only_output(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_options: list[str]
) -> None:
    # /proc refuses new folders to everybody, root included, as a read-only disk does.
    if not Path("/proc/self").exists():
        pytest.skip("needs a place where nobody can write: /proc")
    assert ivan(f"synthesize --run {run} --data {data} --out /proc/ivan --quiet".split()) == 1
    one_line(capsys, ("/proc/ivan",))
    assert ivan([*f"train --data {data} --from T1 --to T2 --out /proc/ivan".split(), *tiny_options]) == 1
    one_line(capsys, ("/proc/ivan",))


def test_a_defect_shows_one_line_and_debug_the_traceback(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ivan import inference

    def broken(*details: object, **more: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(inference, "synthesize", broken)
    line = f"synthesize --run {run} --data {data} --out {tmp_path / 'out'}".split()
    assert ivan(line) == 1
    one_line(capsys, ("ZeroDivisionError: two lines", "--debug"))
    with pytest.raises(ZeroDivisionError):
        ivan([*line, "--debug"])
