"""Runs workers: sends requests, waits no longer than allowed, and replaces a worker that hangs or dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

DOES_NOT_FIT = "does not fit"  # the one error after which a worker is as good as before
WORKER = Path(__file__).resolve().parent / "worker.py"


class Supervisor:
    """``ask(request, seconds)`` answers ``{"result": ...}`` or ``{"error": one line}``.

    Args:
        device: ``cuda``, ``cuda:N`` or ``cpu``.
        prefix: words before the worker's command (compute-sanitizer).
        environment: variables that the worker has besides those here.
    """

    def __init__(
        self,
        device: str,
        prefix: tuple[str, ...] = (),
        worker: Path = WORKER,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.command = [*prefix, sys.executable, str(worker), device]
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.readers: list[threading.Thread] = []
        self.answers: queue.Queue[str] = queue.Queue()
        self.messages: list[str] = []  # the worker's error stream, its last lines

    def start(self) -> None:
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self.environment,
            start_new_session=True,  # so that what it starts (a sanitizer its program) ends with it
        )
        self.answers, self.messages = queue.Queue(), []
        pairs = ((process.stdout, self.answers.put), (process.stderr, self.messages.append))
        self.readers = [threading.Thread(target=_drain, args=pair, daemon=True) for pair in pairs]
        for reader in self.readers:
            reader.start()
        self.process = process

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if not self.running:
            self.start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        deadline = time.monotonic() + max(seconds, 0.1)
        try:
            print(json.dumps(request), file=process.stdin, flush=True)
            while line := self.answers.get(timeout=max(deadline - time.monotonic(), 0.01)):
                if line.startswith('{"'):  # and not what a sanitizer says about itself
                    reply: dict[str, Any] = json.loads(line)
                    if reply.get("error", DOES_NOT_FIT) != DOES_NOT_FIT:
                        self.stop()  # a fault on the device, or a graph half captured, stays in its process
                    return reply
        except queue.Empty:
            self.stop()
            return {"error": f"stopped after {seconds:.0f} s", "stopped": True}
        except BrokenPipeError:
            pass
        process.wait()
        for reader in self.readers:
            reader.join(timeout=2)
        said = next((m.strip() for m in reversed(self.messages) if m.strip()), "no message")
        return {"error": f"the process ended with {process.returncode}: {said[:300]}"}

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _drain(stream: Any, take: Any) -> None:
    """Every line of the stream; at its end an empty one, which `ask` takes for the end of the process."""
    for line in stream:
        take(line)
    take("")
