"""The fresh process of `ivan.benchmark.memory`: does a list of jobs and prints the peak after each."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from ivan.benchmark.case import Case
from ivan.benchmark.implementations import build
from ivan.benchmark.jobs import adam, full_float32, job
from ivan.benchmark.memory import peak


def work(order: dict[str, Any]) -> list[int]:
    """Peaks after one 16x16 step and after each job of `order` (`ivan.benchmark.memory.measure`), bytes."""
    torch.set_num_threads(order["threads"])
    torch.manual_seed(0)
    full_float32()
    jobs = [(Case(**entry["case"]), entry["job"]) for entry in order["jobs"]]
    first = jobs[0][0]
    model = build(order["name"], first)
    optimizer = adam(model)  # one for all jobs: its state is in the baseline
    job("step", model, first.at(16, batch=1), optimizer)()
    peaks = [peak(first.device)]
    for case, name in jobs:
        job(name, model, case, optimizer)()
        peaks.append(peak(case.device))
    return peaks


if __name__ == "__main__":
    try:
        print(json.dumps(work(json.loads(sys.argv[1]))))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
