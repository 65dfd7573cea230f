"""How a pair is read and fused, and what is said of it: by a trained network, else by a rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError
from ivan.fusion.measure import OURS, FusionResult

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import Case, LoadedCase
    from ivan.inference import Predictor

METHODS = ("average", "maximum", "laplacian", "wavelet")


@dataclass(frozen=True)
class Fuser:
    """How images are read and fused: by `predictor`, else by the rule `method`."""

    sources: tuple[str, ...]
    method: str
    predictor: Predictor | None
    plane: str
    normalise: str
    percentile: float

    def load(self, case: Case) -> LoadedCase:
        """Both sources of a case, colours as their luma, on the first one's grid."""
        from ivan.data import load_case

        if self.predictor is not None:
            return self.predictor.load(case, self.sources)
        options: dict[str, Any] = {"normalise": self.normalise, "percentile": self.percentile}
        return load_case(case, self.sources, plane=self.plane, luma=True, **options)

    def fuse(self, loaded: LoadedCase) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Every method's fused slices ``[S, H, W]`` in 0..1 (ours first), 0 where both sources are, and the
        network's output."""
        import numpy as np

        from ivan.fusion.rules import clear_empty, fuse_by_rule

        fused: dict[str, np.ndarray] = {}
        output = None
        if self.predictor is not None:
            made, output = self.predictor.predict_states(loaded.slices, look=lambda given, state, out: out)
            if not np.isfinite(made).all():
                raise InputError(f"{self.predictor.origin}: the fused image of {loaded.name} is not finite")
            fused[OURS] = np.clip(made[:, 0], 0, 1)
        for name in METHODS:
            fused[name] = clear_empty(fuse_by_rule(name, loaded.slices), loaded.slices)
        return fused, output


def protocol(fuser: Fuser) -> dict[str, Any]:
    """What holds for all numbers of a fusion."""
    from ivan.data.loading import scaling_words

    return {
        "scaling": scaling_words(fuser.normalise, fuser.percentile),
        "gray levels": "normalised values cut to 0..1, times 255; of a colour source the Y of YCbCr (BT.601)",
        "background": "every fused image is 0 where both sources are exactly 0",
        "slices": "mean over the slices in which a source has an image",
        "plane": fuser.plane,
        "fused by": str(fuser.predictor.origin) if fuser.predictor else fuser.method,
    }


def write_results(result: FusionResult, out: Path, fuser: Fuser) -> None:
    """Write metrics.json, metrics.csv and report.html."""
    from ivan.evaluation.result import run_record
    from ivan.report import write_report
    from ivan.training.files import replace_file, replace_json

    replace_json(out / "metrics.json", result.to_json())
    replace_file(out / "metrics.csv", result.to_csv().encode())
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    notes = ["Baselines: " + ", ".join(METHODS) + " (docs/fusion.md)."]
    if fuser.predictor is not None:
        config, history = run_record(fuser.predictor.origin.parent.parent)
        notes.append(
            "Decomposition: exact, up to rounding, only from the network's whole output, which is kept "
            "beside the image; "
            "from the fused image alone it is an estimate."
        )
    count = len({row.case for row in result.rows})
    write_report(
        out / "report.html",
        title=f"Fusion of {' and '.join(fuser.sources)}",
        summary=[f"{count} case{'s' * (count != 1)}."],
        config=config or None,
        history=history,
        cases=result.views,
        metrics=result.to_table(),
        notes=notes,
        warnings=result.warnings,
    )
    result.files += [out / name for name in ("metrics.json", "metrics.csv", "report.html")]
