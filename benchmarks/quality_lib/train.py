"""Equal data, equal time: every method trains on the same slices for the same seconds, and can be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ivan.errors import InputError, RunError
from ivan.training.stop import Stopped, StopRequest
from quality_lib.methods import Method, Size, build
from quality_lib.plans import Plan, describe

SAVE_SECONDS = 60.0
# What a second of the budget is. "cpu": of this process on all its threads, which other jobs on the
# machine touch less (by its caches and clock), and fair between methods on one thread only.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Budget:
    """Seconds of training by a clock of `CLOCKS`, slices a step, patch side (0: whole slices), clipping of
    the gradient's norm."""

    seconds: float
    batch: int = 1
    patch: int = 48
    clip: float = 1.0
    clock: str = "wall"


def train(
    method: Method, plan: Plan, budget: Budget, seed: int, path: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train until the budget is spent; continue from `path` where an earlier call was stopped. Ctrl-C and
    SIGTERM end the step and save.

    Time counts from the first batch on: reading batches, steps and optimiser, not decoding, saving or
    measuring.

    Returns:
        steps, seconds of the budget's clock, wall_seconds, the last loss.

    Raises:
        RunError: a loss that is not finite. InputError: `path` is damaged, or belongs to another plan, budget
        or size. Stopped: by a signal; the weights are saved.
    """
    optimizer = torch.optim.Adam(method.parameters(), lr=method.rate)
    seconds, wall, step = 0.0, 0.0, 0
    clock = CLOCKS[budget.clock]
    value = float("nan")
    if path.exists():
        kept = _continued(path, method, optimizer, plan, budget)
        seconds, wall, step = float(kept["seconds"]), float(kept["wall_seconds"]), int(kept["step"])
        value = float(kept.get("last_loss", value))
        say(f"continuing at {seconds:.0f} s, step {step}")
    torch.manual_seed(seed * 1_000_003 + step)
    method.train()
    saved = time.monotonic()
    batches = _batches(plan, budget, seed, step)

    def save() -> None:
        spent = {"seconds": seconds, "wall_seconds": wall, "step": step, "last_loss": value}
        _save(path, method, optimizer, plan, budget, spent)

    with StopRequest(say) as stop:
        while seconds < budget.seconds and not stop.requested:
            start, began = clock(), time.perf_counter()
            batch = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = method.rate * method.schedule(seconds / budget.seconds)
            loss = method.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(method.parameters(), budget.clip)
            value = float(loss.detach())
            if value != value or abs(value) == float("inf"):
                raise RunError(f"{path.stem}: loss of step {step + 1} is {value}; a lower rate is needed")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            seconds += clock() - start
            wall += time.perf_counter() - began
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                say(f"{seconds:.0f} of {budget.seconds:.0f} s, step {step}, loss {value:.5f}")
                saved = time.monotonic()
        save()
        if stop.requested:
            told = f"saved after {seconds:.0f} of {budget.seconds:.0f} s; the same command goes on"
            raise Stopped(told, stop.number)
    method.eval()
    return {"steps": step, "seconds": seconds, "wall_seconds": wall, "last_loss": value}


def trained(run: dict[str, Any], plan: Plan, path: Path) -> Method:
    """The method of a finished run with the weights that `train` left in `path`.

    Raises:
        InputError: they are those of another run, or damaged.
    """
    kept = _read(path, ("model", "plan", "step"), "run the experiment again with another --out")
    size = Size(**run["settings"]["size"])
    method = build(run["method"], len(plan.sources), len(plan.targets), size, run["seed"])
    assert method is not None  # it applied when it was trained
    try:
        fitting = kept["plan"] == run["plan"] and kept["step"] == run["training"]["steps"]
        method.load_state_dict(kept["model"])
    except RuntimeError:  # of another method
        fitting = False
    if not fitting:
        raise InputError(
            f"{path}: not the weights of the result of {run['method']}, seed {run['seed']}; choose the --out "
            "in which they were trained"
        )
    return method.eval()


def _continued(path: Path, method: Method, optimizer: Any, plan: Plan, budget: Budget) -> dict[str, Any]:
    """Load what `_save` has kept: the rate follows the share of the budget, so that must be the same one."""
    kept = _read(
        path, ("plan", "clock", "seconds", "wall_seconds", "step"), "remove it, and this run starts anew"
    )
    if kept["plan"] != describe(plan) or kept["clock"] != budget.clock:
        raise InputError(f"{path}: is of another experiment or clock; choose a new --out")
    if (made := kept.get("budget", vars(budget))) != vars(budget):
        raise InputError(
            f"{path}: was begun with budget {made}, asked is {vars(budget)}; give the same options, or a new "
            "--out"
        )
    try:
        method.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    except (KeyError, RuntimeError, ValueError):
        raise InputError(
            f"{path}: weights of another --blocks or --growth; give the same, or choose a new --out"
        ) from None
    return kept


def _read(path: Path, keys: Iterable[str], instead: str) -> dict[str, Any]:
    """What `_save` has kept, with all of `keys`; `instead` says what to do about a damaged file."""
    try:
        kept = dict(torch.load(path, weights_only=True))
        if missing := set(keys) - set(kept):
            raise KeyError(*missing)
        return kept
    except Exception as error:  # whatever a damaged file makes of itself
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); {instead}") from None


def _save(
    path: Path, method: Method, optimizer: Any, plan: Plan, budget: Budget, spent: dict[str, float]
) -> None:
    from ivan.data import atomic_file

    state = {
        "model": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        **spent,
        "plan": describe(plan),
        "clock": budget.clock,
        "budget": vars(budget),
    }
    with atomic_file(path) as file:
        torch.save(state, file)


def _batches(plan: Plan, budget: Budget, seed: int, step: int) -> Iterator[dict[str, Tensor]]:
    """Batches from step `step` on, the same for every method and every restart."""
    from ivan.data import Augmentation, ShapeBatchSampler, SliceDataset, collate_slices

    dataset = SliceDataset(
        plan.training,
        plan.sources,
        plan.targets,
        training=True,
        normalise=plan.normalise,
        augmentation=Augmentation(**plan.augmentation),
        patch_size=budget.patch or None,
        seed=seed,
    )
    sampler = ShapeBatchSampler(dataset, budget.batch, seed=seed)

    def endless() -> Iterator[dict[str, Tensor]]:
        epoch, position = divmod(step, len(sampler))
        while True:
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch, position)
            for indices in sampler:
                items = collate_slices([dataset[i] for i in indices])
                yield {key: value for key, value in items.items() if isinstance(value, Tensor)}
            epoch, position = epoch + 1, 0

    return endless()  # all volumes are decoded by now, before any clock runs
