"""What counts as a run's time, and that a stopped run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def test_the_cpu_clock_counts_work_and_not_waiting(quality: Any) -> None:
    import time

    from quality_lib.train import CLOCKS

    begin = {name: clock() for name, clock in CLOCKS.items()}
    time.sleep(0.3)
    spent = {name: clock() - begin[name] for name, clock in CLOCKS.items()}
    assert spent["wall"] >= 0.3
    assert spent["cpu"] < 0.2


def test_a_stopped_run_goes_on_where_it_was(quality: Any, ixi: Path, tmp_path: Path) -> None:
    from quality_lib.methods import Size, build
    from quality_lib.plans import ixi_plan
    from quality_lib.train import Budget, _batches, train

    from ivan.errors import InputError

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    budget = Budget(0.1, batch=2, patch=12)
    whole = _batches(plan, budget, 3, 0)
    skipped = [next(whole) for _ in range(9)][-1]
    again = next(_batches(plan, budget, 3, 8))  # of a later epoch
    assert torch.equal(skipped["source"], again["source"])
    path = tmp_path / "x.pt"
    method = build("ivan", 1, 1, Size(1, 2), 0)
    assert method is not None
    first = train(method, plan, budget, 0, path, print)
    fresh = build("ivan", 1, 1, Size(1, 2), 0)
    assert fresh is not None
    same = train(fresh, plan, budget, 0, path, print)  # the budget is spent: only loaded
    assert same["steps"] == first["steps"]
    x = plan.load(plan.measured[0])[1][:, :1]
    with torch.no_grad():
        made = [m.forward_predict(torch.from_numpy(x.copy())) for m in (method, fresh)]
    assert torch.equal(*made)
    assert same["last_loss"] == first["last_loss"]
    with pytest.raises(InputError, match="was begun with budget"):  # its rate has come down to zero by now
        train(fresh, plan, Budget(2 * same["seconds"] + 0.05, batch=2, patch=12), 0, path, print)
    larger = build("ivan", 1, 1, Size(1, 3), 0)
    assert larger is not None
    with pytest.raises(InputError, match="weights of another --blocks or --growth"):
        train(larger, plan, budget, 0, path, print)
    with pytest.raises(InputError, match="another experiment"):
        train(fresh, ixi_plan(ixi, ("T1",), ("PD",)), budget, 0, path, print)


def test_ctrl_c_saves_and_the_same_command_goes_on(
    quality: Any,
    tiny: list[str],
    ixi: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os
    import signal

    from quality_lib.methods import Invertible

    loss, calls = Invertible.loss, []

    def interrupted(self: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch)

    monkeypatch.setattr(Invertible, "loss", interrupted)
    out = tmp_path / "out"
    line = ["run", "ixi", "--data", str(ixi), "--from", "T1", "--to", "T2", "--out", str(out), *tiny]
    line += ["--methods", "ivan", "--seeds", "7", "--minutes", "0.02"]
    assert quality.main(line) == 130
    said = capsys.readouterr()
    assert "of 1 s; the same command goes on" in said.err
    assert "Traceback" not in said.err
    assert not list(out.glob("results/*"))
    assert quality.main(line) == 0
    assert "step 4" in capsys.readouterr().out
    found = json.loads((out / "results" / "ivan-seed7.json").read_text())
    assert found["training"]["steps"] == len(calls)  # none is lost or repeated
    assert np.isfinite(found["training"]["last_loss"])


def test_decoding_does_not_count(quality: Any, ixi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a run begins with its first batch, not with the volumes that are read before."""
    from quality_lib import train
    from quality_lib.plans import ixi_plan

    import ivan.data

    made = []
    real = ivan.data.SliceDataset
    monkeypatch.setattr(ivan.data, "SliceDataset", lambda *a, **k: made.append(1) or real(*a, **k))
    train._batches(ixi_plan(ixi, ("T1",), ("T2",)), train.Budget(1, patch=12), 0, 0)
    assert made == [1]
