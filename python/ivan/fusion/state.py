"""The network's whole output beside a fused image: all channels, from which f^-1 gives both sources back
exactly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError, RunError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ivan.data import Scale

FOLDER = "state"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class State:
    """What a state file holds.

    Attributes:
        output: ``[S, C, H, W]`` float32, f(X) of every slice, all channels.
        scales: source modality -> the scale that its file had: exact decompositions are written in its units.
        weights: SHA-256 of the weights that made it; others cannot undo it.
        fused: SHA-256 of the fused image's file as it was written; empty where it is not known.
    """

    output: np.ndarray
    scales: dict[str, Scale]
    weights: str
    fused: str = ""


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def state_path(folder: Path, case: str) -> Path:
    """Where the state of a case lies in a folder of fused images."""
    return folder / FOLDER / f"{case}{SUFFIX}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remove_state(path: Path) -> None:
    """Remove the state of a fused image that is replaced without one: it would undo another image. Raises
    RunError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be removed ({error.strerror or error}), but its image is replaced"
        ) from None


def write_state(path: Path, state: State) -> Path:
    """Write a state file, whole or not at all. Raises RunError."""
    import torch
    from safetensors.torch import save

    from ivan.data import atomic_file

    scales = {name: [scale.low, scale.high] for name, scale in state.scales.items()}
    metadata = {"weights": state.weights, "scales": json.dumps(scales), "fused": state.fused}
    content = save({"state": torch.from_numpy(state.output)}, metadata)
    with atomic_file(path) as file:
        file.write(content)
    return path


def read_state(path: Path, channels: int, shape: tuple[int, int, int], weights: str) -> State:
    """Read the state of a case.

    Args:
        path: the file.
        channels, shape: C, and (S, H, W) of the fused image it lies beside.
        weights: digest of the network that is to undo it.

    Raises:
        InputError: not a state file, of another image, or made by other weights.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    from ivan.data import Scale

    try:
        with safe_open(str(path), framework="np") as file:
            metadata: Any = file.metadata() or {}
            output = file.get_tensor("state")
        scales = {n: Scale(float(v[0]), float(v[1])) for n, v in json.loads(metadata["scales"]).items()}
        made_by = metadata["weights"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: not a state written by ivan fuse ({error}); fuse the case again") from None
    if made_by != weights:
        raise InputError(
            f"{path}: was made by other weights than those of this run; give the run that fused it"
        )
    expected = (shape[0], channels, *shape[1:])
    if output.shape != expected or output.dtype != np.float32 or not np.isfinite(output).all():
        raise InputError(
            f"{path}: holds {output.dtype} of shape {output.shape}, expected finite float32 of {expected} as "
            "the "
            "fused image beside it; fuse the case again"
        )
    return State(output, scales, made_by, str(metadata.get("fused", "")))
