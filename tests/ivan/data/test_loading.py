"""Loading: normalisation recorded and undone, grids brought together through affines, or refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ivan.data import Case, load_case, read_volume, volume_to_slices, write_volume
from ivan.data.resample import on_grid_of, overlap
from ivan.errors import InputError


def case_of(**files):
    return Case("c", "c", files)


def ramp(affine, shape):
    """A linear function of world coordinates, sampled on a grid: linear interpolation is exact on it."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return world @ np.array([2.0, -3.0, 0.5]) + 1000


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_scales_and_back(save_nifti, volume, plane):
    case = case_of(T1=save_nifti("a.nii.gz", volume), T2=save_nifti("b.nii.gz", volume * 7))
    loaded = load_case(case, ["T1", "T2"], plane=plane)
    assert loaded.modalities == ("T1", "T2")
    assert loaded.slices.shape == (
        volume_to_slices(volume, plane).shape[0],
        2,
        *volume_to_slices(volume, plane).shape[1:],
    )
    assert loaded.scales["T2"].high == pytest.approx(7 * loaded.scales["T1"].high, rel=1e-6)
    assert np.allclose(loaded.slices[:, 0], loaded.slices[:, 1], atol=1e-6)
    for channel, (modality, factor) in enumerate({"T1": 1, "T2": 7}.items()):
        back = loaded.to_volume(loaded.scales[modality].undo(loaded.slices[:, channel]))
        assert np.allclose(back, volume * factor, rtol=1e-5)
    with pytest.raises(InputError, match="expected all slices"):
        loaded.to_volume(loaded.slices[1:, 0])


def test_without_normalisation(save_nifti, volume):
    loaded = load_case(case_of(T1=save_nifti("a.nii.gz", volume)), ["T1"], normalise="none")
    assert np.array_equal(loaded.slices[:, 0], volume_to_slices(volume))
    assert loaded.levels["T1"] == pytest.approx(0.05 * np.percentile(volume, 99.5), rel=1e-5)


def test_foreground_is_5_percent_of_the_scale(save_nifti):
    data = np.zeros((20, 20, 2))
    data[..., 1] = 100
    data[0, :, 1] = 4  # below 5 % of 100
    data[:, :, 0] = 1
    loaded = load_case(case_of(T1=save_nifti("a.nii.gz", data)), ["T1"])
    assert loaded.foreground().mean(axis=(1, 2)).tolist() == [0.0, 0.95]


TURNED = np.array([[0, -1.5, 0, 14.0], [1.2, 0, 0, -3.0], [0.1, 0, 2.0, -4.0], [0, 0, 0, 1]])
FINER = np.diag([0.5, 0.5, 0.5, 1.0])
SHIFTED = np.array([[1, 0, 0, -2.4], [0, 1, 0, -2.7], [0, 0, 1, -2.2], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("affine", "shape"), [(TURNED, (20, 16, 12)), (FINER, (40, 40, 30)), (SHIFTED, (20, 20, 16))]
)
def test_resampling_is_exact_on_a_ramp(save_nifti, affine, shape):
    """Wherever the other volume has data around, the result is the ramp on the first one's grid."""
    grid = np.array([[1.0, 0, 0, 1], [0, 1.0, 0, 1], [0, 0, 1.0, 1], [0, 0, 0, 1]])
    first = save_nifti("first.nii.gz", ramp(grid, (9, 8, 7)), grid)
    second = save_nifti("second.nii.gz", ramp(affine, shape), affine)
    reference, moving = read_volume(first), read_volume(second)
    result, note = on_grid_of(reference, moving)
    assert result.shape == reference.data.shape
    assert "/second.nii.gz resampled from" in note
    index = np.stack(np.meshgrid(*map(np.arange, result.shape), indexing="ij"), axis=-1)
    stored = (index @ grid[:3, :3].T + grid[:3, 3] - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    margin = 3 if affine is FINER else 0  # the blur before coarser sampling reaches this far
    inside = ((stored >= margin) & (stored <= np.array(shape) - 1 - margin)).all(axis=-1)
    assert inside.mean() > 0.3
    assert np.abs(result - reference.data)[inside].max() < 1e-3 * np.ptp(reference.data)


def test_outside_gets_the_smallest_value(save_nifti):
    grid = np.eye(4)
    rng = np.random.default_rng(0)
    first = read_volume(save_nifti("a.nii", rng.random((8, 8, 8)), grid))
    moved = grid.copy()
    moved[0, 3] = 4
    second = read_volume(save_nifti("b.nii", rng.uniform(-1000, 500, (8, 8, 8)), moved))
    result, _ = on_grid_of(first, second)
    assert np.allclose(result[:3], second.data.min(), atol=1e-3)
    assert np.allclose(result[4:], second.data[:4], atol=1e-2)
    assert overlap(first, second) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("thick", [np.diag([1.0, 1, 5, 1]), np.diag([1.25, 2.5, 5, 1])], ids=["one", "all"])
def test_the_outermost_voxels_reach_as_far_as_all_others(save_nifti, thick):
    """The same field of view in thin and in thick slices: nothing fades at its edge."""
    shape = (np.array([10, 10, 20]) / np.diag(thick)[:3]).round().astype(int)
    thick = thick.copy()
    thick[:3, 3] = (np.diag(thick)[:3] - 1) / 2
    rng = np.random.default_rng(0)
    body = np.full(shape, 800.0)
    body[:, :, 1] = rng.uniform(-1000, 100, shape[:2])
    first = read_volume(save_nifti("thin.nii", rng.random((10, 10, 22)), np.eye(4)))
    second = read_volume(save_nifti("thick.nii", body, thick))
    result, _ = on_grid_of(first, second)
    assert np.allclose(result[:, :, [0, 1, 2, 17, 18, 19]], 800, atol=0.1)
    assert np.allclose(result[:, :, 20:], body.min(), atol=0.1)


def test_grids_of_tiny_voxels_are_told_apart(save_nifti):
    """A hundredth of a millimetre, shifted by a twentieth of a voxel."""
    grid = np.diag([0.01, 0.01, 0.01, 1])
    moved = grid.copy()
    moved[0, 3] = 0.0005
    data = ramp(np.eye(4), (8, 7, 6))
    first = read_volume(save_nifti("a.nii", data, grid))
    second = read_volume(save_nifti("b.nii", data, moved))
    result, _ = on_grid_of(first, second)
    assert np.allclose(result[1:], data[1:] - 0.05 * 2, atol=1e-2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices(save_nifti, axis):
    """A grid of one slice is filled from the right place; one slice fills its own place and no other."""
    shape = [9, 8, 7]
    grid, coarser = np.eye(4), np.diag([1.25, 1.25, 1.25, 1])
    volume = read_volume(save_nifti("volume.nii", ramp(grid, shape), grid))
    one = [5, 5, 5]
    one[axis] = 1
    coarser[axis, 3] = 3.5
    single = read_volume(save_nifti("slice.nii", ramp(coarser, one), coarser))
    result, _ = on_grid_of(single, volume)
    assert np.allclose(result, single.data, atol=1e-2)
    coarser[axis, 3] = 3
    single = read_volume(save_nifti("slice.nii", ramp(coarser, one), coarser))
    result, _ = on_grid_of(volume, single)
    elsewhere = np.delete(result, [2, 3, 4], axis=axis)
    assert np.allclose(elsewhere, single.data.min(), atol=1e-2)
    place = [slice(0, 5)] * 3
    place[axis] = slice(3, 4)
    assert np.allclose(result[tuple(place)], volume.data[tuple(place)], atol=1e-2)


def test_fine_detail_is_blurred_before_coarse_sampling(save_nifti):
    """A checkerboard much finer than the grid becomes its mean, not one of its two values."""
    board = np.indices((32, 32, 32)).sum(axis=0) % 2
    fine = read_volume(save_nifti("fine.nii", board, np.diag([0.25, 0.25, 0.25, 1])))
    coarse = read_volume(save_nifti("coarse.nii", np.random.default_rng(0).random((8, 8, 8)), np.eye(4)))
    result, _ = on_grid_of(coarse, fine)
    assert np.abs(result[2:6, 2:6, 2:6] - 0.5).max() < 0.02


def test_mirrored_storage_is_the_same_grid(tmp_path, save_nifti, volume):
    """One file stored left to right, the other right to left: nothing is interpolated."""
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = volume.shape[0] - 1
    nib.save(nib.Nifti1Image(volume[::-1], mirrored), tmp_path / "b.nii.gz")
    loaded = load_case(case_of(T1=save_nifti("a.nii.gz", volume), T2=tmp_path / "b.nii.gz"), ["T1", "T2"])
    assert np.array_equal(loaded.slices[:, 0], loaded.slices[:, 1])
    assert not loaded.notes


def test_array_beside_nifti_is_taken_in_stored_order(tmp_path, volume):
    """An .npy of the same stored shape belongs to the NIfTI voxel for voxel, however that one is oriented."""
    affine = np.array([[0, -2.0, 0, 9], [0, 0, 2.0, 0], [-2.0, 0, 0, 9], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "a.nii.gz")
    np.save(tmp_path / "b.npy", volume)
    for files in ({"T1": "a.nii.gz", "T2": "b.npy"}, {"T1": "b.npy", "T2": "a.nii.gz"}):
        loaded = load_case(case_of(**{m: tmp_path / f for m, f in files.items()}), ["T1", "T2"])
        assert np.array_equal(loaded.slices[:, 0], loaded.slices[:, 1])


def test_result_is_written_on_the_first_grid(tmp_path, save_nifti):
    grid = np.diag([-1.0, 1, 2, 1])
    first = save_nifti("a.nii.gz", np.random.default_rng(0).random((8, 9, 7)), grid)
    second = save_nifti("b.nii.gz", np.random.default_rng(1).random((9, 9, 9)), np.diag([-1.0, 1, 1.5, 1]))
    loaded = load_case(case_of(T1=first, T2=second), ["T1", "T2"])
    assert len(loaded.notes) == 1
    out = write_volume(tmp_path / "out.nii.gz", loaded.to_volume(loaded.slices[:, 1]), loaded.reference)
    assert nib.load(out).shape == (8, 9, 7)
    assert np.array_equal(nib.load(out).affine, grid)


def test_refused(tmp_path, save_nifti, volume):
    first = save_nifti("a.nii.gz", volume)
    far = np.eye(4)
    far[0, 3] = 500
    with pytest.raises(InputError, match=r"far.nii.gz: covers 0 %.*register"):
        load_case(case_of(T1=first, T2=save_nifti("far.nii.gz", volume, far)), ["T1", "T2"])
    np.save(tmp_path / "b.npy", volume[:4])
    with pytest.raises(InputError, match=r"b.npy: shape 4x6x4, but .*5x6x4.*no affine"):
        load_case(case_of(T1=first, T2=tmp_path / "b.npy"), ["T1", "T2"])
    np.save(tmp_path / "c.npy", volume[:, :, 0])
    with pytest.raises(InputError, match=r"c\.npy: shape 5x6"):
        load_case(case_of(T1=first, T2=tmp_path / "c.npy"), ["T1", "T2"])
    with pytest.raises(InputError, match="has no T2, only T1"):
        load_case(case_of(T1=first), ["T2"])
    with pytest.raises(InputError, match="plane 'oblique'"):
        load_case(case_of(T1=first), ["T1"], plane="oblique")
    with pytest.raises(InputError, match="normalise 'zscore'"):
        load_case(case_of(T1=first), ["T1"], normalise="zscore")


def test_black_slices_are_data_and_black_volumes_are_not(tmp_path, save_nifti):
    for name, value in (("T1", 0), ("T2", 9)):
        Image.fromarray(np.full((4, 5), value, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    loaded = load_case(case_of(T1=tmp_path / "T1.png", T2=tmp_path / "T2.png"), ["T1", "T2"])
    assert (loaded.slices == 0).all()
    assert not loaded.foreground().any()
    assert np.allclose(loaded.scales["T2"].undo(loaded.slices[:, 1]), 9 / 255)
    with pytest.raises(InputError, match=r"black\.nii: all voxels are zero"):
        load_case(case_of(T1=save_nifti("black.nii", np.zeros((4, 5, 3)))), ["T1"])
