"""Pairing: each documented layout, and what is said where names do not fit. The files are never opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivan.data import find_cases, find_cases_in_folders
from ivan.data.naming import patient_of
from ivan.errors import InputError


@pytest.fixture
def tree(tmp_path):
    """`tree("T1/a.nii.gz", ...)` makes empty files below a folder and returns it."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "data"

    return make


LAYOUTS = {
    "modality folders": (["T1/a.nii.gz", "T2/a.nii.gz", "T1/b.nii", "T2/b.nii"], ["a", "b"]),
    "folders and suffixes": (["T1/a_T1.nii.gz", "T2/a_T2.nii.gz"], ["a"]),
    "folders in another case": (["t1/a.npy", "t2/a.npy"], ["a"]),
    "folders below others": (
        ["train/T1/a.mat", "train/T2/a.mat", "test/T1/a.mat", "test/T2/a.mat"],
        ["test_a", "train_a"],
    ),
    "folder of a case": (["a/T1/x.nii", "a/T2/x.nii"], ["a_x"]),
    "underscore": (["a_T1.nii.gz", "a_T2.nii.gz", "notes.txt", "a_FLAIR.nii.gz"], ["a"]),
    "hyphen": (["IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828-T2.nii.gz"], ["IXI002-Guys-0828"]),
    "BraTS": (["B_001/B_001_t1.nii.gz", "B_001/B_001_t2.nii.gz", "B_001/B_001_t1ce.nii.gz"], ["B_001"]),
    "case folders": (["p1/T1.nii.gz", "p1/T2.nii.gz", "p2/T1.nii.gz", "p2/T2.nii.gz"], ["p1", "p2"]),
    "BIDS": (["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz"], ["sub-01"]),
    "BIDS sessions": (
        [
            f"sub-01/ses-{s}/anat/sub-01_ses-{s}_{e}{m}w.nii.gz"
            for s in (1, 2)
            for m, e in (("T1", "acq-x_"), ("T2", ""))
        ],
        ["sub-01_ses-1", "sub-01_ses-2"],
    ),
    "BIDS runs": (
        [f"sub-01/anat/sub-01_run-{run}_{m}w.nii.gz" for run in (1, 2) for m in ("T1", "T2")],
        ["sub-01_run-1", "sub-01_run-2"],
    ),
    "BIDS one run": (["sub-01/anat/sub-01_run-1_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz"], ["sub-01"]),
    "BIDS derivatives": (
        [
            "dataset_description.json",
            "sub-01_T1w.nii.gz",
            "sub-01_T2w.nii.gz",
            "derivatives/x/sub-01_T1w.nii.gz",
        ],
        ["sub-01"],
    ),
    "prefix": (["T1_a.nii.gz", "T2_a.nii.gz", "T1_b.nii.gz", "T2_b.nii.gz"], ["a", "b"]),
    "one case by prefix": (["T1_spgr.nii.gz", "T2_late.nii.gz", "tissues.nii.gz"], ["data"]),
    "hidden files": (["a_T1.nii.gz", "a_T2.nii.gz", "._a_T1.nii.gz", ".git/a_T1.nii.gz"], ["a"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tree, layout):
    files, names = LAYOUTS[layout]
    root = tree(*files)
    cases = find_cases(root, ["T1", "T2"])
    assert [case.name for case in cases] == names
    assert not cases.skipped
    for case in cases:
        for modality in ("T1", "T2"):
            assert case.files[modality].is_file()
            assert modality.lower() in str(case.files[modality].relative_to(root)).lower()


def test_numbers_sort_as_numbers(tree):
    cases = find_cases(tree(*(f"{m}/p{i}.nii" for m in ("T1", "T2") for i in (10, 2, 1))), ["T1", "T2"])
    assert [case.name for case in cases] == ["p1", "p2", "p10"]


def test_optional_modalities_and_skipped_cases(tree):
    root = tree("a_T1.nii", "a_T2.nii", "b_T1.nii", "b_T2.nii", "b_PD.nii", "c_T2.nii")
    cases = find_cases(root, ["T1", "T2"], optional=["pd"])
    assert [sorted(case.files) for case in cases] == [["T1", "T2"], ["T1", "T2", "pd"]]
    assert cases.skipped == ["c: no T1, skipped"]


def test_modality_names_that_contain_each_other(tree):
    root = tree("a_T1.nii", "a_post-T1.nii", "b_T1.nii", "b_post-T1.nii")
    cases = find_cases(root, ["T1", "post-T1"])
    assert [case.files["post-T1"].name for case in cases] == ["a_post-T1.nii", "b_post-T1.nii"]


def test_bids_folder_of_diffusion_holds_maps_too(tree):
    root = tree("sub-01/dwi/sub-01_dwi.nii", "sub-01/dwi/sub-01_ADC.nii")
    (case,) = find_cases(root, ["DWI", "ADC"])
    assert [path.name for path in case.files.values()] == ["sub-01_ADC.nii", "sub-01_dwi.nii"]


def test_folder_loops_end(tree):
    root = tree("a_T1.nii", "sub/a_T2.nii")
    (root / "sub" / "loop").symlink_to(root)
    assert len(find_cases(root, ["T1", "T2"])) == 1


@pytest.mark.parametrize(
    ("files", "modalities", "words"),
    [
        (
            ["a_T1.nii", "a_T2.nii", "a_FLAIR.nii"],
            ["T1", "T3"],
            ["no file of modality 'T3'", "FLAIR, T1, T2"],
        ),
        (["T1_x.nii", "T2_y.nii"], ["T1", "DWI"], ["no file of modality 'DWI'", "T1, T2, x, y"]),
        (["a_T1.nii", "b_T2.nii"], ["T1", "T2"], ["no case has all of T1, T2", "a: no T2", "b: no T1"]),
        (
            ["a_T1.nii", "a_T1.nii.gz", "a_T2.nii"],
            ["T1", "T2"],
            ["case 'a' has 2 files for T1", "a_T1.nii.gz"],
        ),
        (["x/a_T1.nii", "y/a_T1.nii", "a_T2.nii"], ["T1", "T2"], ["2 files for T1"]),
        (["T1/a_T2.nii", "T2/a.nii"], ["T1", "T2"], ["its folder says T1 and its name says T2"]),
        (["a_T1.dcm"], ["T1"], ["no image found", ".nii.gz"]),
        (["a_T1.nii"], ["T1", "t1"], ["'t1' was named twice"]),
        (["a_T1.nii"], ["T1/.."], ["expected a plain name"]),
        (["a_T1.nii"], [], ["no modality"]),
    ],
)
def test_refused(tree, files, modalities, words):
    with pytest.raises(InputError) as caught:
        find_cases(tree(*files), modalities)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_cases(tmp_path / "absent", ["T1"])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, expected a folder"):
        find_cases(tmp_path / "file", ["T1"])


def test_folders_of_their_own(tree):
    root = tree("one/a.png", "one/b.png", "two/a.png", "two/b.png", "two/c.png")
    cases = find_cases_in_folders({"T1": root / "one", "T2": root / "two"})
    assert [case.name for case in cases] == ["a", "b"]
    assert cases.skipped == ["c: no T1, skipped"]
    assert not cases.notes


def test_folders_paired_by_number_and_by_order(tree):
    root = tree(
        "n1/x1.mat",
        "n1/x2.mat",
        "n2/y02.mat",
        "n2/y01.mat",
        "o1/a.mat",
        "o1/b.mat",
        "o2/c.mat",
        "o2/d.mat",
        "o3/e.mat",
    )
    by_number = find_cases_in_folders({"T1": root / "n1", "T2": root / "n2"})
    assert [(case.name, case.files["T2"].name) for case in by_number] == [
        ("x1", "y01.mat"),
        ("x2", "y02.mat"),
    ]
    assert "last number" in by_number.notes[0]
    by_order = find_cases_in_folders({"T1": root / "o1", "T2": root / "o2"})
    assert [(case.name, case.files["T2"].name) for case in by_order] == [("a", "c.mat"), ("b", "d.mat")]
    assert "sorted order" in by_order.notes[0]
    with pytest.raises(InputError, match="no two file names agree and the folders hold 2 of T1, 1 of T2"):
        find_cases_in_folders({"T1": root / "o1", "T2": root / "o3"})


@pytest.mark.parametrize(
    ("case", "file", "patient"),
    [
        ("sub-01_ses-2_run-1", "x.nii.gz", "sub-01"),
        ("patient07", "x.nii.gz", "patient07"),
        ("patient_07", "x.png", "patient_07"),
        ("p07_ses-2", "x.nii", "p07"),
        ("p07_tp2", "x.nii", "p07"),
        ("p07-visit-3_run2", "x.nii", "p07"),
        ("p07_012", "x.png", "p07"),
        ("p07_slice012", "x.mat", "p07"),
        ("p07_z12", "x.npy", "p07"),
        ("p07_012", "x.nii.gz", "p07_012"),
    ],
)
def test_patients(case, file, patient):
    assert patient_of(case, Path(file)) == patient


@pytest.mark.data
def test_real_folders(shared):
    data = shared / "data"
    cases = find_cases(data / "ms_mni_T1_T2_FLAIR", ["T1", "T2"], optional=["lesion"])
    assert [(case.name, sorted(case.files)) for case in cases] == [
        (f"patient{n}", ["T1", "T2", "lesion"]) for n in ("07", "26")
    ]
    (atlas,) = find_cases(data / "sri24_T1_T2_PD", ["T1", "PD", "T2"])
    assert [atlas.files[m].name for m in ("T1", "PD", "T2")] == [
        "T1_spgr.nii.gz",
        "PD_erly.nii.gz",
        "T2_late.nii.gz",
    ]
