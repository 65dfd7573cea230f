"""Volumes -> what the slice viewer shows: display orientation, 8-bit sprite sheets, panels."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ivan.data.planes import volume_to_slices
from ivan.errors import InputError

from .content import CaseResult, Synthesis

# plane -> (axis of the slices, its name, axes of a column and a row step, markers left right top bottom)
_PLANES: dict[str, tuple[int, str, tuple[int, int], list[str]]] = {
    "axial": (2, "z", (0, 1), ["R", "L", "A", "P"]),
    "coronal": (1, "y", (0, 2), ["R", "L", "S", "I"]),
    "sagittal": (0, "x", (1, 2), ["A", "P", "S", "I"]),
}
ERROR_ZERO = 127  # byte of a zero error; the viewer's colours are symmetric about it


def display_slices(volume: np.ndarray, plane: str = "axial", oriented: bool = True) -> np.ndarray:
    """[X, Y, Z] in RAS order -> [slices, rows, columns] as radiologists look at them (R at the left).

    With `oriented=False` (plain 2D images) left and right stay as in the file.
    """
    stack = volume_to_slices(volume, plane)
    return np.ascontiguousarray(stack[:, :, ::-1] if oriented else stack)


def _span(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Display range of a modality: 0 (or the 0.1st percentile) to the foreground's 99.9th percentile."""
    values = np.concatenate([image[np.isfinite(image)].ravel() for image in images])
    if values.size == 0:
        return 0.0, 1.0
    low = 0.0 if values.min() >= 0 else float(np.percentile(values, 0.1))
    foreground = values[values > max(low, 0.0)]
    high = float(np.percentile(foreground, 99.9)) if foreground.size else low + 1.0
    return (low, high) if high > low else (low, low + 1.0)


def _sheet(slices: np.ndarray, columns: int) -> str:
    """[S, H, W] or [S, H, W, 3] uint8 -> data URI of one PNG with the slices in rows of `columns`."""
    from PIL import Image

    count, height, width, *channels = slices.shape
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, *channels), np.uint8)
    sheet[:count] = slices
    sheet = (
        sheet.reshape(rows, columns, height, width, *channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, *channels)
    )
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _gray(slices: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    low, high = span
    scaled = (np.nan_to_num(slices.astype(np.float32), nan=low, posinf=high, neginf=low) - low) / (high - low)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _chroma_bytes(chroma: np.ndarray) -> np.ndarray:
    """(Cb, Cr) [S, H, W, 2] from -0.5 to 0.5 -> red and green bytes about 128 of [S, H, W, 3] uint8."""
    coded = np.zeros((*chroma.shape[:3], 3), np.uint8)
    coded[..., :2] = np.round(np.clip(np.nan_to_num(chroma) * 255 + 128, 0, 255))
    return coded


def slice_psnr(prediction: np.ndarray, reference: np.ndarray, data_range: float) -> list[float | None]:
    """PSNR of each slice [S, H, W]; None where the reference is empty or nothing finite comes out."""
    from ivan.metrics import psnr

    result: list[float | None] = []
    for p, r in zip(prediction, reference, strict=True):
        usable = bool(np.isfinite(p).all() and np.isfinite(r).all()) and r.min() < r.max()
        value = float(psnr(r, p, data_range=data_range)) if usable else math.inf
        result.append(round(value, 2) if math.isfinite(value) else None)
    return result


def chosen_slices(case: CaseResult, limit: int) -> np.ndarray:
    """Slice indices to show: the asked range or all, those with foreground, at most `limit` evenly spread."""
    images = [*case.images.values(), *(s.prediction for s in case.syntheses)]
    axis = _PLANES[case.plane][0] if case.oriented else 2
    start, stop = case.slices or (0, images[0].shape[axis])
    others = tuple(i for i in range(3) if i != axis)
    seen = np.any([np.any(np.nan_to_num(image) > 0, axis=others) for image in images], axis=0)
    indices = np.arange(start, min(stop, seen.size))
    indices = indices[seen[indices]] if seen[indices].any() else indices
    if indices.size > limit:
        indices = indices[np.unique(np.linspace(0, indices.size - 1, max(1, limit)).round().astype(int))]
    return indices


def drawn_pixels(case: CaseResult) -> int:
    """Pixels of one slice of a case in the page: cropped to the foreground, all its sheets together.

    Raises:
        InputError: as `case_payload`.
    """
    _check(case)
    images = [*case.images.values(), *(s.reference for s in case.syntheses if s.reference is not None)]
    axis = _PLANES[case.plane][0] if case.oriented else 2
    flat = np.stack([np.nan_to_num(image).max(axis=axis) for image in images])
    top, bottom, left, right = _crop([flat])
    sheets = len(case.images) + sum(2 if s.reference is None else 3 for s in case.syntheses)
    return max(1, (bottom - top) * (right - left)) * (sheets + (0 if case.chroma is None else 2))


def _check(case: CaseResult) -> None:
    if case.plane not in _PLANES:
        raise InputError(f"case {case.name}: plane is {case.plane!r}, expected one of {', '.join(_PLANES)}")
    if not case.images or not case.syntheses:
        raise InputError(f"case {case.name}: a report needs at least one image and one synthesis of a case")
    shape = next(iter(case.images.values())).shape
    arrays = [(name, image) for name, image in case.images.items()]
    for s in case.syntheses:
        arrays += [(f"predicted {s.target}", s.prediction)]
        arrays += [] if s.reference is None else [(f"reference {s.target}", s.reference)]
        missing = [name for name in s.sources if name not in case.images]
        if missing:
            raise InputError(
                f"case {case.name}: no image of source {missing[0]}, found {', '.join(case.images)}"
            )
    if case.chroma is not None and case.chroma.shape != (*shape, 2):
        raise InputError(
            f"case {case.name}: chroma has shape {case.chroma.shape}, expected {(*shape, 2)} as the images"
        )
    for name, array in arrays:
        if array.ndim != 3 or array.shape != shape:
            raise InputError(
                f"case {case.name}: {name} has shape {array.shape}, expected {shape} like the other images"
            )


def case_payload(case: CaseResult, max_slices: int, simulated: Collection[str] = ()) -> dict[str, Any]:
    """What `viewer.js` needs of a case: at most `max_slices` slices as sprites, panels of all views, sizes.

    Raises:
        InputError: images of different shapes, an unknown plane, or a source without an image.
    """
    _check(case)
    axis, axis_name, steps, markers = _PLANES[case.plane]
    indices = chosen_slices(case, max_slices)
    shown = {name: _cut(case, image, indices) for name, image in case.images.items()}
    references = {
        s.target: _cut(case, s.reference, indices) for s in case.syntheses if s.reference is not None
    }
    predictions = [_cut(case, s.prediction, indices) for s in case.syntheses]
    top, bottom, left, right = _crop([*shown.values(), *references.values()])
    spans = {}
    coloured = () if case.chroma is None else case.coloured
    for name in {*shown, *(s.target for s in case.syntheses)}:
        known = [shown[name]] if name in shown else [references[name]] if name in references else []
        spans[name] = _span(
            known or [p for p, s in zip(predictions, case.syntheses, strict=True) if s.target == name]
        )
    spans |= dict.fromkeys(coloured, (0.0, 1.0))  # as they are written: a stretched luma has other colours
    columns = math.ceil(math.sqrt(len(indices)))
    images: dict[str, dict[str, Any]] = {}

    def add(key: str, stack: np.ndarray, span: tuple[float, float], colours: bool = False) -> str:
        if key not in images:
            png = _sheet(_gray(stack[:, top:bottom, left:right], span), columns)
            images[key] = {"src": png, "kind": "gray", "low": span[0], "high": span[1]}
            if colours:
                images[key]["chroma"] = "chroma"
        return key

    if case.chroma is not None and coloured:
        cut = np.stack([_cut(case, case.chroma[..., c], indices) for c in range(2)], axis=-1)
        png = _sheet(_chroma_bytes(cut[:, top:bottom, left:right]), columns)
        images["chroma"] = {"src": png, "kind": "chroma"}

    views = []
    for number, (s, prediction) in enumerate(zip(case.syntheses, predictions, strict=True)):
        span = spans[s.target]

        def panel(title: str, role: str, image: str, modality: str) -> dict[str, Any]:
            return {"title": title, "role": role, "image": image, "simulated": modality in simulated}

        panels = [
            panel(m, "source", add(f"image {m}", shown[m], spans[m], m in coloured), m) for m in s.sources
        ]
        predicted = add(f"prediction {number}", prediction, span, s.target in coloured)
        panels.append(panel(s.target, "prediction", predicted, s.target))
        reference = None if s.reference is None else references[s.target]
        psnr = None
        if reference is not None:
            panels.append(
                panel(s.target, "reference", add(f"reference {s.target}", reference, span), s.target)
            )
            error = np.nan_to_num(prediction.astype(np.float32) - reference.astype(np.float32))
            reach = float(np.percentile(np.abs(error), 99.8)) or (span[1] - span[0]) / 100
            coded = np.round(ERROR_ZERO + ERROR_ZERO * np.clip(error / reach, -1, 1)).astype(np.uint8)
            png = _sheet(coded[:, top:bottom, left:right], columns)
            images[f"error {number}"] = {"src": png, "kind": "error", "low": -reach, "high": reach}
            panels.append(panel("Error", "prediction \u2212 reference", f"error {number}", ""))
            psnr = slice_psnr(prediction, reference, s.data_range or span[1] - span[0])
        views.append(_view(s, panels, psnr))
    spacing = [case.spacing[steps[0]], case.spacing[steps[1]]]
    return {
        "name": case.name,
        "axis": axis_name if case.oriented else "slice",
        "slices": indices.tolist(),
        "available": int(next(iter(case.images.values())).shape[axis if case.oriented else 2]),
        "columns": columns,
        "width": right - left,
        "height": bottom - top,
        "left": left,
        "top": top,
        "spacing": spacing if case.oriented else [case.spacing[0], case.spacing[1]],
        "markers": markers if case.oriented else [],
        "images": images,
        "views": views,
    }


def _view(s: Synthesis, panels: list[dict[str, Any]], psnr: list[float | None] | None) -> dict[str, Any]:
    title = f"{' + '.join(s.sources)} \u2192 {s.target}"
    if s.direction == "inverse":
        title += "  (inverse)"
    return {"title": title, "direction": s.direction, "target": s.target, "panels": panels, "psnr": psnr}


def _cut(case: CaseResult, volume: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The chosen slices of a volume, [S, H, W] as displayed; only they are copied."""
    axis = _PLANES[case.plane][0] if case.oriented else 2
    return display_slices(np.take(volume, indices, axis=axis), case.plane, case.oriented)


def _crop(stacks: Sequence[np.ndarray], margin: int = 3) -> tuple[int, int, int, int]:
    """Box of the foreground of all stacks with a margin: top, bottom, left, right (half-open)."""
    height, width = stacks[0].shape[1:]
    seen = np.any([np.any(np.nan_to_num(stack) > 0, axis=0) for stack in stacks], axis=0)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not rows.size:
        return 0, height, 0, width
    return (
        max(0, int(rows[0]) - margin),
        min(height, int(rows[-1]) + 1 + margin),
        max(0, int(columns[0]) - margin),
        min(width, int(columns[-1]) + 1 + margin),
    )
