"""Evaluation: the numbers, what they are measured on, and the files that hold them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ivan.evaluation import evaluate
from ivan.inference import synthesize
from ivan.metrics import synthesis_metrics


def write(folder: Path, name: str, values: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")


def pair(tmp_path: Path, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    real = np.zeros((16, 14, 4), np.float32)
    real[2:14, 2:12] = rng.uniform(50, 200, (12, 10, 4))
    made = gain * (real + rng.normal(0, 5, real.shape)).astype(np.float32)
    write(tmp_path / "real", "a", real)
    write(tmp_path / "made", "a", made)
    return real, made


def test_golden_values(tmp_path: Path, shared: Path) -> None:
    golden = json.loads((shared / "reference" / "metric_golden.json").read_text())["synthesis"]
    arrays = np.load(shared / "reference" / "metric_golden.npz")
    write(tmp_path / "real", "a", arrays["reference"][..., None])
    write(tmp_path / "made", "a", arrays["prediction"][..., None])
    folders = {"prediction": tmp_path / "made", "reference": tmp_path / "real"}
    for variant, name in (("wang", "ssim_wang"), ("uniform7", "ssim_uniform7")):
        values = evaluate(**folders, scale="none", data_range=1.0, variant=variant).cases[0].values
        assert values["psnr"] == pytest.approx(golden["psnr"], rel=1e-6)
        assert values["nmse"] == pytest.approx(golden["nmse"], rel=1e-6)
        assert values["ssim"] == pytest.approx(golden[name], rel=1e-6)


def test_scaling_rules(tmp_path: Path) -> None:
    real, made = pair(tmp_path, gain=2.0)
    folders = {"prediction": tmp_path / "made", "reference": tmp_path / "real"}
    high = np.percentile(real[real > 0], 99.5)
    each = evaluate(**folders, scale="each").cases[0].values["psnr"]
    both = evaluate(**folders).cases[0].values["psnr"]
    raw = evaluate(**folders, scale="none", data_range=200).cases[0].values["psnr"]
    assert both == pytest.approx(-10 * np.log10(np.mean(((real - made) / high) ** 2)), abs=1e-4)
    assert raw == pytest.approx(10 * np.log10(200**2 / np.mean((real - made) ** 2)), abs=1e-4)
    assert each > both + 10  # the doubled brightness does not count


def test_mask_slices_and_plane(tmp_path: Path) -> None:
    real, made = pair(tmp_path)
    folders = {
        "prediction": tmp_path / "made",
        "reference": tmp_path / "real",
        "scale": "none",
        "data_range": 200.0,
    }
    inside = real > 0.05 * np.percentile(real[real > 0], 99.5)
    masked = evaluate(**folders, mask="foreground").cases[0]
    assert masked.values["psnr"] == pytest.approx(
        10 * np.log10(200**2 / np.mean((real - made)[inside] ** 2)), abs=1e-4
    )
    assert "inside the mask" in masked.protocol["psnr"]
    cut = evaluate(**folders, slices=(1, 3)).cases[0]
    assert cut.values["psnr"] == pytest.approx(
        10 * np.log10(200**2 / np.mean((real - made)[..., 1:3] ** 2)), abs=1e-4
    )
    assert "2 slices" in cut.protocol["psnr_slices_mean"]


@pytest.mark.parametrize("direction", ["both", "forward", "inverse"])
def test_run(tiny_run: Path, tiny_data: Path, tmp_path: Path, direction: str) -> None:
    result = evaluate(run=tiny_run, data=tiny_data, direction=direction, device="cpu", out=tmp_path / "out")
    expected = {"both": {("T2", "forward"), ("T1", "inverse")}}.get(
        direction, {("T2", "forward")} if direction == "forward" else {("T1", "inverse")}
    )
    assert {(row.target, row.direction) for row in result.cases} == expected
    assert len(result.cases) == 3 * len(expected)
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["protocol"]["data range"] == 1.0
    assert "step-" in saved["protocol"]["checkpoint"]
    assert all("data range 1" in row["protocol"]["psnr"] for row in saved["cases"])
    lines = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert float(lines[0]["psnr"]) == pytest.approx(result.cases[0].values["psnr"])
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    mean = result.means()[0]
    of_mean = [row.values["psnr"] for row in result.cases if row.direction == mean["direction"]]
    assert mean["values"]["psnr"] == pytest.approx(np.mean(of_mean))


def test_run_agrees_with_the_metrics_by_hand(tiny_run: Path, tiny_data: Path) -> None:
    from ivan.data import find_cases
    from ivan.inference import load_predictor

    result = evaluate(run=tiny_run, data=tiny_data, direction="forward", device="cpu")
    predictor = load_predictor(tiny_run, device="cpu")
    loaded = predictor.load(find_cases(tiny_data, ["T1", "T2"])[0], ["T1", "T2"])
    made = predictor.predict(loaded.slices[:, :1])[:, 0]
    wanted = synthesis_metrics(loaded.slices[:, 1], made, 1.0, axis=0)
    assert result.cases[0].values == {name: float(value) for name, value in wanted.items()}


def test_cases_that_were_trained_on_are_marked(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = json.loads((tiny_run / "split.json").read_text())
    result = evaluate(run=tiny_run, data=tiny_data, direction="forward", device="cpu")
    assert {row.case for row in result.cases if row.in_training} == set(split["training"])
    assert "trained on" in capsys.readouterr().err
    held_out = evaluate(
        run=tiny_run, data=tiny_data, direction="forward", device="cpu", split=tiny_run / "split.json"
    )
    assert [row.case for row in held_out.cases] == split["validation"]
    assert not held_out.cases[0].in_training


def test_what_synthesize_writes_can_be_evaluated(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    synthesize(tiny_run, tiny_data, tmp_path / "out", progress=False, device="cpu")
    result = evaluate(prediction=tmp_path / "out", reference=tiny_data)
    assert [(row.case, row.target) for row in result.cases] == [(f"sub-{i:02d}", "T2") for i in range(3)]
    run = evaluate(run=tiny_run, data=tiny_data, direction="forward", device="cpu")
    for files, direct in zip(
        result.cases, run.cases, strict=True
    ):  # nearly: the scales of training and case differ
        assert files.values["psnr"] == pytest.approx(direct.values["psnr"], abs=1.5)


def test_a_damaged_file_does_not_cost_the_numbers_of_the_others(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ivan.cli import run as ivan

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "T2" / "sub-01.nii.gz").write_bytes(b"damaged")
    for line in (
        ["evaluate", "--run", str(tiny_run), "--data", str(data)],
        ["evaluate", "--prediction", str(tiny_data), "--reference", str(data)],
    ):
        out = tmp_path / line[1]
        assert ivan([*line, "--out", str(out)]) == 2
        printed = capsys.readouterr()
        assert "could not be used, the others are measured; the first: " in printed.err.splitlines()[-1]
        assert "sub-02" in printed.out
        written = json.loads((out / "metrics.json").read_text())
        left = {(row["case"], row["target"]) for row in written["cases"]}
        assert ("sub-02", "T2") in left
        assert ("sub-01", "T2") not in left
        assert "sub-01 left out: " in written["warnings"][0]
        assert "sub-01 left out: " in (out / "report.html").read_text()


def test_no_usable_case_is_said_so(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ivan.cli import run as ivan

    shutil.copytree(tiny_data, tmp_path / "data")
    for file in (tmp_path / "data" / "T1").iterdir():
        file.write_bytes(b"damaged")
    for command in (["evaluate"], ["synthesize", "--out", str(tmp_path / "out")]):
        assert ivan([*command, "--run", str(tiny_run), "--data", str(tmp_path / "data")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("ivan: none of 3 cases could be used; the first: ")


def test_the_protocol_of_all_cases_gives_ranges_of_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("a", 3), ("b", 5)):
        real = rng.uniform(50, 200, (12, 12, count))
        write(tmp_path / "real", name, real)
        write(tmp_path / "made", name, real + rng.normal(0, 5, real.shape))
    result = evaluate(prediction=tmp_path / "made", reference=tmp_path / "real")
    assert "mean over 3 to 5 slices (0 empty skipped)" in result.protocols()["ssim"]
    assert [
        row.protocol["ssim"].count(f"over {n} slices") for row, n in zip(result.cases, (3, 5), strict=True)
    ] == [1, 1]
    assert result.protocols()["psnr"] == result.cases[0].protocol["psnr"]


def test_slices_below_the_ssim_window_lose_ssim_only(tmp_path: Path) -> None:
    """Coronal slices of four rows: every other figure is there, and it is said why SSIM is not."""
    pair(tmp_path)
    folders = {"prediction": tmp_path / "made", "reference": tmp_path / "real", "progress": False}
    thin = evaluate(**folders, plane="coronal", out=tmp_path / "out")
    whole = evaluate(**folders)
    assert thin.left_out is None
    assert thin.warnings == ["a: no SSIM, its slices have 16x4 pixels and the window 11x11"]
    missing = {"ssim", "ssim_slices_std"}
    assert set(thin.cases[0].values) == set(whole.cases[0].values) - missing
    assert thin.cases[0].values["psnr"] == whole.cases[0].values["psnr"]
    assert "no SSIM" in (tmp_path / "out" / "report.html").read_text()


def test_the_report_of_a_training_on_thin_slices_has_images(
    train: Callable[..., Path], caplog: pytest.LogCaptureFixture, tiny_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "thin"
    for path in tiny_data.glob("*/*.nii.gz"):
        image = nib.load(path)
        write(data / path.parent.name, path.name.removesuffix(".nii.gz"), image.get_fdata()[:, :9])
    run = train(data=str(data))
    assert "report without images" not in caplog.text
    assert "no SSIM, its slices have" in (run / "report.html").read_text()


def test_raw_values_without_normalisation_are_told(train: Callable[..., Path], tiny_data: Path) -> None:
    said = "with --normalise none, where 1 counts as the span"
    assert said in (train("raw", normalise="none") / "report.html").read_text()
    assert said not in (train("divided") / "report.html").read_text()


def test_slices_are_those_of_the_first_source_in_both_directions(
    train: Callable[..., Path], tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """T2 in a third as many slices over the same field of view."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for path in (data / "T2").iterdir():
        image = nib.load(path)
        affine = image.affine @ np.diag([1.0, 1, 3, 1])
        affine[:3, 3] += image.affine[:3, 2]
        nib.save(nib.Nifti1Image(image.get_fdata()[:, :, 1::3].astype(np.float32), affine), path)
    slices = nib.load(data / "T1" / "sub-00.nii.gz").shape[2]
    run = train(data=str(data))
    assert "report without images" not in caplog.text
    result = evaluate(run=run, data=data, slices=(slices - 2, slices), device="cpu", progress=False)
    assert result.left_out is None
    assert {(row.case, row.direction) for row in result.cases} == {
        (f"sub-{n:02d}", d) for n in range(3) for d in ("forward", "inverse")
    }
    assert all("over 2 slices" in row.protocol["psnr_slices_mean"] for row in result.cases)
    assert {image.shape for view in result.views for image in view.images.values()} == {
        nib.load(data / "T1" / "sub-00.nii.gz").shape
    }


@pytest.mark.parametrize(
    ("noise", "shown"),
    [
        ((5, 5, 5, 9, 30, 7), ["a", "b", "c", "e"]),  # the fifth is the worst, after a fourth that was
        ((5, 40, 5, 9, 30, 7), ["a", "b", "c"]),  # which is one of the first
    ],
)
def test_the_report_shows_the_first_cases_and_the_worst(
    tmp_path: Path, noise: tuple[int, ...], shown: list[str]
) -> None:
    rng = np.random.default_rng(0)
    for name, size in zip("abcdef", noise, strict=True):
        real = rng.uniform(50, 200, (14, 14, 3))
        write(tmp_path / "real", name, real)
        write(tmp_path / "made", name, real + rng.normal(0, size, real.shape))
    out = tmp_path / "out"
    result = evaluate(
        prediction=tmp_path / "made", reference=tmp_path / "real", out=out, progress=False, scale="none",
        data_range=200,
    )  # fmt: skip
    assert [view.name.split()[0] for view in result.views] == shown
    worst = min(result.cases, key=lambda row: row.values["psnr"])
    assert worst.case == "abcdef"[int(np.argmax(noise))]
    assert f"Lowest PSNR: {worst.case}, " in (out / "report.html").read_text()
