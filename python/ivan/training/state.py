"""What decides the next step beside the weights, as tensors and JSON: optimiser, averages, random numbers."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ivan.errors import InputError


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The moments of each parameter, keyed `<parameter>/<moment>`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, moments in optimizer.state.items()
        for key, value in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; the parameter groups keep the settings they were made with."""
    order = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        state.setdefault(order[name], {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], origin: object) -> None:
    """Copy weights into a model of the same shape.

    Raises:
        InputError: names or shapes differ; the message names `origin` and the first difference.
    """
    own = model.state_dict()
    if missing := sorted(set(own) - set(tensors)):
        raise InputError(
            f"{origin}: no weights for '{missing[0]}'; it was trained with another --blocks or architecture"
        )
    if strange := sorted(set(tensors) - set(own)):
        raise InputError(
            f"{origin}: unknown weights '{strange[0]}'; it was trained with another --blocks or architecture"
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"{origin}: '{name}' has shape {list(value.shape)}, expected {list(own[name].shape)}; "
                "it was trained with other --growth, --channels or modalities"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{origin}: '{name}' holds values that are not finite; use an earlier checkpoint"
            )
    model.load_state_dict(dict(tensors))


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators of Python, NumPy and PyTorch (CPU and the device) as JSON values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, _encode(np.asarray(keys).tobytes()), position, has_gauss, gauss],
        "torch": _encode(torch.get_rng_state().numpy().tobytes()),
    }
    if device.type == "cuda":
        state["cuda"] = _encode(torch.cuda.get_rng_state(device).numpy().tobytes())
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Inverse of `random_state`; the state of a device that is not there any more is passed over."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    words = np.frombuffer(base64.b64decode(keys), np.uint32)
    np.random.set_state((kind, words, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_decode(state["torch"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_decode(state["cuda"]), device)


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decode(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


class Average:
    """A running average of the parameters (EMA): `a <- d a + (1 - d) p`, d = min(decay, (1 + n) / (10 + n)).

    The smaller decay of the first steps keeps the random initial weights out of the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self.values = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.values.values()), [p.detach() for p in self._parameters.values()], 1 - decay
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the averages; a second call undoes it."""
        for name, parameter in self._parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the averages from a checkpoint."""
        for name, value in self.values.items():
            value.copy_(tensors[name])
