"""`ivan prepare` from raw folders to training data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_phantom import axial_affine, grid, head, write_series

from ivan.cli import run as ivan
from ivan.data import read_volume
from ivan.data.datalist import read_datalist
from ivan.data.writing import _owner
from ivan.errors import RunError
from ivan.prepare import job as job_module
from ivan.prepare import prepare
from ivan.prepare.check import compare

SMALL = {"shape": (40, 48, 18), "spacing": (4.0, 4.0, 8.0)}
OTHER = {"shape": (32, 36, 24), "spacing": (5.0, 5.0, 6.0)}


def patient(raw: Path, name: str, **more: object) -> None:
    """T1 and T2 of a patient as DICOM, on different grids."""
    write_series(raw / name / "s1", "T1", patient=name, study=f"1.2.{len(name)}", number=1, **SMALL)
    write_series(
        raw / name / "s2", "T2", patient=name, study=f"1.2.{len(name)}", number=2, **{**OTHER, **more}
    )


def nifti(path: Path, contrast: str, affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(head(grid(shape, affine), contrast), affine), path)


def lps_to_ras(affine: np.ndarray) -> np.ndarray:
    return np.diag([-1.0, -1, 1, 1]) @ affine


def rigid(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    a = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    matrix[:3, 3] = shift
    return matrix


def records(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "cases").glob("*.json"))}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three DICOM patients and a localiser, prepared once; tests read it."""
    root = tmp_path_factory.mktemp("prepared")
    for name in ("anna", "ben01", "carla7"):
        patient(root / "raw", name)
    write_series(root / "raw" / "anna" / "s0", "T1", description="localizer", shape=(8, 8, 2), number=0)
    prepare(root / "raw", root / "out", test=0.3, validation=0.3, progress=False)
    return root / "raw", root / "out"


def test_dicom_tree_to_paired_volumes_on_one_grid(prepared: tuple[Path, Path]) -> None:
    _, out = prepared
    for case in ("anna", "ben01", "carla7"):
        t1, t2 = (read_volume(out / m / f"{case}.nii.gz") for m in ("T1", "T2"))
        assert t1.data.shape == t2.data.shape == (40, 48, 18)
        assert np.allclose(t1.affine, t2.affine)
        assert np.abs(t1.data - head(grid(t1.data.shape, t1.affine), "T1")).max() <= 1
        truth = head(grid(t2.data.shape, t2.affine), "T2")
        assert np.corrcoef(t2.data.ravel(), truth.ravel())[0, 1] > 0.94
        header = nib.load(out / "T1" / f"{case}.nii.gz").header
        assert header.get_xyzt_units()[0] == "mm"
        assert nib.aff2axcodes(t1.affine) == ("R", "A", "S")
    assert all(record["warnings"] == [] for record in records(out).values())


def test_datalist_is_monais_and_ours(prepared: tuple[Path, Path]) -> None:
    from monai.data import load_decathlon_datalist

    _, out = prepared
    content = json.loads((out / "dataset.json").read_text())
    assert content["modality"] == {"0": "T1", "1": "T2"}
    assert [len(content[part]) for part in ("training", "validation", "test")] == [1, 1, 1]
    for part in ("training", "validation", "test"):
        (entry,) = load_decathlon_datalist(out / "dataset.json", data_list_key=part)
        assert [Path(path).is_file() for path in entry["image"]] == [True, True]
        assert [case.name for case in read_datalist(f"{out}/dataset.json:{part}", ["T1", "T2"])] == [
            entry["case"]
        ]
    assert len(read_datalist(out / "dataset.json", ["T2"])) == 3


def test_nothing_of_the_patients_name_is_written(prepared: tuple[Path, Path]) -> None:
    _, out = prepared
    for path in out.rglob("*"):
        if path.is_file():
            assert b"Secret" not in path.read_bytes()


def test_training_takes_the_dataset(
    prepared: tuple[Path, Path], tmp_path: Path, tiny_options: list[str]
) -> None:
    _, out = prepared
    run = tmp_path / "run"
    command = ["train", "--data", str(out / "dataset.json"), "--from", "T1", "--to", "T2", "--out", str(run)]
    assert ivan([*command, *tiny_options, "--max-steps", "2"]) == 0
    content = json.loads((out / "dataset.json").read_text())
    split = json.loads((run / "split.json").read_text())
    assert split == {part: [e["case"] for e in content[part]] for part in ("training", "validation")}
    test = f"{out}/dataset.json:test"
    assert (
        ivan(["synthesize", "--run", str(run), "--data", test, "--out", str(tmp_path / "made"), "--quiet"])
        == 0
    )
    assert [p.name for p in (tmp_path / "made" / "T2").iterdir()] == [content["test"][0]["case"] + ".nii.gz"]
    assert ivan(["evaluate", "--run", str(run), "--data", test, "--quiet"]) == 0
    trained = f"{out}/dataset.json:training"
    assert (
        ivan(["evaluate", "--run", str(run), "--data", trained, "--quiet", "--out", str(tmp_path / "e")]) == 0
    )
    cases = json.loads((tmp_path / "e" / "metrics.json").read_text())["cases"]
    assert cases
    assert all(case["in_training"] for case in cases)


def test_what_is_kept_for_a_test_is_never_drawn_for_training(
    prepared: tuple[Path, Path], tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the file has no validation part, and patients are drawn for it."""
    _, out = prepared
    content = json.loads((out / "dataset.json").read_text())
    for part in ("training", "validation", "test"):
        for entry in content[part]:
            entry["image"] = [str(out / image) for image in entry["image"]]
    path = tmp_path / "dataset.json"
    command = ["train", "--data", str(path), "--from", "T1", "--to", "T2", *tiny_options, "--max-steps", "1"]
    training = content["training"] + content.pop("validation")
    for seed in ("0", "1", "2"):
        run = tmp_path / seed
        path.write_text(json.dumps({**content, "training": training}))
        assert ivan([*command, "--seed", seed, "--out", str(run)]) == 0
        split = json.loads((run / "split.json").read_text())
        assert sorted(split["training"] + split["validation"]) == sorted(e["case"] for e in training)
    for left, said in ((training[:1], "all cases are of one patient"), ([], "of its part 'test'")):
        path.write_text(json.dumps({**content, "training": left}))
        capsys.readouterr()
        assert ivan([*command, "--out", str(tmp_path / "none")]) == 2
        assert said in capsys.readouterr().err


def test_new_patients_with_the_source_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_run: Path
) -> None:
    """Raw DICOM of a patient whose T2 is to be made: nothing to pair, and no reason to refuse it."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_series(raw / "new" / "t1", "T1", patient="new", **SMALL)
    write_series(raw / "two" / "t1", "T1", patient="two", study="1.9", **SMALL)
    assert ivan(["prepare", str(raw), "--out", str(out)]) == 2
    assert "patients with one modality are taken where one --modality is given" in capsys.readouterr().err
    write_series(tmp_path / "lone", "T1", **SMALL)
    for path in sorted((tmp_path / "lone").iterdir())[1:]:
        path.unlink()
    assert ivan(["prepare", str(tmp_path / "lone"), "--out", str(out), "--modality", "T1"]) == 2
    assert "no case has T1 (" in capsys.readouterr().err  # and no word of another modality
    assert ivan(["prepare", str(raw), "--out", str(out), "--modality", "T1"]) == 0
    assert "synthesise with: ivan synthesize" in capsys.readouterr().out
    assert "&ndash;" in (out / "quality.html").read_text()
    command = ["synthesize", "--run", str(tiny_run), "--data", str(out / "dataset.json"), "--quiet"]
    assert ivan([*command, "--out", str(tmp_path / "made")]) == 0
    assert sorted(p.name for p in (tmp_path / "made" / "T2").iterdir()) == ["new.nii.gz", "two.nii.gz"]


def test_page_has_one_overlay_a_case_and_names_what_was_left_out(prepared: tuple[Path, Path]) -> None:
    text = (prepared[1] / "quality.html").read_text()
    assert text.count('<img class="overlay"') == 3
    assert text.count("data:image/png;base64,") == 3
    assert "localizer" in text
    assert "modality unknown" in text


def test_second_call_keeps_what_is_there_and_makes_the_rest(
    prepared: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(prepared[0], raw, copy_function=shutil.copy2)
    prepare(raw, out, progress=False)
    kept = out / "T1" / "ben01.nii.gz"
    before = kept.stat().st_mtime_ns, (out / "T2" / "anna.nii.gz").read_bytes()
    (out / "T2" / "anna.nii.gz").write_bytes(b"half")  # of another size: made again
    os.utime(raw / "carla7" / "s1" / "IM0000")  # a changed source: made again
    machine = _owner().partition("+")[0]
    leftover = out / "T2" / f".anna.nii.gz.{machine}+999999999.abc.part"
    leftover.write_bytes(b"killed")
    prepare(raw, out)
    said = capsys.readouterr().out
    assert "prepared anna (1 of 3" in said
    assert "kept ben01 (2 of 3, 0:00:0" in said
    assert "prepared carla7" in said
    assert (kept.stat().st_mtime_ns, (out / "T2" / "anna.nii.gz").read_bytes()) == before
    assert not leftover.exists()
    monkeypatch.setattr(job_module, "prepare_case", None)  # nothing is left to do
    prepare(raw, out, progress=False)


def test_shifted_pair_warns_and_registration_mends_it(tmp_path: Path) -> None:
    truth = lps_to_ras(axial_affine((60, 64, 30), (3.0, 3.0, 5.0)))
    moved = rigid(8, (6.0, -9.0, 5.0)) @ truth  # the header lies: the patient moved between the scans
    for contrast, affine in (("T1", truth), ("T2", moved)):
        path = tmp_path / "raw" / f"sub-01/anat/sub-01_{contrast}w.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(head(grid((60, 64, 30), truth), contrast), affine), path)
    prepare(tmp_path / "raw", tmp_path / "plain", progress=False)
    record = records(tmp_path / "plain")["sub-01"]
    assert any("they match best" in line and "--register" in line for line in record["warnings"])
    prepare(tmp_path / "raw", tmp_path / "mended", register=True, progress=False)
    record = records(tmp_path / "mended")["sub-01"]
    assert record["warnings"] == []
    assert record["registration"]["T2"]["angle_degrees"] == pytest.approx(8, abs=0.7)
    world = np.array(record["registration"]["T2"]["matrix"])
    back = world @ rigid(8, (6.0, -9.0, 5.0))  # what is left of the motion, where the head is
    corners = np.array([[x, y, z, 1.0] for x in (-60, 60) for y in (-70, 70) for z in (-50, 50)])
    assert np.abs(corners @ back.T - corners).max() < 1.5  # half a voxel of 3 mm
    t2 = read_volume(tmp_path / "mended" / "T2" / "sub-01.nii.gz")
    expected = head(grid(t2.data.shape, t2.affine), "T2")
    assert np.corrcoef(t2.data.ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("shift", [0.0, 9.0])
def test_check_measures_the_distance(shift: float) -> None:
    affine = lps_to_ras(axial_affine((60, 64, 40), (3.0, 3.0, 4.0)))
    points = grid((60, 64, 40), affine)
    match = compare(
        head(points),
        head(points + np.array([shift, 0, 0]), "T2"),
        np.ones((60, 64, 40), bool),
        (3.0, 3.0, 4.0),
    )
    assert match.shift == pytest.approx(shift, abs=1.6)
    assert match.cover == 1
    assert bool(match.warnings("T1", "T2")) == (shift > 0)


@pytest.mark.parametrize(
    ("axis", "degrees", "shift"),
    [(0, 16.0, 0.0), (0, -8.0, 0.0), (2, -8.0, 0.0), (2, 0.0, 0.0), (2, 16.0, 12.0)],
)
def test_check_measures_turns(axis: int, degrees: float, shift: float) -> None:
    """About x and z: about y this head is nearly round."""
    affine = lps_to_ras(axial_affine((60, 64, 40), (3.0, 3.0, 4.0)))
    points = grid((60, 64, 40), affine)
    turn = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn[i, i] = turn[j, j] = np.cos(np.radians(degrees))
    turn[i, j] = np.sin(np.radians(degrees))
    turn[j, i] = -turn[i, j]
    other = head((points + np.array([0, shift, 0])) @ turn, "T2")
    match = compare(head(points), other, np.ones((60, 64, 40), bool), (3.0, 3.0, 4.0))
    assert match.angle == pytest.approx(abs(degrees), abs=4.1)
    assert match.shift == pytest.approx(shift, abs=1.6)
    assert bool(match.warnings("T1", "T2")) == (degrees != 0)


def test_no_overlap_leaves_the_case_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine = lps_to_ras(axial_affine((20, 22, 10), (8.0, 8.0, 12.0)))
    for name, far in (("near", 0.0), ("far", 4000.0)):
        nifti(tmp_path / "raw" / "T1" / f"{name}.nii.gz", "T1", affine, (20, 22, 10))
        path = tmp_path / "raw" / "T2" / f"{name}.nii.gz"
        nifti(path, "T2", affine, (20, 22, 10))
        away = affine.copy()
        away[0, 3] += far
        nib.save(nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), away), path)
    prepare(tmp_path / "raw", tmp_path / "out")
    said = capsys.readouterr().out
    assert "left out far" in said
    assert "does not overlap" in said
    assert set(records(tmp_path / "out")) == {"near"}


def test_spacing_and_crop(tmp_path: Path) -> None:
    affine = lps_to_ras(axial_affine((60, 70, 30), (4.0, 4.0, 6.0)))  # the head fills a part of it
    for contrast in ("T1", "T2"):
        nifti(tmp_path / "raw" / contrast / "a.nii.gz", contrast, affine, (60, 70, 30))
    prepare(tmp_path / "raw", tmp_path / "out", spacing="3x3x5", crop=True, progress=False)
    volume = read_volume(tmp_path / "out" / "T1" / "a.nii.gz")
    assert volume.voxel_size == pytest.approx((3, 3, 5), abs=1e-4)
    assert np.array(volume.data.shape) * (3, 3, 5) == pytest.approx((140 + 16, 170 + 16, 130 + 16), abs=14)
    expected = head(grid(volume.data.shape, volume.affine), "T1")
    assert np.corrcoef(volume.data.ravel(), expected.ravel())[0, 1] > 0.96


def test_mr_and_ct_of_two_studies_are_one_case(tmp_path: Path) -> None:
    write_series(tmp_path / "raw" / "a", "T1", patient="p 1", study="1.1", **SMALL)
    write_series(
        tmp_path / "raw" / "b", "CT", patient="p 1", study="1.2", kind="CT", intercept=-1024.0, **OTHER
    )
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    record = records(tmp_path / "out")["p-1"]
    assert list(record["bytes"]) == ["T1", "CT"]
    assert record["warnings"] == []
    ct = read_volume(tmp_path / "out" / "CT" / "p-1.nii.gz")
    assert ct.data.min() == pytest.approx(-1000, abs=2)


def test_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    for visit in ("1.1", "1.2"):
        for number, contrast in enumerate(("T1", "T2")):
            folder = tmp_path / "raw" / visit / contrast
            write_series(
                folder,
                contrast,
                patient="p",
                study=visit,
                StudyDate=f"2020010{visit[-1]}",
                number=number,
                **SMALL,
            )
    patient(tmp_path / "raw", "other")
    out = prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    cases = {case.name: case.patient for case in read_datalist(out, ["T1"])}
    assert cases == {"p_ses-1": "p", "p_ses-2": "p", "other": "other"}
    content = json.loads(out.read_text())
    parts = {entry["case"]: part for part in ("training", "validation") for entry in content[part]}
    assert parts["p_ses-1"] == parts["p_ses-2"] != parts["other"]


def test_stopped_disk_full_and_ctrl_c(
    prepared: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw, out = prepared[0], tmp_path / "out"
    original = os.fsync
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        prepare(raw, out, progress=False)
    monkeypatch.undo()
    assert not list(out.rglob("*.part"))
    assert 1 <= len(records(out)) < 3

    def interrupt(*details: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job_module, "prepare_case", interrupt)
    assert ivan(["prepare", str(raw), "--out", str(out), "--quiet"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.undo()
    prepare(raw, out, progress=False)
    assert len(records(out)) == 3


def test_bad_usage_is_one_line(
    prepared: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, done = map(str, prepared)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    new = str(tmp_path / "new")
    for arguments, said in (
        ([str(tmp_path / "nowhere"), "--out", new], "no such folder"),
        ([str(tmp_path / "empty"), "--out", new], "no image"),
        ([raw, "--out", str(tmp_path / "full")], "not empty"),
        ([raw, "--out", raw + "/inside"], "lie in each other"),
        ([raw, "--out", new, "--modality", "FLAIR"], "no image of modality 'FLAIR'; found T1, T2"),
        ([raw, "--out", new, "--spacing", "0"], "--spacing"),
        ([raw, "--out", new, "--spacing", "1x2"], "--spacing"),
        ([raw, "--out", new, "--map", "T1"], "--map"),
        ([raw, "--out", new, "--validation", "0.6", "--test", "0.5"], "leave no patient"),
        ([raw, "--out", new, "--test", "-1"], "--test"),
        ([raw], "--out"),
    ):
        assert ivan(["prepare", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert said in error
    assert not Path(new).exists()
    assert Path(done).is_dir()
