"""The demo: contrasts follow the spin-echo equation, slabs stay apart, the whole job runs and is labelled."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ivan.data import read_volume
from ivan.demo import job, phantom, run_demo
from ivan.demo.baseline import PixelTable
from ivan.errors import InputError


@pytest.fixture(scope="module")
def head() -> phantom.Head:
    pytest.importorskip("nilearn", reason="nilearn holds the template of the demo")
    return phantom.build_head(factor=4)


def test_spin_echo_equation() -> None:
    tissue = phantom.Tissue(t1=1000.0, t2=100.0, pd=0.8)
    expected = 0.8 * (1 - math.exp(-2)) * math.exp(-0.5)
    assert phantom.spin_echo(tissue, 2000.0, 50.0) == pytest.approx(expected, rel=1e-12)
    for echo_time in phantom.ECHO_TIMES.values():  # fluid bright, white matter dark in both echoes
        csf, gm, wm = (
            phantom.spin_echo(phantom.TISSUES[k], phantom.REPETITION_TIME, echo_time)
            for k in ("csf", "gm", "wm")
        )
        assert csf > gm > wm


def test_head_is_the_template_with_simulated_echoes(head: phantom.Head) -> None:
    folder = phantom.maps_folder()
    template = read_volume(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    maps = [
        read_volume(folder / f"mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz").data for k in ("gm", "wm")
    ]
    x, y, z = 18, 22, 18
    centre = head.affine @ [x, y, z, 1]
    i, j, k = np.round((np.linalg.inv(template.affine) @ centre)[:3] - 1.5).astype(int)
    block = (slice(i, i + 4), slice(j, j + 4), slice(k, k + 4))
    assert head.volumes["T1"][x, y, z] == pytest.approx(template.data[block].mean(), rel=1e-5)
    gm, wm = (m[block].mean() / 255 for m in maps)
    shares = {"gm": gm, "wm": wm, "csf": (template.data[block] > 0).mean() - gm - wm}
    for name, echo_time in phantom.ECHO_TIMES.items():
        tissues = phantom.TISSUES
        clean = 1000 * sum(
            shares[t] * phantom.spin_echo(tissues[t], phantom.REPETITION_TIME, echo_time) for t in shares
        )
        noise = 1000 * phantom.NOISE * phantom.spin_echo(tissues["csf"], phantom.REPETITION_TIME, echo_time)
        assert abs(head.volumes[name][x, y, z] - clean) < phantom.BIAS * clean + 4 * noise


def test_background_is_empty_and_seed_decides(head: phantom.Head) -> None:
    brain = head.volumes["T1"] > 0
    assert 0.2 < brain.mean() < 0.9
    for volume in head.volumes.values():
        assert volume.dtype == np.float32
        assert (volume[~brain] == 0).all()
    again, other = phantom.build_head(factor=4), phantom.build_head(factor=4, seed=1)
    for name in head.volumes:
        np.testing.assert_array_equal(head.volumes[name], again.volumes[name])
    np.testing.assert_array_equal(head.volumes["T1"], other.volumes["T1"])
    assert np.abs(head.volumes["T2"] - other.volumes["T2"])[brain].mean() > 1


def test_unseen_slab_keeps_its_distance(head: phantom.Head) -> None:
    (low, high) = job.UNSEEN["unseen"]
    for other_low, other_high in (job.TRAINING | job.VALIDATION).values():
        assert other_high <= low - 8 or other_low >= high + 8
    part = phantom.slab(head, low, high)
    count = part.volumes["T1"].shape[2]
    z = (part.affine @ [0, 0, 0, 1])[2], (part.affine @ [0, 0, count - 1, 1])[2]
    assert low <= z[0] < z[1] <= high
    inverse = np.linalg.inv(head.affine) @ part.affine @ [5, 6, 1, 1]
    np.testing.assert_allclose(inverse[:2], [5, 6], atol=1e-9)
    same = head.volumes["PD"][5, 6, round(inverse[2])]
    assert part.volumes["PD"][5, 6, 1] == same


def test_files_say_what_is_simulated(head: phantom.Head, tmp_path: Path) -> None:
    import nibabel

    phantom.write_slab(tmp_path, "unseen", head)
    for name in ("T1", "T2", "PD"):
        path = tmp_path / name / "unseen.nii.gz"
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data, head.volumes[name])
        np.testing.assert_allclose(volume.affine, head.affine)
        text = bytes(nibabel.load(path).header["descrip"]).decode()
        assert ("simulated contrast" in text) == (name != "T1")
        assert phantom.describe(name) in text  # not cut


def test_absent_nilearn_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "ivan_fast\[demo\]"'):
        run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_table_is_the_best_pixelwise_map() -> None:
    rng = np.random.default_rng(0)
    sources = rng.uniform(0, 1, (2, 200_000))
    target = np.sin(3 * sources[0]) * sources[1]
    table = PixelTable.fit(sources, target)
    unseen = rng.uniform(0, 1, (2, 30, 40))
    error = table.predict(unseen) - np.sin(3 * unseen[0]) * unseen[1]
    assert table.predict(unseen).shape == (30, 40)
    assert np.sqrt(np.mean(error**2)) < 0.02
    # Where nothing was seen the linear fit answers: here the target is linear, so it is right there too.
    line = PixelTable.fit(sources[:1] / 2, 0.5 + sources[0])
    np.testing.assert_allclose(line.predict(np.array([[0.9]])), [0.5 + 1.8], rtol=1e-4)


def test_only_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    with pytest.raises(InputError, match="not an earlier demo"):
        run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(InputError, match="is a file"):
        run_demo(precious)
    for minutes in (0, -1, math.nan):
        with pytest.raises(InputError, match="minutes"):
            run_demo(tmp_path / "new", minutes=minutes)
    assert not (tmp_path / "new").exists()


def test_the_whole_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nilearn", reason="nilearn holds the template of the demo")
    original = phantom.build_head
    monkeypatch.setattr(phantom, "build_head", lambda seed: original(factor=4, seed=seed))
    monkeypatch.setattr(job, "PATCH", 16)
    monkeypatch.setattr(job, "BLOCKS", 2)
    monkeypatch.setattr(job, "GROWTH", 4)
    out = tmp_path / "demo"
    report = run_demo(out, steps=3)
    for name in ("T1", "T2", "PD"):
        made = read_volume(out / "synthesized" / name / "unseen.nii.gz", allow_constant=True)
        real = read_volume(out / "unseen" / name / "unseen.nii.gz")
        assert made.data.shape == real.data.shape
        np.testing.assert_allclose(made.affine, real.affine)
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    found = [(r["direction"], r["target"], r["method"]) for r in rows]
    assert found == [
        (direction, target, method)
        for direction, target in (("forward", "T2"), ("inverse", "T1"), ("inverse", "PD"))
        for method in ("iVAN", job.TABLE)
    ]
    assert all(r["values"]["psnr"] > 20 for r in rows if r["method"] == job.TABLE)
    printed = capsys.readouterr().out
    assert str(report.resolve()) in printed
    assert f"{rows[0]['values']['psnr']:.2f} dB" in printed
    page = report.read_text(encoding="utf-8")
    for text in (page, printed, (out / "README.txt").read_text()):
        assert "simulated contrast" in text.lower()
    assert f"{rows[0]['values']['psnr']:.2f}" in page
    run_demo(out, steps=2)  # an earlier demo is replaced
    records = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(r["step"] for r in records) == 2
