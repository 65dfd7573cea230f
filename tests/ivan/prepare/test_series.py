"""Which slices of a DICOM series are one volume: echo times, straightness."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import grid, head, write_series
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from ivan.errors import InputError
from ivan.prepare import prepare
from ivan.prepare.dicom import read_headers
from ivan.prepare.dicom_files import dicom_files
from ivan.prepare.series import Sorted, Stack, build_volume, sort_series

SMALL = {"shape": (20, 24, 10), "spacing": (8.0, 8.0, 14.0)}
COUNT = 10


def change(folder: Path, work: Callable[[FileDataset, int], None]) -> None:
    """Rewrite every file of a folder; `work` gets it and the number of its slice, from 1."""
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        work(data, int(data.InstanceNumber))
        data.save_as(file)


def set_echo(folder: Path, echo: Callable[[int], float | None]) -> None:
    def work(data: FileDataset, number: int) -> None:
        data.EchoTime = echo(number)

    change(folder, work)


def dual(folder: Path, times: tuple[float, float], drop: tuple[tuple[int, ...], ...] = ((), ())) -> None:
    """One series with two echoes of all places, the first PD weighted and the second T2 weighted."""
    for contrast, time, absent in zip(("PD", "T2"), times, drop, strict=True):
        common = {"SeriesInstanceUID": "1.2.3.98", "description": "dual", **SMALL}
        write_series(folder / contrast, contrast, EchoTime=time, drop=absent, **common)


def sort(folder: Path) -> Sorted:
    return sort_series(read_headers(dicom_files(folder), lambda path, said: pytest.fail(f"{path}: {said}")))


def sizes(found: Sorted) -> list[int]:
    return [len(stack.frames) for stack in found.stacks]


def expect_head(stack: Stack, contrast: str) -> None:
    volume, warnings = build_volume(stack)
    assert warnings == []
    assert volume.data.shape[2] == COUNT
    assert np.abs(volume.data - head(grid(volume.data.shape, volume.affine), contrast)).max() <= 1.0


@pytest.mark.parametrize("odd", [(1, 3, 5, 7, 9), (1, 2, 3), (4,)])
@pytest.mark.parametrize("times", [(98.432, 98.464), (2.1, 3.0), (200.0, 203.0)])
def test_echo_times_that_differ_a_little_from_slice_to_slice_are_one_volume(
    tmp_path: Path, odd: tuple[int, ...], times: tuple[float, float]
) -> None:
    write_series(tmp_path, "T2", **SMALL)
    set_echo(tmp_path, lambda number: times[number in odd])
    (stack,) = sort(tmp_path).stacks
    expect_head(stack, "T2")
    assert " ms)" not in stack.label


def test_every_slice_counts_where_echo_times_differ(tmp_path: Path) -> None:
    """From the folder to the prepared pair: half of the T2 was lost, and its slices twice as far apart."""
    for number, contrast in enumerate(("T1", "T2")):
        write_series(tmp_path / "raw" / contrast, contrast, number=number, **SMALL)
    set_echo(tmp_path / "raw" / "T2", lambda number: 98.432 if number % 2 else 98.464)
    prepare(tmp_path / "raw", tmp_path / "out", reference="T2", progress=False)
    record = json.loads((tmp_path / "out" / "cases" / "anna.json").read_text())
    assert record["shape"] == list(SMALL["shape"])
    assert record["notes"] == record["warnings"] == []


@pytest.mark.parametrize("times", [(15.0, 95.0), (2.3, 2.8), (98.4, 98.5)])
def test_echoes_of_the_same_places_are_volumes_however_close(
    tmp_path: Path, times: tuple[float, float]
) -> None:
    dual(tmp_path, times)
    found = sort(tmp_path)
    assert [stack.echo for stack in found.stacks] == list(times)
    for stack, contrast in zip(found.stacks, ("PD", "T2"), strict=True):
        expect_head(stack, contrast)


@pytest.mark.parametrize("times", [(15.0, 95.0), (2.3, 2.8)])
def test_two_echoes_whose_times_differ_a_little_from_slice_to_slice(
    tmp_path: Path, times: tuple[float, float]
) -> None:
    dual(tmp_path, times)
    for contrast, time in zip(("PD", "T2"), times, strict=True):
        set_echo(tmp_path / contrast, lambda number, time=time: time + 0.02 * (number % 3))
    found = sort(tmp_path)
    assert sizes(found) == [COUNT, COUNT]
    for stack, contrast in zip(found.stacks, ("PD", "T2"), strict=True):
        expect_head(stack, contrast)


def test_very_different_echoes_at_different_places_are_refused(tmp_path: Path) -> None:
    """What is left of a double echo: half of one and the other half of the other are no volume."""
    dual(tmp_path, (15.0, 95.0), drop=((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)))
    (stack,) = sort(tmp_path).stacks
    with pytest.raises(InputError, match="echo times from 15 to 95 ms at different places"):
        build_volume(stack)


def test_a_slice_of_a_third_echo_joins_neither_of_two(tmp_path: Path) -> None:
    dual(tmp_path, (15.0, 95.0))
    set_echo(tmp_path / "PD", lambda number: 40.0 if number == COUNT else 15.0)
    assert sizes(sort(tmp_path)) == [COUNT - 1, 1, COUNT]


def test_slices_without_an_echo_time_join_the_others(tmp_path: Path) -> None:
    write_series(tmp_path, "T2", **SMALL)
    set_echo(tmp_path, lambda number: {1: 90.1, 2: 90.0, 3: 90.0, 4: 90.1, 5: math.inf, 6: 0.0}.get(number))
    (stack,) = sort(tmp_path).stacks
    expect_head(stack, "T2")


@pytest.mark.parametrize("none", [None, 0.0, math.inf])
def test_a_slice_without_an_echo_time_goes_to_the_echo_that_lacks_it(
    tmp_path: Path, none: float | None
) -> None:
    dual(tmp_path, (15.0, 95.0))
    set_echo(tmp_path / "T2", lambda number: none if number == 4 else 95.0)
    found = sort(tmp_path)
    assert found.notes == []
    for stack, contrast in zip(found.stacks, ("PD", "T2"), strict=True):
        expect_head(stack, contrast)


def test_slices_without_an_echo_time_that_fit_nowhere_are_named(tmp_path: Path) -> None:
    dual(tmp_path, (15.0, 95.0))
    for contrast, time in (("PD", 15.0), ("T2", 95.0)):
        set_echo(tmp_path / contrast, lambda number, time=time: None if number == 4 else time)
    found = sort(tmp_path)
    assert sizes(found) == [COUNT - 1, COUNT - 1]
    (note,) = found.notes
    assert "2 slices without echo time, others with 15, 95 ms at the same places" in note


def move(folder: Path, numbers: range, millimetres: float) -> None:
    def work(data: FileDataset, number: int) -> None:
        if number in numbers:
            data.ImagePositionPatient[0] += millimetres

    change(folder, work)


@pytest.mark.parametrize("numbers", [range(4, 7), range(10, 11), range(1, 2)])
@pytest.mark.parametrize("pixel", [8.0, 0.5])
def test_slices_moved_sideways_are_refused(tmp_path: Path, numbers: range, pixel: float) -> None:
    write_series(tmp_path, "T1", shape=(20, 24, COUNT), spacing=(pixel, pixel, 14.0))
    move(tmp_path, numbers, 20.0)
    with pytest.raises(InputError, match=r"slices lie up to \d+\.\d mm beside the straight line") as caught:
        build_volume(sort(tmp_path).stacks[0])
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("pixel", "millimetres"), [(8.0, 3.9), (0.5, 0.4)])
def test_less_than_half_a_pixel_sideways_is_taken(tmp_path: Path, pixel: float, millimetres: float) -> None:
    write_series(tmp_path, "T1", shape=(20, 24, COUNT), spacing=(pixel, pixel, 14.0))
    move(tmp_path, range(4, 7), millimetres)
    assert build_volume(sort(tmp_path).stacks[0])[1] == []


def test_a_tilted_gantry_is_straight(tmp_path: Path) -> None:
    """With a slice missing, too: the share of the way is that of places, not of slices."""
    affine = np.array([[8.0, 0, 0, -76], [0, 8, 7, -123.5], [0, 0, 14, -63], [0, 0, 0, 1]])
    write_series(tmp_path, "T1", shape=SMALL["shape"], affine=affine, drop=(2,))
    volume, _ = build_volume(sort(tmp_path).stacks[0], interpolate=True)
    difference = np.abs(volume.data - head(grid(volume.data.shape, volume.affine), "T1"))
    assert difference[:, :, [0, 1, *range(3, COUNT)]].max() <= 1.0


def test_a_modality_table_is_applied(tmp_path: Path) -> None:
    write_series(tmp_path, "T1", **SMALL)

    def halve(data: FileDataset, number: int) -> None:
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [501, 0, 16])
        table.add_new("LUTData", "US", [2 * value for value in range(501)])
        table.ModalityLUTType = "US"
        data.ModalityLUTSequence = Sequence([table])
        data.PixelData = (data.pixel_array // 2).tobytes()
        del data.RescaleSlope, data.RescaleIntercept

    change(tmp_path, halve)
    expect_head(sort(tmp_path).stacks[0], "T1")
