"""benchmarks/quality.py at tiny size: every method trains, stops, goes on, is measured and shown."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch


@pytest.fixture
def quality(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    return importlib.import_module("quality")


@pytest.fixture
def ixi(tmp_path: Path, quality: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven subjects of three modalities with IXI's names; the protocol is shrunk to 3 + 1 + 2 of them."""
    from quality_lib import plans

    monkeypatch.setattr(plans, "IXI_SUBJECTS", (3, 1, 2))
    monkeypatch.setattr(plans, "IXI_SLICES", 3)
    rng = np.random.default_rng(0)
    folder = tmp_path / "IXI"
    folder.mkdir()
    for number in (2, 12, 13, 14, 15, 16, 17):
        head = np.zeros((13, 14, 6))
        head[2:11, 2:12, 2:5] = rng.uniform(0.2, 1, (9, 10, 3))
        for name, values in (("T1", head), ("T2", np.where(head > 0, 1.2 - head, 0)), ("PD", head**2)):
            path = folder / f"IXI{number:03d}-Guys-{800 + number:04d}-{name}.nii.gz"
            nib.save(nib.Nifti1Image((values * 700).astype(np.int16), np.eye(4)), path)
    return folder


TINY = ["--minutes", "0.0005", "--blocks", "1", "--growth", "2", "--patch", "12", "--threads", "1"]


def test_ixi_plan(ixi: Path) -> None:
    from quality_lib.plans import ixi_plan

    from ivan.errors import InputError

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    names = [item.case.name for item in plan.training]
    assert names == ["IXI002-Guys-0802", "IXI012-Guys-0812", "IXI013-Guys-0813"]
    assert [item.case.name[:6] for item in plan.measured] == ["IXI015", "IXI016"]  # IXI014 is kept aside
    assert {(item.start, item.stop) for item in (*plan.training, *plan.measured)} == {(2, 5)}
    assert "25" not in plan.protocol
    assert plan.load(plan.measured[0])[1].shape == (3, 2, 14, 13)
    for path in ixi.glob("IXI016*"):
        path.unlink()
    for path in ixi.glob("IXI017*"):
        path.unlink()
    with pytest.raises(InputError, match="5 subjects"):
        ixi_plan(ixi, ("T1",), ("T2",))


def test_all_quick_methods_are_run_and_shown(
    quality: Any, ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    methods = "ivan,public-twin,public-loss,unet,hi-net,table,table+tv"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--from", "PD", "--to", "T2", "--out", str(out)]
    line += ["--methods", methods, "--seeds", "0,1", *TINY]
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
    quality: Any, ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small files that name clock, code and settings; a later call adds a seed; others are refused."""
    kept = tmp_path / "kept"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--results", str(kept)]
    line += ["--methods", "ivan,table", "--clock", "cpu", *TINY]
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
    quality: Any, ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From their weights, without training; what was trained elsewhere stays as it is."""
    out, plan = tmp_path / "out", ["ixi", "--data", str(ixi), "--from", "T1", "--to", "T2"]
    run = ["run", *plan, "--out", str(out), "--methods", "ivan,unet,table", "--seeds", "0", *TINY]
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


def test_what_is_left_in_an_empty_background_is_measured_apart(quality: Any, ixi: Path) -> None:
    from quality_lib.measure import measure
    from quality_lib.plans import ixi_plan

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    truth = {item.case.name: plan.load(item)[1] for item in plan.measured}
    left = iter(truth.values())

    def right_but_for_the_background(given: np.ndarray) -> np.ndarray:
        real = next(left)[:, 1:]
        assert ((given == 0) == (real == 0)).all()
        return np.where(given == 0, 0.1, real)

    rows = measure(plan, right_but_for_the_background, lambda slices: None)
    assert len(rows) == 2
    for row in rows:
        assert row["values"]["psnr"] < 25
        assert row["values"]["ssim"] < 0.9995
        assert row["values"]["psnr_cleared"] == np.inf
        assert row["values"]["ssim_cleared"] > 0.99999


def test_the_cpu_clock_counts_work_and_not_waiting(quality: Any) -> None:
    import time

    from quality_lib.train import CLOCKS

    begin = {name: clock() for name, clock in CLOCKS.items()}
    time.sleep(0.3)
    spent = {name: clock() - begin[name] for name, clock in CLOCKS.items()}
    assert spent["wall"] >= 0.3
    assert spent["cpu"] < 0.2


def test_a_stopped_run_goes_on_where_it_was(quality: Any, ixi: Path, tmp_path: Path) -> None:
    from quality_lib.methods import Size, build
    from quality_lib.plans import ixi_plan
    from quality_lib.train import Budget, _batches, train

    from ivan.errors import InputError

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    budget = Budget(0.1, batch=2, patch=12)
    whole = _batches(plan, budget, 3, 0)
    skipped = [next(whole) for _ in range(9)][-1]
    again = next(_batches(plan, budget, 3, 8))  # of a later epoch
    assert torch.equal(skipped["source"], again["source"])
    path = tmp_path / "x.pt"
    method = build("ivan", 1, 1, Size(1, 2), 0)
    assert method is not None
    first = train(method, plan, budget, 0, path, print)
    fresh = build("ivan", 1, 1, Size(1, 2), 0)
    assert fresh is not None
    same = train(fresh, plan, budget, 0, path, print)  # the budget is spent: only loaded
    assert same["steps"] == first["steps"]
    x = plan.load(plan.measured[0])[1][:, :1]
    with torch.no_grad():
        made = [m.forward_predict(torch.from_numpy(x.copy())) for m in (method, fresh)]
    assert torch.equal(*made)
    assert same["last_loss"] == first["last_loss"]
    with pytest.raises(InputError, match="was begun with budget"):  # its rate has come down to zero by now
        train(fresh, plan, Budget(2 * same["seconds"] + 0.05, batch=2, patch=12), 0, path, print)
    larger = build("ivan", 1, 1, Size(1, 3), 0)
    assert larger is not None
    with pytest.raises(InputError, match="weights of another --blocks or --growth"):
        train(larger, plan, budget, 0, path, print)
    with pytest.raises(InputError, match="another experiment"):
        train(fresh, ixi_plan(ixi, ("T1",), ("PD",)), budget, 0, path, print)


def test_ctrl_c_saves_and_the_same_command_goes_on(
    quality: Any,
    ixi: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os
    import signal

    from quality_lib.methods import Invertible

    loss, calls = Invertible.loss, []

    def interrupted(self: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch)

    monkeypatch.setattr(Invertible, "loss", interrupted)
    out = tmp_path / "out"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--out", str(out), *TINY]
    line += ["--methods", "ivan", "--seeds", "7", "--minutes", "0.02"]
    assert quality.main(line) == 130
    said = capsys.readouterr()
    assert "of 1 s; the same command goes on" in said.err
    assert "Traceback" not in said.err
    assert not list(out.glob("results/*"))
    assert quality.main(line) == 0
    assert "step 4" in capsys.readouterr().out
    found = json.loads((out / "results" / "ivan-seed7.json").read_text())
    assert found["training"]["steps"] == len(calls)  # none is lost or repeated
    assert np.isfinite(found["training"]["last_loss"])


def test_decoding_does_not_count(quality: Any, ixi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a run begins with its first batch, not with the volumes that are read before."""
    from quality_lib import train
    from quality_lib.plans import ixi_plan

    import ivan.data

    made = []
    real = ivan.data.SliceDataset
    monkeypatch.setattr(ivan.data, "SliceDataset", lambda *a, **k: made.append(1) or real(*a, **k))
    train._batches(ixi_plan(ixi, ("T1",), ("T2",)), train.Budget(1, patch=12), 0, 0)
    assert made == [1]


def test_a_report_holds_one_experiment_and_says_every_machine(
    quality: Any, ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--results", str(kept), *TINY]
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
    quality: Any, ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ixi / "IXI016-Guys-0816-T2.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[..., 2:5] = 0
    values[0, 0, 0] = 500
    nib.save(nib.Nifti1Image(values, image.affine), path)
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--out", str(tmp_path / "out")]
    assert quality.main([*line, "--methods", "ivan", "--seeds", "0", *TINY]) == 2
    error = capsys.readouterr().err
    assert "T2 of IXI016-Guys-0816, which is measured: reference: all 3 slices are empty" in error
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_public_recipe_halves_its_rate_and_uses_the_public_loss(quality: Any) -> None:
    from quality_lib.methods import Size, build

    import ivan

    method = build("public-twin", 1, 1, Size(1, 2), 0)
    ours = build("ivan", 1, 1, Size(1, 2), 0)
    assert method is not None
    assert ours is not None
    assert [method.rate * method.schedule(s) for s in (0.0, 0.2, 0.99)] == [1e-4, 5e-5, 1e-4 / 32]
    assert ours.schedule(0.0) < 0.01 < ours.schedule(0.03)
    batch = {"source": torch.rand(1, 1, 9, 9), "target": torch.rand(1, 1, 9, 9)}
    wanted = ivan.bidirectional_loss(
        method.net, batch["source"], batch["target"], ivan.VariableAugmentation(1, 1), recipe="public"
    )
    assert torch.equal(method.loss(batch), wanted["total"])


def test_the_u_nets_are_as_large_as_the_network(quality: Any) -> None:
    from quality_lib.methods import Size, build

    for sources, targets in ((1, 1), (2, 1), (1, 2)):
        sizes = []
        for name in ("ivan", "unet"):
            method = build(name, sources, targets, Size(), 0)
            assert method is not None
            sizes.append(sum(p.numel() for p in method.parameters()))
        assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
        assert build("hi-net", sources, targets, Size(), 0) is None or sources == 2


def test_total_variation_smooths_the_table(quality: Any, ixi: Path) -> None:
    from quality_lib.measure import tables
    from quality_lib.plans import ixi_plan

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    slices = plan.load(plan.measured[0])[1]
    plain, smooth = (tables(plan, smooth=s)[0](slices[:, :1]) for s in (False, True))
    assert plain is not None
    assert smooth is not None
    assert plain.shape == smooth.shape == (3, 1, 14, 13)
    assert np.abs(np.diff(smooth, axis=3)).sum() < np.abs(np.diff(plain, axis=3)).sum()


def test_a_folder_with_a_case_that_lacks_a_modality(
    quality: Any, ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ixi / "IXI014-Guys-0814-T2.nii.gz").unlink()
    split = tmp_path / "split.json"
    split.write_text('{"training": ["IXI002-Guys-0802"], "validation": ["IXI012-Guys-0812"]}')
    line = ["run", "folder", "--data", str(ixi), "--split", str(split), "--from", "T1", "--to", "T2"]
    line += ["--methods", "ivan,unet,table", "--seeds", "5,6", "--out", str(tmp_path / "out"), *TINY]
    assert quality.main(line) == 0
    assert "IXI014-Guys-0814: no T2, skipped" in capsys.readouterr().err
    assert "| forward | T2 | unet | 2 |" in (tmp_path / "out" / "table.md").read_text()


def test_cases_of_unequal_sizes(quality: Any, ixi: Path) -> None:
    """As the eight reductions of one head are."""
    from quality_lib.measure import tables
    from quality_lib.plans import ixi_plan

    for name in ("T1", "T2"):
        path = ixi / f"IXI012-Guys-0812-{name}.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :-1], image.affine), path)
    plan = ixi_plan(ixi, ("T1",), ("T2",))
    slices = plan.load(plan.measured[0])[1]
    for smooth in (False, True):
        made = tables(plan, smooth=smooth)[0](slices[:, :1])
        assert made is not None
        assert made.shape == (3, 1, 14, 13)
        assert np.abs(made - slices[:, 1:]).mean() < 0.2


def test_score_model_trains_and_samples(quality: Any, ixi: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from quality_lib import score
    from quality_lib.plans import ixi_plan
    from quality_lib.train import Budget, train

    torch.manual_seed(0)
    model = score.ScoreModel(1, 2)
    model.steps = 3
    plan = ixi_plan(ixi, ("T1",), ("T2", "PD"))
    before = next(model.net.parameters()).detach().clone()
    found = train(model, plan, Budget(0.01, patch=12), 0, tmp_path / "s.pt", print)
    assert found["steps"] >= 1
    assert np.isfinite(found["last_loss"])
    assert not torch.equal(before, next(model.net.parameters()))
    source = torch.rand(2, 1, 13, 10)
    made = model.forward_predict(source)
    assert made.shape == (2, 2, 13, 10)
    assert torch.isfinite(made).all()
    assert torch.equal(made, model.forward_predict(source))  # the noise does not change
    assert model.reverse_predict(made) is None


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
