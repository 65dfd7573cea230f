"""Reading: orientation, scaling, shapes and formats, against arrays whose answer is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.io
from PIL import Image

from ivan.data import read_volume, volume_to_slices, write_volume
from ivan.data.matfile import read_matrix
from ivan.data.planes import PLANES, slices_to_volume
from ivan.errors import InputError

ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_reads_as_the_same_ras_volume(tmp_path, volume, order, signs):
    """All 48 stored orders of one volume: the same RAS data and world coordinates, and exactly back."""
    affine = np.array([[2.0, 0, 0, -7], [0, 3.0, 0, 5], [0, 0, 4.0, 11], [0, 0, 0, 1]])
    stored, turned = volume.transpose(order), affine[:, [*order, 3]]
    for axis, sign in enumerate(signs):
        if sign < 0:
            stored = np.flip(stored, axis)
            turned = turned.copy()
            turned[:, 3] += turned[:, axis] * (stored.shape[axis] - 1)
            turned[:, axis] *= -1
    path = tmp_path / "stored.nii.gz"
    nib.save(nib.Nifti1Image(stored, turned), path)

    found = read_volume(path)
    assert np.array_equal(found.data, volume)
    assert np.allclose(found.affine, affine, atol=1e-5)
    assert found.voxel_size == pytest.approx((2, 3, 4), rel=1e-6)

    back = nib.load(write_volume(tmp_path / "back.nii", found.data, found))
    assert np.array_equal(back.get_fdata(dtype=np.float32), stored)
    assert np.allclose(back.affine, turned, atol=1e-5)


def test_oblique_affine_is_kept(tmp_path, volume):
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "a.nii.gz")
    found = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(found.data, volume)
    assert np.allclose(found.affine, affine, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_integers_and_byte_orders(tmp_path, volume, dtype, byte_order):
    header = nib.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(byte_order))
    nib.save(nib.Nifti1Image(volume.astype(dtype), np.eye(4), header), tmp_path / "a.nii.gz")
    found = read_volume(tmp_path / "a.nii.gz")
    assert found.data.dtype == np.float32
    assert np.array_equal(found.data, volume)


def test_slope_and_intercept(tmp_path, volume):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(volume.astype(np.int16), np.eye(4), header)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    assert np.array_equal(read_volume(tmp_path / "a.nii").data, volume * 0.5 - 3)


@pytest.mark.parametrize("shape", [(5, 6, 4, 1), (5, 6, 4, 1, 1), (5, 6), (5, 6, 1), (5, 1, 6)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_shapes_of_one_volume(tmp_path, shape, kind):
    data = np.random.default_rng(1).random(shape).astype(np.float32)
    nib.save(kind(data, np.eye(4)), tmp_path / "a.nii.gz")
    found = read_volume(tmp_path / "a.nii.gz")
    assert found.data.shape == (*shape, 1)[:3]
    back = nib.load(write_volume(tmp_path / "b.nii.gz", found.data * 2, found))
    assert isinstance(back, kind)
    assert back.shape == shape
    assert np.array_equal(back.get_fdata(dtype=np.float32), data * 2)


def test_header_survives(tmp_path, volume):
    """Units, codes and both affines are the source's; the display window and slope are not."""
    image = nib.Nifti1Image(volume, np.diag([1, 1, 3, 1]))
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(np.diag([1, 1, 3, 1]), code=4)
    image.set_qform(np.diag([1, 1, 3, 1]), code=1)
    image.header["cal_max"] = 999
    nib.save(image, tmp_path / "a.nii.gz")
    found = read_volume(tmp_path / "a.nii.gz")
    back = nib.load(write_volume(tmp_path / "b.nii.gz", found.data, found)).header
    assert back.get_xyzt_units() == ("mm", "sec")
    assert (int(back["sform_code"]), int(back["qform_code"])) == (4, 1)
    assert float(back["cal_max"]) == 0
    assert back.get_data_dtype() == np.float32


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_arrays_without_a_grid(tmp_path, volume, suffix):
    """Three axes are voxels, two (or a third of length 1) are an image whose axial slice is the array."""

    def save(array: np.ndarray) -> Path:
        path = tmp_path / f"a{suffix}"
        np.save(path, array) if suffix == ".npy" else scipy.io.savemat(path, {"data": array})
        return path

    found = read_volume(save(volume))
    assert np.array_equal(found.data, volume)
    assert not found.grid.has_affine
    again = read_volume(write_volume(tmp_path / f"b{suffix}", found.data, found))
    assert np.array_equal(again.data, volume)

    for image in (volume[:, :, 0], volume[:, :, :1], volume[None, :, :, 0]):
        found = read_volume(save(image))
        assert np.array_equal(volume_to_slices(found.data)[0], volume[:, :, 0])
        again = read_volume(write_volume(tmp_path / f"b{suffix}", found.data, found))
        assert again.grid.shape == found.grid.shape == image.shape
        assert np.array_equal(again.data, found.data)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "bool"])
def test_mat_of_every_type_as_scipy_writes_it(tmp_path, dtype, compressed):
    """Beside other variables, small ones inside their tag, and large ones beyond the first bytes."""
    rng = np.random.default_rng(0)
    for shape in [(1, 2), (3, 5), (30, 40, 6), (2, 3, 4, 1)]:
        data = (rng.random(shape) * 100).astype(dtype)
        data.flat[0], data.flat[1] = 0, 1
        others = {"a": np.arange(9000.0), "text": "abc", "record": {"x": 1}, "z": 1}
        scipy.io.savemat(tmp_path / "a.mat", others | {"data": data}, do_compression=compressed)
        assert np.array_equal(read_matrix(tmp_path / "a.mat", "data"), data)


def test_png_of_8_and_16_bits(tmp_path):
    levels = np.random.default_rng(2).integers(0, 65536, (5, 7)).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    found = read_volume(tmp_path / "a.png")
    assert np.array_equal(volume_to_slices(found.data)[0], (levels / 65535).astype(np.float32))
    write_volume(tmp_path / "b.png", found.data, found)
    with Image.open(tmp_path / "b.png") as image:
        assert np.array_equal(np.asarray(image), levels)

    gray = (levels >> 8).astype(np.uint8)
    expected = (gray / 255).astype(np.float32)
    opaque = np.full_like(gray, 255)
    for name, array in {
        "gray": gray,
        "rgb": np.stack([gray] * 3, axis=-1),
        "rgba": np.stack([gray] * 3 + [opaque], axis=-1),
        "alpha": np.stack([gray, opaque], axis=-1),
    }.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        found = read_volume(tmp_path / f"{name}.png")
        assert np.allclose(volume_to_slices(found.data)[0], expected, atol=1e-7), name
    Image.fromarray(gray).convert("P").save(tmp_path / "palette.png")
    assert np.allclose(volume_to_slices(read_volume(tmp_path / "palette.png").data)[0], expected, atol=1e-7)


def test_png_with_one_transparent_value(tmp_path):
    """A gray, colour or palette PNG may name one value as transparent; it matters where a pixel has it."""
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5)
    kinds = {"gray": (Image.fromarray(gray), 7, 99)}
    kinds["colour"] = (Image.fromarray(np.stack([gray] * 3, axis=-1)), (7, 7, 7), (9, 9, 8))
    kinds["palette"] = (Image.fromarray(gray).convert("P"), 7, 99)
    for name, (image, present, absent) in kinds.items():
        image.save(tmp_path / f"{name}.png", transparency=present)
        with pytest.raises(InputError, match="transparent pixels"):
            read_volume(tmp_path / f"{name}.png")
        image.save(tmp_path / f"{name}.png", transparency=absent)
        found = volume_to_slices(read_volume(tmp_path / f"{name}.png").data)[0]
        assert np.allclose(found, gray / 255, atol=1e-7)


def test_png_clips_what_it_cannot_hold(tmp_path):
    Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    source = read_volume(tmp_path / "a.png")
    beyond = slices_to_volume(np.array([[[-1, 0.5, 2]]], dtype=np.float32))
    write_volume(tmp_path / "b.png", beyond, source)
    with Image.open(tmp_path / "b.png") as image:
        assert np.asarray(image).tolist() == [[0, 32768, 65535]]


def test_images_become_one_slice_nifti(tmp_path):
    """A PNG's prediction written as NIfTI shows the same image in the axial plane when read again."""
    Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7)).save(tmp_path / "a.png")
    source = read_volume(tmp_path / "a.png")
    again = read_volume(write_volume(tmp_path / "b.nii.gz", source.data, source))
    assert np.array_equal(again.data, source.data)


@pytest.mark.parametrize("plane", PLANES)
def test_planes_are_upright_and_invertible(volume, plane):
    slices = volume_to_slices(volume, plane)
    assert np.array_equal(slices_to_volume(slices, plane), volume)
    top_left = {"axial": volume[0, -1, 2], "coronal": volume[0, 2, -1], "sagittal": volume[2, 0, -1]}[plane]
    assert (
        slices[2, 0, 0] == top_left
    )  # left, and anterior or superior (posterior and superior in a sagittal one)


@pytest.mark.data
def test_real_volumes_round_trip(shared, tmp_path):
    """SRI24 is stored with a fourth axis, SPECT with x the other way round."""
    for name in ("sri24_T1_T2_PD/T1_spgr.nii.gz", "templates_2mm/SPECT_template.nii.gz"):
        path = shared / "data" / name
        stored = nib.load(path)
        found = read_volume(path)
        assert nib.aff2axcodes(found.affine) == ("R", "A", "S")
        back = nib.load(write_volume(tmp_path / "back.nii", found.data, found))
        assert back.shape == stored.shape
        assert np.array_equal(back.affine, stored.affine)
        assert np.array_equal(back.get_fdata(dtype=np.float32), stored.get_fdata(dtype=np.float32))
