"""Out of memory: what would fit instead, found by trying."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ivan.training.config import TrainConfig

_SMALLEST = 16  # pixels a side: nothing smaller is worth training on


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a step means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "bad_alloc" in text


def advice(module: Any, batch: Mapping[str, Tensor], config: TrainConfig) -> str:
    """The message of a step that ran out of memory: its size, and the largest change that fits.

    Tried in this order, with a forward and backward pass on zeros each: `--memory invert`, smaller batches,
    smaller patches. The weights do not change.

    Args:
        module: from a batch to losses, `LossModule`.
        batch: the tensors that did not fit, [B, modalities, H, W].
        config: the run's settings.
    """
    count, _, height, width = batch["source"].shape
    what = f"out of memory on {count} slices of {height}x{width} with --memory {config.memory}"
    for policy, size, rows, columns in _smaller(config.memory, count, height, width):
        if not _fits(module, batch, policy, size, rows, columns):
            continue
        changes = [f"--memory {policy}"] if policy != config.memory else []
        changes += [f"--batch-size {size}"] if size != count else []
        changes += [f"--patch-size {rows}"] if (rows, columns) != (height, width) else []
        return f"{what}; {size} of {rows}x{columns} with memory={policy} fit: use {' '.join(changes)}"
    return f"{what}; not even one of {_SMALLEST}x{_SMALLEST} fits: free memory, or use fewer --blocks"


def _smaller(memory: str, count: int, height: int, width: int) -> Iterator[tuple[str, int, int, int]]:
    if memory != "invert":
        yield "invert", count, height, width
    while count > 1:
        count //= 2
        yield "invert", count, height, width
    side = 1 << (max(min(height, width) - 1, 1).bit_length() - 1)  # the power of two below
    while side >= _SMALLEST:
        yield "invert", 1, side, side
        side //= 2


def _fits(module: Any, batch: Mapping[str, Tensor], policy: str, size: int, rows: int, columns: int) -> bool:
    before = module.model.memory
    module.model.memory = policy
    try:
        tried = {
            key: torch.zeros(size, value.shape[1], rows, columns, dtype=value.dtype, device=value.device)
            for key, value in batch.items()
        }
        module(tried)["total"].backward()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        module.model.memory = before
        module.model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
