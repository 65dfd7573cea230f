"""`decompose`: both sources of fused images, from the kept state exactly, else approximately."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ivan.errors import InputError
from ivan.fusion import state as states
from ivan.fusion.measure import APPROXIMATE, EXACT
from ivan.training.config import FUSED

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import Case
    from ivan.inference import Predictor


def decompose(
    data: str | Path,
    out: str | Path,
    *,
    run: str | Path,
    checkpoint: str = "",
    device: str = "auto",
    pixels: int = 1 << 18,
    threads: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Both sources of every fused image in DATA/fused.

    OUT/approximate/SOURCE/case comes from the fused image alone, in the units of the training set. Where the
    whole output was kept (DATA/state/case.safetensors), OUT/exact/SOURCE/case is the source itself up to
    rounding, in its own units; of a colour source the luma.

    Raises:
        InputError: no fused images, another run's state, or a run that does not fuse; where single cases
            cannot be used, the others are written. RunError: cannot be written.
    """
    from ivan.data import find_cases
    from ivan.inference import results_folder, set_threads, warn, write_each

    data, out = Path(data), results_folder(out)
    set_threads(threads)
    predictor = fusion_predictor(run, checkpoint, device, pixels)
    digest = states.weights_digest(predictor.model)
    cases = find_cases(data, [FUSED])
    alone = [case.name for case in cases if not states.state_path(data, case.name).exists()]
    if alone:
        many = f"{alone[0]} and {len(alone) - 1} more have" if len(alone) > 1 else f"{alone[0]} has"
        warn(
            f"{many} no state in {data / states.FOLDER}: only approximate sources, from the fused image alone"
        )

    def write(case: Case) -> list[Path]:
        return _decompose_case(predictor, case, data, out, digest)

    return write_each(cases, "decomposing", progress, write)


def _decompose_case(predictor: Predictor, case: Case, data: Path, out: Path, digest: str) -> list[Path]:
    """Write the sources of one fused image; `digest`: of the weights that its state must belong to."""
    from ivan.data import read_volume, write_volume
    from ivan.inference import output_suffix, warn

    fused, plane = case.files[FUSED], predictor.config.plane
    image = read_volume(fused, allow_constant=True, luma=True)
    slices = published(fused, plane)
    where = states.state_path(data, case.name)
    kept = None
    if where.exists():
        shape = (slices.shape[0], slices.shape[2], slices.shape[3])
        kept = states.read_state(where, predictor.aug.channels, shape, digest)
        if kept.fused and kept.fused != states.file_digest(fused):
            warn(
                f"{fused}: is not the file that {where} was kept beside; the exact sources are those of that "
                "file, the approximate ones come from the image as it is"
            )
    written = []
    for method, stack in decompositions(predictor, kept, slices).items():
        scales = kept.scales if kept and method == EXACT else predictor.scales
        for index, name in enumerate(predictor.config.sources):
            values, suffix = stack[:, index], output_suffix(fused)
            if name in scales:
                values = scales[name].undo(values)
                # A source that was no PNG has units which PNG, from 0 to 1, cannot hold.
                if suffix == ".png" and (scales[name].low < 0 or scales[name].high > 1):
                    suffix = ".npy"
            path = out / method.split(",")[0] / name / f"{case.name}{suffix}"
            written.append(write_volume(path, _to_volume(values, plane), image))
    return written


def fusion_predictor(run: str | Path, checkpoint: str, device: str, pixels: int) -> Predictor:
    """The network of a fusion run. Raises InputError for a run of synthesis."""
    from ivan.inference import load_predictor

    predictor = load_predictor(run, checkpoint=checkpoint, device=device, pixels=pixels)
    if predictor.config.task != "fusion":
        raise InputError(f"{run}: a run of synthesis, not of fusion; train one with ivan train --task fusion")
    return predictor


def published(path: Path, plane: str) -> np.ndarray:
    """A fused image as it was written: its luma 0..1 as slices ``[S, 1, H, W]``."""
    from ivan.data import read_volume, volume_to_slices

    return volume_to_slices(read_volume(path, allow_constant=True, luma=True).data, plane)[:, None]


def decompositions(
    predictor: Predictor, kept: states.State | None, published: np.ndarray
) -> dict[str, np.ndarray]:
    """`EXACT` (where the state was kept) and `APPROXIMATE` -> sources ``[S, 2, H, W]``, normalised."""
    import torch

    found: dict[str, np.ndarray] = {}
    count = len(predictor.config.sources)
    if kept is not None:
        device = next(predictor.model.parameters()).device
        height, width = kept.output.shape[2:]
        batch = max(1, predictor.pixels // (height * width))
        with torch.inference_mode():
            parts = [
                predictor.aug.collapse_sources(predictor.model.inverse(piece.to(device)))[:, :count].cpu()
                for piece in torch.from_numpy(kept.output).split(batch)
            ]
        found[EXACT] = torch.cat(parts).float().numpy()
    found[APPROXIMATE] = predictor.predict(published, inverse=True)
    return found


def _to_volume(slices: np.ndarray, plane: str) -> np.ndarray:
    import numpy as np

    from ivan.data import slices_to_volume

    return np.ascontiguousarray(slices_to_volume(slices, plane))
