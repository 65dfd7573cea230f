"""Rules, colours and the loss without a target: identities, definitions by hand, gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from ivan import IVAN, VariableAugmentation
from ivan.data import read_volume
from ivan.data.colour import RGB24, chroma, luma, read_colours, recolour, write_colours
from ivan.errors import InputError
from ivan.fusion.loss import fusion_loss, fusion_terms
from ivan.fusion.rules import RULES, RuleTarget, clear_empty, fuse_by_rule


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(5, 7), (33, 50), (64, 64)])
def test_fusing_an_image_with_itself_returns_it(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    assert np.allclose(fuse_by_rule(name, np.stack([image, image])[None])[0], image, atol=1e-6)


def test_rules_keep_what_they_should() -> None:
    a, b = np.zeros((40, 40)), np.full((40, 40), 0.5)
    a[10:12] = 0.4  # a line in one source, brightness in the other
    pair = np.stack([a, b])[None].astype(np.float32)
    assert np.allclose(fuse_by_rule("average", pair)[0], (a + b) / 2)
    assert np.allclose(fuse_by_rule("maximum", pair)[0], np.maximum(a, b))
    for name in ("laplacian", "wavelet"):
        fused = fuse_by_rule(name, pair)[0]
        contrast = fused[10:12].mean() - fused[30:].mean()
        assert contrast > 0.25  # of 0.4; the average keeps 0.2
        assert fused.shape == (40, 40)
        assert 0 <= fused.min() <= fused.max() <= 1
    assert np.array_equal(RuleTarget("maximum")(pair[0]), fuse_by_rule("maximum", pair))


def test_black_stays_black() -> None:
    rng = np.random.default_rng(0)
    sources = rng.uniform(0.1, 1, (2, 2, 9, 8)).astype(np.float32)
    sources[0, :, :4] = 0
    sources[1, 0, :4] = 0  # of one source only
    made = rng.uniform(0.1, 1, (2, 1, 9, 8)).astype(np.float32)
    cleared = made.copy()
    clear_empty(cleared[:, 0], sources)
    assert not cleared[0, :, :4].any()
    assert np.array_equal(cleared[0, :, 4:], made[0, :, 4:])
    assert np.array_equal(cleared[1], made[1])


def test_colours_by_hand_and_back() -> None:
    red = np.array([1.0, 0, 0])
    assert luma(red) == pytest.approx(0.299)
    assert chroma(red) == pytest.approx([-0.299 / 1.772, 0.5])
    rgb = np.random.default_rng(0).random((9, 8, 3))
    assert np.allclose(recolour(luma(rgb), chroma(rgb)), rgb, atol=1e-6)
    gray = np.full((2, 3), 0.4)[..., None].repeat(3, -1)
    assert np.allclose(chroma(gray), 0)
    # Pillow rounds each of Y, Cb, Cr to 8 bits.
    levels = np.rint(rgb * 255).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(levels).convert("YCbCr"), float)
    assert np.abs(luma(levels / 255) * 255 - theirs[..., 0]).max() <= 1
    assert np.abs(chroma(levels / 255) * 255 + 128 - theirs[..., 1:]).max() <= 1.01


def test_colour_files(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    voxels = np.zeros((5, 4, 3), RGB24)
    for index, name in enumerate("RGB"):
        voxels[name] = levels[..., index]
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    rgba = np.zeros((5, 4, 3), np.dtype([(name, "u1") for name in "RGBA"]))
    nib.save(nib.Nifti1Image(rgba, np.eye(4)), tmp_path / "rgba.nii.gz")
    with pytest.raises(InputError, match="holds RGBA colours, expected one real number per voxel or RGB24"):
        read_colours(tmp_path / "rgba.nii.gz")
    with pytest.raises(InputError, match="RGB"):
        read_volume(tmp_path / "a.nii.gz")
    found = read_colours(tmp_path / "a.nii.gz")
    assert found is not None
    rgb, volume = found
    assert np.allclose(rgb * 255, levels[::-1], atol=1e-4)  # RAS
    assert np.allclose(volume.data, luma(rgb), atol=1e-6)
    write_colours(tmp_path / "b.nii.gz", rgb, volume)
    again = nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(again.affine, affine)
    assert np.array_equal(np.asarray(again.dataobj)["G"], levels[..., 1])
    gray = np.zeros((6, 7), np.uint8)
    gray[2:4] = 200
    Image.fromarray(gray).convert("RGB").save(tmp_path / "gray.png")
    assert read_colours(tmp_path / "gray.png") is None
    with pytest.raises(InputError, match="volume"):
        write_colours(tmp_path / "b.png", rgb, volume)


def test_terms_are_zero_where_nothing_is_lost_and_by_hand_elsewhere() -> None:
    torch.manual_seed(0)
    a = torch.rand(2, 1, 12, 11, dtype=torch.float64)
    terms = fusion_terms(a, a.repeat(1, 2, 1, 1))
    assert all(float(value) == pytest.approx(0, abs=1e-12) for value in terms.values())
    b, f = torch.rand_like(a), torch.rand_like(a)
    terms = fusion_terms(f, torch.cat([a, b], 1))
    x, y, z = (t.numpy() for t in (a, b, f))
    assert float(terms["intensity"]) == pytest.approx(np.abs(z - np.maximum(x, y)).mean())
    expected = 0.0
    for axis in (2, 3):
        dx, dy, dz = (np.diff(t, axis=axis) for t in (x, y, z))
        expected += np.abs(dz - np.where(abs(dx) >= abs(dy), dx, dy)).mean() / 2
    assert float(terms["gradient"]) == pytest.approx(expected)
    from skimage.metrics import structural_similarity

    same = fusion_terms(a.repeat(1, 3, 1, 1), torch.cat([b, b], 1))["structure"]  # lam does not matter
    maps = []
    for n in range(2):
        _, full = structural_similarity(y[n, 0], x[n, 0], data_range=1.0, full=True)
        maps.append(full[3:-3, 3:-3].mean())
    assert float(same) == pytest.approx(1 - np.mean(maps), abs=1e-9)


@pytest.mark.parametrize("fill", ["copy", "zero", "noise"])
def test_loss_trains_every_copy_and_the_decomposition(fill: str) -> None:
    model = IVAN(channels=3, blocks=1, growth=4)
    aug = VariableAugmentation(2, 1, channels=3, fill=fill)
    sources = torch.rand(2, 2, 9, 10)
    parts = fusion_loss(model, sources, aug, weight=2.0, structure_weight=0.5)
    forward = parts["intensity"] + parts["gradient"] + 0.5 * parts["structure"]
    assert torch.allclose(parts["forward"], forward)
    assert torch.allclose(parts["total"], 2 * parts["forward"] + parts["reverse"])
    parts["total"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        fused = aug.collapse_targets(model(aug.augment_sources(sources)))
        if fill != "noise":
            back = aug.collapse_sources(model.inverse(aug.augment_targets(fused)))
            assert torch.allclose(parts["reverse"], (back - sources).square().mean(), atol=1e-6)


def test_bad_weights_and_images_are_refused() -> None:
    aug = VariableAugmentation(2, 1)
    model = IVAN(blocks=1, growth=4)
    with pytest.raises(InputError, match="not all 0"):
        fusion_loss(model, torch.rand(1, 2, 9, 9), aug, 1.0, 0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="7x7"):
        fusion_terms(torch.rand(1, 1, 6, 9), torch.rand(1, 2, 6, 9))
    with pytest.raises(InputError, match="expected 2"):
        fusion_terms(torch.rand(1, 1, 9, 9), torch.rand(1, 3, 9, 9))


def test_missing_libraries_are_named() -> None:
    code = (
        "import sys; sys.modules['pywt'] = None\n"
        "import numpy as np; from ivan.fusion.rules import wavelet; from ivan.errors import InputError\n"
        "try: wavelet(np.ones((9, 9)), np.ones((9, 9)))\n"
        "except InputError as error: sys.exit(0 if 'ivan_fast[fusion]' in str(error) else 1)\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
