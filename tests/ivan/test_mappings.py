"""Every mapping through the command line: train, synthesise both ways, evaluate; cases that lack a "
"modality."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ivan.cli import run as ivan

NAMES = ("T1", "T2", "PD", "FLAIR", "ADC", "PET", "SWI")
AFFINE = np.array([[-1.0, 0, 0, 8], [0, 1, 0, -9], [0, 0, 2, 4], [0, 0, 0, 1]])
TINY = [
    "--blocks",
    "1",
    "--growth",
    "4",
    "--epochs",
    "1",
    "--no-tensorboard",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--quiet",
]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads of seven contrasts, each a mixture of two tissue maps of its own."""
    root = tmp_path_factory.mktemp("phantoms")
    for number in range(2):
        rng = np.random.default_rng(number)
        maps = np.zeros((2, 16, 14, 3))
        maps[:, 3:13, 2:12] = rng.uniform(0.1, 1, (2, 10, 10, 3))
        for index, name in enumerate(NAMES):
            share = index / (len(NAMES) - 1)
            values = 700 * (share * maps[0] + (1 - share) * maps[1])
            (root / name).mkdir(exist_ok=True)
            image = nib.Nifti1Image(values.astype(np.int16), AFFINE)
            nib.save(image, root / name / f"head{number}.nii.gz")
    return root


def options(sources: tuple[str, ...], targets: tuple[str, ...]) -> list[str]:
    pairs = [("--from", name) for name in sources] + [("--to", name) for name in targets]
    return [word for pair in pairs for word in pair]


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        (("T1",), ("T2",)),
        (("T1", "PD"), ("T2",)),
        (("T1", "T2"), ("PET",)),
        (("T1",), ("T2", "PD")),
        (("T1", "T2", "PD"), ("FLAIR", "PET")),
        (("T1", "T2", "FLAIR"), ("PET",)),
        (("T1", "T2", "PD", "FLAIR", "ADC"), ("PET", "SWI")),
        (("T1",), ("T2", "PD", "FLAIR", "ADC", "PET")),
    ],
    ids=["1to1", "2to1", "2toPET", "1to2", "3to2", "3to1", "5to2", "1to5"],
)
def test_both_directions_of_every_mapping(
    phantoms: Path,
    tmp_path: Path,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    line = ["train", "--data", str(phantoms), "--out", str(run), *options(sources, targets), *TINY]
    assert ivan(line) == 0
    assert json.loads((run / "config.json").read_text())["targets"] == list(targets)
    for given, made, flags in ((sources, targets, []), (targets, sources, ["--inverse"])):
        only = tmp_path / ("inverse" if flags else "forward")
        for name in given:  # what is to be synthesised does not exist
            (only / name).mkdir(parents=True)
            (only / name / "head1.nii.gz").write_bytes((phantoms / name / "head1.nii.gz").read_bytes())
        line = f"synthesize --run {run} --data {only} --out {out} --device cpu --quiet".split()
        assert ivan([*line, *flags]) == 0
        for name in made:
            image = nib.load(out / name / "head1.nii.gz")
            assert np.array_equal(image.affine, AFFINE)
            assert image.shape == (16, 14, 3)
            assert np.isfinite(image.get_fdata()).all()
            assert image.get_fdata().std() > 0
    capsys.readouterr()
    assert ivan(f"evaluate --run {run} --data {phantoms} --device cpu".split()) == 0
    assert "through-plane" in capsys.readouterr().out
    rows = json.loads((run / "evaluation" / "metrics.json").read_text())["cases"]
    found = {(row["direction"], row["target"]) for row in rows}
    assert found == {("forward", t) for t in targets} | {("inverse", s) for s in sources}
    assert all(row["protocol"][name] for row in rows for name in row["values"])
    assert ivan(f"evaluate --prediction {out} --reference {phantoms} --quiet".split()) == 0


def test_cases_that_lack_a_modality(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and evaluation skip a case without all modalities and say so; synthesis needs the given "
    "ones."""
    data, run = tmp_path / "data", tmp_path / "run"
    lacking = {("T2", "head1"): "head1", ("PD", "head0"): "head0"}
    for case in ("head0", "head1", "third"):
        for name in ("T1", "PD", "T2"):
            if (name, case) not in lacking:
                (data / name).mkdir(parents=True, exist_ok=True)
                source = phantoms / name / f"{'head0' if case == 'third' else case}.nii.gz"
                (data / name / f"{case}.nii.gz").write_bytes(source.read_bytes())
    line = ["train", "--data", str(data), "--out", str(run), *options(("T1", "PD"), ("T2",)), *TINY]
    assert ivan([*line, "--validation", "0"]) == 0
    said = capsys.readouterr().err
    assert "head0: no PD, skipped" in said
    assert "head1: no T2, skipped" in said
    assert json.loads((run / "split.json").read_text()) == {"training": ["third"], "validation": []}
    page = (run / "report.html").read_text()
    assert all(line in page for line in ("head0: no PD, skipped", "head1: no T2, skipped"))
    out = tmp_path / "out"
    assert ivan(f"synthesize --run {run} --data {data} --out {out} --device cpu --quiet".split()) == 0
    made = {path.name for path in (out / "T2").iterdir()}
    assert made == {"head1.nii.gz", "third.nii.gz"}  # head1 has both sources, head0 lacks PD
    assert "head0: no PD, skipped" in capsys.readouterr().err
    assert ivan(f"evaluate --run {run} --data {data} --device cpu --quiet".split()) == 0
    rows = json.loads((run / "evaluation" / "metrics.json").read_text())["cases"]
    assert {row["case"] for row in rows} == {"third"}
    # A reader of the report, who saw no terminal, is told whose numbers it does not hold.
    page = (run / "evaluation" / "report.html").read_text()
    assert all(line in page for line in ("head0: no PD, skipped", "head1: no T2, skipped"))
    (out / "T2" / "head1.nii.gz").rename(out / "T2" / "fourth.nii.gz")
    assert ivan(f"evaluate --prediction {out} --reference {data} --quiet".split()) == 0
    line = f"fourth: has T2 in {out} only, skipped"
    assert line in capsys.readouterr().err
    assert line in json.loads((out / "evaluation" / "metrics.json").read_text())["warnings"]
    assert line in (out / "evaluation" / "report.html").read_text()


def test_a_report_says_what_was_resampled(phantoms: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for name in ("T1", "T2"):
        (data / name).mkdir(parents=True)
        image = nib.load(phantoms / name / "head0.nii.gz")
        if name == "T2":
            image = image.slicer[1:, :, :]
        nib.save(image, data / name / "head0.nii")
    line = ["train", "--data", str(data), "--out", str(run), *options(("T1",), ("T2",)), *TINY]
    assert ivan([*line, "--validation", "0"]) == 0
    assert ivan(f"evaluate --run {run} --data {data} --direction forward --device cpu --quiet".split()) == 0
    said = json.loads((run / "evaluation" / "metrics.json").read_text())["warnings"]
    assert any("T2/head0.nii resampled" in line for line in said)


def test_two_inputs_beat_each_of_them(tmp_path: Path) -> None:
    """T2 is the mean of two independent maps, T1 and PD: one of them leaves half of its variance "
    "unexplained."""
    from ivan.evaluation import evaluate
    from ivan.training import fit

    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        maps = rng.uniform(0.2, 1, (2, 20, 20, 4))
        for name, values in (("T1", maps[0]), ("PD", maps[1]), ("T2", maps.mean(0))):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image((values * 500).astype(np.int16), AFFINE)
            nib.save(image, tmp_path / "data" / name / f"{case}.nii.gz")
    split = tmp_path / "split.json"
    split.write_text('{"training": ["a"], "validation": ["b"]}')
    found = {}
    for sources in (("T1",), ("PD",), ("T1", "PD")):
        run = fit(
            data=str(tmp_path / "data"), split=str(split), sources=sources, targets=("T2",),
            epochs=12, lr=1e-2,
            blocks=1, growth=4, last_scale=0.1, validate_epochs=0, tensorboard=False, device="cpu", threads=1,
            out=str(tmp_path / "+".join(sources)), progress=False,
        )  # fmt: skip
        result = evaluate(run=run, data=tmp_path / "data", direction="forward", split=split, device="cpu")
        found[sources] = result.cases[0].values["psnr"]
    assert found["T1", "PD"] > 3 + max(found[("T1",)], found[("PD",)])
