"""What a report shows, as plain data: the only thing that `write_report` needs to know about a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Synthesis:
    """One synthesised modality of one case.

    Attributes:
        target: the modality that was synthesised, e.g. "T2".
        prediction: [X, Y, Z] float, RAS order, in the units of the reference.
        reference: [X, Y, Z] float like `prediction`, or None where the real image does not exist.
        sources: names of the modalities it was made from, keys of `CaseResult.images`.
        direction: "forward" (sources -> targets) or "inverse".
        data_range: range for the PSNR of single slices, in the same units; None: the display range.
    """

    target: str
    prediction: np.ndarray
    sources: Sequence[str]
    direction: str = "forward"
    reference: np.ndarray | None = None
    data_range: float | None = None


@dataclass(frozen=True)
class CaseResult:
    """The images of one case, for the slice viewer.

    Attributes:
        name: name of the case as in the data folder.
        images: modality -> [X, Y, Z] float, RAS order: every image that was a source or reference.
        syntheses: what was synthesised for it, both directions.
        spacing: voxel edge lengths along x, y, z in millimetres.
        plane: "axial" | "coronal" | "sagittal": how the viewer cuts the volumes.
        slices: half-open range along the plane's axis to show (None: all with foreground).
        oriented: False for plain 2D images without anatomical axes: no L/R/A/P markers then.
        chroma: [X, Y, Z, 2] (Cb, Cr) of `ivan.data.colour`, or None. The images and syntheses named by
            `coloured` are luma from 0 to 1 and are shown with it; windows and read values stay those of luma.
        coloured: keys of `images` and targets of `syntheses` that have these colours.
    """

    name: str
    images: Mapping[str, np.ndarray]
    syntheses: Sequence[Synthesis]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    plane: str = "axial"
    slices: tuple[int, int] | None = None
    oriented: bool = True
    chroma: np.ndarray | None = None
    coloured: Collection[str] = ()


@dataclass(frozen=True)
class Column:
    """A metric of the table with the protocol that makes its number comparable.

    Attributes:
        key: name in `MetricRow.values`.
        label: column title, e.g. "PSNR".
        protocol: variant, data range, slice or volume, mask: one line.
        unit: e.g. "dB"; empty for a ratio.
        better: "higher", "lower", "one" or "zero" (closest to it); marks the best row of a comparison.
    """

    key: str
    label: str
    protocol: str
    unit: str = ""
    better: str = "higher"


@dataclass(frozen=True)
class MetricRow:
    """One line of the table: what was compared, by which method, and its numbers (None: not measured)."""

    case: str
    target: str
    values: Mapping[str, float | None]
    direction: str = "forward"
    method: str = "iVAN"


@dataclass(frozen=True)
class MetricTable:
    """A sortable table of metrics.

    Attributes:
        columns: the metrics, each with its own protocol.
        rows: the numbers.
        protocol: what holds for all of them: scaling, data range, mask, weights.
    """

    columns: Sequence[Column] = ()
    rows: Sequence[MetricRow] = field(default_factory=tuple)
    protocol: Mapping[str, object] = field(default_factory=dict)
