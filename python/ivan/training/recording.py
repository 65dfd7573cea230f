"""What a trainer writes down on its way: losses, validations, and a loss that is not finite."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ivan.errors import RunError
from ivan.training.files import failed_write, replace_file
from ivan.training.log import RunLog
from ivan.training.picture import draw, png
from ivan.training.saving import Saving
from ivan.training.validate import spread, validate


class Recording(Saving):
    """The recording half of `ivan.training.loop.Trainer`, between its loop and `Saving`.

    Attributes:
        total_steps: of the whole run.
        waited, trained: seconds of waiting for data, and of all that is logged.
    """

    aug: Any
    validation: Any
    total_steps: int
    waited: float
    trained: float
    _waited: float
    _logged_at: float
    _parts: list[str]
    _pending: list[tuple[int, list[str], Tensor, Tensor]]

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
