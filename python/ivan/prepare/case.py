"""One case from raw files to volumes on one grid, with a record that a later start recognises."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ivan.data.normalise import estimate_scale
from ivan.data.resample import overlap
from ivan.data.volume import Volume, read_volume
from ivan.data.writing import atomic_file
from ivan.errors import InputError
from ivan.prepare.check import compare, record
from ivan.prepare.find import Image, RawCase
from ivan.prepare.grid import crop_box, cropped_affine, moved_by, resample, with_spacing
from ivan.prepare.overlay import overlay_png
from ivan.prepare.register import register
from ivan.prepare.series import Stack, build_volume

# The largest value against the 99.5th percentile: bright vessels and metal reach some tens.
_MOST_TIMES = 1000
_FORM = 4  # raise it whenever a case would be made differently


@dataclass(frozen=True)
class Settings:
    """What a prepared case depends on besides its files.

    Attributes:
        spacing: mm along the RAS axes; None: the reference's own.
        register: rigid registration of the other modalities to the reference.
        crop: crop to the foreground.
        fill_missing: interpolate missing slices of a series instead of refusing it.
    """

    spacing: tuple[float, float, float] | None = None
    register: bool = False
    crop: bool = False
    fill_missing: bool = False


def record_path(out: Path, case: str) -> Path:
    """Where a case's record lies: written last, it says that all of the case is there."""
    return out / "cases" / f"{case}.json"


def image_path(out: Path, modality: str, case: str) -> Path:
    """Where a prepared volume lies: the layout that `ivan train --data` reads."""
    return out / modality / f"{case}.nii.gz"


def overlay_path(out: Path, case: str) -> Path:
    """Where a case's picture lies."""
    return out / "quality" / f"{case}.png"


def signature(case: RawCase, settings: Settings) -> str:
    """Changes with the files' paths, sizes or times, their order, and the settings."""
    files: dict[str, Any] = {}
    for modality, image in case.images.items():
        paths = image.files if isinstance(image, Stack) else [image]
        echo = str(image.echo) if isinstance(image, Stack) else ""
        try:
            files[modality] = [
                [str(path.resolve()), state.st_size, state.st_mtime_ns, echo]
                for path, state in zip(paths, _states(paths), strict=True)
            ]
        except InputError as error:  # said again where the image is read
            files[modality] = str(error)
    text = json.dumps([_FORM, case.name, case.patient, list(files.items()), asdict(settings)])
    return hashlib.sha256(text.encode()).hexdigest()


def _states(paths: Sequence[Path]) -> list[os.stat_result]:
    try:
        return [path.stat() for path in paths]
    except OSError as error:
        link = "a link that leads nowhere" if Path(error.filename).is_symlink() else "cannot be read"
        raise InputError(f"{error.filename}: {link} ({error.strerror}); copy the file again") from None


def finished(case: RawCase, out: Path, settings: Settings, signed: str) -> dict[str, Any] | None:
    """The record of a case that is already there, whole and of the same files and settings, or None.

    None, too, where a modality was left out that can be read now: with a decoder, or other permissions.
    """
    try:
        found = json.loads(record_path(out, case.name).read_text(encoding="utf-8"))
        left_out = found["left_out"]
        whole = found["signature"] == signed and {*found["bytes"], *left_out} == set(case.images)
        for modality, size in found["bytes"].items():
            whole = whole and image_path(out, modality, case.name).stat().st_size == size
        if not whole or not overlay_path(out, case.name).is_file():
            return None
        unread = [name for name, what in left_out.items() if not what["read"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    for name in unread:
        try:
            _read(name, case.images[name], settings, [])
        except InputError:
            continue
        return None
    return dict(found)


def prepare_case(case: RawCase, out: Path, settings: Settings, signed: str) -> dict[str, Any]:
    """Read, register, resample, check and write one case; return its record.

    A modality that cannot be used is left out with a warning where the reference and another one remain.

    Raises:
        InputError: the reference cannot be used, or none of the others, such as where it does not lie in the
            same place. RunError: writing failed.
    """
    warnings: list[str] = []
    first = next(iter(case.images))
    reference = _read(first, case.images[first], settings, warnings)
    target = with_spacing(reference, settings.spacing)
    images = {first: resample(target, reference)}
    motions: dict[str, Any] = {}
    matches: dict[str, Any] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for name, image in case.images.items():
        if name == first:
            continue
        said: list[str] = []
        volume = None
        try:
            volume = _read(name, image, settings, said)
            if settings.register:
                motion = register(reference, volume)
                volume = moved_by(volume, motion.world)
            data = _on_grid(target, volume, reference.path, registered=settings.register)
        except InputError as error:  # one bad image must not cost the others
            left_out[name] = {"read": volume is not None, "why": str(error)}
            continue
        images[name] = data
        if settings.register:
            motions[name] = motion.to_json()
        match = compare(images[first], data, _inside(target, volume), target.voxel_size)
        matches[name] = record(match, name, first)
        warnings += said + matches[name]["warnings"]
    if left_out and len(images) == 1:
        raise InputError("; ".join(what["why"] for what in left_out.values()))
    warnings += [f"{name} left out: {what['why']}" for name, what in left_out.items()]
    affine = target.affine
    if settings.crop:
        box = crop_box(images, target.voxel_size)
        images = {name: np.ascontiguousarray(data[box]) for name, data in images.items()}
        affine = cropped_affine(affine, box)
    sizes = {}
    for name, data in images.items():
        path = image_path(out, name, case.name)
        _write(path, data, affine)
        sizes[name] = path.stat().st_size
    others = {name: data for name, data in images.items() if name != first}
    with atomic_file(overlay_path(out, case.name)) as file:
        file.write(overlay_png(images[first], others, first, target.voxel_size))
    result = {
        "signature": signed,
        "case": case.name,
        "patient": case.patient,
        "reference": first,
        "shape": list(images[first].shape),
        "spacing": [round(size, 4) for size in target.voxel_size],
        "bytes": sizes,
        "sources": {name: _origin(case.images[name]) for name in images},
        "left_out": left_out,
        "registration": motions,
        "match": matches,
        "notes": list(case.notes),
        "warnings": warnings,
    }
    with atomic_file(record_path(out, case.name)) as file:  # last: it says that the case is complete
        file.write((json.dumps(result, indent=1) + "\n").encode())
    return result


def _read(name: str, image: Image, settings: Settings, warnings: list[str]) -> Volume:
    volume = _read_image(name, image, settings, warnings)
    scale = estimate_scale(volume.data)
    largest = float(np.abs(volume.data).max())
    if largest > _MOST_TIMES * max(abs(scale.low), abs(scale.high)):
        warnings.append(
            f"{name}: the largest value is {largest:.3g}, where nearly all are below {scale.high:.3g}: "
            "damaged voxels? Errors measured on this case would mean nothing; export it again"
        )
    return volume


def _read_image(name: str, image: Image, settings: Settings, warnings: list[str]) -> Volume:
    _states(image.files if isinstance(image, Stack) else [image])
    if isinstance(image, Stack):
        volume, said = build_volume(image, interpolate=settings.fill_missing)
        warnings += [f"{name}: {line}" for line in said]
        return volume
    volume = read_volume(image)
    if not volume.grid.has_affine:
        raise InputError(
            f"{image}: its header does not say where its voxels lie (sform and qform code 0); set an "
            "affine first"
        )
    return volume


def _on_grid(target: Volume, moving: Volume, reference: Path, *, registered: bool) -> np.ndarray:
    """[X, Y, Z] float32: `moving` on the grid of `target`. Raises InputError where nothing of it is there."""
    if not registered and overlap(target, moving) == 0:
        raise InputError(
            f"{moving.path}: does not overlap {reference} in world coordinates at all; use --register, or "
            "correct their headers"
        )
    data = resample(target, moving)
    if data.min() == data.max():
        raise InputError(
            f"{moving.path}: nothing of it is left on the grid of {reference}; use --register, or correct "
            "their headers (place, voxel sizes, units)"
        )
    return data


def _origin(image: Image) -> str:
    return image.label if isinstance(image, Stack) else str(image)


def _inside(target: Volume, moving: Volume) -> np.ndarray:
    """[X, Y, Z] bool: the voxels of `target` inside the field of view of `moving`."""
    to_index = np.linalg.inv(moving.affine) @ target.affine
    axes = [np.arange(size, dtype=np.float32) for size in target.data.shape]
    inside = np.ones(target.data.shape, bool)
    for row, extent in zip(to_index[:3], moving.data.shape, strict=True):
        index = (
            row[0] * axes[0][:, None, None] + row[1] * axes[1][:, None] + row[2] * axes[2] + row[3]
        )  # [X, Y, Z]
        inside &= (index >= -0.5) & (index <= extent - 0.5)
    return inside


def _write(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """A compressed float32 NIfTI in RAS order, millimetres; equal images give equal bytes."""
    import gzip

    import nibabel as nib

    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    straight = np.allclose(columns.T @ columns, np.eye(3), atol=1e-4)
    image.set_qform(affine if straight else None, code=1 if straight else 0)
    with atomic_file(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as zipped:
        image.to_stream(zipped)
