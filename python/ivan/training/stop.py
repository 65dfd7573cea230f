"""Ctrl-C and SIGTERM as a request: the step in progress ends, a checkpoint is written, then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Training was interrupted and everything is saved; the message says how to continue.

    A KeyboardInterrupt, so that scripts and notebooks stop as they do for any Ctrl-C.

    Attributes:
        exit_code: 128 + the signal's number, as shells expect.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one interrupts at once.

    Signals can be caught in the main thread only; elsewhere entering does nothing.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._before: dict[int, Any] = {}
        self.number = 0

    @property
    def requested(self) -> bool:
        return self.number != 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        self._say("stopping after this step; press Ctrl-C again to stop at once")

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
