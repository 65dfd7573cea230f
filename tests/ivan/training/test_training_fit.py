"""What a training run does: its folder, its records, its schedule, its settings, and its failures."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ivan
from ivan.errors import InputError, RunError
from ivan.training import TrainConfig, build, objective
from ivan.training.checkpoint import read_checkpoint


def records(run: Path, split: str = "train") -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def test_run_folder(tiny_run: Path) -> None:
    assert json.loads((tiny_run / "config.json").read_text())["sources"] == ["T1"]
    assert set(json.loads((tiny_run / "split.json").read_text())) == {"training", "validation"}
    assert (tiny_run / "checkpoint" / "latest").read_text() == "step-12\n"
    validation = records(tiny_run, "validation")
    assert [record["step"] for record in validation] == [6, 12]
    for record in validation:
        assert np.asarray(Image.open(tiny_run / "images" / f"validation-{record['step']}.png")).std() > 10
    assert "<html" in (tiny_run / "report.html").read_text()
    assert {"total", "forward", "reverse", "gradient_norm", "lr"} <= set(records(tiny_run)[0])


def test_learns_both_directions(train: Callable[..., Path]) -> None:
    run = train(epochs=40, growth=8, schedule="cosine", lr=3e-3, validate_epochs=5)
    first, last = records(run, "validation")[0], records(run, "validation")[-1]
    assert last["psnr_forward"] > first["psnr_forward"] + 2
    assert last["psnr_reverse"] > first["psnr_reverse"] + 2


def test_recipes_fill_in_what_is_not_given() -> None:
    config = TrainConfig().completed()
    assert (config.blocks, config.growth, config.batch_size, config.weight) == (8, 32, 1, 1.0)
    assert (config.lr, config.schedule, config.last_scale, config.mix_start) == (
        2e-3,
        "cosine",
        0.1,
        "identity",
    )
    assert (config.epochs, config.flips, config.turns, config.clip) == (300, True, True, 1.0)
    assert config.completed() == config
    given = {"lr": 3e-4, "schedule": "step", "warmup_steps": 7, "last_scale": 0.5, "mix_start": "rotation"}
    for recipe in ("notes", "public"):
        kept = TrainConfig(recipe=recipe, **given).completed()  # type: ignore[arg-type]
        assert {name: getattr(kept, name) for name in given} == given
    assert TrainConfig(init="weights.pth").completed().lr == 1e-4  # these do not start near the identity


def test_the_public_recipe_is_that_of_the_paper() -> None:
    config = TrainConfig(recipe="public").completed()
    assert (config.lr, config.lr_factor, config.lr_every, config.epochs) == (1e-4, 0.5, 50, 300)
    rates = [objective.learning_rate(config, step, 10, 3000) for step in (0, 499, 500, 2999)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 1e-4 / 32])
    model, _ = build.build_model(replace(config, sources=("T1",), targets=("T2",), blocks=2, growth=4))
    torch.manual_seed(config.seed)
    plain = ivan.IVAN(blocks=2, growth=4)
    for found, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_network_starts_as_its_sources() -> None:
    """The default start: each target is nearly the source in its channel, in both directions."""
    settings = {"sources": ("T1", "PD"), "targets": ("T2",), "growth": 8}
    for blocks in (1, 8, 100):
        model, aug = build.build_model(TrainConfig(blocks=blocks, **settings))  # type: ignore[arg-type]
        sources, target = torch.rand(1, 2, 16, 16), torch.rand(1, 1, 16, 16)
        with torch.no_grad():
            made = aug.collapse_targets(model(aug.augment_sources(sources)))
            back = aug.collapse_sources(model.inverse(aug.augment_targets(target)))
        assert (made - sources.mean(1, keepdim=True)).abs().mean() < 0.2
        assert (back - target).abs().mean() < 0.2
    with_rotations, _ = build.build_model(TrainConfig(mix_start="rotation", **settings))  # type: ignore[arg-type]
    assert not torch.equal(with_rotations.chain[0].mix.weight(), torch.eye(2))


def test_cosine_and_warm_up() -> None:
    config = TrainConfig(schedule="cosine", warmup_steps=10, lr=1e-4)
    assert objective.learning_rate(config, 0, 10, 100) == pytest.approx(1e-5)
    assert objective.learning_rate(config, 50, 10, 100) == pytest.approx(0.5e-4)
    assert objective.learning_rate(config, 100, 10, 100) == pytest.approx(0)
    share = TrainConfig(lr=1e-4).completed()  # 3 % of the steps
    assert objective.learning_rate(share, 0, 10, 1000) == pytest.approx(1e-4 / 30)
    assert objective.learning_rate(share, 500, 10, 1000) == pytest.approx(0.5e-4)


def test_tensorboard_events(train: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(epochs=1, tensorboard=True)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"train/total", "validation/psnr_forward"} <= set(events.Tags()["scalars"])
    logged = [event.value for event in events.Scalars("train/total")]
    assert logged == pytest.approx([record["total"] for record in records(run)], rel=1e-6)


def test_accepts_a_config_and_keywords(train: Callable[..., Path], tiny_data: Path, tmp_path: Path) -> None:
    by_keywords = train(epochs=1)
    config = TrainConfig.read(by_keywords / "config.json")
    by_config = ivan.fit(config, out=str(tmp_path / "other"), progress=False)
    for a, b in zip(
        *(sorted(r.glob("checkpoint/*/model.safetensors")) for r in (by_keywords, by_config)), strict=True
    ):
        first, second = load_file(a), load_file(b)
        assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(InputError, match="colour"):
        ivan.fit(config, colour="red")


def test_starts_from_given_weights(train: Callable[..., Path], tiny_run: Path) -> None:
    run = train("tuned", init=str(tiny_run), max_steps=1, lr=1e-12)
    tuned, origin = read_checkpoint(run).tensors["model"], read_checkpoint(tiny_run).tensors["model"]
    assert all(torch.allclose(tuned[name], origin[name], atol=1e-9) for name in origin)


def test_state_stays_float32_in_mixed_precision(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def loss(model: Any, sources: torch.Tensor, targets: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(
            (
                sources.dtype,
                targets.dtype,
                torch.is_autocast_enabled("cpu"),
                model(sources.expand(-1, 2, -1, -1)).dtype,
            )
        )
        return ivan.bidirectional_loss(model, sources, targets, *rest, **options)

    monkeypatch.setattr(objective, "bidirectional_loss", loss)
    run = train(precision="bf16-mixed", max_steps=1)
    assert seen == [(torch.float32, torch.float32, True, torch.float32)]
    for group in read_checkpoint(run).tensors.values():
        assert {tensor.dtype for tensor in group.values()} == {torch.float32}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_finite_stops_names_the_batch_and_keeps_good_weights(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls = []
    steady: dict[str, Any] = {
        "schedule": "step",
        "warmup_steps": 0,
    }  # rates that do not depend on the run's length

    def loss(*details: Any, **options: Any) -> Any:
        parts = ivan.bidirectional_loss(*details, **options)
        calls.append(1)
        if len(calls) == 4:
            bad = torch.full((), float("nan")) if where == "loss" else (parts["total"] * 0).sqrt()
            parts["total"] = parts["total"] + bad
        return parts

    monkeypatch.setattr(objective, "bidirectional_loss", loss)
    with pytest.raises(
        RunError, match=rf"step 4: the {where} is not finite on sub-\d\d slice \d.*step 3 are kept"
    ) as caught:
        train("run", **steady)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    plain = train("plain", max_steps=3, **steady)
    kept, good = (read_checkpoint(r).tensors["model"] for r in (plain.parent / "run", plain))
    assert all(torch.equal(kept[name], good[name]) for name in good)


def test_validation_draws_nothing_from_the_generators(train: Callable[..., Path]) -> None:
    often, never = (
        train(name, fill="noise", channels=3, validate_every=every, validate_epochs=0)
        for name, every in (("often", 1), ("never", 0))
    )
    a, b = (read_checkpoint(run).tensors["model"] for run in (often, never))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_every_setting_is_checked_and_documented() -> None:
    for item in fields(TrainConfig):
        assert item.metadata["help"].endswith((".", ")")), item.name
        if item.metadata["bounds"].get("at_least") == 0:
            with pytest.raises(InputError, match=item.name.replace("_", "-")):
                TrainConfig(
                    **{"data": "d", "sources": ("a",), "targets": ("b",), "out": "o", item.name: -1}
                ).check()


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# How to start two processes, in one go or once on each of two machines (here: twice on one).
LAUNCHERS = {
    "fabric": [[sys.executable, "-m", "ivan"]],
    "torchrun": [[*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "ivan"]],
    "machines": [
        [*TORCHRUN, "--nnodes", "2", "--node-rank", f"{rank}", "--master-addr", "127.0.0.1", "--master-port"]
        for rank in range(2)
    ],
}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes(tiny_data: Path, tmp_path: Path, launcher: str) -> None:
    run = tmp_path / "run"
    arguments = (
        f"train --data {tiny_data} --from T1 --to T2 --out {run} --blocks 1 --growth 4 --epochs 1".split()
    )
    arguments += ["--device", "cpu", "--threads", "1", "--no-tensorboard", "--quiet"]
    if launcher == "machines":
        arguments = [free_port(), "--nproc-per-node", "1", "-m", "ivan", *arguments]
    else:
        arguments += ["--devices", "2"]
    started = [
        subprocess.Popen([*start, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for start in LAUNCHERS[launcher]
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    state = read_checkpoint(run).state
    assert (state["processes"], state["step"], len(state["random"])) == (2, 3, 2)
    assert (run / "report.html").exists()


def test_one_modality_as_text(train: Callable[..., Path]) -> None:
    run = train(sources="T1", targets="T2", max_steps=1)
    assert TrainConfig.read(run / "config.json").sources == ("T1",)
    with pytest.raises(InputError, match="--from: 3 given, expected a list of names"):
        train("other", sources=3)


def test_resume_takes_the_images_given_now(train: Callable[..., Path], tiny_data: Path) -> None:
    roots = {name: str(tiny_data / name) for name in ("T1", "T2")}
    run = train(data="", roots=roots, max_steps=1)
    train(resume=True, data=str(tiny_data), max_steps=2)
    config = TrainConfig.read(run / "config.json")
    assert (config.data, config.roots) == (str(tiny_data), {})
    train(resume=True, roots=roots, max_steps=3)
    config = TrainConfig.read(run / "config.json")
    assert (config.data, config.roots) == ("", roots)


@pytest.mark.parametrize(("channels", "words"), [(2, "at least 3"), (17, "at most 16")])
def test_impossible_channels_are_refused_before_any_image_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], channels: int, words: str
) -> None:
    from ivan.cli import run as ivan

    line = (
        f"train --data {tmp_path / 'none'} --from T1 --from PD --from FLAIR --to T2 --out {tmp_path / 'run'}"
    )
    assert ivan([*line.split(), "--channels", str(channels)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
