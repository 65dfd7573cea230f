"""Several processes train as one does; memory does not grow with the number of volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ivan.data import SliceDataset, find_cases, make_split


@pytest.fixture(scope="module")
def four_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases of four slices: eight, four or two batches of every kind, and no rest."""
    root = tmp_path_factory.mktemp("four")
    rng = np.random.default_rng(0)
    for index in range(4):
        for modality in ("T1", "T2", "PD"):
            (root / modality).mkdir(exist_ok=True)
            values = rng.uniform(50, 200, (9, 10, 4)).astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), root / modality / f"case{index}.nii.gz")
    return root


def test_two_and_four_processes_give_the_weights_of_one(repo: Path, four_cases: Path, tmp_path: Path) -> None:
    script = repo / "tests" / "helpers" / "ddp_weights.py"
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, str(script), str(four_cases), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["2 dtype"] == found["4 dtype"] == "torch.float64"
    assert found["moved"] > 1e-3  # it did train
    assert found["2"] < 1e-9
    assert found["4"] < 1e-9


def volumes(folder: Path, count: int) -> Path:
    folder.mkdir()
    for modality in ("T1", "T2"):
        (folder / modality).mkdir()
        for index in range(count):
            values = np.random.default_rng(index).uniform(1, 100, (64, 64, 24)).astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / modality / f"c{index}.nii")
    return folder


def test_memory_of_a_disk_cache_does_not_grow_with_the_volumes(tmp_path: Path) -> None:
    """Bytes held by a data set, and the peak of reading it, for 2 and for 8 volumes."""
    held, peaks = {}, {}
    for count in (2, 8):
        cases = find_cases(volumes(tmp_path / str(count), count), ["T1", "T2"])
        split = make_split(cases, validation=0)
        tracemalloc.start()
        dataset = SliceDataset(
            split.training, ["T1"], ["T2"], training=True, cache="disk", cache_dir=tmp_path / f"cache{count}"
        )
        for index in range(len(dataset)):
            dataset[index]
        held[count], peaks[count] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(dataset) == 24 * count
    one = 64 * 64 * 24 * 4 * 2  # bytes of one case's slices
    assert held[8] - held[2] < one / 4
    assert peaks[8] - peaks[2] < one / 2


def test_synthesis_holds_one_case_at_a_time(tiny_run: Path, tmp_path: Path) -> None:
    from ivan.inference import synthesize

    peaks = {}
    for count in (2, 6):
        folder = volumes(tmp_path / f"s{count}", count)
        if not peaks:
            synthesize(tiny_run, folder, tmp_path / "warm", device="cpu", threads=1, progress=False)
        tracemalloc.start()
        synthesize(tiny_run, folder, tmp_path / f"out{count}", device="cpu", threads=1, progress=False)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[6] - peaks[2] < 64 * 64 * 24 * 4
