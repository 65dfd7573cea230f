"""Synthetic heads and the DICOM series of them: what the tests and the soak feed `ivan prepare` with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

Field = Callable[[np.ndarray], np.ndarray]  # [..., 3] RAS mm -> signal


def head(points: np.ndarray, contrast: str = "T1") -> np.ndarray:
    """The signal of an asymmetric head at RAS positions [..., 3] in mm, 0 to 1000."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]

    def inside(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    tissue = {  # air, scalp, brain, ventricle, nucleus
        "T1": (0, 900, 600, 150, 750),
        "T2": (0, 350, 450, 1000, 300),
        "PD": (0, 500, 800, 900, 700),
        "CT": (-1000, 60, 35, 5, 45),
    }[contrast]
    values = np.full(x.shape, tissue[0], np.float32)
    values[inside(0, 0, 0, 70, 85, 65)] = tissue[1]
    values[inside(0, -2, 2, 60, 74, 56)] = tissue[2]
    values[inside(-12, 5, 8, 8, 28, 12)] = tissue[3]
    values[inside(14, -4, 5, 6, 20, 10)] = tissue[3]
    values[inside(30, 25, 15, 12, 10, 9)] = tissue[4]
    values[inside(-20, -45, -10, 14, 9, 16)] = tissue[4]
    return values


def grid(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """RAS mm of every voxel, [*shape, 3]."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def axial_affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxel (column, row, slice) to LPS mm of an axial scan about the origin."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * np.array(spacing)
    return affine


def write_series(
    folder: Path,
    contrast: str = "T1",
    *,
    patient: str = "anna",
    study: str = "1.2.3.1",
    number: int = 1,
    description: str | None = None,
    shape: tuple[int, int, int] = (40, 48, 18),
    spacing: tuple[float, float, float] = (4.0, 4.0, 8.0),
    affine: np.ndarray | None = None,
    drop: Iterable[int] = (),
    kind: str = "MR",
    slope: float | Callable[[int], float] = 1.0,
    intercept: float = 0.0,
    signal: Field | None = None,
    **tags: Any,
) -> np.ndarray:
    """Write a series of one file a slice, in shuffled order; return what it shows, [columns, rows, slices].

    `affine` maps (column, row, slice) to LPS mm. Slices named in `drop` are not written.
    """
    affine = axial_affine(shape, spacing) if affine is None else affine
    points = grid(shape, np.diag([-1.0, -1, 1, 1]) @ affine)
    values = signal(points) if signal else head(points, contrast)
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    order = np.random.default_rng(number).permutation(shape[2])
    for name, k in enumerate(order):
        if k in set(drop):
            continue
        data = _dataset(CTImageStorage if kind == "CT" else MRImageStorage)
        data.PatientID, data.PatientName = patient, "Secret^Name"
        data.StudyInstanceUID, data.StudyDate, data.SeriesInstanceUID = study, "20200101", series
        data.SeriesNumber, data.Modality, data.InstanceNumber = number, kind, int(k) + 1
        data.SeriesDescription = contrast + "w tse" if description is None else description
        data.ImagePositionPatient = [float(v) for v in affine[:3, 3] + affine[:3, 2] * k]
        data.ImageOrientationPatient = [
            *(float(v) for v in affine[:3, 0] / steps[0]),
            *(float(v) for v in affine[:3, 1] / steps[1]),
        ]
        data.PixelSpacing = [float(steps[1]), float(steps[0])]
        factor = slope(int(k)) if callable(slope) else slope
        data.RescaleSlope, data.RescaleIntercept = factor, intercept
        for tag, value in tags.items():
            setattr(data, tag, value)
        _pixels(data, np.rint((values[:, :, k].T - intercept) / factor))
        data.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return values


def write_enhanced(
    path: Path, contrast: str = "T1", *, shape: tuple[int, int, int] = (20, 24, 10)
) -> np.ndarray:
    """Write an enhanced multi-frame MR file; return what it shows, [columns, rows, slices]."""
    spacing = (8.0, 8.0, 14.0)
    affine = axial_affine(shape, spacing)
    values = head(grid(shape, np.diag([-1.0, -1, 1, 1]) @ affine), contrast)
    data = _dataset(EnhancedMRImageStorage)
    data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID = "anna", "1.2.3.1", generate_uid()
    data.SeriesNumber, data.Modality, data.SeriesDescription = 9, "MR", f"{contrast} enhanced"
    data.NumberOfFrames = shape[2]
    shared, frames = Dataset(), []
    measures, plane, scale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [spacing[1], spacing[0]]
    plane.ImageOrientationPatient = [1.0, 0, 0, 0, 1, 0]
    scale.RescaleSlope, scale.RescaleIntercept = 2.0, 0.0
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    shared.PixelValueTransformationSequence = Sequence([scale])
    for k in reversed(range(shape[2])):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [float(v) for v in affine[:3, 3] + affine[:3, 2] * k]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    _pixels(data, np.rint(values.transpose(2, 1, 0)[::-1] / 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return values


def _dataset(storage: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=copy.deepcopy(meta), preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    return data


def _pixels(data: FileDataset, values: np.ndarray) -> None:
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = values.astype("<i2").tobytes()
