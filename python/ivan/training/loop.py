"""The training loop: steps, what is logged, when to validate, when to save, when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ivan.errors import RunError
from ivan.losses import bidirectional_loss
from ivan.model import IVAN
from ivan.training.checkpoint import Checkpoint, write_checkpoint
from ivan.training.config import TrainConfig
from ivan.training.files import failed_write, replace_file
from ivan.training.log import RunLog
from ivan.training.picture import draw, png
from ivan.training.state import (
    Average,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    random_state,
    set_random_state,
)
from ivan.training.stop import StopRequest
from ivan.training.validate import spread, validate


class LossModule(nn.Module):
    """Model and loss as one module: data-parallel training counts on one forward call a step."""

    def __init__(
        self, model: IVAN, aug: Any, options: dict[str, Any], fusion: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model, self.aug = model, aug
        self.options, self.fusion = options, fusion  # `fusion`: those of training without a target

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of `SliceDataset` items, [B, modalities, H, W], to the three losses, scalars."""
        if self.fusion is not None:
            from ivan.fusion.loss import fusion_loss

            return fusion_loss(self.model, batch["source"], self.aug, **self.fusion)
        inputs: dict[str, Any] = {
            key + "s": batch[key] for key in ("source_input", "target_input") if key in batch
        }
        return bidirectional_loss(
            self.model, batch["source"], batch["target"], self.aug, **inputs, **self.options
        )


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Learning rate of the update after `step` earlier ones: warm-up times the schedule."""
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        return config.lr * rise * 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
    return config.lr * rise * config.lr_factor ** (step // steps_per_epoch // config.lr_every)


class Trainer:
    """State and loop of one run in one process.

    Args:
        config: the settings.
        fabric: a launched Lightning Fabric.
        run: the run folder.
        model: IVAN, float32, on any device.
        aug: its VariableAugmentation.
        batches: gives `sampler.set_epoch`, and batches of SliceDataset items from any position of an epoch.
        validation: SliceDataset of held-out slices, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        fabric: Any,
        run: Path,
        model: IVAN,
        aug: Any,
        batches: Any,
        validation: Any,
    ) -> None:
        self.config, self.fabric, self.run, self.aug = config, fabric, run, aug
        self.batches, self.validation = batches, validation
        self.steps_per_epoch = len(batches)
        planned = config.epochs * self.steps_per_epoch
        self.total_steps = min(planned, config.max_steps) if config.max_steps else planned
        self.scaled = (
            config.precision == "fp16-mixed"
        )  # these gradients are scaled, and may overflow now and then
        device = fabric.device
        optimizer = torch.optim.Adam(
            model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=not self.scaled,  # the fused step would hide the scaled gradients from the clipping
        )
        self.model = model
        self.module, self.optimizer = fabric.setup(
            LossModule(model, aug, config.loss_options, config.fusion_options), optimizer
        )
        self.average = Average(model, config.ema) if config.ema else None
        self.step = 0
        self.saved_step = -1
        self._parts: list[str] = []  # names of the loss's parts
        self.device: torch.device = device
        self._pending: list[
            tuple[int, list[str], Tensor, Tensor]
        ] = []  # steps whose losses were not read yet

    # Saving and loading

    def save(self) -> None:
        """Write a checkpoint of the current step, unless there is one."""
        if self.saved_step == self.step:
            return
        states = self._gather(random_state(self.device))
        if self.fabric.is_global_zero:
            weights = self.model.state_dict()
            tensors: dict[str, Any] = {"model": weights}
            if self.average:
                tensors = {"model": {**weights, **self.average.values}, "training": weights}
            tensors["optimizer"] = optimizer_tensors(self._plain_optimizer, self.model)
            state = {
                "step": self.step,
                "epoch": self.step // self.steps_per_epoch,
                "batch_in_epoch": self.step % self.steps_per_epoch,
                "steps_per_epoch": self.steps_per_epoch,
                "processes": self.fabric.world_size,
                "random": states,
                "loss_scale": self._precision.state_dict(),
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
        load_optimizer(self._plain_optimizer, self.model, tensors["optimizer"])
        if state["loss_scale"]:
            self._precision.load_state_dict(state["loss_scale"])
        set_random_state(state["random"][self.fabric.global_rank], self.device)
        self.step = self.saved_step = int(state["step"])

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.optimizer

    @property
    def _precision(self) -> Any:
        return self.fabric.strategy.precision

    def _gather(self, value: Any) -> list[Any]:
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    # The loop

    def train(self, log: RunLog, stop: StopRequest) -> None:
        """Train to the last step, or until `stop`; the last state is saved either way."""
        last_save = time.monotonic()
        for batch, names in self._epochs():
            self._one_step(batch, names)
            log.advance(self.step)
            validating = self._validates()
            logging = self.step % self.config.log_every == 0 or self.step == self.total_steps
            save = bool(self.config.checkpoint_every) and self.step % self.config.checkpoint_every == 0
            stopping = False
            if logging or validating or save or self.fabric.world_size == 1:
                minutes = (time.monotonic() - last_save) / 60
                due = bool(self.config.checkpoint_minutes) and minutes >= self.config.checkpoint_minutes
                stopping, due = self._agree(stop.requested, due)
                save = save or due
            if logging or validating or save or stopping:
                self._log(log)
            if validating:
                self._validate(log)
            if save and not stopping:
                self.save()
                last_save = time.monotonic()
            if stopping:
                break
        self.save()

    def _epochs(self) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
        while self.step < self.total_steps:
            epoch, position = divmod(self.step, self.steps_per_epoch)
            for batch, names in self.batches.epoch(epoch, position):
                yield {key: t.to(self.device, non_blocking=True) for key, t in batch.items()}, names
                if self.step >= self.total_steps:
                    return

    def _one_step(self, batch: dict[str, Tensor], names: list[str]) -> None:
        rate = learning_rate(self.config, self.step, self.steps_per_epoch, self.total_steps)
        for group in self._plain_optimizer.param_groups:
            group["lr"] = rate
        losses = self.module(batch)
        self.fabric.backward(losses["total"])
        limit = self.config.clip or math.inf
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=limit, error_if_nonfinite=False
        )
        self._parts = list(losses)  # "total" first
        read = torch.stack([*losses.values(), norm]).detach().float()
        finite = torch.isfinite(read[:1] if self.scaled else read).all()
        if self.fabric.world_size > 1:  # all processes stop at the same step
            finite = self.fabric.all_reduce(finite.float(), reduce_op="mean") == 1
        self._pending.append((self.step, names, read, finite))
        if (
            self.device.type == "cpu"
        ):  # elsewhere reading would stall the device: _log looks, a few steps later
            self._stop_on_nan()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.step)
        self.step += 1

    def _stop_on_nan(self) -> None:
        """Save the good weights and raise RunError if a pending step has a loss or gradient not finite."""
        finite = torch.stack([ok for *_, ok in self._pending])
        if bool(finite.all()):
            return
        step, names, read, _ = self._pending[int((~finite).nonzero()[0])]
        self._pending.clear()
        what = "loss" if not bool(torch.isfinite(read[0])) else "gradient"
        if self.step == step:  # the update was not made yet, so these weights are the last good ones
            self.save()
        kept = (
            f"weights of step {self.saved_step} are kept in {self.run}"
            if self.saved_step >= 0
            else "no checkpoint yet"
        )
        raise RunError(
            f"step {step + 1}: the {what} is not finite on {', '.join(names)}; {kept}; "
            "check this slice, lower --lr, or clip more (--clip)"
        )

    def _agree(self, *flags: bool) -> list[bool]:
        """The first process decides for all, but a stop asked of any stops all."""
        if self.fabric.world_size == 1:
            return list(flags)
        everywhere = self._gather(flags)
        return [any(each[0] for each in everywhere), *everywhere[0][1:]]

    def _log(self, log: RunLog) -> None:
        """Write the mean losses since the last line. The one place where the device is waited for."""
        if not self._pending:
            return
        self._stop_on_nan()
        means = torch.stack([read for _, _, read, _ in self._pending]).mean(0).tolist()
        self._pending.clear()
        values = dict(zip([*self._parts, "gradient_norm"], means, strict=True))
        values["lr"] = self._plain_optimizer.param_groups[0]["lr"]
        log.record("train", self.step, (self.step - 1) // self.steps_per_epoch, values)

    def _validates(self) -> bool:
        if self.validation is None:
            return False
        config = self.config
        if self.step == self.total_steps:
            return True
        if config.validate_every:
            return self.step % config.validate_every == 0
        return (
            bool(config.validate_epochs) and self.step % (config.validate_epochs * self.steps_per_epoch) == 0
        )

    def _validate(self, log: RunLog) -> None:
        if self.fabric.is_global_zero:
            if self.average:
                self.average.swap()
            was_training = self.model.training
            self.model.eval()
            indices = spread(len(self.validation), self.config.validation_slices)
            values, rows = validate(
                self.model, self.aug, self.validation, indices, self.device, self._context
            )
            self.model.train(was_training)
            if self.average:
                self.average.swap()
            log.record("validation", self.step, (self.step - 1) // self.steps_per_epoch, values)
            pixels = draw(rows)
            log.image("validation", self.step, pixels)
            path = self.run / "images" / f"validation-{self.step}.png"
            try:
                path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise failed_write(path, error) from None
            replace_file(path, png(pixels))
        self.fabric.barrier()

    def _context(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._precision.forward_context()
        return context
