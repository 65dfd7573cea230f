"""From a run folder, or a file of weights, to a `Predictor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError
from ivan.inference.common import warn
from ivan.inference.predictor import DEFAULT_PIXELS, Predictor
from ivan.suspicion import read_profiles
from ivan.training.config import TrainConfig

if TYPE_CHECKING:
    from ivan.data import Scale


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
