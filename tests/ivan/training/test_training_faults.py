"""What goes wrong around a training: memory, loader processes, caches, permissions, quotas."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ivan
from ivan.data.writing import _owner
from ivan.errors import RunError
from ivan.training import loop, objective
from ivan.training.checkpoint import read_checkpoint
from ivan.training.memory import is_out_of_memory


def same_weights(a: Path, b: Path) -> bool:
    one, other = (read_checkpoint(run).tensors["model"] for run in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


class Limited:
    """The loss with a memory limit: of pixels in a batch, or of all policies but one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pixels: int, only: str = "", after: int = 0) -> None:
        self.calls = 0

        def loss(model: Any, sources: torch.Tensor, *rest: Any, **options: Any) -> Any:
            self.calls += 1
            size = sources.shape[0] * sources.shape[2] * sources.shape[3]
            if self.calls > after and (size > pixels or (only and model.memory != only)):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return ivan.bidirectional_loss(model, sources, *rest, **options)

        monkeypatch.setattr(objective, "bidirectional_loss", loss)


@pytest.mark.parametrize(
    ("settings", "pixels", "only", "said"),
    [
        ({"batch_size": 6}, 700, "", r"6 slices of 14x16.*3 of 14x16 .*fit: use --batch-size 3"),
        ({"memory": "store"}, 10**6, "invert", r"--memory store; 1 of 14x16 .*fit: use --memory invert"),
        ({"patch_size": 64}, 1100, "", r"1 slices of 64x64.*1 of 32x32 .*fit: use --patch-size 32"),
        ({"patch_size": 64}, 10, "", r"not even one of 16x16 fits"),
    ],
)
def test_out_of_memory_says_what_fits(
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    pixels: int,
    only: str,
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        Limited(patch, pixels, only, after=1)
        with pytest.raises(RunError, match=said + r".*step 1 are kept") as caught:
            train("run", epochs=4, **settings)
    assert "\n" not in str(caught.value)
    whole = train("whole", epochs=4, **{**settings, "max_steps": 1})
    assert same_weights(whole, whole.parent / "run")  # the tries changed nothing


def test_errors_of_the_allocators_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_death_of_a_loader_process(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.Trainer._one_step

    def stepping(trainer: Any, *batch: Any) -> None:
        original(trainer, *batch)
        if trainer.step == 3:
            workers = trainer.batches._loader._iterator._workers
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_one_step", stepping)
        with pytest.raises(RunError, match=r"prepares slices died.*weights of step \d+ are kept.*--resume"):
            train("run", workers=1, epochs=8, checkpoint_every=1)
    run = tmp_path / "run"
    assert read_checkpoint(run).state["step"] >= 2
    train("run", resume=True, workers=0, epochs=2)


@pytest.mark.parametrize("damage", ["cut", "bit", "record", "empty"])
def test_damaged_cache_is_noticed_and_made_again(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    cache = tmp_path / "cache"
    whole = train("whole", cache="disk", cache_dir=str(cache), epochs=1)
    for path in cache.glob("*.json" if damage == "record" else "*.npy"):
        content = bytearray(path.read_bytes())
        if damage == "bit":
            content[-9] ^= 64
        path.write_bytes(
            b"" if damage == "empty" else content if damage == "bit" else content[: len(content) // 2]
        )
    again = train("again", cache="disk", cache_dir=str(cache), epochs=1)
    assert same_weights(whole, again)
    for path in cache.glob("*.npy"):
        assert np.isfinite(np.load(path)).all()


def test_waiting_for_data_is_logged(train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = train(epochs=2)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shares = [line["data_wait"] for line in lines if line["split"] == "train"]
    assert shares
    assert all(0 < share < 1 for share in shares)


def test_slow_data_shows_in_the_share(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from ivan.data import SliceDataset

    original = SliceDataset.__getitem__

    def slow(dataset: SliceDataset, index: int) -> dict[str, Any]:
        import time

        if dataset.training:
            time.sleep(1.0)  # far longer than a step, also on a busy machine
        return original(dataset, index)

    monkeypatch.setattr(SliceDataset, "__getitem__", slow)
    run = train(max_steps=4, validate_epochs=0)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([line["data_wait"] for line in lines if line["split"] == "train"]) > 0.5


def test_permission_lost_during_a_run(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.mkdir

    def refuse(path: Path, *rest: Any, **more: Any) -> None:
        if "step-6" in path.name:
            raise PermissionError(13, "Permission denied", str(path))
        original(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(RunError, match=r"step-6: cannot be written \(Permission denied\)"):
            train("run", checkpoint_every=3)
    whole = train("whole")
    train("run", resume=True)
    assert same_weights(whole, whole.parent / "run")


COMMANDS = {
    "train": "train --data {data} --from T1 --to T2 --out {out} --blocks 8 --growth 16 --epochs 1 "
    "--threads 1 "
    "--device cpu --quiet",
    "synthesize": "synthesize --run {run} --data {data} --out {out} --device cpu --quiet",
    "prepare": "prepare {data} --out {out} --modality T1 --modality T2 --quiet",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_space_for_a_file(tiny_data: Path, tiny_run: Path, tmp_path: Path, name: str) -> None:
    """A real limit on the size of files stands for a full disk: the kernel refuses the write half-way."""
    out = tmp_path / "out"
    arguments = COMMANDS[name].format(data=tiny_data, out=out, run=tiny_run).split()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = 1 << 16 if name == "train" else 700
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-m", "ivan", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    left = [path for path in out.rglob("*") if ".part" in path.name or ".writing" in path.name]
    assert left == []
    assert not list(out.rglob("*.nii.gz"))


def test_a_start_killed_before_its_first_file_can_be_repeated(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    machine = _owner().partition("+")[0]
    leftover = tmp_path / "run" / f".config.json.{machine}+999999999.abc.part"
    leftover.parent.mkdir()
    leftover.write_bytes(b"{")
    run = train("run", max_steps=1)
    assert not leftover.exists()
    assert read_checkpoint(run).state["step"] == 1
