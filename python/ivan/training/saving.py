"""What a trainer saves and loads, so that a later start goes on as if there had been none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ivan.errors import RunError
from ivan.model import IVAN
from ivan.training.checkpoint import Checkpoint, write_checkpoint
from ivan.training.config import TrainConfig
from ivan.training.state import (
    Average,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    random_state,
    set_random_state,
)


class Saving:
    """The saving half of `ivan.training.loop.Trainer`.

    Attributes:
        step: updates made so far.
        saved_step: the step of the newest checkpoint; -1 for none.
    """

    config: TrainConfig
    fabric: Any
    run: Path
    model: IVAN
    optimizer: Any
    average: Average | None
    device: torch.device
    steps_per_epoch: int
    step: int
    saved_step: int

    def save(self) -> None:
        """Write a checkpoint of the current step, unless there is one."""
        if self.saved_step == self.step:
            return
        states = self.gather(random_state(self.device))
        if self.fabric.is_global_zero:
            weights = self.model.state_dict()
            tensors: dict[str, Any] = {"model": weights}
            if self.average:
                tensors = {"model": {**weights, **self.average.values}, "training": weights}
            tensors["optimizer"] = optimizer_tensors(self.plain_optimizer, self.model)
            state = {
                "step": self.step,
                "epoch": self.step // self.steps_per_epoch,
                "batch_in_epoch": self.step % self.steps_per_epoch,
                "steps_per_epoch": self.steps_per_epoch,
                "processes": self.fabric.world_size,
                "random": states,
                "loss_scale": self.precision.state_dict(),
            }
            write_checkpoint(self.run, tensors, state, keep=self.config.keep)
        self.fabric.barrier()
        self.saved_step = self.step

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        tensors, state = checkpoint.tensors, checkpoint.state
        origin = checkpoint.path
        if (state["steps_per_epoch"], state["processes"]) != (self.steps_per_epoch, self.fabric.world_size):
            found = f"{state['steps_per_epoch']} steps an epoch in {state['processes']} processes"
            raise RunError(
                f"{origin}: was trained with {found}, now {self.steps_per_epoch} in "
                f"{self.fabric.world_size}; "
                "resume with the same data, --split and --devices"
            )
        load_weights(self.model, tensors["training" if self.average else "model"], origin)
        if self.average:
            self.average.load(tensors["model"])
        load_optimizer(self.plain_optimizer, self.model, tensors["optimizer"])
        if state["loss_scale"]:
            self.precision.load_state_dict(state["loss_scale"])
        set_random_state(state["random"][self.fabric.global_rank], self.device)
        self.step = self.saved_step = int(state["step"])

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.optimizer

    @property
    def precision(self) -> Any:
        return self.fabric.strategy.precision

    def gather(self, value: Any) -> list[Any]:
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def keep(self) -> str:
        """Save what is good and say so; processes beside this one may be gone, so only a single one saves."""
        if self.fabric.world_size == 1:
            self.save()
        return self.kept()

    def kept(self) -> str:
        """What a message says of the newest checkpoint."""
        if self.saved_step < 0:
            return "no checkpoint yet"
        return f"weights of step {self.saved_step} are kept in {self.run}"
