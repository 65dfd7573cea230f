"""From a configuration to the network and its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ivan.errors import InputError
from ivan.model import IVAN, default_last_scale
from ivan.training.checkpoint import read_checkpoint
from ivan.training.config import TrainConfig
from ivan.training.state import load_weights
from ivan.variables import VariableAugmentation

Notice = Callable[[str], None]


def build_model(config: TrainConfig) -> tuple[IVAN, VariableAugmentation]:
    """The network with new random weights (drawn from `config.seed`) and its variable augmentation."""
    aug = VariableAugmentation(
        sources=config.source_channels,
        targets=len(config.targets),
        channels=config.channels or None,
        fill=config.fill,
    )
    torch.manual_seed(config.seed)
    config = config.completed()
    model = IVAN(
        channels=aug.channels,
        blocks=config.blocks,
        split=config.coupling_split,
        growth=config.growth,
        clamp=config.clamp,
        memory=config.memory,
        # The model alone is strict, so that it agrees with other implementations as closely as float32 can.
        compute=config.compute or ("fast" if config.precision == "32" else None),
        last_scale=last_scale(config),
        mix_start=config.mix_start,
    )
    return model, aug


def last_scale(config: TrainConfig) -> float | None:
    """How small the dense blocks start; never more than the default of so many blocks, which inverts well."""
    return min(config.last_scale, default_last_scale(config.blocks)) if config.last_scale else None


def choose_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" stands for. Raises InputError where there is none."""
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise InputError(
            "--device: cuda given, but PyTorch sees no CUDA device; use --device cpu, or check the driver"
        )
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device: '{name}' given, expected auto, cpu or cuda")
    return torch.device(name)


def load_weights_from(model: IVAN, path: Path, notice: Notice | None = None) -> None:
    """Copy weights of the same architecture into a model.

    Args:
        path: a run folder, one of its checkpoint folders, a .safetensors file, or a checkpoint of the public
            code (.pth, .pt: read without executing anything in it).

    Raises:
        InputError: no such file, not a checkpoint, or one of another shape.
    """
    if path.is_dir():
        if (path / "state.json").is_file():
            checkpoint = read_checkpoint(path.parent.parent, name=path.name, only_model=True)
        else:
            checkpoint = read_checkpoint(path, only_model=True, notice=notice)
        load_weights(model, checkpoint.tensors["model"], checkpoint.path)
    elif not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a run folder, a .safetensors file or a public .pth checkpoint"
        )
    elif path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a safetensors file ({error}); expected weights written by ivan train"
            ) from None
        load_weights(model, tensors, path)
    else:
        from ivan.official import load_official

        load_official(model, path)
