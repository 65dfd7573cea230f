"""Colours as users' tools write them, the scale of what holds fractions already, and dark images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ivan.cli import run as ivan
from ivan.data.colour import chroma, luma


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A gray volume in 0..1, and colours in 0..255 whose chroma fits any luma from 0.3 to 0.7."""
    rng = np.random.default_rng(7)
    gray = rng.uniform(0.3, 0.7, (12, 11, 3))
    return gray, np.rint((gray[..., None] + rng.uniform(-0.1, 0.1, (12, 11, 3, 3))) * 255)


def write(folder: Path, name: str, values: np.ndarray) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / name / "a.nii.gz")


def fuse(data: Path, out: Path, more: str = "") -> int:
    return ivan(
        f"fuse --data {data} --from MRI --from PET --method average --out {out} --quiet {more}".split()
    )


@pytest.mark.parametrize("axes", [(12, 11, 3, 3), (12, 11, 3, 1, 3)])
def test_bytes_of_red_green_and_blue(
    pair: tuple[np.ndarray, np.ndarray], tmp_path: Path, axes: tuple[int]
) -> None:
    """[X, Y, Z, 3] uint8, as dcm2niix's and SimpleITK's users have it: as voxels of type RGB24."""
    gray, colours = pair
    write(tmp_path, "MRI", (gray * 1000).astype(np.int16))
    write(tmp_path, "PET", colours.astype(np.uint8).reshape(axes))
    assert fuse(tmp_path, tmp_path / "out") == 0
    fused = np.asarray(nib.load(tmp_path / "out" / "fused" / "a.nii.gz").dataobj)
    assert fused.shape == (12, 11, 3)
    made = np.stack([fused[name] for name in "RGB"], -1) / 255
    # The MRI is divided by its percentile, the colours are not: their luma is a fraction already.
    mri = (gray * 1000).astype(np.int16) / np.percentile((gray * 1000).astype(np.int16), 99.5)
    wanted = (mri.clip(0, 1) + luma(colours / 255)) / 2
    inside = ((made > 0) & (made < 1)).all(-1)
    assert inside.mean() > 0.9
    assert np.abs(luma(made) - wanted)[inside].max() < 2 / 255
    assert np.abs(chroma(made) - chroma(colours / 255))[inside].max() < 2 / 255
    protocol = json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]
    assert "PNG and colours none" in protocol["scaling"]


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_three_volumes_of_numbers_are_no_colours(
    pair: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type
) -> None:
    gray, colours = pair
    write(tmp_path, "MRI", (gray * 1000).astype(np.int16))
    write(tmp_path, "PET", colours.astype(kind))
    assert fuse(tmp_path, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "12x11x3x3" in error
    assert "RGB24" in error


def test_gray_stored_as_colours_is_gray(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("MRI", "PET"):
        gray = rng.integers(60, 200, (12, 13, 3), np.uint8)
        write(tmp_path, name, np.repeat(gray[..., None], 3, axis=3))
    assert fuse(tmp_path, tmp_path / "out") == 0  # two colour sources would be refused
    assert nib.load(tmp_path / "out" / "fused" / "a.nii.gz").get_data_dtype() == np.float32


def test_arrays_and_colours_are_written_as_colours(tmp_path: Path) -> None:
    """`.npy` holds no colours: the fused image of an array and a colour PNG is a PNG."""
    rng = np.random.default_rng(3)
    gray = rng.uniform(0.3, 0.7, (12, 13))
    for name in ("MRI", "PET"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "MRI" / "a.npy", gray)
    colours = np.rint((gray[..., None] + rng.uniform(-0.1, 0.1, (12, 13, 3))) * 255).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "PET" / "a.png")
    assert fuse(tmp_path, tmp_path / "out", "--normalise none") == 0
    made = np.asarray(Image.open(tmp_path / "out" / "fused" / "a.png"), float) / 255
    assert made.shape == (12, 13, 3)
    assert np.abs(luma(made) - (gray + luma(colours / 255)) / 2).max() < 2 / 255


def test_how_much_colour_is_cut_is_told(tmp_path: Path) -> None:
    """A bright MRI under a strong red: no such colour exists."""
    gray, red = np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3), np.uint8)
    gray[4:12] = 250
    red[:, 4:12] = (200, 0, 0)
    for name, image in (("MRI", gray), ("PET", red)):
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / name / "a.png")
    assert (
        ivan(f"fuse --data {tmp_path} --from MRI --from PET --method maximum --out {tmp_path / 'o'}".split())
        == 0
    )
    said = json.loads((tmp_path / "o" / "metrics.json").read_text())["protocol"]["colours"]
    share, change = map(float, re.findall(r"([0-9.]+) (?:% of|gray)", said))
    assert share == 25  # the quarter in which the MRI is bright and the PET red
    made = np.asarray(Image.open(tmp_path / "o" / "fused" / "a.png"), float) / 255
    assert change == pytest.approx(255 * np.abs(luma(made) - 250 / 255)[4:12, 4:12].mean(), abs=1)


def test_a_network_takes_png_and_colours_as_they_are(
    images: Path, tmp_path: Path, tiny_options: list[str]
) -> None:
    """By default; a percentile would scale the luma of a colour and not its chroma."""
    run, out = tmp_path / "run", tmp_path / "out"
    line = f"train --task fusion --data {images} --from MRI --from PET --out {run}"
    assert ivan([*line.split(), *tiny_options]) == 0
    scales = json.loads((run / "normalisation.json").read_text())
    assert json.loads((run / "config.json").read_text())["normalise"] == "auto"
    assert scales["scales"] == {"MRI": {"low": 0.0, "high": 1.0}, "PET": {"low": 0.0, "high": 1.0}}
    assert ivan(f"fuse --run {run} --data {images} --out {out} --device cpu --quiet".split()) == 0
    pixels = np.asarray(Image.open(images / "MRI" / "s0.png"), float) / 255
    assert ivan(f"fuse --inverse --run {run} --data {out} --out {tmp_path / 'd'} --quiet".split()) == 0
    made = np.asarray(Image.open(tmp_path / "d" / "exact" / "MRI" / "s0.png"), float) / 65535
    assert np.abs(made - pixels).max() < 1e-4
    synthesis = tmp_path / "synthesis"  # elsewhere the default is what it was
    line = f"train --data {images} --from MRI --to MRI2 --out {synthesis}"
    for name in ("MRI", "MRI2"):
        shutil.copytree(images / "MRI", tmp_path / "data" / name)
    assert ivan([*line.replace(str(images), str(tmp_path / "data")).split(), *tiny_options]) == 0
    assert json.loads((synthesis / "config.json").read_text())["normalise"] == "percentile"


def test_dark_images_are_measured(tmp_path: Path) -> None:
    """All gray levels below 1: dark images, and no mistaken range."""
    rng = np.random.default_rng(3)
    for name in ("MRI", "PET"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", rng.uniform(0, 0.003, (16, 16)))
    assert fuse(tmp_path, tmp_path / "out", "--normalise none") == 0
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert len(rows) == 4


def test_twelve_bits_in_sixteen_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    for name, most in (("MRI", 4096), ("PET", 65536)):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, most, (16, 16), np.uint16)).save(tmp_path / name / "a.png")
    assert fuse(tmp_path, tmp_path / "out") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "of the full scale" in line]
    assert len(said) == 1
    assert str(tmp_path / "MRI" / "a.png") in said[0]
    assert fuse(tmp_path, tmp_path / "out", "--normalise percentile") == 0
    assert "of the full scale" not in capsys.readouterr().err


def test_png_is_measured_in_its_own_gray_levels() -> None:
    """Q^AB/F takes angles of edges: rounding where two pixels are equal must not make some."""
    from ivan.fusion.measure import gray_levels
    from ivan.metrics import q_abf

    rng = np.random.default_rng(3)
    a, b, f = (np.repeat(np.repeat(rng.integers(0, 256, (6, 6)), 4, 0), 4, 1) for _ in range(3))
    stored = [gray_levels((x / 255).astype(np.float32), png=True) for x in (a, b, f)]
    for levels, given in zip(stored, (a, b, f), strict=True):
        assert np.array_equal(levels, given)
    assert float(q_abf(*stored)) == float(q_abf(*(x.astype(float) for x in (a, b, f))))
