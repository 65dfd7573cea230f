"""`ivan train --task fusion`, `ivan fuse`, and back, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from ivan.cli import run as ivan
from ivan.data.colour import chroma, luma


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), float) / 255


def test_a_rule_on_volumes(volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"fuse --data {volumes} --from MRI --from CT --method maximum --out {tmp_path} --baselines"
    assert ivan(line.split()) == 0
    printed = capsys.readouterr().out
    for word in ("average", "maximum", "laplacian", "wavelet", "Q^AB/F", "bits", "percentile"):
        assert word in printed
    fused, mri = (nib.load(p) for p in (tmp_path / "fused/c0.nii.gz", volumes / "MRI/c0.nii.gz"))
    assert np.array_equal(fused.affine, mri.affine)
    stored = [np.asarray(nib.load(volumes / name / "c0.nii.gz").dataobj, float) for name in ("MRI", "CT")]
    scaled = [x / np.percentile(x[x > 0], 99.5) for x in stored]
    assert np.allclose(fused.get_fdata(), np.maximum(*scaled).clip(0, 1), atol=1e-5)
    assert (tmp_path / "average" / "c1.nii.gz").exists()
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"average", "maximum", "laplacian", "wavelet"}
    for row in rows:
        assert set(row["values"]) == set(row["protocol"])
        assert len(row["values"]) == 8
    report = (tmp_path / "report.html").read_text()
    assert "Fusion of MRI and CT" in report
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 1 + 2 * 4


def test_a_fused_image_beside_the_sources_is_not_replaced(
    volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A label, say."""
    data = tmp_path / "data"
    shutil.copytree(volumes, data)
    label = data / "fused" / "c1.nii.gz"
    label.parent.mkdir()
    shutil.copy(data / "MRI" / "c1.nii.gz", label)
    before = label.read_bytes()
    line = f"fuse --data {data} --from MRI --from CT --out {data} --quiet"
    assert ivan(line.split()) == 2
    error = capsys.readouterr().err
    assert f"{label} lies among the images of --data and would be replaced" in error
    assert error.count("\n") == 1
    assert label.read_bytes() == before
    assert not (label.parent / "c0.nii.gz").exists()


def test_numbers_are_those_of_the_metrics(volumes: Path, tmp_path: Path) -> None:
    from ivan.data import volume_to_slices
    from ivan.metrics import q_abf

    assert ivan(f"fuse --data {volumes} --from MRI --from CT --out {tmp_path} --quiet".split()) == 0
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    paths = [volumes / "MRI/c1.nii.gz", volumes / "CT/c1.nii.gz", tmp_path / "fused/c1.nii.gz"]
    # Upright slices: Q^AB/F compares angles without their period, so it depends on how an image is turned.
    slices = [volume_to_slices(np.asarray(nib.load(path).dataobj, np.float32)[::-1]) for path in paths]
    a, b = (
        (x / np.float32(np.percentile(x[x > 0], 99.5))).astype(float).clip(0, 1) * 255 for x in slices[:2]
    )
    row = next(r for r in rows if r["case"] == "c1" and r["method"] == "laplacian")
    expected = float(q_abf(a, b, slices[2].astype(float) * 255, axis=0))
    assert row["values"]["q_abf"] == pytest.approx(expected, abs=1e-6)


def test_colours_are_kept(images: Path, tmp_path: Path) -> None:
    line = f"fuse --data {images} --from MRI --from PET --method average --out {tmp_path} --quiet"
    assert ivan(line.split()) == 0
    made, pet = levels(tmp_path / "fused/s0.png"), levels(images / "PET/s0.png")
    gray = levels(images / "MRI/s0.png")[..., 0]
    assert np.abs(chroma(made) - chroma(pet)).max() < 2 / 255  # 8 bits
    assert np.abs(luma(made) - (luma(pet) + gray) / 2).max() < 1 / 255
    assert np.abs(chroma(pet)).max() > 0.03
    shown = re.search(
        r'id="report-data"[^>]*>(.*?)</script>', (tmp_path / "report.html").read_text(), re.DOTALL
    )
    case = json.loads(shown.group(1))["cases"][0]
    coloured = {name for name, image in case["images"].items() if image.get("chroma") == "chroma"}
    assert coloured == {"image PET", "prediction 0", "prediction 1", "prediction 2", "prediction 3"}
    assert case["images"]["chroma"]["src"].startswith("data:image/png")


def test_black_stays_black(fusion_run: Path, volumes: Path, tmp_path: Path) -> None:
    """Where both sources are exactly 0, the images of the network and of the rules are."""
    line = f"fuse --run {fusion_run} --data {volumes} --baselines --out {tmp_path} --device cpu --quiet"
    assert ivan(line.split()) == 0
    mri, ct = (np.asarray(nib.load(volumes / name / "c0.nii.gz").dataobj) for name in ("MRI", "CT"))
    empty = (mri == 0) & (ct == 0)
    for folder in ("fused", "wavelet"):
        made = np.asarray(nib.load(tmp_path / folder / "c0.nii.gz").dataobj)
        assert not made[empty].any()
        assert made[~empty].any()
    assert json.loads((tmp_path / "metrics.json").read_text())["protocol"]["background"]
    assert ivan(f"evaluate --run {fusion_run} --data {volumes} --device cpu --quiet".split()) == 2  # no label


def test_exact_and_approximate_decomposition(
    fusion_run: Path, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert ivan(f"fuse --run {fusion_run} --data {volumes} --out {out} --device cpu".split()) == 0
    assert "approximate, from the fused image alone" in capsys.readouterr().out
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    found = {(r["case"], r["part"], r["method"].split(",")[0]): r["values"] for r in rows}
    for name in ("MRI", "CT"):
        assert found["c0", name, "exact"]["largest_error"] < 1e-5
        assert found["c0", name, "approximate"]["largest_error"] > 1e-2
    assert (
        ivan(f"fuse --inverse --run {fusion_run} --data {out} --out {back} --device cpu --quiet".split()) == 0
    )
    for name in ("MRI", "CT"):
        real, exact, estimate = (
            nib.load(p / name / "c1.nii.gz") for p in (volumes, back / "exact", back / "approximate")
        )
        assert np.array_equal(real.affine, exact.affine)
        assert np.allclose(exact.get_fdata(), real.get_fdata(), atol=1e-5 * 1000)  # in the file's units
        assert not np.allclose(estimate.get_fdata(), real.get_fdata(), atol=10)
    # From the image alone nothing exact is claimed.
    (out / "state" / "c0.safetensors").unlink()
    again = tmp_path / "again"
    assert (
        ivan(f"fuse --inverse --run {fusion_run} --data {out} --out {again} --device cpu --quiet".split())
        == 0
    )
    assert not (again / "exact" / "MRI" / "c0.nii.gz").exists()
    assert (again / "exact" / "MRI" / "c1.nii.gz").exists()
    assert (again / "approximate" / "MRI" / "c0.nii.gz").exists()


def test_another_runs_state_is_refused(
    fusion_run: Path, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    out = tmp_path / "out"
    assert ivan(f"fuse --run {fusion_run} --data {volumes} --out {out} --device cpu --quiet".split()) == 0
    path = out / "state" / "c0.safetensors"
    line = f"fuse --inverse --run {fusion_run} --data {out} --out {tmp_path / 'b'} --device cpu".split()
    for damage in ("weights", "bytes"):
        if damage == "weights":
            save_file({"state": torch.zeros(3, 2, 16, 18)}, path, {"weights": "0" * 64, "scales": "{}"})
        else:
            path.write_bytes(b"\x00" * 40)
        capsys.readouterr()
        assert ivan(line) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "1 of 2 cases could not be used, the others are written" in error
        assert str(path) in error
        assert not (tmp_path / "b" / "approximate" / "MRI" / "c0.nii.gz").exists()


@pytest.mark.parametrize("target", ["wavelet", "unsupervised"])
def test_other_targets(volumes: Path, tmp_path: Path, tiny_options: list[str], target: str) -> None:
    run = tmp_path / "run"
    line = f"train --task fusion --data {volumes} --from MRI --from CT --fusion-target {target} --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    assert last["split"] == "validation"
    assert "psnr_reverse" in last
    assert ("q_abf" in last) == (target == "unsupervised") != ("psnr_forward" in last)
    assert ("structure" in records[0]) == (target == "unsupervised")
    assert "decomposition" in (run / "report.html").read_text()
    assert ivan(f"fuse --run {run} --data {volumes} --out {tmp_path / 'o'} --device cpu --quiet".split()) == 0
    more = f"train --resume --out {run} --epochs 2 --quiet"
    assert ivan(more.split()) == 0


def test_a_label_and_colours_in_training(
    volumes: Path, images: Path, tmp_path: Path, tiny_options: list[str]
) -> None:
    run = tmp_path / "label"
    line = f"train --task fusion --data {volumes} --from MRI --from CT --to label --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    assert json.loads((run / "config.json").read_text())["targets"] == ["label"]
    assert ivan(f"evaluate --run {run} --data {volumes} --device cpu --quiet".split()) == 0
    assert ivan(f"fuse --run {run} --data {volumes} --out {tmp_path / 'o'} --device cpu --quiet".split()) == 0
    run = tmp_path / "colour"
    line = f"train --task fusion --data {images} --from MRI --from PET --normalise none --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    out = tmp_path / "c"
    assert ivan(f"fuse --run {run} --data {images} --out {out} --device cpu --quiet".split()) == 0
    assert Image.open(out / "fused" / "s0.png").mode == "RGB"
    assert (
        ivan(f"fuse --inverse --run {run} --data {out} --out {tmp_path / 'd'} --device cpu --quiet".split())
        == 0
    )
    made = np.asarray(Image.open(tmp_path / "d/exact/PET/s0.png"), float) / 65535
    assert np.abs(made - luma(levels(images / "PET/s0.png"))).max() < 1e-4  # the luma of the colour source


def test_training_moves_towards_its_target(volumes: Path, tmp_path: Path) -> None:
    from ivan.training import fit

    for target, key in (("laplacian", "forward"), ("unsupervised", "total")):
        run = fit(
            data=str(volumes), sources=("MRI", "CT"), task="fusion", fusion_target=target, epochs=12, lr=1e-2,
            blocks=1, growth=4, log_every=5, validation=0.0, flips=False, turns=False, tensorboard=False,
            device="cpu", threads=1, out=str(tmp_path / target), progress=False, last_scale=0.1,
        )  # fmt: skip
        records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        assert records[-1][key] < 0.7 * records[0][key]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fuse --data {v} --from MRI --out {o}", "--from"),
        ("fuse --data {v} --from MRI --from PD --out {o}", "PD"),
        ("fuse --data {v} --from MRI --from CT --method best --out {o}", "--method"),
        ("fuse --data {v} --from MRI --from CT --out {o} --inverse", "--inverse"),
        ("fuse --data {v} --run {r} --method wavelet --out {o}", "--method"),
        ("fuse --data {v} --run {r} --from CT --from MRI --out {o}", "--from"),
        ("fuse --data {v} --run {r} --inverse --out {o}", "fused"),
        ("fuse --data {v} --run {v} --out {o}", "config.json"),
        ("synthesize --data {v} --run {r} --out {o}", "ivan fuse"),
        ("evaluate --data {v} --run {r}", "ivan fuse"),
        ("train --task fusion --data {v} --from MRI --out {o}", "--task fusion"),
        (
            "train --task fusion --data {v} --from MRI --from CT --to label --fusion-target wavelet --out "
            "{o}",
            "label",
        ),
        ("train --data {v} --from MRI --to CT --fusion-target wavelet --out {o}", "--fusion-target"),
        ("test --task fusion --data {v} --out_path {o}", "ivan fuse"),
        ("train --task fuse --data {v} --from MRI --to CT --out {o}", "fusion"),
    ],
)
def test_bad_usage_is_one_line(
    line: str, words: str, volumes: Path, fusion_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ivan(line.format(v=volumes, r=fusion_run, o=tmp_path / "o").split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_colour_volumes_on_another_grid(tmp_path: Path) -> None:
    """A PET of type RGB24, stored from left to right, beside an MRI stored from right to left."""
    from ivan.data.colour import RGB24

    rng = np.random.default_rng(5)
    gray = rng.uniform(0.3, 0.7, (9, 10, 3))
    colours = np.rint((gray[..., None] + rng.uniform(-0.1, 0.1, (9, 10, 3, 3))) * 255)
    voxels = np.zeros((9, 10, 3), RGB24)
    for index, name in enumerate("RGB"):
        voxels[name] = colours[..., index]
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 8
    for name, values, affine in (
        ("MRI", (gray[::-1] * 1000).astype(np.int16), flipped),
        ("PET", voxels, np.eye(4)),
    ):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(values, affine), tmp_path / name / "a.nii.gz")
    out = tmp_path / "out"
    line = (
        f"fuse --data {tmp_path} --from MRI --from PET --method average --normalise none --out {out} --quiet"
    )
    assert ivan(line.split()) == 0
    fused = nib.load(out / "fused" / "a.nii.gz")
    assert np.array_equal(fused.affine, flipped)
    stored = np.asarray(fused.dataobj)
    made = np.stack([stored[name] for name in "RGB"], -1)[::-1] / 255
    # Without normalisation the MRI, far above 1, saturates the image: its chroma stays where it can be shown.
    assert luma(made).mean() > 0.9
    line = line.replace("--normalise none", "--normalise percentile").replace(str(out), str(out) + "2")
    assert ivan(line.split()) == 0
    stored = np.asarray(nib.load(tmp_path / "out2" / "fused" / "a.nii.gz").dataobj)
    made = np.stack([stored[name] for name in "RGB"], -1)[::-1] / 255
    inside = ((made > 0) & (made < 1)).all(-1)  # not cut
    assert inside.mean() > 0.5
    assert np.abs(chroma(made) - chroma(colours / 255))[inside].max() < 2 / 255


def test_resampling_is_told(volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, affine in (("MRI", np.diag([-1.0, 1, 2, 1])), ("CT", np.diag([-0.8, 0.9, 2, 1]))):
        (tmp_path / name).mkdir()
        values = np.asarray(nib.load(volumes / name / "c0.nii.gz").dataobj)
        nib.save(nib.Nifti1Image(values, affine), tmp_path / name / "c0.nii.gz")
    out = tmp_path / "out"
    assert ivan(f"fuse --data {tmp_path} --from MRI --from CT --out {out} --quiet".split()) == 0
    assert "resampled" in capsys.readouterr().err
    assert "resampled" in (out / "report.html").read_text()


def test_the_report_names_pairs_without_a_partner(volumes: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(volumes, data)
    (data / "CT" / "c0.nii.gz").unlink()
    assert ivan(f"fuse --data {data} --from MRI --from CT --out {out} --quiet".split()) == 0
    assert json.loads((out / "metrics.json").read_text())["warnings"] == ["c0: no CT, skipped"]
    assert "c0: no CT, skipped" in (out / "report.html").read_text()


def test_two_colour_sources_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PET", "SPECT"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s0.png").write_bytes((images / "PET" / "s0.png").read_bytes())
    options = f"--data {tmp_path} --from PET --from SPECT --out {tmp_path / 'o'}"
    for command in ("fuse", "train --task fusion --validation 0"):  # a training says so before it begins
        assert ivan(f"{command} {options}".split()) == 2
        assert "both in colour" in capsys.readouterr().err


def test_pairs_of_every_kind_of_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16-bit gray beside RGB, RGBA and palette colours; a tiny pair is fused and told, not measured."""
    rng = np.random.default_rng(4)
    gray = np.rint(rng.uniform(0.3, 0.7, (20, 17)) * 65535).astype(np.uint16)
    colour = np.rint(rng.uniform(0.35, 0.65, (20, 17, 3)) * 255).astype(np.uint8)  # no fused colour is cut
    few = Image.fromarray(colour).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    pets = {"rgb": Image.fromarray(colour), "rgba": Image.fromarray(colour).convert("RGBA"), "palette": few}
    pairs = {case: (gray, pet) for case, pet in pets.items()}
    pairs["tiny"] = (gray[:6, :5], Image.fromarray(colour[:6, :5]))
    for case, (mri, pet) in pairs.items():
        for name, image in (("MRI", Image.fromarray(mri)), ("PET", pet)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "data" / name / f"{case}.png")
    line = f"fuse --data {tmp_path / 'data'} --from MRI --from PET --method average --out {tmp_path / 'out'}"
    assert ivan(line.split()) == 0
    assert "tiny: Q (Piella): images of 6x5 pixels" in capsys.readouterr().err
    for case, pet in pets.items():
        made, given = (
            levels(tmp_path / "out/fused" / f"{case}.png"),
            np.asarray(pet.convert("RGB"), float) / 255,
        )
        assert np.abs(chroma(made) - chroma(given)).max() < 2 / 255, case
        assert np.abs(luma(made) - (luma(given) + gray / 65535) / 2).max() < 1 / 255, case
    assert levels(tmp_path / "out/fused/tiny.png").shape == (6, 5, 3)
    rows = json.loads((tmp_path / "out/metrics.json").read_text())["rows"]
    assert {row["case"] for row in rows} == set(pets)
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "data/PET/rgb.png")
    faint = np.dstack([colour, np.full((20, 17), 200, np.uint8)])
    Image.fromarray(faint).save(tmp_path / "data/PET/rgba.png")
    assert ivan(line.split()) == 2
    error = capsys.readouterr().err
    assert "transparent pixels, expected an opaque image" in error


def test_a_bad_pair_does_not_cost_the_others(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    clear = np.zeros((18, 16, 4), np.uint8)
    clear[4:9, 4:9] = 255
    shutil.copy(images / "MRI" / "s0.png", data / "MRI" / "clear.png")
    Image.fromarray(clear).save(data / "PET" / "clear.png")
    line = ["fuse", "--data", str(data), "--from", "MRI", "--from", "PET", "--out", str(tmp_path / "out")]
    assert ivan(line) == 2
    printed = capsys.readouterr()
    assert "1 of 3 cases could not be used, the others are written" in printed.err
    assert "transparent" in printed.err
    assert {path.name for path in (tmp_path / "out" / "fused").iterdir()} == {"s0.png", "s1.png"}
    assert "clear left out: " in (tmp_path / "out" / "report.html").read_text()


def test_a_damaged_fused_image_does_not_cost_the_others(
    fusion_run: Path, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"fuse --run {fusion_run} --data {volumes} --out {tmp_path / 'out'} --quiet"
    assert ivan(line.split()) == 0
    (tmp_path / "out" / "fused" / "c0.nii.gz").write_bytes(b"damaged")
    line = f"fuse --run {fusion_run} --data {tmp_path / 'out'} --inverse --out {tmp_path / 'back'} --quiet"
    assert ivan(line.split()) == 2
    assert "1 of 2 cases could not be used, the others are written" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "back" / "exact" / "MRI").iterdir()] == ["c1.nii.gz"]
