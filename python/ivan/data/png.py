"""Gray PNG images of 1 to 16 bits, as fractions of their full scale."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from ivan.data.volume import DEFLATE_RATIO, Grid, check_claim
from ivan.errors import InputError


def read_png(path: Path, luma: bool = False) -> tuple[np.ndarray, Grid]:
    """Read a gray PNG.

    Gray-valued RGB, RGBA and palette images are accepted; transparency is refused, and true colour too unless
    `luma` asks for its Y (`ivan.data.colour`).

    Returns:
        `[H, W]` float32 from 0 to 1 (255 of 8 bits and 65535 of 16 bits are 1) and the grid.

    Raises:
        InputError: see `ivan.data.read_volume`.
    """
    import warnings

    from PIL import Image

    _check_header(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                values = _gray(path, image, luma)
    except InputError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and struct.error for damage
        raise InputError(
            f"{path}: damaged or truncated PNG ({error}); export it again as a gray PNG of 8 or 16 bits"
        ) from None
    return values, Grid("png", values.shape, np.eye(4), has_affine=False, image=True)


def _check_header(path: Path) -> None:
    """Check signature and size before Pillow sees the file."""
    with open(path, "rb") as file:
        start = file.read(24)
    if start[:8] != b"\x89PNG\r\n\x1a\n":
        raise InputError(
            f"{path}: not a PNG image, whatever its name says; export it as a gray PNG of 8 or 16 bits"
        )
    if len(start) < 24 or start[12:16] != b"IHDR":
        raise InputError(f"{path}: damaged or truncated PNG (no header); export it again")
    width, height = struct.unpack(">II", start[16:])
    # One bit per pixel is the least that a PNG can hold.
    check_claim(path, (height, width), 1 / 8, path.stat().st_size * DEFLATE_RATIO)


def png_colours(path: Path) -> np.ndarray | None:
    """Colours `[H, W, 3]` float32 from 0 to 1 of a file that `read_png` accepts; None where it is gray."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            return None
        colours = np.asarray(image.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return None
    return colours.astype(np.float32) / np.float32(255)


def _gray(path: Path, image: Any, luma: bool) -> np.ndarray:
    if "transparency" in image.info and not image.mode.startswith("I"):  # of a palette, or one value
        image = image.convert("RGBA")
    if image.mode == "1":
        return np.asarray(image, dtype=np.float32)
    if image.mode.startswith("I"):  # 16 bits; older Pillow calls them "I"
        return (np.asarray(image).astype(np.float64) / 65535).astype(np.float32)
    if image.mode == "P":
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim == 2:
        return array.astype(np.float32) / np.float32(255)
    colours, alpha = (array[..., :-1], array[..., -1]) if image.mode in ("LA", "RGBA") else (array, None)
    if alpha is not None and (alpha != 255).any():
        raise InputError(
            f"{path}: has transparent pixels, expected an opaque {'' if luma else 'gray '}image; "
            "remove its alpha channel"
        )
    if (colours != colours[..., :1]).any():
        if luma:
            from ivan.data.colour import luma as luma_of

            return luma_of(colours.astype(np.float32) / np.float32(255))
        raise InputError(f"{path}: a colour image, expected gray values; convert it to one channel first")
    return colours[..., 0].astype(np.float32) / np.float32(255)


def write_png(file: IO[bytes], stored: np.ndarray) -> None:
    """Write `[H, W]` values from 0 to 1 as 16-bit gray, rounded; values beyond are clipped."""
    from PIL import Image

    levels = np.rint(np.clip(stored.astype(np.float64), 0, 1) * 65535).astype(np.uint16)
    Image.fromarray(np.ascontiguousarray(levels)).save(file, format="PNG")
