"""Fused images and decompositions in numbers, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import LoadedCase
    from ivan.report import CaseResult, MetricTable

OURS = "iVAN"
FUSION_COLUMNS = (
    ("entropy", "EN", "bits"),
    ("average_gradient", "AG", ""),
    ("spatial_frequency", "SF", ""),
    ("mutual_information", "MI", "bits"),
    ("q_mi", "Q_MI", ""),
    ("q_abf", "Q^AB/F", ""),
    ("q_piella", "Q", ""),
    ("q_w", "Q_w", ""),
)
DECOMPOSITION_COLUMNS = (("psnr", "PSNR", "dB"), ("nmse", "NMSE", ""), ("largest_error", "largest error", ""))
EXACT = "exact, from the whole state"
APPROXIMATE = "approximate, from the fused image alone"


@dataclass(frozen=True)
class FusionRow:
    """Numbers of one case.

    Attributes:
        case: its name.
        part: "fusion", or a source's name where it was decomposed.
        method: a rule's name, `OURS`, or how a source was decomposed: `EXACT` or `APPROXIMATE`.
        values: metric -> number.
        protocol: metric -> how it was measured.
    """

    case: str
    part: str
    method: str
    values: dict[str, float]
    protocol: dict[str, str]


@dataclass
class FusionResult:
    """What `fuse` returns.

    Attributes:
        rows: the numbers. protocol: what holds for all of them. views: pictures of the first cases. files:
            those written. warnings: cases skipped or left out, and what was done to images before they were
            fused (resampling), one line each. left_out: what to raise once the others are shown where files
            could not be used, else None.
    """

    rows: list[FusionRow] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)
    views: list[Any] = field(default_factory=list)
    files: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: InputError | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinite numbers as the text "inf"."""
        from ivan.evaluation.result import plain

        rows = [
            {"case": r.case, "part": r.part, "method": r.method, "values": r.values, "protocol": r.protocol}
            for r in self.rows
        ]
        content: dict[str, Any] = plain(
            {"protocol": self.protocol, "rows": rows, "means": self.means(), "warnings": self.warnings}
        )
        return content

    def protocols(self) -> dict[str, str]:
        """Metric -> how it was measured. Counts that differ among rows are ranges ("36 to 90 slices")."""
        from ivan.evaluation.result import protocols_of

        return protocols_of(row.protocol for row in self.rows)

    def means(self) -> list[dict[str, Any]]:
        """Mean over cases for each part and method."""
        groups: dict[tuple[str, str], list[FusionRow]] = {}
        for row in self.rows:
            groups.setdefault((row.part, row.method), []).append(row)
        return [
            {
                "part": part,
                "method": method,
                "cases": len(rows),
                "values": {k: sum(row.values[k] for row in rows) / len(rows) for k in rows[0].values},
            }
            for (part, method), rows in groups.items()
        ]

    def to_csv(self) -> str:
        """One line a case, part and method; empty where a metric does not apply."""
        import csv
        import io

        names = [key for key, _, _ in (*FUSION_COLUMNS, *DECOMPOSITION_COLUMNS)]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["case", "part", "method", *names])
        for row in self.rows:
            found = [f"{row.values[name]:.10g}" if name in row.values else "" for name in names]
            writer.writerow([row.case, row.part, row.method, *found])
        return text.getvalue()

    def to_table(self) -> MetricTable:
        """The table of a report."""
        from ivan.report import Column, MetricRow, MetricTable

        protocols = self.protocols()
        columns = [
            Column(
                key, label, protocols[key], unit, "lower" if key in ("nmse", "largest_error") else "higher"
            )
            for key, label, unit in (*FUSION_COLUMNS, *DECOMPOSITION_COLUMNS)
            if key in protocols
        ]
        rows = [
            MetricRow(
                row.case,
                "fused" if row.part == "fusion" else row.part,
                row.values,
                "forward" if row.part == "fusion" else "decomposition",
                row.method,
            )
            for row in self.rows
        ]
        return MetricTable(columns, rows, self.protocol)


def gray_levels(slices: np.ndarray, png: bool = False) -> np.ndarray:
    """Normalised slices as gray levels 0..255, cut at 0 and 1; `png`: as a file of 16 bits holds them."""
    import numpy as np

    levels = np.clip(slices.astype(np.float64), 0, 1) * 255
    # 8 bits as float32 fractions, times 255, are not quite integers: Q^AB/F would take the angle of an edge
    # from the rounding wherever two neighbours are equal.
    return np.rint(levels * 257) / 257 if png else levels


def measure_fused(
    case: str, sources: np.ndarray, fused: Mapping[str, np.ndarray], png: bool = False
) -> list[FusionRow]:
    """All fusion metrics of each method.

    Args:
        sources: ``[S, 2, H, W]`` normalised.
        fused: method -> ``[S, H, W]`` in 0..1.
        png: whether they are written as PNG.

    Raises:
        InputError: slices below 8x8, or sources without an image in them.
    """
    from ivan.metrics import fusion_metrics, protocols

    a, b = (gray_levels(sources[:, i], png) for i in range(2))
    rows = []
    for method, stack in fused.items():
        images = (a, b, gray_levels(stack, png))
        try:
            if len(a) == 1:
                values = fusion_metrics(*(x[0] for x in images), check_range=False)
            else:
                values = fusion_metrics(*images, axis=0, check_range=False)
        except InputError as error:
            raise InputError(f"{case}: {error}") from None
        rows.append(
            FusionRow(case, "fusion", method, {k: float(v) for k, v in values.items()}, protocols(values))
        )
    return rows


def measure_decomposed(
    case: str, names: Sequence[str], sources: np.ndarray, decomposed: Mapping[str, np.ndarray]
) -> list[FusionRow]:
    """PSNR, NMSE and the largest error of each source, normalised units, data range 1, no mask.

    Args:
        sources: ``[S, 2, H, W]``.
        decomposed: `EXACT` or `APPROXIMATE` -> ``[S, 2, H, W]``.
    """
    import numpy as np

    from ivan.metrics import nmse, protocols, psnr

    rows = []
    for index, name in enumerate(names):
        real = sources[:, index].astype(np.float64)
        for method, stack in decomposed.items():
            made = stack[:, index].astype(np.float64)
            found = {"psnr": psnr(real, made, data_range=1.0), "nmse": nmse(real, made)}
            values = {key: float(value) for key, value in found.items()}
            values["largest_error"] = float(np.abs(real - made).max())
            said = {
                **protocols(found),
                "largest_error": "largest |difference| of all voxels, normalised units",
            }
            rows.append(FusionRow(case, name, method, values, said))
    return rows


def view(
    loaded: LoadedCase,
    names: Sequence[str],
    fused: Mapping[str, np.ndarray],
    decomposed: Mapping[str, np.ndarray],
    colours: tuple[str, np.ndarray] | None = None,
) -> CaseResult:
    """A case for the slice viewer: every method's fused image, and the decompositions beside their
    sources; with `colours`, the source that has them and its chroma ``[X, Y, Z, 2]``, in these colours."""
    from ivan.evaluation.measure import spacing
    from ivan.report import CaseResult, Synthesis

    images = {name: loaded.to_volume(loaded.slices[:, i]) for i, name in enumerate(names)}
    if decomposed:
        images["fused"] = loaded.to_volume(fused[OURS])
    shown = [Synthesis(f"fused, {m}", loaded.to_volume(stack), list(names)) for m, stack in fused.items()]
    for method, stack in decomposed.items():
        word = method.split(",")[0]
        for index, name in enumerate(names):
            made = loaded.to_volume(stack[:, index])
            shown.append(Synthesis(f"{name}, {word}", made, ["fused"], "inverse", images[name], 1.0))
    return CaseResult(
        loaded.name,
        images,
        shown,
        spacing=spacing(loaded.reference),
        plane=loaded.plane,
        oriented=not loaded.reference.grid.image,
        chroma=None if colours is None else colours[1],
        coloured=() if colours is None else (colours[0], "fused", *(f"fused, {m}" for m in fused)),
    )
