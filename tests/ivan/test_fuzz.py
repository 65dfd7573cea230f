"""Damaged files of every kind: they are read, or refused with one line. Nothing else may come out.

A few examples of each in the ordinary tests; `make fuzz` runs thousands (IVAN_FUZZ=N).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import scipy.io
import torch
from dicom_phantom import write_enhanced, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ivan.data import Case, load_case, make_split, read_volume
from ivan.data.datalist import read_datalist
from ivan.errors import IvanError
from ivan.inference import load_predictor
from ivan.official import load_official
from ivan.prepare.dicom import read_headers
from ivan.prepare.series import build_volume, sort_series
from ivan.training import TrainConfig
from ivan.training.checkpoint import read_checkpoint

EXAMPLES = int(os.environ.get("IVAN_FUZZ", "15"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,  # the ordinary tests do the same every time
    suppress_health_check=list(HealthCheck),
    database=None,
)
WORDS = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
    b"\x00" * 8,
]
WORDS += [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\n\n", b"{", b"9" * 20]


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few changes of bytes; most near the beginning, where headers are."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "write", "cut", "insert", "drop", "repeat"]),
                st.floats(0, 1),
                st.booleans(),
                st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=8)),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(content: bytes) -> bytes:
        data = bytearray(content)
        for kind, share, early, word in steps:
            place = int(share * min(len(data), 400 if early else len(data)))
            if kind == "flip" and place < len(data):
                data[place] ^= word[0] or 1
            elif kind == "write":
                data[place : place + len(word)] = word
            elif kind == "cut":
                del data[place:]
            elif kind == "insert":
                data[place:place] = word
            elif kind == "drop":
                del data[place : place + len(word)]
            else:
                data[place:place] = data[place : place + 16]
        return bytes(data)

    return apply


def one_line(work: Callable[[], Any]) -> Any:
    """Run `work`: it may succeed, or fail with one readable line; warnings count as failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return work()
        except IvanError as error:
            text = str(error)
            assert text
            assert "\n" not in text
            assert len(text) < 1500, text
            assert "Traceback" not in text
    return None


def read(path: Path) -> None:
    """What every command does with an image: read, pair with itself, scale."""
    read_volume(path)
    load_case(Case("x", "x", {"T1": path, "T2": path}), ["T1", "T2"])


VALUES = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(np.int16)


def nifti(kind: type = nib.Nifti1Image) -> bytes:
    image = kind(VALUES, np.diag([2.0, 2.0, 3.0, 1.0]))
    return bytes(image.to_bytes())


def mat(compressed: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"other": np.arange(3.0), "data": VALUES}, do_compression=compressed)
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, VALUES)
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(VALUES[:, :, 0].astype(np.uint16) * 200).save(file, "PNG")
    return file.getvalue()


def right_sums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of their damaged content."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


FILES: dict[str, tuple[str, bytes, Callable[[bytes], bytes]]] = {
    # name -> suffix, a good file, what is done after the damage
    "nifti-1": (".nii", nifti(), bytes),
    "nifti-2": (".nii", nifti(nib.Nifti2Image), bytes),
    "nifti in gzip": (".nii.gz", nifti(), lambda content: gzip.compress(content, 1)),
    "gzip": (".nii.gz", gzip.compress(nifti(), 1), bytes),
    "mat": (".mat", mat(False), bytes),
    "mat compressed": (".mat", mat(True), bytes),
    "npy": (".npy", npy(), bytes),
    "png": (".png", png(), bytes),
    "png with right sums": (".png", png(), right_sums),
}


@pytest.mark.parametrize("name", FILES)
def test_image_files(name: str, tmp_path: Path) -> None:
    suffix, good, after = FILES[name]
    path = tmp_path / f"image{suffix}"
    path.write_bytes(after(good))
    read(path)  # the undamaged file is fine

    @fuzz
    @given(change=damage())
    def check(change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(after(change(good)))
        one_line(lambda: read(path))

    check()


@pytest.mark.parametrize("kind", ["slices", "enhanced"])
def test_dicom_files(kind: str, tmp_path: Path) -> None:
    if kind == "slices":
        write_series(tmp_path, shape=(6, 5, 4), spacing=(25.0, 30.0, 30.0))
    else:
        write_enhanced(tmp_path / "a.dcm", shape=(6, 5, 4))
    paths = sorted(tmp_path.iterdir())
    good = paths[0].read_bytes()

    def volumes() -> int:
        skipped: list[str] = []
        found = sort_series(read_headers(paths, lambda path, said: skipped.append(f"{path}: {said}")))
        for line in [*skipped, *found.notes]:
            assert "\n" not in line
        return sum(one_line(lambda s=stack: build_volume(s)) is not None for stack in found.stacks)

    assert volumes() == 1

    @fuzz
    @given(change=damage())
    def check(change: Callable[[bytes], bytes]) -> None:
        paths[0].write_bytes(change(good))
        volumes()

    check()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "../latest"])
def test_checkpoint_files(tiny_run: Path, tmp_path: Path, file: str) -> None:
    import shutil

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = (run / "checkpoint" / (run / "checkpoint" / "latest").read_text().strip() / file).resolve()
    good = path.read_bytes()

    @fuzz
    @given(change=damage())
    def check(change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(change(good))
        found = one_line(lambda: read_checkpoint(run))
        if found is None or path.read_bytes() == good or file == "../latest":
            return  # `latest` only says where to look first
        # Damaged and accepted: then by white space only, and never with other values than were written.
        assert file == "state.json"
        assert found.state == json.loads(good)

    check()


@pytest.mark.parametrize("file", ["config.json", "normalisation.json", "split.json"])
def test_records_of_a_run(tiny_run: Path, tiny_data: Path, tmp_path: Path, file: str) -> None:
    import shutil

    from ivan.data import find_cases

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    good = (run / file).read_bytes()
    cases = find_cases(tiny_data, ["T1", "T2"])
    work: dict[str, Callable[[], Any]] = {
        "config.json": lambda: TrainConfig.read(run / file),
        "normalisation.json": lambda: load_predictor(run, device="cpu"),
        "split.json": lambda: make_split(cases, file=run / file),
    }

    @fuzz
    @given(change=damage())
    def check(change: Callable[[bytes], bytes]) -> None:
        (run / file).write_bytes(change(good))
        one_line(work[file])

    check()


def test_dataset_files(tmp_path: Path) -> None:
    entry = {"case": "a", "patient": "a", "modality": ["T1", "T2"], "image": ["T1/a.nii.gz", "T2/a.nii.gz"]}
    good = json.dumps(
        {"modality": {"0": "T1"}, "training": [entry], "validation": [{**entry, "case": "b"}]}
    ).encode()
    path = tmp_path / "dataset.json"

    @fuzz
    @given(change=damage())
    def check(change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(change(good))
        one_line(lambda: make_split(read_datalist(path, ["T1", "T2"]), file=path))

    check()


def test_public_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    import ivan

    model = ivan.IVAN(channels=2, blocks=1, growth=2)
    torch.save({"weights": torch.zeros(2, 2)}, path)
    good = path.read_bytes()

    @fuzz
    @given(change=damage())
    def check(change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(change(good))
        one_line(lambda: load_official(model, path))

    check()
