"""DICOM series to volumes: values, geometry, slice order; what is odd is found and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import axial_affine, grid, head, write_enhanced, write_series

from ivan.errors import InputError
from ivan.prepare.contrast import modality_of, parse_rules
from ivan.prepare.dicom import read_headers
from ivan.prepare.dicom_files import dicom_files
from ivan.prepare.series import Sorted, Stack, build_volume, sort_series

SMALL = {"shape": (20, 24, 10), "spacing": (8.0, 8.0, 14.0)}


def stacks(folder: Path, skipped: list[str] | None = None) -> Sorted:
    problems: list[str] = [] if skipped is None else skipped
    found = sort_series(
        read_headers(dicom_files(folder), lambda path, said: problems.append(f"{path}: {said}"))
    )
    assert skipped is not None or problems == []
    return found


def one(folder: Path) -> Stack:
    return stacks(folder).stacks[0]


def expect_head(volume, contrast: str) -> None:
    """Every voxel of a volume holds what the phantom has at its place in the world."""
    assert np.abs(volume.data - head(grid(volume.data.shape, volume.affine), contrast)).max() <= 1.0


def test_axial_series_is_the_head_in_ras_order(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", **SMALL)
    volume, notes = build_volume(one(tmp_path))
    assert notes == []
    assert volume.voxel_size == pytest.approx((8, 8, 14))
    assert (np.diag(volume.affine)[:3] > 0).all()
    expect_head(volume, "T1")


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "oblique", "tilted gantry", "feet first"])
def test_any_orientation(tmp_path: Path, plane: str) -> None:
    shape, spacing = (24, 22, 20), np.array([7.0, 8.0, 9.0])
    turn = np.eye(3)
    if plane == "sagittal":  # columns run to posterior, rows to inferior, slices to the left
        turn = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], float)
    elif plane == "coronal":
        turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    elif plane == "feet first":
        turn = np.diag([-1.0, 1.0, -1.0])
    elif plane == "oblique":
        a = np.radians(25)
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix = turn * spacing
    if plane == "tilted gantry":
        matrix[:, 2] = [0, 3.0, 9.0]  # slices shift along y: a sheared grid
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ ((np.array(shape) - 1) / 2)
    write_series(tmp_path, "T2", shape=shape, affine=affine)
    volume, _ = build_volume(one(tmp_path))
    expect_head(volume, "T2")


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    write_series(tmp_path, "CT", kind="CT", slope=lambda k: 1.0 + k / 10, intercept=-1024.0, **SMALL)
    volume, _ = build_volume(one(tmp_path))
    truth = head(grid(volume.data.shape, volume.affine), "CT")
    assert np.abs(volume.data - truth).max() <= 1.0  # half a step of the coarsest slope
    assert volume.data.min() < -990


@pytest.mark.parametrize("absent", ["RescaleIntercept", "RescaleSlope"])
@pytest.mark.parametrize("empty", [False, True])
def test_slope_or_intercept_alone_is_applied(tmp_path: Path, absent: str, empty: bool) -> None:
    import pydicom

    slope, intercept = (2.0, 0.0) if absent == "RescaleIntercept" else (1.0, -1024.0)
    write_series(tmp_path, "T1", slope=slope, intercept=intercept, **SMALL)
    for file in tmp_path.iterdir():
        data = pydicom.dcmread(file)
        if empty:
            setattr(data, absent, None)
        else:
            delattr(data, absent)
        data.save_as(file)
    expect_head(build_volume(one(tmp_path))[0], "T1")


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "enhanced.dcm", "T1")
    volume, _ = build_volume(one(tmp_path))
    assert np.abs(volume.data - head(grid(volume.data.shape, volume.affine), "T1")).max() <= 1.0


def test_missing_slices_are_named_and_filled_only_when_asked(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", drop=(3, 4, 7), **SMALL)
    with pytest.raises(InputError, match=r"3 of 10 slices missing, after slice 3, 5; .*--fill-missing"):
        build_volume(one(tmp_path))
    volume, notes = build_volume(one(tmp_path), interpolate=True)
    assert volume.data.shape[2] == 10
    assert "3 of 10 slices missing" in notes[0]
    truth = head(grid(volume.data.shape, volume.affine), "T1")
    known = [0, 1, 2, 5, 6, 8, 9]
    assert np.abs(volume.data - truth)[:, :, known].max() <= 1.0
    assert volume.data[:, :, 3] == pytest.approx(
        2 / 3 * volume.data[:, :, 2] + volume.data[:, :, 5] / 3, abs=1e-3
    )


def test_mixed_series_is_split_and_reported(tmp_path: Path) -> None:
    uid = "1.2.3.99"
    write_series(tmp_path / "a", "T1", SeriesInstanceUID=uid, **SMALL)
    write_series(tmp_path / "b", "T1", SeriesInstanceUID=uid, shape=(16, 16, 4), spacing=(8.0, 8.0, 14.0))
    found = stacks(tmp_path)
    assert sorted(len(stack.frames) for stack in found.stacks) == [4, 10]
    assert "mixed series: 14 slices in 2 sizes or orientations" in found.notes[0]


def test_two_echoes_of_one_series_are_pd_and_t2(tmp_path: Path) -> None:
    for name, contrast, echo in (("a", "PD", 15.0), ("b", "T2", 95.0)):
        write_series(
            tmp_path / name,
            contrast,
            SeriesInstanceUID="1.2.3.98",
            EchoTime=echo,
            description="ax PD/T2 tse",
            **SMALL,
        )
    found = {modality_of(stack, (), ""): stack for stack in stacks(tmp_path).stacks}
    assert set(found) == {"PD", "T2"}
    for name, stack in found.items():
        expect_head(build_volume(stack)[0], name)


def test_several_volumes_in_a_series_are_refused(tmp_path: Path) -> None:
    for contrast in ("T1", "T2"):
        write_series(
            tmp_path / contrast, contrast, SeriesInstanceUID="1.2.3.97", description="phases", **SMALL
        )
    with pytest.raises(InputError, match="20 slices at 10 places: several volumes"):
        build_volume(one(tmp_path))


def test_irregular_distances_are_refused(tmp_path: Path) -> None:
    def stretched(path: Path) -> None:
        import pydicom

        for file in sorted(path.iterdir())[:4]:
            data = pydicom.dcmread(file)
            data.ImagePositionPatient[2] += 5.0
            data.save_as(file)

    write_series(tmp_path, "T1", **SMALL)
    stretched(tmp_path)
    with pytest.raises(InputError, match="slice distances from"):
        build_volume(one(tmp_path))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"SamplesPerPixel": 3}, "colours"),
        ({"PixelSpacing": None}, "no usable pixel spacing"),
        ({"PixelSpacing": [0.0, 1.0]}, "positive millimetres"),
        ({"ImagePositionPatient": None}, "no usable position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
        ({"Rows": 0}, "at least 1"),
        ({"NumberOfFrames": 5}, "frames without a place"),
    ],
)
def test_files_that_cannot_be_used_are_skipped_and_named(tmp_path: Path, tags: dict, said: str) -> None:
    import pydicom

    write_series(tmp_path, "T1", **SMALL)
    file = sorted(tmp_path.iterdir())[0]
    data = pydicom.dcmread(file)
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.save_as(file)
    skipped: list[str] = []
    stacks(tmp_path, skipped)
    assert len(skipped) == 1
    assert said in skipped[0]
    assert str(file) in skipped[0]
    assert "\n" not in skipped[0]


def test_cut_pixels_are_an_error_of_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", **SMALL)
    file = sorted(tmp_path.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InputError, match="pixels") as caught:
        build_volume(one(tmp_path))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("t1_mprage_sag_p2_iso", "T1"),
        ("AX T1 SE POST GAD", "T1c"),
        ("ax T2 TSE restore", "T2"),
        ("t2_space_dark-fluid_sag", "FLAIR"),
        ("AX FLAIR FS", "FLAIR"),
        ("t2star me", "T2star"),
        ("PDw TSE", "PD"),
        ("ep2d_diff_b1000_ADC", "ADC"),
        ("TOF 3D multi-slab", "MRA"),
        ("localizer", None),
    ],
)
def test_modality_of_usual_descriptions(tmp_path: Path, description: str, name: str | None) -> None:
    write_series(tmp_path, "T1", description=description, shape=(8, 8, 2), spacing=(20.0, 20.0, 20.0))
    stack = one(tmp_path)
    assert modality_of(stack, (), "") == name
    assert modality_of(stack, parse_rules([rf"{description[:4]}.*=Mine"]), "") == "Mine"


def test_copies_of_a_slice_are_taken_once_and_named(tmp_path: Path) -> None:
    write_series(tmp_path / "T1", "T1", **SMALL)
    files = sorted((tmp_path / "T1").iterdir())
    shutil.copy(files[2], tmp_path / "T1" / "copy.dcm")
    shutil.copytree(tmp_path / "T1", tmp_path / "once more")
    skipped: list[str] = []
    found = stacks(tmp_path, skipped)
    assert [len(stack.frames) for stack in found.stacks] == [10]
    assert len(skipped) == 12  # the copy, and eleven files once more
    assert all("copy of an image" in line for line in skipped)
    expect_head(build_volume(found.stacks[0])[0], "T1")


def test_slices_that_share_a_uid_by_careless_anonymisation_are_no_copies(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", SOPInstanceUID="1.2.3", **SMALL)
    assert len(one(tmp_path).frames) == 10


def test_implicit_vr(tmp_path: Path) -> None:
    import pydicom

    write_series(tmp_path, "T1", **SMALL)
    for file in sorted(tmp_path.iterdir()):
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        data.save_as(file, implicit_vr=True, little_endian=True)
    expect_head(build_volume(one(tmp_path))[0], "T1")


def test_bad_rules() -> None:
    for text in ("T1", "=T1", "(=T1", "x=a/b"):
        with pytest.raises(InputError, match="--map"):
            parse_rules([text])


def test_axial_affine_is_centred() -> None:
    assert (axial_affine((3, 3, 3), (1.0, 1.0, 1.0)) @ [1, 1, 1, 1] == [0, 0, 0, 1]).all()


@pytest.mark.parametrize("written", ["signed", "unsigned", "implicit"])
def test_padding_outside_a_round_field_of_view_becomes_air(tmp_path: Path, written: str) -> None:
    """CT scanners fill the corners with a value far below air, which would upset the intensity scale."""
    import pydicom

    write_series(tmp_path, "CT", kind="CT", intercept=-1024.0, **SMALL)
    for file in tmp_path.iterdir():
        data = pydicom.dcmread(file)
        pixels = data.pixel_array.copy()
        pixels[:3, :3] = -2000
        data.PixelData = pixels.tobytes()
        if written == "unsigned":
            data.add_new("PixelPaddingValue", "US", 63536)  # the same bits
        else:
            data.add_new("PixelPaddingValue", "SS", -2000)
        if written == "implicit":
            data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(file, data, implicit_vr=written == "implicit", little_endian=True)
    volume, _ = build_volume(one(tmp_path))
    assert volume.data.min() == -1000
    expect_head(volume, "CT")


def test_padding_of_an_image_without_negative_values_becomes_zero(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", PixelPaddingValue=0, **SMALL)
    expect_head(build_volume(one(tmp_path))[0], "T1")


def test_files_that_are_no_dicom_are_called_so(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", **SMALL)
    (tmp_path / "archive.dcm").write_bytes(b"PK\x03\x04" + bytes(500))
    (tmp_path / "notes.dcm").write_text("not an image")
    skipped: list[str] = []
    assert len(stacks(tmp_path, skipped).stacks) == 1
    assert len(skipped) == 2
    assert all("not a DICOM file, whatever its name says" in line for line in skipped)
