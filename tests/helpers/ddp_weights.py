"""Trains in one, two and four processes (gloo) with one global batch and prints how far the weights differ.

    python tests/helpers/ddp_weights.py DATA OUT

The trainer is that of `ivan train`, with float64 and plain SGD, in which rounding stays far below 1e-9.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # processes are forked: there must be no thread pool

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from ivan.training import TrainConfig
from ivan.training.build import build_model
from ivan.training.data import Batches, load_data
from ivan.training.log import RunLog
from ivan.training.loop import Trainer
from ivan.training.stop import StopRequest

GLOBAL_BATCH = 4


class SgdTrainer(Trainer):
    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.config.lr)


class DoubleBatches:
    """Batches in float64; `joined` consecutive ones become one, as that many processes see them together."""

    def __init__(self, batches: Batches, joined: int) -> None:
        self.batches, self.joined = batches, joined

    def __len__(self) -> int:
        return len(self.batches) // self.joined

    def epoch(self, epoch: int, position: int) -> Iterator[tuple[dict[str, torch.Tensor], list[str]]]:
        group: list[tuple[dict[str, torch.Tensor], list[str]]] = []
        for item in self.batches.epoch(epoch, position * self.joined):
            group.append(item)
            if len(group) == self.joined:
                keys = group[0][0]
                yield (
                    {k: torch.cat([b[k] for b, _ in group]).double() for k in keys},
                    [n for _, ns in group for n in ns],
                )
                group = []


def train(fabric: Any, config: TrainConfig, run: str, joined: int) -> None:
    torch.set_num_threads(1)
    data = load_data(config, None)
    model, aug = build_model(config)
    batches = Batches(data.training, config, fabric.device, fabric.global_rank, fabric.world_size)
    trainer = SgdTrainer(config, fabric, Path(run), model.double(), aug, DoubleBatches(batches, joined), None)
    log = RunLog(Path(run), 0, trainer.total_steps, tensorboard=False, progress=False, enabled=False)
    trainer.train(log, StopRequest(lambda line: None))


def weights(data: str, out: Path, processes: int, batch: int, joined: int = 1) -> dict[str, torch.Tensor]:
    run = out / f"{processes}-{batch}-{joined}"
    run.mkdir(parents=True)
    config = TrainConfig(
        data=data,
        sources=("T1",),
        targets=("T2", "PD"),
        out=str(run),
        validation=0.0,
        blocks=2,
        growth=4,
        epochs=2,
        batch_size=batch,
        lr=0.05,
        clip=0.5,
        compute="strict",
    ).check()
    strategy = "ddp_fork" if processes > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=processes, strategy=strategy, precision="64-true")
    fabric.launch(train, config, str(run), joined)
    (folder,) = (run / "checkpoint").glob("step-*")
    return load_file(folder / "model.safetensors")


def main() -> None:
    data, out = sys.argv[1], Path(sys.argv[2])
    found = {}
    start = None
    for processes in (2, 4):
        own = GLOBAL_BATCH // processes
        many = weights(data, out, processes, own)
        one = weights(data, out, 1, own, joined=processes)
        start = start or one
        found[processes] = max(float((many[name] - one[name]).abs().max()) for name in one)
        found[f"{processes} dtype"] = str(next(iter(many.values())).dtype)
    torch.manual_seed(0)
    config = TrainConfig(
        data=data, sources=("T1",), targets=("T2", "PD"), out="x", blocks=2, growth=4, compute="strict"
    )
    first = build_model(config)[0].double().state_dict()
    assert start is not None
    found["moved"] = max(float((start[name] - first[name]).abs().max()) for name in first)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
