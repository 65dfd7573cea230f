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
from ivan.training.config import TrainConfig
from ivan.training.files import failed_write, replace_file
from ivan.training.log import RunLog
from ivan.training.memory import advice, is_out_of_memory
from ivan.training.picture import draw, png
from ivan.training.saving import Saving
from ivan.training.state import Average
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


def _is_dead_loader(error: RuntimeError) -> bool:
    return "DataLoader worker" in str(error)


class Trainer(Saving):
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
            f"--workers or --cache disk, and go on with 'ivan train --resume --out {self.run}'"
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
        everywhere = self.gather(flags)
        return [any(each[0] for each in everywhere), *everywhere[0][1:]]

    def _log(self, log: RunLog) -> None:
        """Write the mean losses since the last line. The one place where the device is waited for."""
        if not self._pending:
            return
        self._stop_on_nan()
        means = torch.stack([read for _, _, read, _ in self._pending]).mean(0).tolist()
        self._pending.clear()
        values = dict(zip([*self._parts, "gradient_norm"], means, strict=True))
        values["lr"] = self.plain_optimizer.param_groups[0]["lr"]
        now = time.perf_counter()
        values["data_wait"] = self._waited / max(now - self._logged_at, 1e-9)
        self.waited += self._waited
        self.trained += now - self._logged_at
        self._waited, self._logged_at = 0.0, now
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
        context: AbstractContextManager[Any] = self.precision.forward_context()
        return context
