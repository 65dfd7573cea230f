"""The training loop: steps, when to validate, when to save, when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ivan.errors import RunError
from ivan.model import IVAN
from ivan.training.config import TrainConfig
from ivan.training.files import resume_command
from ivan.training.log import RunLog
from ivan.training.memory import advice, is_out_of_memory
from ivan.training.objective import LossModule, learning_rate
from ivan.training.recording import Recording
from ivan.training.state import Average
from ivan.training.stop import StopRequest


def _is_dead_loader(error: RuntimeError) -> bool:
    return "DataLoader worker" in str(error)


class Trainer(Recording):
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
        self.config, self.fabric, self.run, self.aug = config.completed(), fabric, run, aug
        self.batches, self.validation = batches, validation
        self.steps_per_epoch = len(batches)
        planned = config.epochs * self.steps_per_epoch
        self.total_steps = min(planned, config.max_steps) if config.max_steps else planned
        self.scaled = (
            config.precision == "fp16-mixed"
        )  # these gradients are scaled, and may overflow now and then
        device = fabric.device
        optimizer = self.make_optimizer(model)
        self.model = model
        self.module, self.optimizer = fabric.setup(
            LossModule(model, aug, config.loss_options, config.fusion_options), optimizer
        )
        self.average = Average(model, config.ema) if config.ema else None
        self.step = 0
        self.saved_step = -1
        self._parts: list[str] = []  # names of the loss's parts
        self.device: torch.device = device
        self.waited = self.trained = 0.0  # seconds of waiting for data, and of all that is logged
        self._waited = 0.0  # since the last line of the log
        self._logged_at = time.perf_counter()
        self._pending: list[
            tuple[int, list[str], Tensor, Tensor]
        ] = []  # steps whose losses were not read yet

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam with the run's settings."""
        return torch.optim.Adam(
            model.parameters(),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
            fused=not self.scaled,  # the fused step would hide the scaled gradients from the clipping
        )

    def train(self, log: RunLog, stop: StopRequest) -> None:
        """Train to the last step, or until `stop`; the last state is saved either way.

        Raises:
            RunError: a loss that is not finite, no memory, no disk, a dead loader process.
        """
        try:
            self._train(log, stop)
        except RuntimeError as error:
            if not _is_dead_loader(error):
                raise
            # PyTorch's signal handler may raise this amid an update: nothing is saved here.
            raise self._loader_died(error, self.kept()) from None

    def _train(self, log: RunLog, stop: StopRequest) -> None:
        last_save = time.monotonic()
        self._logged_at = time.perf_counter()
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
            for batch, names in self._timed(self.batches.epoch(epoch, position)):
                yield {key: t.to(self.device, non_blocking=True) for key, t in batch.items()}, names
                if self.step >= self.total_steps:
                    return

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of an epoch; adds up the seconds that a step waits for its batch.

        Raises:
            RunError: a loader process died; the weights are saved first.
        """
        while True:
            begin = time.perf_counter()
            try:
                item = next(batches, None)
            except RuntimeError as error:
                if not _is_dead_loader(error):
                    raise
                raise self._loader_died(error, self.keep()) from None
            self._waited += time.perf_counter() - begin
            if item is None:
                return
            yield item

    def _loader_died(self, error: RuntimeError, kept: str) -> RunError:
        return RunError(
            f"a process that prepares slices died ({str(error).splitlines()[0]}); {kept}; use fewer "
            f"--workers or --cache disk, and go on with: {resume_command(self.run)}"
        )

    def _one_step(self, batch: dict[str, Tensor], names: list[str]) -> None:
        rate = learning_rate(self.config, self.step, self.steps_per_epoch, self.total_steps)
        for group in self.plain_optimizer.param_groups:
            group["lr"] = rate
        try:
            losses: dict[str, Tensor] | None = self.module(batch)
            assert losses is not None
            self.fabric.backward(losses["total"])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            losses = None
        if losses is None:  # outside of the handler: what it refers to would hold the memory
            self.optimizer.zero_grad(set_to_none=True)
            kept = self.keep()
            raise RunError(f"{advice(self.module_of(), batch, self.config)}; {kept}")
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

    def module_of(self) -> LossModule:
        """Model and loss without the data-parallel wrapper around them."""
        return LossModule(self.model, self.aug, self.config.loss_options, self.config.fusion_options)

    def _agree(self, *flags: bool) -> list[bool]:
        """The first process decides for all, but a stop asked of any stops all."""
        if self.fabric.world_size == 1:
            return list(flags)
        everywhere = self.gather(flags)
        return [any(each[0] for each in everywhere), *everywhere[0][1:]]
