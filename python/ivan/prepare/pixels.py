"""The pixels of DICOM slices, in their units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ivan.errors import InputError
from ivan.prepare.dicom import Frame, lookup, require_pydicom


class PixelReader:
    """Reads slices as float32 in their units; remembers the last file, whose other frames often come next."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._data: Any = None
        self._pixels: Any = None

    def read(self, frame: Frame) -> np.ndarray:
        """[rows, columns] float32 after rescale slope and intercept (or the modality table) of this slice.

        NaN where the header calls a value padding: outside a CT's round field of view, say, where values such
        as -3024 would upset every scale.

        Raises:
            InputError: the pixels cannot be decoded, or are not those that the header announces.
        """
        try:
            if frame.path != self._path:
                self._load(frame.path)
            pixels = self._pixels if self._pixels.ndim == 2 else self._pixels[frame.index]
            values = self._rescale(np.asarray(pixels), frame.index)
        except InputError:
            raise
        except Exception as error:  # pydicom and its decoders raise many kinds
            reason = " ".join(str(error).split())[:200]
            remedy = ", or install the decoders: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
            raise InputError(
                f"{frame.path}: its pixels cannot be decoded ({reason}); copy it again"
                f"{remedy if self._compressed() else ''}"
            ) from None
        if values.shape != frame.shape:
            raise InputError(
                f"{frame.path}: pixels of shape {values.shape}, its header says {frame.shape}; copy it again"
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"{frame.path}: values that are not finite after its slope and intercept, expected finite "
                "numbers; export the series again"
            )
        padding = self._padding(np.asarray(pixels))
        return np.where(padding, np.float32(np.nan), values) if padding.any() else values

    def _compressed(self) -> bool:
        """Whether the file that was tried last needs a decoder."""
        try:
            return bool(self._data.file_meta.TransferSyntaxUID.is_compressed)
        except (AttributeError, ValueError):  # nothing was read, or a UID that is no transfer syntax
            return False

    def _load(self, path: Path) -> None:
        import warnings

        self._path = self._data = None  # nothing of the file before, should this one fail
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._data = require_pydicom().dcmread(path, force=True)
            if "TransferSyntaxUID" not in self._data.file_meta:  # a bare data set of old times
                self._data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
            self._pixels = self._data.pixel_array
        self._path = path

    def _padding(self, pixels: np.ndarray) -> np.ndarray:
        """[rows, columns] bool: PixelPaddingValue, or all from it to PixelPaddingRangeLimit.

        DICOM PS3.3, C.7.5.1.1.2. Scanners write -2000 as 63536 too; both mean the same bits.
        """
        size = 1 << (8 * pixels.dtype.itemsize)
        ends = []
        for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            value = self._data.get(tag)
            try:  # implicit VR does not say whether it is signed: pydicom leaves such a value as bytes
                value = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
            except (TypeError, ValueError):
                continue
            signed = pixels.dtype.kind == "i"
            ends.append((value + size // 2) % size - size // 2 if signed else value % size)
        if not ends or self._data.get("PixelPaddingValue") is None or pixels.dtype.kind not in "iu":
            return np.zeros(pixels.shape, bool)
        return np.asarray((pixels >= min(ends)) & (pixels <= max(ends)))

    def _rescale(self, pixels: np.ndarray, index: int) -> np.ndarray:
        from pydicom.pixels import apply_modality_lut

        per_frame = self._data.get("PerFrameFunctionalGroupsSequence")
        if per_frame is not None:
            levels = [per_frame[index], *(self._data.get("SharedFunctionalGroupsSequence") or []), self._data]
        elif self._data.get("ModalityLUTSequence"):
            return np.asarray(apply_modality_lut(pixels, self._data), dtype=np.float32)
        else:
            levels = [self._data]
        # One of the two may be missing, with which pydicom would apply neither.
        sequence = "PixelValueTransformationSequence"
        slope = lookup(levels, sequence, "RescaleSlope")
        intercept = lookup(levels, sequence, "RescaleIntercept")
        slope = 1.0 if slope is None else float(slope)
        with np.errstate(over="ignore", invalid="ignore"):
            return (pixels * slope + float(intercept or 0)).astype(np.float32)
