"""Checkpoints: `RUN/checkpoint/step-N/` and the pointer file `RUN/checkpoint/latest` that names the newest.

A checkpoint is a folder of safetensors files and `state.json`, which also holds the SHA-256 of each of them.
It is written under a temporary name, every file fsynced, and renamed; then the pointer is replaced the same
way. So a process killed at any moment leaves the previous checkpoint or the new one. No pickle is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError
from ivan.training.files import failed_write, replace_file, resume_command, sync_folder, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: its folder.
        tensors: file stem -> name -> tensor: "model" (the weights to use), "optimizer", and "training"
            (the weights the optimiser moves) where "model" holds their running average.
        state: plain JSON values: step, epoch, random generators ...
    """

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class DamagedError(InputError):
    """A checkpoint whose content is not what was written."""


def write_checkpoint(
    run: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write `checkpoint/step-<state["step"]>`, point `latest` to it and delete all but the newest `keep`.

    Raises:
        RunError: the disk is full or not writable; the earlier checkpoints are untouched.
    """
    from safetensors.torch import save

    folder = run / "checkpoint"
    final = folder / f"step-{state['step']}"
    temporary = folder / f"{_TEMPORARY}{final.name}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        hashes = {}
        for stem, group in tensors.items():
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in group.items()})
            hashes[stem] = hashlib.sha256(content).hexdigest()
            write_bytes(temporary / f"{stem}.safetensors", content)
        text = json.dumps(_sealed({**state, "sha256": hashes}), indent=1)
        write_bytes(temporary / "state.json", text.encode())
        sync_folder(temporary)
        if final.exists():  # the same step again, or a damaged one that a resumed run passed by
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise failed_write(final, error) from None
    replace_file(folder / "latest", (final.name + "\n").encode())
    for old in _folders(run)[keep:]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def read_checkpoint(
    run: Path, *, name: str = "", only_model: bool = False, notice: Callable[[str], None] | None = None
) -> Checkpoint:
    """Read the newest whole checkpoint of a run, or the one called `name` (such as "step-400").

    Args:
        run: run folder.
        name: folder below `checkpoint/`; empty: the one `latest` names, else the newest.
        only_model: read the weights alone.
        notice: called with one line for each damaged checkpoint that was passed by.

    Raises:
        InputError: there is none, or the named one is damaged.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder; give the folder that ivan train wrote with --out")
    if name:
        return _read(run / "checkpoint" / name, only_model)
    candidates = _folders(run)
    pointed = run / "checkpoint" / _pointer(run)
    if pointed in candidates:
        candidates.remove(pointed)
        candidates.insert(0, pointed)
    damage = []
    for folder in candidates:
        try:
            checkpoint = _read(folder, only_model)
        except DamagedError as error:
            damage.append(str(error))
            continue
        for line in damage:
            if notice:
                notice(f"{line}; using {checkpoint.path.name} instead")
        return checkpoint
    if damage:
        raise InputError(f"{damage[0]}; no earlier checkpoint is left in {run}, train anew")
    raise InputError(f"{run}: holds no checkpoint yet; train it first, or go on with: {resume_command(run)}")


def has_checkpoint(run: Path) -> bool:
    """Whether a checkpoint was ever completed in a run folder, whole or damaged."""
    return bool(_folders(run))


def clean(run: Path) -> None:
    """Delete the temporary folders that a killed process left."""
    for folder in (run / "checkpoint").glob(f"{_TEMPORARY}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(run: Path) -> list[Path]:
    """Checkpoint folders, the newest step first."""
    found = [p for p in (run / "checkpoint").glob("step-*") if p.is_dir() and p.name[5:].isdecimal()]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def _pointer(run: Path) -> str:
    """What `latest` says, or a name that no checkpoint has."""
    try:
        return (run / "checkpoint" / "latest").read_text(encoding="utf-8").strip() or "none"
    except (OSError, UnicodeDecodeError):
        return "none"


def _sealed(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the hash of itself, which tells a damaged state.json."""
    body = {key: value for key, value in state.items() if key != "seal"}
    return {**body, "seal": hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()}


def _read(folder: Path, only_model: bool) -> Checkpoint:
    from safetensors.torch import load

    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint; 'ls {folder.parent}' shows those there are")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or _sealed(state).get("seal") != state.get("seal"):
            raise DamagedError(f"{folder}/state.json: damaged")
        tensors = {}
        for stem, digest in state["sha256"].items():
            if only_model and stem != "model":
                continue
            content = (folder / f"{stem}.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise DamagedError(
                    f"{folder}/{stem}.safetensors: damaged (its SHA-256 is not the one in state.json)"
                )
            tensors[stem] = load(content)
    except OSError as error:
        raise DamagedError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise DamagedError(f"{folder}/state.json: damaged (not JSON)") from None
    return Checkpoint(folder, tensors, state)
