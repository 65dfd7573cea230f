"""What a run says: `metrics.jsonl`, TensorBoard events, and progress on the terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ivan.training.files import failed_write, replace_file

PLAIN_LINE_SECONDS = 10.0


class RunLog:
    """Writes the records of a run; on processes other than the first it does nothing.

    Args:
        run: run folder.
        first_step: step from which the run continues; later records of an earlier try are dropped.
        total_steps: steps of the whole run, for the time left.
        tensorboard: also write event files to `tensorboard/`.
        progress: show progress on standard output: a bar on a terminal, plain lines elsewhere.
        enabled: whether this process writes at all.
    """

    def __init__(
        self,
        run: Path,
        first_step: int,
        total_steps: int,
        *,
        tensorboard: bool,
        progress: bool,
        enabled: bool = True,
    ) -> None:
        self.enabled = enabled
        self.path = run / "metrics.jsonl"
        self._events: Any = None
        self._file: Any = None
        self._display = Display(first_step, total_steps) if enabled and progress else None
        if enabled:
            truncate_metrics(self.path, first_step)
            self._open()
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(
                    str(run / "tensorboard"), purge_step=first_step + 1 if first_step else None
                )

    def _open(self) -> None:
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        except OSError as error:
            raise failed_write(self.path, error) from None

    def record(self, split: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl (and one point to each TensorBoard curve).

        Infinite and undefined values (PSNR of equal images) become null: the file stays plain JSON.
        """
        if not self.enabled:
            return
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, "epoch": epoch, "split": split, **clean}) + "\n")
            self._file.flush()
            if self._events:
                for name, value in clean.items():
                    if value is not None:
                        self._events.add_scalar(f"{split}/{name}", value, step)
        except OSError as error:
            raise failed_write(self.path, error) from None
        if self._display:
            self._display.show(split, step, values)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._display:
            self._display.advance(step)

    def image(self, name: str, step: int, pixels: Any) -> None:
        """Add a picture [H, W, 3] uint8 to TensorBoard."""
        if self._events:
            self._events.add_image(name, pixels, step, dataformats="HWC")

    def say(self, line: str) -> None:
        """Print one line without breaking the progress bar."""
        if self._display:
            self._display.say(line)

    def close(self) -> None:
        """Close the files and the progress bar."""
        if self._display:
            self._display.close()
        if self._events:
            self._events.close()
        if self._file:
            self._file.close()


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to `step`; a half-written one (after a kill) goes too."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    kept = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step:
            kept.append(line + b"\n")
    replace_file(path, b"".join(kept))


class Display:
    """Progress on standard output."""

    def __init__(self, first_step: int, total_steps: int) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)
        self._losses = ""
        self._validation = ""
        self._first, self._total = first_step, total_steps
        self._started = time.monotonic()
        self._next_line = self._started
        self._bar: Any = None
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self.console,
                speed_estimate_period=120,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total_steps, completed=first_step)

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def show(self, split: str, step: int, values: Mapping[str, float]) -> None:
        if split == "train":
            total, forward, reverse = (values[name] for name in ("total", "forward", "reverse"))
            self._losses = f"loss {total:.5f} (forward {forward:.5f}, reverse {reverse:.5f})"
        else:
            # Fusion without a target has no forward PSNR.
            ahead = f"{values['psnr_forward']:.2f} dB forward, " if "psnr_forward" in values else ""
            edges = f", Q^AB/F {values['q_abf']:.3f}" if "q_abf" in values else ""
            self._validation = f"PSNR {ahead}{values['psnr_reverse']:.2f} dB reverse{edges}"
        if self._bar:
            self._bar.update(
                self._task, completed=step, description=f"{self._losses} {self._validation}".strip()
            )
        elif split != "train":
            self.say(f"step {step}/{self._total}  validation {self._validation}")
        elif time.monotonic() >= self._next_line or step == self._total:
            self._next_line = time.monotonic() + PLAIN_LINE_SECONDS
            self.say(f"step {step}/{self._total}  {self._losses}  {self._left(step)}")

    def _left(self, step: int) -> str:
        done = max(step - self._first, 1)
        seconds = int((time.monotonic() - self._started) / done * (self._total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
