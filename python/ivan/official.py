"""Checkpoints of the public iVAN code."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ivan.errors import InputError
from ivan.model import IVAN

# Where training scripts put the weights when they save more beside them.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "params")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_MIXING = ("p", "sign_s", "lower", "log_s", "upper")
_ENTRIES_A_BLOCK = 3 * 5 * 2 + len(_MIXING)  # weight and bias of five convolutions of F, G and H
_MOST_CHANNELS = 256


def official_state_dict(model: IVAN) -> dict[str, Tensor]:
    """Parameters and buffers of `model` under the public code's keys, sharing memory with the model."""
    state: dict[str, Tensor] = {}
    for i, block in enumerate(model.chain):
        for name in ("F", "G", "H"):
            dense = getattr(block.coupling, name)
            for level, (weight, bias) in enumerate(zip(dense.weights, dense.biases, strict=True), start=1):
                state[f"operations.{i}.{name}.conv{level}.weight"] = weight.data
                state[f"operations.{i}.{name}.conv{level}.bias"] = bias.data
        for name in _MIXING:
            state[f"operations.{i}.invconv.{name}"] = getattr(block.mix, name).data
    return state


def load_official(model: IVAN, source: str | os.PathLike[str] | Mapping[str, Any]) -> IVAN:
    """Load a checkpoint of the public iVAN code into `model`, all of it or nothing.

    Files are read with ``weights_only=True``: a checkpoint can hold tensors, never code.

    Args:
        model: `IVAN` with the checkpoint's channels, blocks and split.
        source: path of a ``.pth`` file, or a state dict with the keys
            ``operations.<i>.{F,G,H}.conv<1..5>.{weight,bias}`` and
            ``operations.<i>.invconv.{p,sign_s,lower,log_s,upper}``, with or without ``module.`` in front, at
            the top level or under a key such as ``state_dict``. Any floating dtype; converted to the
            model's.

    Returns:
        The model.

    Raises:
        InputError: no such file, not a checkpoint of tensors, or an entry that is missing, unexpected, of
            another shape or not finite.
    """
    if isinstance(source, Mapping):
        label, content = "state dict", source
    else:
        label = os.fspath(source)
        content = _read(label)
    found = _weights(content, label)
    expected = official_state_dict(model)
    _check_keys(found, expected, label)
    for key, target in expected.items():
        _check_entry(found[key], target, key, label)
    with torch.no_grad():
        for key, target in expected.items():
            target.copy_(found[key])
    return model


def official_shape(path: str | os.PathLike[str]) -> dict[str, int]:
    """The arguments of `IVAN` that a public checkpoint's shapes tell: channels, blocks, split and growth.

    Only the entries that tell are looked at, `load_official` checks them all.

    Raises:
        InputError: no such file, not a checkpoint of tensors, or without these entries.
    """
    label = os.fspath(path)
    found = _weights(_read(label), label)
    mix, first = (found.get(f"operations.0.{key}") for key in ("invconv.p", "F.conv1.weight"))
    if not (isinstance(mix, Tensor) and isinstance(first, Tensor) and mix.dim() == 2 and first.dim() == 4):
        raise InputError(
            f"{label}: has no operations.0.invconv.p and operations.0.F.conv1.weight; expected a checkpoint "
            "of the public iVAN code"
        )
    channels, growth, blocks = mix.shape[0], first.shape[0], _count_blocks(found)
    # A model of this shape is made before all entries are checked: that must not take all memory.
    if max(channels, growth) > _MOST_CHANNELS or blocks * _ENTRIES_A_BLOCK != len(found):
        raise InputError(
            f"{label}: {len(found)} entries for {blocks} blocks of {channels} channels and growth {growth}; "
            f"expected {_ENTRIES_A_BLOCK} a block and at most {_MOST_CHANNELS} channels"
        )
    # F maps the channels behind the split to those before it.
    return {"channels": channels, "blocks": blocks, "split": channels - first.shape[1], "growth": growth}


def _read(path: str) -> Any:
    try:
        file = open(path, "rb")  # noqa: SIM115  (its errors are not those of a damaged file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); expected a checkpoint file (.pth)") from None
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on hostile pickles; the error says it
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        remedy = "expected a file made by torch.save(model.state_dict(), path)"
        if isinstance(error, pickle.UnpicklingError):
            # Which objects a pickle asks for cannot be told from noise without running it.
            raise InputError(
                f"{path}: not tensors only, or damaged; nothing else is loaded as it could run code; {remedy}"
            ) from None
        # Damaged archives surface as many types, by the place of the damage.
        raise InputError(
            f"{path}: damaged or not a PyTorch checkpoint ({type(error).__name__}); {remedy}"
        ) from None


def _weights(content: Any, label: str) -> dict[str, Any]:
    """The dictionary of weights inside `content`, without wrappers' prefixes."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            raise InputError(
                f"{label}: holds a {type(content).__name__}; expected a state dict of tensors by name"
            )
        inner = next((content[n] for n in _NESTS if isinstance(content.get(n), Mapping)), None)
        if inner is None:
            break
        content = inner
    weights = {}
    for key, value in content.items():
        name = str(key)
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        weights[name] = value
    return weights


def _count_blocks(keys: Mapping[str, Any]) -> int:
    return len({m.group(1) for key in keys if (m := re.match(r"operations\.(\d+)\.", key))})


def _check_keys(found: Mapping[str, Any], expected: Mapping[str, Tensor], label: str) -> None:
    if _count_blocks(found) == 0:
        example = next(iter(found), "nothing")
        raise InputError(
            f"{label}: holds {example!r}; expected the public iVAN code's keys, operations.0.F.conv1.weight"
        )
    if (count := _count_blocks(found)) != _count_blocks(expected):
        raise InputError(
            f"{label}: has {count} blocks, the model {_count_blocks(expected)}; "
            f"build it with ivan.IVAN(blocks={count}), or --blocks {count}"
        )
    for key in expected:
        if key not in found:
            raise InputError(
                f"{label}: {key} is missing; expected all {len(expected)} entries of the public checkpoint"
            )
    for key in found:
        if key not in expected:
            raise InputError(f"{label}: unexpected entry {key!r}; expected the public iVAN code's keys only")


def _check_entry(value: Any, target: Tensor, key: str, label: str) -> None:
    if (
        not isinstance(value, Tensor)
        or not value.is_floating_point()
        or value.layout != torch.strided
        or value.is_meta
    ):
        kind = (
            f"a {value.layout} tensor of {value.dtype}"
            if isinstance(value, Tensor)
            else f"a {type(value).__name__}"
        )
        raise InputError(f"{label}: {key} is {kind}; expected a dense floating-point tensor")
    if value.shape != target.shape:
        raise InputError(
            f"{label}: {key} has shape {tuple(value.shape)}, expected {tuple(target.shape)}; "
            "build the model with the checkpoint's channels, split and growth"
        )
    if not bool(torch.isfinite(value).all()):
        raise InputError(
            f"{label}: {key} contains NaN or infinity; the training run that wrote it had diverged"
        )
    if key.endswith(".p"):
        ones = torch.ones(value.shape[0], dtype=value.dtype)
        binary = bool(((value == 0) | (value == 1)).all())
        if not (binary and torch.equal(value.sum(0), ones) and torch.equal(value.sum(1), ones)):
            raise InputError(
                f"{label}: {key} is no permutation matrix; expected one 1 in every row and column"
            )
    if key.endswith(".sign_s") and not bool((value.abs() == 1).all()):
        raise InputError(f"{label}: {key} holds values other than -1 and 1; expected the signs of the pivots")
