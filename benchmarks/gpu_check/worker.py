"""The process that touches the device: one JSON request a line in, one answer a line out. When it dies (a
fault on the device ends a process for good) the run goes on with a new one."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import accuracy
import networks
import rates
import torch
from networks import Case
from supervisor import DOES_NOT_FIT
from timing import Stopwatch

SECONDS = {"cuda": 0.4, "cpu": 0.0}  # of repeated calls; 3 at least


def time_job(request: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
    """Median seconds of a job, and bytes that a call adds to model, gradients, optimiser and images."""
    device = watch.device
    case = Case(*(request[key] for key in ("size", "batch", "precision", "blocks")))
    call = networks.build(request["name"], case, request["job"], device)
    call()  # kernels are chosen, compiled and tried out in the first call, with memory of their own
    watch.synchronize()
    added, peak = None, None
    # The memory of a graph, and max-autotune makes one, is its pool's for good.
    if device.type == "cuda" and not request["name"].endswith(("graph", "compile")):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        watch.synchronize()
        peak = torch.cuda.max_memory_allocated(device)
        added = peak - before
    seconds, calls = watch.median(call, SECONDS[device.type], warmed_up=True)
    return {"seconds": seconds, "calls": calls, "added_bytes": added, "peak_bytes": peak}


def sanitize(device: torch.device) -> dict[str, Any]:
    """Every kernel once on awkward sizes, the dense block's in both forms: what compute-sanitizer watches."""
    for kernel in networks.KERNELS:
        networks.choose_kernel(kernel)
        for precision in networks.PRECISIONS:
            for size in (21, 32):
                model = networks.our_network(precision, device, blocks=1)
                x, y = networks.images(Case(size, 2, precision), device)
                networks.make_job(model, "step", x, y, precision)()
    return {"done": True}


def describe(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0], "device": "cpu"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    import ivan_fast

    return {**found, "ivan_fast": ivan_fast.build_info()}


def answer(request: dict[str, Any], watch: Stopwatch) -> Any:
    kind, device = request["kind"], watch.device
    if kind == "describe":
        return describe(device)
    if kind == "accuracy":
        return accuracy.against_float64(request["precision"], device, request["size"], request["blocks"])
    if kind == "official":
        return accuracy.official(device)
    if kind == "rates":
        return rates.measure(watch, request["tiny"])
    if kind == "time":
        return time_job(request, watch)
    if kind == "sanitize":
        return sanitize(device)
    raise ValueError(f"unknown request {kind!r}")


def main() -> None:
    device = torch.device(sys.argv[1])
    # Only answers go to the real standard output; whatever libraries print goes to the error stream.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watch = Stopwatch(device)
    for line in sys.stdin:
        try:
            reply = {"result": answer(json.loads(line), watch)}
        except torch.OutOfMemoryError:
            reply = {"error": DOES_NOT_FIT}
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            reply = {"error": f"{type(error).__name__}: {text}"}
        print(json.dumps(reply), file=answers, flush=True)
        gc.collect()
        if device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError:  # the device is lost to this process
                return


if __name__ == "__main__":
    main()
