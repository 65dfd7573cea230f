"""A run that was stopped, killed or damaged continues to the weights of one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ivan.errors import InputError, RunError
from ivan.training import Stopped, loop
from ivan.training.checkpoint import read_checkpoint


def weights(run: Path) -> dict[str, torch.Tensor]:
    name = (run / "checkpoint" / "latest").read_text().strip()
    loaded = load_file(run / "checkpoint" / name / "model.safetensors")
    return {key: value.clone() for key, value in loaded.items()}  # load_file maps the file


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Interrupting:
    """Sends SIGINT to this process when training reaches a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        original = loop.Trainer._one_step

        def stepping(trainer: Any, *batch: Any) -> None:
            original(trainer, *batch)
            if trainer.step == step:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(loop.Trainer, "_one_step", stepping)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": 0.9, "schedule": "cosine", "warmup_steps": 3, "memory": "store"},
        {"fill": "noise", "channels": 3, "rotate": 5.0, "bias_field": 0.3},
        {"precision": "bf16-mixed", "batch_size": 2},
        {"precision": "fp16-mixed"},
    ],
    ids=["default", "ema-cosine", "noise-augmented", "bf16", "fp16"],
)
def test_resume_in_the_middle_of_an_epoch_is_exact(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    whole = train("whole", **settings)
    with monkeypatch.context() as patch:
        Interrupting(patch, 2 if settings.get("batch_size") else 4)
        with pytest.raises(Stopped, match="ivan train --resume"):
            train("parts", **settings)
    parts = whole.parent / "parts"
    stopped_at = records(parts)[-1]["step"]
    assert 0 < stopped_at < records(whole)[-1]["step"]
    assert not same(weights(parts), weights(whole))
    train("parts", resume=True)
    assert same(weights(parts), weights(whole))
    assert records(parts)[-1] == records(whole)[-1]
    states = [read_checkpoint(run).state for run in (parts, whole)]
    assert states[0]["random"] == states[1]["random"]
    assert states[0]["loss_scale"] == states[1]["loss_scale"]


def test_resume_of_a_finished_run_changes_nothing_and_epochs_can_be_added(train: Callable[..., Path]) -> None:
    steady = {"schedule": "step", "warmup_steps": 0}  # cosine: each step's rate depends on the run's length
    run = train(epochs=1, **steady)
    before = weights(run)
    train(resume=True)
    assert same(weights(run), before)
    train(resume=True, epochs=2)
    assert same(weights(run), weights(train("whole", epochs=2, **steady)))


def test_metrics_are_cut_back_to_the_checkpoint(train: Callable[..., Path]) -> None:
    run = train()
    expected = records(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 999, "epoch": 9, "split": "train", "total": 1}\n{"step": 10')
    leftover = run / "checkpoint" / ".writing-step-99-1"
    leftover.mkdir()
    train(resume=True)
    assert records(run) == expected
    assert not leftover.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_damaged_newest_checkpoint_falls_back(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    run = train(checkpoint_every=5)
    good = weights(run)
    newest = run / "checkpoint" / (run / "checkpoint" / "latest").read_text().strip()
    path = newest / file
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    lines: list[str] = []
    found = read_checkpoint(run, notice=lines.append)
    assert found.state["step"] == 10
    assert len(lines) == 1
    assert newest.name in lines[0]
    assert "step-10" in lines[0]
    train(resume=True)
    assert same(weights(run), good)


def test_all_checkpoints_damaged(train: Callable[..., Path]) -> None:
    run = train(epochs=1)
    for path in run.glob("checkpoint/step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        train(resume=True)


def test_only_the_newest_checkpoints_are_kept(train: Callable[..., Path]) -> None:
    run = train(checkpoint_every=2, keep=2)
    steps = sorted(int(p.name[5:]) for p in (run / "checkpoint").glob("step-*"))
    assert steps == [10, 12]


def test_full_disk_leaves_the_earlier_checkpoint(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ivan.training import checkpoint

    original = checkpoint.write_bytes

    def write(path: Path, content: bytes) -> None:
        if "step-10" in str(path) and path.name.startswith("optimizer"):
            path.write_bytes(content[:100])
            raise OSError(28, "No space left on device", str(path))
        original(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", write)
    with pytest.raises(RunError, match=r"step-10.*No space left"):
        train(checkpoint_every=5)
    monkeypatch.undo()
    whole = train("whole")
    run = whole.parent / "run"
    assert [p.name for p in (run / "checkpoint").iterdir() if p.is_dir()] == ["step-5"]
    train(resume=True)
    assert same(weights(run), weights(whole))


def test_settings_that_a_resume_may_change(train: Callable[..., Path]) -> None:
    train(epochs=1)
    with pytest.raises(InputError, match="--blocks"):
        train(resume=True, blocks=2)
    with pytest.raises(InputError, match="--seed"):
        train(resume=True, seed=1)
    train(resume=True, lr=1e-4, epochs=2)


def start(data: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    """`ivan train` in a process of its own, long enough to be killed."""
    command = [sys.executable, "-m", "ivan", "train", "--out", str(run), "--quiet", *more]
    if "--resume" not in more:
        command += ["--data", str(data), "--from", "T1", "--to", "T2", "--blocks", "1", "--growth", "4"]
        command += ["--epochs", "20", "--checkpoint-every", "3", "--threads", "1", "--lr", "1e-3"]
        command += ["--validate-epochs", "10", "--no-tensorboard"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        found = [int(p.name[5:]) for p in (run / "checkpoint").glob("step-*")]
        if found and max(found) >= steps:
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_kill_9_at_any_moment(tiny_data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(tiny_data, whole)
    assert process.wait(timeout=240) == 0, process.stderr
    for round_ in range(2):
        process = start(tiny_data, killed, *(["--resume"] if round_ else []))
        wait_for_steps(process, killed, 36 * (round_ + 1))
        time.sleep(0.013 * round_)
        process.kill()
        process.wait()
        read_checkpoint(killed)
    process = start(tiny_data, killed, "--resume")
    assert process.wait(timeout=240) == 0, process.stderr
    assert same(weights(killed), weights(whole))


def test_ctrl_c_of_the_command(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(tiny_data, run)
    wait_for_steps(process, run, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert f"--resume --out {run}" in errors
    assert read_checkpoint(run).state["step"] == records(run)[-1]["step"]
