"""The data set of slices and its batches: what is in it, decoded how often, and repeatable."""

from __future__ import annotations

import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import ivan.data.loading
from ivan.data import (
    Augmentation,
    Case,
    CaseRange,
    ShapeBatchSampler,
    SliceDataset,
    collate_slices,
    find_cases,
    load_case,
)
from ivan.errors import InputError

STRONG = Augmentation(
    rotate=15, scale=0.1, translate=2, bias_field=0.3, contrast=0.3, brightness=0.2, probability=1.0
)


@pytest.fixture
def ranges(pair, tmp_path):
    """Two cases of 10x12x6 and one of 8x8x7 voxels, whose first and last axial slices are empty."""
    for name in ("a", "b"):
        pair(name)
    pair("c", (8, 8, 7))
    return [CaseRange(case) for case in find_cases(tmp_path, ["T1", "T2"])]


@pytest.fixture
def decodes(monkeypatch):
    """Names of all files decoded."""
    seen = []
    read = ivan.data.loading.read_volume

    def counting(path, **options):
        seen.append(str(path))
        return read(path, **options)

    monkeypatch.setattr(ivan.data.loading, "read_volume", counting)
    return seen


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


def test_evaluation_gives_every_slice_as_it_is(ranges):
    data = SliceDataset(ranges, ["T1"], ["T2"], training=False, augmentation=STRONG, patch_size=3)
    assert len(data) == 6 + 6 + 7
    assert data.entries[:7] == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 0)]
    assert data.shapes[0] == (12, 10)
    assert data.shapes[-1] == (8, 8)
    loaded = load_case(ranges[1].case, ["T1", "T2"])
    for number in range(6):
        item = data[6 + number]
        assert item["source"].shape == item["target"].shape == (1, 12, 10)
        assert item["source"].dtype == torch.float32
        assert np.array_equal(item["source"][0], loaded.slices[number, 0])
        assert np.array_equal(item["target"][0], loaded.slices[number, 1])
        assert (item["case"], item["slice"]) == ("b", number)
    with pytest.raises(IndexError):
        data[len(data)]


def test_training_skips_empty_slices(ranges):
    data = SliceDataset(ranges, ["T1"], ["T2"], training=True)
    assert data.entries == [("a", s) for s in range(1, 5)] + [("b", s) for s in range(1, 5)] + [
        ("c", s) for s in range(1, 6)
    ]
    assert "6 of 19 slices skipped: nearly empty" in data.notes
    assert len(SliceDataset(ranges, ["T1"], ["T2"], training=True, min_foreground=0)) == 19


def test_ranges_planes_channels_and_scales(ranges):
    case = ranges[0].case
    data = SliceDataset(
        [CaseRange(case, 1, 3), CaseRange(case, 5)],
        ["T2", "T1", "T2"],
        ["T1"],
        training=False,
        plane="coronal",
    )
    assert data.entries == [("a", s) for s in (1, 2, 5, 6, 7, 8, 9, 10, 11)]
    item = data[3]
    assert item["source"].shape == (3, 6, 10)
    assert torch.equal(item["source"][0], item["source"][2])
    assert torch.equal(item["source"][1], item["target"][0])
    expected = load_case(case, ["T1", "T2"]).scales
    assert data.scales["a"] == expected
    assert data.median_scale("T1") == expected["T1"]
    assert SliceDataset(ranges, ["T1"], training=False)[0]["target"].shape == (0, 12, 10)


def test_median_scale(ranges):
    data = SliceDataset(ranges, ["T1"], ["T2"], training=False)
    highs = sorted(scales["T2"].high for scales in data.scales.values())
    assert data.median_scale("T2").high == highs[1]


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_every_volume_is_decoded_once(ranges, decodes, tmp_path, cache):
    halves = [CaseRange(r.case, *bounds) for r in ranges for bounds in ((0, 3), (3, None))]
    data = SliceDataset(
        halves,
        ["T1"],
        ["T2"],
        training=True,
        augmentation=Augmentation(),
        cache=cache,
        cache_dir=tmp_path / "cache",
    )
    for epoch in range(3):
        data.set_epoch(epoch)
        for index in range(len(data)):
            data[index]
    list(DataLoader(data, batch_size=1, num_workers=2))
    assert sorted(decodes) == sorted(str(r.case.files[m]) for r in ranges for m in ("T1", "T2"))


def test_disk_cache_serves_later_runs_until_a_file_changes(ranges, decodes, tmp_path):
    options = {"cache": "disk", "cache_dir": tmp_path / "cache", "training": False}
    first = SliceDataset(ranges, ["T1"], ["T2"], **options)
    memory = SliceDataset(ranges, ["T1"], ["T2"], training=False)
    assert all(equal(first[i], memory[i]) for i in range(len(memory)))
    decodes.clear()
    again = SliceDataset(ranges, ["T1"], ["T2"], **options)
    assert decodes == []
    assert again.scales == first.scales
    assert all(equal(again[i], first[i]) for i in range(len(first)))

    path = ranges[0].case.files["T1"]
    image = nib.load(path)
    nib.save(
        nib.Nifti1Image(image.get_fdata() * np.float32(1.5) + np.eye(10, 12)[..., None], image.affine), path
    )
    changed = SliceDataset(ranges, ["T1"], ["T2"], **options)
    assert len(decodes) == 2  # both files of that case
    assert not torch.equal(changed[2]["source"], first[2]["source"])
    SliceDataset(ranges, ["T1"], ["T2"], plane="coronal", **options)
    assert len(decodes) == 2 + 6

    decodes.clear()
    expected = changed[2]
    for array in (tmp_path / "cache").glob("*.npy"):  # damaged entries are made anew
        start = array.read_bytes()[:100]
        array.unlink()  # not written over: others have it mapped
        array.write_bytes(start)
    assert equal(SliceDataset(ranges, ["T1"], ["T2"], **options)[2], expected)
    assert len(decodes) == 6


def test_disk_cache_is_mapped_not_pickled(ranges, tmp_path):
    data = SliceDataset(
        ranges, ["T1"], ["T2"], training=True, cache="disk", cache_dir=tmp_path / "c", crop_foreground=True
    )
    content = pickle.dumps(data)
    copy = pickle.loads(content)
    assert len(content) < sum(h * w * 2 * 4 for h, w in data.shapes)
    assert all(equal(copy[i], data[i]) for i in range(len(data)))
    assert [copy[i]["source"].shape[1:] for i in range(len(copy))] == [
        torch.Size(shape) for shape in data.shapes
    ]


@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG])
def test_an_item_depends_on_seed_epoch_and_index_alone(ranges, augmentation):
    def make(seed=3):
        return SliceDataset(
            ranges, ["T1"], ["T2"], training=True, augmentation=augmentation, patch_size=6, seed=seed
        )

    one, other = make(), make()
    one.set_epoch(5)
    other.set_epoch(5)
    forward = [one[i] for i in range(len(one))]
    assert all(equal(other[i], forward[i]) for i in reversed(range(len(other))))
    other.set_epoch(6)
    assert not all(torch.equal(other[i]["source"], forward[i]["source"]) for i in range(len(other)))
    different = make(seed=4)
    different.set_epoch(5)
    assert not all(torch.equal(different[i]["source"], forward[i]["source"]) for i in range(len(other)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_see_the_epoch(ranges, workers):
    data = SliceDataset(ranges, ["T1"], ["T2"], training=True, augmentation=Augmentation(), seed=1)
    sampler = ShapeBatchSampler(data, 2, seed=1)
    loader = DataLoader(
        data, batch_sampler=sampler, collate_fn=collate_slices, num_workers=workers, persistent_workers=True
    )
    for epoch in (0, 1):
        data.set_epoch(epoch)
        sampler.set_epoch(epoch)
        expected = [collate_slices([data[i] for i in batch]) for batch in sampler]
        assert all(equal(batch, wanted) for batch, wanted in zip(loader, expected, strict=True))


def test_crops(ranges):
    cropped = SliceDataset(ranges, ["T1"], ["T2"], training=True, crop_foreground=True)
    assert cropped.shapes[0] == (12, 10)  # the margin of 8 pixels reaches the edges here
    patches = SliceDataset(ranges, ["T1"], ["T2"], training=True, patch_size=(4, 11))
    assert set(patches.shapes) == {(4, 11)}
    whole = SliceDataset(ranges, ["T1"], ["T2"], training=True)
    places = set()
    for epoch in range(20):
        patches.set_epoch(epoch)
        item = patches[0]
        assert item["source"].shape == (1, 4, 11)
        assert (item["source"][0, :, -1] == 0).all()  # 10 columns padded to 11
        part = item["source"][0, :, :10]
        windows = whole[0]["source"][0].unfold(0, 4, 1).transpose(1, 2)  # [9, 4, 10]
        matching = [top for top, window in enumerate(windows) if torch.equal(window, part)]
        assert matching
        places.add(matching[0])
    assert len(places) > 3


def test_foreground_crop_is_the_box_with_its_margin(save_nifti):
    data = np.zeros((60, 50, 3))
    data[20:30, 25:33, 1] = np.random.default_rng(0).uniform(50, 100, (10, 8))
    case = Case("a", "a", {"T1": save_nifti("a.nii.gz", data)})
    cropped = SliceDataset([CaseRange(case)], ["T1"], training=True, crop_foreground=True)
    assert cropped.shapes == [(8 + 16, 10 + 16)]
    assert np.array_equal(cropped[0]["source"][0] > 0, np.pad(np.ones((8, 10), dtype=bool), 8))


def test_progress_notes_and_limits(ranges):
    seen = []
    SliceDataset(
        ranges, ["T1"], training=True, on_case=lambda done, total, name: seen.append((done, total, name))
    )
    assert seen == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    with pytest.raises(InputError, match=r"of 3 cases need .* GiB of memory.*cache 'disk'"):
        SliceDataset(ranges, ["T1"], training=True, memory_limit=5000)
    with pytest.raises(InputError, match="no slice left of 1 cases"):
        SliceDataset([CaseRange(ranges[0].case, 0, 1)], ["T1"], training=True)
    with pytest.raises(InputError, match="the case has 6 slices"):
        SliceDataset([CaseRange(ranges[0].case, 0, 7)], ["T1"], training=True)
    for options, words in [
        ({"cache": "disk"}, "disk and a folder"),
        ({"cache": "ram"}, "cache 'ram'"),
        ({"patch_size": 0}, "patch_size 0"),
        ({"min_foreground": 2}, "min_foreground 2"),
    ]:
        with pytest.raises(InputError, match=words):
            SliceDataset(ranges, ["T1"], training=True, **options)


def test_changed_inputs_come_beside_the_images(ranges):
    plain = SliceDataset(ranges, ["T1"], ["T2"], training=True, seed=3)
    inputs = Augmentation(brightness=0.3, probability=1.0)
    changed = SliceDataset(ranges, ["T1"], ["T2"], training=True, seed=3, augmentation=inputs)
    still = Augmentation()
    moved = SliceDataset(ranges, ["T1"], ["T2"], training=True, seed=3, augmentation=still)
    item = changed[1]
    assert set(item) == {"source", "target", "source_input", "target_input", "case", "slice"}
    assert "source_input" not in plain[1]
    # What is compared with is the slice that the same seed gives without brightness changes.
    assert torch.equal(item["source"], moved[1]["source"])
    assert torch.equal(item["target"], moved[1]["target"])
    assert not torch.equal(item["source"], item["source_input"])
    assert not torch.equal(item["target"], item["target_input"])
    batch = collate_slices([item, changed[1]])
    assert batch["source_input"].shape == (2, *item["source"].shape)
