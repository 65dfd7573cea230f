"""benchmarks/quality.py as a command: results, reports, what finished runs are asked again, bad usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest


def test_all_quick_methods_are_run_and_shown(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    methods = "ivan,public-twin,public-loss,unet,hi-net,table,table+tv"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--from", "PD", "--to", "T2", "--out", str(out)]
    line += ["--methods", methods, "--seeds", "0,1", *tiny]
    assert quality.main(line) == 0
    results = {path.stem: json.loads(path.read_text()) for path in (out / "results").iterdir()}
    trained = ("ivan", "public-twin", "public-loss", "unet", "hi-net")
    assert set(results) == {f"{m}-seed{s}" for m in trained for s in (0, 1)} | {
        "table-seed0",
        "table+tv-seed0",
    }
    for name, result in results.items():
        directions = {(row["direction"], row["target"]) for row in result["rows"]}
        both = {("forward", "T2"), ("reverse", "T1"), ("reverse", "PD")}
        assert directions == ({("forward", "T2")} if name.startswith("hi-net") else both)
        assert len(result["rows"]) == 2 * len(directions)  # two cases
        assert all(np.isfinite(row["values"]["psnr"]) for row in result["rows"])
        assert ("table" in name) == (result["training"]["steps"] == 0)
    assert results["ivan-seed0"]["settings"]["budget"]["clock"] == "wall"
    assert results["ivan-seed0"]["parameters"] == results["public-loss-seed0"]["parameters"] > 1000
    table = (out / "table.md").read_text()
    assert table.count("±") >= 3
    assert "3 subjects trained on" in table
    assert (out / "figure.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert quality.main(line) == 0  # nothing is done twice
    assert before == {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    capsys.readouterr()
    line[line.index("PD")] = "T2"
    line[line.index("--to") + 1] = "PD"
    assert quality.main(line) == 2
    assert "another experiment" in capsys.readouterr().err


def test_results_are_kept_apart_and_added_to(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small files that name clock, code and settings; a later call adds a seed; others are refused."""
    kept = tmp_path / "kept"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--results", str(kept)]
    line += ["--methods", "ivan,table", "--clock", "cpu", *tiny]
    assert quality.main([*line, "--out", str(tmp_path / "day1"), "--seeds", "0"]) == 0
    before = (kept / "ivan-seed0.json").read_bytes()
    assert quality.main([*line, "--out", str(tmp_path / "day2"), "--seeds", "0,1"]) == 0
    assert {path.name for path in kept.iterdir()} == {
        "ivan-seed0.json",
        "ivan-seed1.json",
        "table-seed0.json",
    }
    assert (kept / "ivan-seed0.json").read_bytes() == before
    assert len(before) < 20_000
    found = json.loads(before)
    assert found["settings"]["budget"]["clock"] == "cpu"
    assert found["training"]["seconds"] >= 0.03
    assert found["training"]["wall_seconds"] > 0
    assert found["commit"]
    assert quality.main(["report", "--out", str(tmp_path / "day3"), "--results", str(kept)]) == 0
    table = (tmp_path / "day3" / "table.md").read_text()
    assert "| forward | T2 | ivan | 2 |" in table
    assert "processor time" in table
    assert "one thread" in table
    capsys.readouterr()
    assert quality.main([*line, "--out", str(tmp_path / "day4"), "--minutes", "1"]) == 2
    error = capsys.readouterr().err
    assert "ivan-seed0.json: was made with budget" in error
    assert quality.main([*line, "--out", str(tmp_path / "day4"), "--threads", "2"]) == 2
    assert "--clock cpu measures one thread" in capsys.readouterr().err


def test_finished_runs_are_measured_again(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From their weights, without training; what was trained elsewhere stays as it is."""
    out, plan = tmp_path / "out", ["ixi", "--data", str(ixi), "--from", "T1", "--to", "T2"]
    run = ["run", *plan, "--out", str(out), "--methods", "ivan,unet,table", "--seeds", "0", *tiny]
    assert quality.main(run) == 0
    kept = {path: json.loads(path.read_text()) for path in (out / "results").iterdir()}
    for path, result in kept.items():  # as an earlier state of the code measured it
        old = [{**row, "values": {"psnr": 1.0}} for row in result["rows"]]
        path.write_text(json.dumps({**result, "rows": old}))
    (out / "checkpoints" / "unet-seed0.pt").rename(tmp_path / "unet-seed0.pt")
    assert quality.main(["measure", *plan, "--out", str(out)]) == 0
    assert "unet-seed0: no" in capsys.readouterr().out
    for path, result in kept.items():
        found = json.loads(path.read_text())
        if path.stem == "unet-seed0":
            assert found["rows"][0]["values"] == {"psnr": 1.0}
            continue
        assert found.pop("measured_by")
        assert found == result
    (tmp_path / "unet-seed0.pt").rename(out / "checkpoints" / "ivan-seed0.pt")
    assert quality.main(["measure", *plan, "--out", str(out)]) == 2
    assert "not the weights of" in capsys.readouterr().err
    assert quality.main(["measure", *plan[:-1], "PD", "--out", str(out)]) == 2
    assert "another experiment" in capsys.readouterr().err


def test_a_report_holds_one_experiment_and_says_every_machine(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--results", str(kept), *tiny]
    line += ["--out", str(tmp_path / "out")]
    assert quality.main([*line, "--methods", "table, ivan", "--seeds", "1,2"]) == 0
    assert {path.stem for path in kept.iterdir()} == {"table-seed0", "ivan-seed1", "ivan-seed2"}
    report = ["report", "--out", str(tmp_path / "out"), "--results", str(kept)]
    path = kept / "ivan-seed2.json"
    run = json.loads(path.read_text())

    path.write_text(json.dumps({**run, "machine": {**run["machine"], "threads": 8}}))
    assert quality.main(report) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "8 threads" in table
    assert ": ivan seed 2." in table
    assert ": ivan seed 1, table seed 0." in table

    rows = [{**row, "values": {**row["values"], "psnr": float("inf")}} for row in run["rows"]]
    del rows[1]["values"]["through_plane_error"]  # a case of one slice
    path.write_text(json.dumps({**run, "rows": rows}))
    assert quality.main(report) == 0
    assert "| ivan | 2 | inf |" in (tmp_path / "out" / "table.md").read_text()

    other = {**run["settings"], "budget": {**run["settings"]["budget"], "seconds": 99.0}}
    for wrong, words in (
        ({**run, "plan": "[]"}, "another experiment"),
        ({**run, "settings": other}, "was made with budget"),
        ({"psnr": 30}, "is not the result of a run"),
        (None, "cannot be read"),
    ):
        path.write_text("{" if wrong is None else json.dumps(wrong))
        capsys.readouterr()
        for again in (report, [*line, "--methods", "ivan", "--seeds", "3"]):
            assert quality.main(again) == 2
            error = capsys.readouterr().err
            assert words in error
            assert error.count("\n") == 1
    assert not (kept / "ivan-seed3.json").exists()  # said before it was trained


def test_what_cannot_be_measured_is_said_before_training(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ixi / "IXI016-Guys-0816-T2.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[..., 2:5] = 0
    values[0, 0, 0] = 500
    nib.save(nib.Nifti1Image(values, image.affine), path)
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--out", str(tmp_path / "out")]
    assert quality.main([*line, "--methods", "ivan", "--seeds", "0", *tiny]) == 2
    error = capsys.readouterr().err
    assert "T2 of IXI016-Guys-0816, which is measured: reference: all 3 slices are empty" in error
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_folder_with_a_case_that_lacks_a_modality(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ixi / "IXI014-Guys-0814-T2.nii.gz").unlink()
    split = tmp_path / "split.json"
    split.write_text('{"training": ["IXI002-Guys-0802"], "validation": ["IXI012-Guys-0812"]}')
    line = ["run", "folder", "--data", str(ixi), "--split", str(split), "--from", "T1", "--to", "T2"]
    line += ["--methods", "ivan,unet,table", "--seeds", "5,6", "--out", str(tmp_path / "out"), *tiny]
    assert quality.main(line) == 0
    assert "IXI014-Guys-0814: no T2, skipped" in capsys.readouterr().err
    assert "| forward | T2 | unet | 2 |" in (tmp_path / "out" / "table.md").read_text()


def test_bad_usage(quality: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (
        ("run ixi", "--data"),
        ("run folder --data x", "--split"),
        ("run ixi --data x", "--from"),
        ("run ms --from T1", "go with ixi"),
        ("run ms --methods best", "--methods"),
        ("run ms --seeds one", "--seeds"),
        ("run ms --minutes 0", "--minutes"),
        ("run ms --minutes nan", "--minutes"),
        ("run ms --batch 0", "--batch"),
        ("report", "no finished run"),
    ):
        assert quality.main([*line.split(), "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
