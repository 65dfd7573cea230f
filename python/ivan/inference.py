"""Inference: load a run, predict slices in either direction, write the images of new cases."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError
from ivan.suspicion import CLIPPED_LEVEL, clipping_lines, read_profiles
from ivan.training.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ivan.data import Case, LoadedCase, Scale
    from ivan.data.profile import Profile
    from ivan.model import IVAN
    from ivan.variables import VariableAugmentation

DEFAULT_PIXELS = 1 << 18


@dataclass(frozen=True)
class Predictor:
    """A trained network that maps slices in both directions.

    Attributes:
        model: in eval mode on its device.
        aug: its variable augmentation.
        config: the settings it was trained with.
        scales: modality -> scale of the training set (median over its volumes), the units of written images.
        origin: checkpoint the weights come from.
        pixels: upper bound of the pixels (N x H x W) of one batch; memory grows with it.
        profiles: modality -> what its training images looked like; empty for runs of older versions.
    """

    model: IVAN
    aug: VariableAugmentation
    config: TrainConfig
    scales: dict[str, Scale]
    origin: Path
    pixels: int = DEFAULT_PIXELS
    profiles: dict[str, list[Profile]] = field(default_factory=dict)

    def modalities(self, inverse: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(given, predicted) modalities of a direction."""
        sources, targets = self.config.sources, self.config.targets
        return (targets, sources) if inverse else (sources, targets)

    def suspicions(self, loaded: LoadedCase, given: Sequence[str]) -> list[str]:
        """One line for each way in which the given images of a case are unlike the training images."""
        from ivan.data.profile import profiles_of, unusual

        found = profiles_of(loaded)
        return [
            line
            for name in given
            for line in unusual(f"{name} of {loaded.name}", found[name], self.profiles.get(name, []))
        ]

    def predict(
        self,
        slices: np.ndarray,
        inverse: bool = False,
        span: tuple[int, int] | None = None,
        clipped: dict[str, float] | None = None,
    ) -> np.ndarray:
        """Predict slices of a case.

        Args:
            slices: [S, M, H, W] float32, all slices of the case, normalised as in training; M sources, or M
                targets for `inverse`.
            inverse: predict the sources from the targets.
            span: half-open range of slices to predict (default: all); a network with context looks beyond it.
            clipped: receives, for each modality whose negative values were set to 0, the share of voxels
                that were below -0.02 (rounding about a black background does not count).

        Returns:
            [K, P, H, W] float32 of P modalities in normalised units; values below 0 are set to 0 for
            modalities whose training images had none (magnitude images: there the scale's `low` is 0).
        """
        return self.predict_states(slices, inverse, span, clipped=clipped)[0]

    def predict_states(
        self,
        slices: np.ndarray,
        inverse: bool = False,
        span: tuple[int, int] | None = None,
        look: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        clipped: dict[str, float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`predict`, and something made of the network's whole output.

        Args:
            look: called for each batch with the modalities given, the network's input and its output,
                `[B, M', H, W]` and twice `[B, C, H, W]`; its results `[B, any, H, W]` are joined.
            clipped: as in `predict`.
        """
        import numpy as np
        import torch

        from ivan.data.context import with_context

        aug, device = self.aug, next(self.model.parameters()).device
        names = self.modalities(inverse)[1]
        height, width = slices.shape[2:]
        first, end = span or (0, len(slices))
        batch = max(1, self.pixels // max(1, height * width))
        result = np.empty((end - first, len(names), height, width), np.float32)
        seen: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(first, end, batch):
                stop = min(start + batch, end)
                chosen = with_context(slices, 0 if inverse else self.config.context, (start, stop))
                given = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
                if inverse:
                    state = aug.augment_targets(given)
                    output = self.model.inverse(state)
                    made = aug.collapse_sources(output)[
                        :, : len(names)
                    ]  # the slice itself, not its neighbours
                else:
                    state = aug.augment_sources(given)
                    output = self.model(state)
                    made = aug.collapse_targets(output)
                result[start - first : stop - first] = made.float().cpu().numpy()
                if look is not None:
                    seen.append(look(given, state, output).float().cpu().numpy())
        for index, name in enumerate(names):
            if name not in self.scales or self.scales[name].low == 0:
                if clipped is not None:
                    clipped[name] = float((result[:, index] < CLIPPED_LEVEL).mean())
                np.maximum(result[:, index], 0, out=result[:, index])
        return result, np.concatenate(seen) if seen else None

    def load(self, case: Case, modalities: Sequence[str]) -> LoadedCase:
        """Read a case as the network was trained to see it."""
        from ivan.data import load_case
        from ivan.data.context import check_volume

        config = self.config
        loaded = load_case(
            case,
            modalities,
            plane=config.plane,
            normalise=config.normalise,
            percentile=config.percentile,
            luma=config.task == "fusion",
        )
        check_volume(case.name, len(loaded.slices), config.context)
        return loaded


def load_run(run: str | Path, *, checkpoint: str = "", device: str = "cpu") -> tuple[Any, Any, TrainConfig]:
    """Load what a run has trained.

    Args:
        run: run folder of `ivan train`.
        checkpoint: one of its checkpoints, such as "step-400"; empty: the newest whole one.
        device: "auto", "cpu" or "cuda".

    Returns:
        (model in eval mode, VariableAugmentation, TrainConfig).

    Raises:
        InputError: no run folder, no checkpoint, or a damaged one.
    """
    predictor = load_predictor(run, checkpoint=checkpoint, device=device)
    return predictor.model, predictor.aug, predictor.config


def load_predictor(
    run: str | Path, *, checkpoint: str = "", device: str = "auto", pixels: int = DEFAULT_PIXELS
) -> Predictor:
    """`load_run` with the training set's intensity scales. Arguments and errors as there."""
    from ivan.training.build import build_model, choose_device
    from ivan.training.checkpoint import read_checkpoint
    from ivan.training.state import load_weights

    run = Path(run)
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder; give the folder that ivan train wrote with --out")
    config = TrainConfig.read(run / "config.json")
    found = read_checkpoint(run, name=checkpoint, only_model=True, notice=warn)
    model, aug = build_model(config)
    load_weights(model, found.tensors["model"], found.path)
    target = choose_device(device)
    return Predictor(
        model.to(target).eval(), aug, config, read_scales(run), found.path, pixels, read_profiles(run)
    )


def predictor_of(run: Path, weights: Path | None, settings: dict[str, Any], device: str) -> Predictor:
    """The network of a run, or one with the weights of a file, of the shape that a public checkpoint tells.

    Args:
        run: run folder; where it holds no config.json, `settings` must name the modalities.
        weights: other weights for it: a run, .safetensors or a public .pth; None: its newest checkpoint.
        settings: fields of TrainConfig for a network without a run.

    Without a run there are no recorded scales: its images are written in normalised units (1 is the
    percentile).
    """
    from ivan.training.build import build_model, choose_device, load_weights_from

    if weights is not None and (weights / "config.json").is_file():
        return load_predictor(weights, device=device)
    if weights is None:
        return load_predictor(run, device=device)
    if (run / "config.json").is_file():
        config, scales = TrainConfig.read(run / "config.json"), read_scales(run)
    else:
        if not settings.get("sources"):
            raise InputError(
                "--from, --to: not given; without a run they (or --root1/2/3) name the modalities"
            )
        config, scales = TrainConfig(**{**settings, **_shape_of(weights)}).check(), {}
    model, aug = build_model(config)
    load_weights_from(model, weights, warn)
    return Predictor(model.to(choose_device(device)).eval(), aug, config, scales, weights)


def _shape_of(weights: Path) -> dict[str, int]:
    """Settings of the network that a public checkpoint holds; none for other kinds of weights."""
    if weights.is_dir() or weights.suffix == ".safetensors" or not weights.exists():
        return {}  # of the default shape, or refused when they are loaded
    from ivan.official import official_shape

    shape = official_shape(weights)
    return {"coupling_split": shape.pop("split"), **shape}


def read_scales(run: Path) -> dict[str, Scale]:
    """The training set's scales, from `normalisation.json` of a run. Raises InputError."""
    from ivan.data import Scale

    path = run / "normalisation.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Scale(float(item["low"]), float(item["high"])) for name, item in content["scales"].items()
        }
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); the run folder is incomplete, train anew"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged, expected the scales that ivan train wrote; train anew") from None


def synthesize(
    run: str | Path,
    data: str | Path = "",
    out: str | Path = "",
    *,
    inverse: bool = False,
    roots: dict[str, str] | None = None,
    checkpoint: str = "",
    device: str = "auto",
    pixels: int = DEFAULT_PIXELS,
    threads: int = 0,
    uncertainty: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Synthesise the missing modalities of every case in a folder.

    Each result has the source's (for `inverse` the target's) orientation, shape and affine. Its intensities
    are in units of the training set: normalised 1 is the median of the percentiles recorded in training. An
    existing result is replaced, whole; NIfTI is written for NIfTI, otherwise the format of the source.

    Args:
        run: run folder of `ivan train`.
        data: folder with the given modalities; the ones to synthesise need not exist.
        out: folder for OUT/MODALITY/case.nii.gz.
        inverse: synthesise the sources from the targets, with the same weights.
        roots: folder of each given modality, instead of `data`.
        checkpoint, device: as in `load_run`.
        pixels: upper bound of the pixels of one batch.
        threads: CPU threads; 0 leaves PyTorch's choice.
        uncertainty: write OUT/MODALITY_uncertainty/case too (`ivan.uncertainty`), in the image's units.
        progress: show a progress bar on a terminal and a line for each file elsewhere.

    Returns:
        The files written.

    Raises:
        InputError: the run or the data cannot be used; where single cases cannot, the others are written.
        RunError: a result cannot be written; those before it are whole.
    """
    from ivan.data.writing import remove_leftovers

    if not str(out):
        raise InputError("--out: no folder given for the results")
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the results; choose another --out")
    if pixels < 1:
        raise InputError(f"--pixels: {pixels} given, must be at least 1")
    set_threads(threads)
    predictor = load_predictor(run, checkpoint=checkpoint, device=device, pixels=pixels)
    if predictor.config.task == "fusion":
        raise InputError(
            f"{run}: a run of fusion; use ivan fuse --run, and ivan fuse --run --inverse to decompose"
        )
    cases = find(predictor.modalities(inverse)[0], data, roots)
    for name in predictor.modalities(inverse)[1]:
        remove_leftovers(Path(out) / name)
    written: list[Path] = []
    failed: list[InputError] = []
    with progress_over(cases, "synthesising", progress) as (items, say):
        for case in items:
            started = time.perf_counter()
            try:
                _, paths = synthesize_case(
                    predictor, case, Path(out), inverse=inverse, uncertainty=uncertainty
                )
            except InputError as error:  # one bad file must not cost the cases after it
                if len(cases) == 1:
                    raise
                failed.append(error)
                warn(f"{case.name} left out: {error}")
                continue
            seconds = time.perf_counter() - started
            written += paths
            for path in paths:
                say(f"wrote {path} ({seconds:.1f} s)")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(cases)} cases could not be used, the others are written; the first: "
            f"{failed[0]}"
        )
    return written


def synthesize_case(
    predictor: Predictor, case: Case, out: Path, *, inverse: bool = False, uncertainty: bool = False
) -> tuple[dict[str, Any], list[Path]]:
    """Synthesise one case and write its files.

    Returns:
        ({modality: [X, Y, Z] float32 RAS volume in the training set's units}, the files written).
    """
    import numpy as np

    from ivan.data import write_volume
    from ivan.uncertainty import SUFFIX, predict_with_uncertainty

    given, names = predictor.modalities(inverse)
    loaded = predictor.load(case, given)
    for note in loaded.notes:
        warn(note)
    clipped: dict[str, float] = {}
    doubt = None
    if uncertainty:
        predicted, doubt = predict_with_uncertainty(predictor, loaded.slices, inverse)
    else:
        predicted = predictor.predict(loaded.slices, inverse, clipped=clipped)
    volumes, paths = {}, []
    suffix = output_suffix(case.files[given[0]])
    for index, name in enumerate(names):
        values = predicted[:, index]
        if not np.isfinite(values).all():
            raise InputError(
                f"{predictor.origin}: {name} of {case.name} is not finite; use an earlier --checkpoint"
            )
        if name in predictor.scales:
            values = predictor.scales[name].undo(values)
        if suffix == ".png":
            values = np.clip(values, 0, 1)
        volumes[name] = loaded.to_volume(values)
        paths.append(write_volume(out / name / f"{case.name}{suffix}", volumes[name], loaded.reference))
        if doubt is not None:
            scale = predictor.scales.get(name)
            doubts = doubt[:, index] * (scale.high - scale.low if scale else 1)
            doubts = np.clip(doubts, 0, 1) if suffix == ".png" else doubts
            path = out / f"{name}{SUFFIX}" / f"{case.name}{suffix}"
            paths.append(write_volume(path, loaded.to_volume(doubts), loaded.reference))
    for line in [*predictor.suspicions(loaded, given), *clipping_lines(case.name, clipped)]:
        warn(line)
    return volumes, paths


def output_suffix(source: Path) -> str:
    """The format of a result: compressed NIfTI for NIfTI, otherwise that of the source."""
    return ".nii.gz" if source.name.lower().endswith((".nii", ".nii.gz")) else source.suffix.lower()


def find(
    required: Sequence[str],
    data: str | Path,
    roots: dict[str, str] | None = None,
    *,
    optional: Sequence[str] = (),
) -> list[Case]:
    """The cases in `data` (or in one folder a modality); those left out are told on standard error."""
    from ivan.data import find_cases, find_cases_in_folders
    from ivan.data.datalist import is_datalist, read_datalist

    if roots:
        if missing := [name for name in required if name not in roots]:
            raise InputError(f"--root1/2/3: no folder for {missing[0]}; give one folder for each modality")
        extra = {name: roots[name] for name in optional if name in roots}
        cases = find_cases_in_folders({name: roots[name] for name in required}, optional=extra)
    elif str(data) and is_datalist(data):
        cases = read_datalist(data, required, optional=optional)
    elif str(data):
        cases = find_cases(data, required, optional=optional)
    else:
        raise InputError("--data: no folder of images given")
    for line in [*cases.skipped, *cases.notes]:
        warn(line)
    return cases


def warn(line: str) -> None:
    """One line on standard error, for what the user should know although the work goes on."""
    print(f"ivan: note: {line}", file=sys.stderr)


def set_threads(threads: int) -> None:
    """Use this many CPU threads; 0 changes nothing."""
    if threads < 0:
        raise InputError(f"--threads: {threads} given, must be at least 0")
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def progress_over(items: Sequence[Any], what: str, show: bool) -> Iterator[tuple[Iterable[Any], Any]]:
    """(the items, a function that prints a line): with a progress bar on a terminal, silent unless `show`."""
    if not show:
        yield items, lambda line: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield items, lambda line: console.print(line, markup=False)
        return
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield bar.track(items), lambda line: console.print(line, markup=False)
