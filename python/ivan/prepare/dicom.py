"""Headers of DICOM files: what they say of geometry and contrast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ivan.data.volume import DEFLATE_RATIO, check_claim
from ivan.errors import InputError
from ivan.prepare.dicom_files import has_magic

# What is read of a header. Names, birth dates and the like are not: nothing here can write them anywhere.
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "Modality",
    "ImageType",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "InstanceNumber",
    "ContrastBolusAgent",
    "AcquisitionNumber",
    "ImagesInAcquisition",
    "TemporalPositionIdentifier",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class Frame:
    """One slice: where its pixels are and where they lie.

    Attributes:
        path: the file.
        index: the frame in it; 0 for a file of one slice.
        number: InstanceNumber, or the frame's number.
        shape: (rows, columns).
        position: [3] centre of the first pixel, LPS+ in mm.
        orientation: [6] direction cosines of a row's and a column's running, LPS+.
        spacing: (between rows, between columns) in mm.
        echo: echo time in ms, or nan.
    """

    path: Path
    index: int
    number: int
    shape: tuple[int, int]
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    echo: float


@dataclass(frozen=True)
class Header:
    """What one file says about the examination it belongs to.

    `description`: SeriesDescription and ProtocolName; `protocol`: the latter alone.
    `derived`: computed from other images (reformatted, projected, subtracted), by ImageType.
    """

    path: Path
    patient: str
    study: str
    study_time: str
    series: str
    series_number: int
    description: str
    protocol: str
    kind: str
    contrast_agent: bool
    repetition: float
    inversion: float
    expected: int
    derived: bool
    frames: tuple[Frame, ...]


def require_pydicom() -> Any:
    """The pydicom module, or an InputError that says how to get it."""
    try:
        import pydicom
    except ImportError:
        raise InputError(
            "DICOM files found, but pydicom is not installed; expected the 'prepare' extra: "
            "pip install 'ivan_fast[prepare]'"
        ) from None
    return pydicom


def read_headers(
    paths: Iterable[Path], skip: Callable[[Path, str], None], advance: Callable[[], None] | None = None
) -> list[Header]:
    """Headers of the files that hold slices with a place in the patient; `skip` is told of every other.

    A copy of a file before it is passed over, too: same SOPInstanceUID, series and places of its slices.
    """
    pydicom = require_pydicom()
    import logging
    import warnings

    logging.getLogger("pydicom").setLevel(logging.ERROR)
    headers = []
    seen: set[tuple[Any, ...]] = set()
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # values outside the standard: what matters is checked here
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
                header = _header(path, dataset)
            # Not by the UID alone: careless anonymisation gives the same one to every slice.
            places = tuple((frame.position, f"{frame.echo}", frame.number) for frame in header.frames)
            image = (str(dataset.get("SOPInstanceUID") or ""), header.patient, header.series, places)
            if image[0] and image in seen:
                skip(path, "a copy of an image that lies elsewhere too (same SOPInstanceUID); taken once")
                continue
            seen.add(image)
            headers.append(header)
        except InputError as error:
            skip(path, str(error).removeprefix(f"{path}: "))
        except Exception as error:  # pydicom raises many kinds for damaged files
            skip(path, f"damaged DICOM file ({' '.join(str(error).split())[:120]}); copy it again")
        if advance:
            advance()
    return headers


def _header(path: Path, data: Any) -> Header:
    if "Rows" not in data or "Columns" not in data:
        # Old files lack the magic number, but not the class of what they hold.
        what = (
            "DICOM without an image (a report, an index, or a damaged file)"
            if has_magic(path) or "SOPClassUID" in data
            else "not a DICOM file, whatever its name says"
        )
        raise InputError(f"{path}: {what}; left out")
    if int(data.get("SamplesPerPixel") or 1) != 1:
        raise InputError(f"{path}: colours or a screen capture, expected gray slices; left out")
    if str(data.get("PhotometricInterpretation", "MONOCHROME2")) != "MONOCHROME2":
        raise InputError(
            f"{path}: photometric interpretation {data.PhotometricInterpretation}, expected MONOCHROME2; "
            "left out, convert it first (dcm2niix)"
        )
    series = str(data.get("SeriesInstanceUID") or "")
    if not series:
        raise InputError(f"{path}: no SeriesInstanceUID, so it belongs to no series; left out")
    return Header(
        path,
        str(data.get("PatientID") or "").strip(),
        str(data.get("StudyInstanceUID") or ""),
        f"{data.get('StudyDate') or ''}{data.get('StudyTime') or ''}",
        series,
        _whole(data.get("SeriesNumber")),
        " ".join(str(data.get(tag) or "") for tag in ("SeriesDescription", "ProtocolName")).strip(),
        str(data.get("ProtocolName") or "").strip(),
        str(data.get("Modality") or ""),
        _given(data.get("ContrastBolusAgent")),
        _number(data.get("RepetitionTime")),
        _number(data.get("InversionTime")),
        _whole(data.get("ImagesInAcquisition")),
        "DERIVED" in str(data.get("ImageType") or "").upper(),
        tuple(_frames(path, data)),
    )


def _frames(path: Path, data: Any) -> list[Frame]:
    rows, columns = int(data.Rows), int(data.Columns)
    count = _whole(data.get("NumberOfFrames")) or 1
    size = path.stat().st_size
    check_claim(
        path, (rows, columns, count), (_whole(data.get("BitsAllocated")) or 8) / 8, size * DEFLATE_RATIO
    )
    per_frame = data.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        if count > 1:
            raise InputError(f"{path}: {count} frames without a place for each; left out")
        places: list[list[Any]] = [[data]]
    else:
        shared = list(data.get("SharedFunctionalGroupsSequence") or [])
        places = [[frame, *shared, data] for frame in per_frame]
    frames = []
    for index, levels in enumerate(places):
        position = _vector(path, lookup(levels, "PlanePositionSequence", "ImagePositionPatient"), 3)
        orientation = _vector(path, lookup(levels, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = _vector(path, lookup(levels, "PixelMeasuresSequence", "PixelSpacing"), 2)
        _check_geometry(path, orientation, spacing)
        echo = lookup(levels, "MREchoSequence", "EffectiveEchoTime") or data.get("EchoTime")
        number = index + 1 if per_frame is not None else _whole(data.get("InstanceNumber"))
        frames.append(
            Frame(
                path,
                index,
                number,
                (rows, columns),
                (position[0], position[1], position[2]),
                tuple(orientation),
                (spacing[0], spacing[1]),
                _number(echo),
            )
        )
    return frames


def lookup(levels: list[Any], sequence: str, tag: str) -> Any:
    """A value of a frame: in its own functional group, the shared one, or the file itself."""
    for level in levels:
        group = level.get(sequence)
        if group:
            value = group[0].get(tag)
            if value is not None:
                return value
        if level.get(tag) is not None:
            return level.get(tag)
    return None


def _vector(path: Path, value: Any, length: int) -> list[float]:
    try:
        numbers = [float(part) for part in value]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != length or not all(abs(number) < 1e6 for number in numbers):
        what = {3: "position", 6: "orientation", 2: "pixel spacing"}[length]
        raise InputError(
            f"{path}: no usable {what} of the slice, so it has no place in the patient; left out"
        )
    return numbers


def _check_geometry(path: Path, orientation: list[float], spacing: list[float]) -> None:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    straight = abs(np.linalg.norm(row) - 1) < 0.02 and abs(np.linalg.norm(column) - 1) < 0.02
    if not straight or abs(row @ column) > 0.02:
        raise InputError(
            f"{path}: orientation {orientation} is not two unit vectors at right angles; left out"
        )
    if min(spacing) <= 0:
        raise InputError(f"{path}: pixel spacing {spacing}, expected positive millimetres; left out")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _given(agent: Any) -> bool:
    """Whether ContrastBolusAgent names one: some scanners write that there was none."""
    text = str(agent or "").strip().lower()
    return text not in ("", "no", "none", "n", "n/a", "na", "null", "0", "false", "without", "kein", "keins")


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
