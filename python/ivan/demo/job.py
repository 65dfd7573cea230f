"""The demo's job: data, training, both directions, evaluation against a pixelwise table, report."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ivan.errors import InputError, RunError

if TYPE_CHECKING:
    from ivan.evaluation import Evaluation
    from ivan.inference import Predictor
    from ivan.training import TrainConfig

SOURCES, TARGETS = ("T1", "PD"), ("T2",)
# MNI z in mm. The unseen slab, with the ventricles and the basal ganglia, keeps 8 mm from every other one.
TRAINING = {"lower": (-44.0, 2.0), "upper": (50.0, 72.0)}
VALIDATION = {"validation": (38.0, 42.0)}
UNSEEN = {"unseen": (10.0, 30.0)}
# A smaller network than the paper's (8 blocks, growth 32) and a higher learning rate: minutes, not a day.
BLOCKS, GROWTH, PATCH, LEARNING_RATE = 4, 16, 40, 3e-3
WARMUP = 60  # steps; without it the first ones at this rate throw the network far off
# T2's 99.9th percentile differs less between slabs with much and with little fluid than its 99.5th.
PERCENTILE = 99.9
FEWEST_STEPS, MOST_STEPS = 40, 3000
VALIDATIONS = 10
TABLE = "pixelwise table"

_MARK = "demo.json"
_OURS = ("data", "unseen", "run", "synthesized", "report.html", "README.txt", "metrics.json", _MARK)
_README = """What `ivan demo` wrote here

report.html          open it in a browser: images, metrics, curves, settings
data/MODALITY/       the slabs the network was trained and validated on
unseen/MODALITY/     the slab it never saw
synthesized/         T2 made from T1 and PD; T1 and PD made from T2 by the inverse of the same network
run/                 the run folder: weights, log, settings
metrics.json         the numbers of the report

T1 is the MNI152 2009a template (McConnell Brain Imaging Centre), an average of real scans, as it comes with
nilearn. T2 and PD are SIMULATED CONTRAST: computed from the template's grey and white matter maps by the
spin-echo equation with literature values of T1, T2 and proton density, a smooth bias field and noise. They
are not scans, and the numbers say nothing about real images. All slabs come from the same head.
"""


def run_demo(out: str | Path = "demo-run", *, minutes: float = 2.5, steps: int = 0, seed: int = 0) -> Path:
    """Do the whole job on embedded data: build, train, synthesise, invert, evaluate, report.

    Args:
        out: folder for everything; an earlier demo in it is replaced.
        minutes: time for training; the number of steps follows from the speed of this machine.
        steps: number of training steps instead.
        seed: of the simulated noise, the weights and the order of slices.

    Returns:
        The report.

    Raises:
        InputError: nilearn is absent, `out` is not empty and not an earlier demo, or a bad argument.
        RunError: something cannot be written.
    """
    if not 0 < minutes <= 24 * 60:
        raise InputError(f"--minutes: {minutes} given, expected more than 0 and at most a day")
    if steps < 0:
        raise InputError(f"steps: {steps} given, expected at least 1, or 0 for as many as fit the minutes")
    from .phantom import maps_folder

    out = Path(out)
    started = time.monotonic()
    maps_folder()  # before anything is written
    _prepare(out)
    _say(started, "1/5  Building volumes from the MNI152 template: T1 (real), T2 and PD (simulated contrast)")
    _build(out, seed)

    config = _config(out, seed)
    if not steps:
        _say(started, "2/5  Measuring how fast this machine trains")
        steps = steps_that_fit(config, minutes * 60)
    size = f"{BLOCKS} blocks, growth {GROWTH}; the paper: 8 blocks, growth 32, 300 epochs"
    _say(started, f"2/5  Training T1 + PD > T2 and back: {steps} steps ({size})")
    import ivan

    every = max(1, steps // VALIDATIONS)
    ivan.fit(
        config,
        max_steps=steps,
        epochs=steps,
        warmup_steps=min(WARMUP, steps // 5),
        validate_every=every,
        log_every=max(1, steps // 50),
    )

    _say(started, "3/5  Synthesising the unseen slab: T2 from T1 + PD, then T1 and PD from T2 by the inverse")
    for inverse in (False, True):
        ivan.synthesize(out / "run", out / "unseen", out / "synthesized", inverse=inverse)

    _say(started, "4/5  Evaluating against the best pixelwise table")
    result = ivan.evaluate(run=out / "run", data=out / "unseen")
    from ivan.inference import load_predictor

    predictor = load_predictor(out / "run")
    table = _with_baseline(result, predictor, out)
    report = _report(out, result, table, steps, round_trip(predictor, out))
    _say(started, "5/5  Done")
    _print_summary(table, out, report, print)
    return report


def _say(started: float, text: str) -> None:
    seconds = int(time.monotonic() - started)
    print(f"[{seconds // 60}:{seconds % 60:02d}] {text}", flush=True)


def _prepare(out: Path) -> None:
    """An empty folder; an earlier demo's files are removed, a stranger's never."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise InputError(f"{out}: not empty and not an earlier demo; choose a new folder with --out")
    try:
        for name in _OURS:
            path = out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARK).write_text('{"written by": "ivan demo"}\n', encoding="utf-8")
        (out / "README.txt").write_text(_README, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None


def _build(out: Path, seed: int) -> None:
    """Write the slabs and the split."""
    from .phantom import build_head, slab, write_slab

    head = build_head(seed=seed)
    for folder, parts in (("data", TRAINING | VALIDATION), ("unseen", UNSEEN)):
        for name, (low, high) in parts.items():
            write_slab(out / folder, name, slab(head, low, high))
    split = {"training": list(TRAINING), "validation": list(VALIDATION)}
    (out / "data" / "split.json").write_text(json.dumps(split), encoding="utf-8")


def _config(out: Path, seed: int) -> TrainConfig:
    from ivan.training import TrainConfig

    return TrainConfig(
        data=str(out / "data"),
        split=str(out / "data" / "split.json"),
        sources=SOURCES,
        targets=TARGETS,
        out=str(out / "run"),
        device="cpu",
        blocks=BLOCKS,
        growth=GROWTH,
        patch_size=PATCH,
        lr=LEARNING_RATE,
        last_scale=0.1,  # a start near the identity bears this learning rate
        schedule="cosine",
        percentile=PERCENTILE,
        validation_slices=0,
        tensorboard=False,
        seed=seed,
    )


def steps_that_fit(config: TrainConfig, seconds: float) -> int:
    """How many training steps of `config` this machine does in `seconds`, from a few timed ones."""
    import torch

    import ivan
    from ivan.training.build import build_model

    model, aug = build_model(config)
    sources = torch.rand(config.batch_size, len(config.sources), config.patch_size, config.patch_size)
    targets = torch.rand(config.batch_size, len(config.targets), config.patch_size, config.patch_size)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        ivan.bidirectional_loss(model, sources, targets, aug)["total"].backward()
        times.append(time.perf_counter() - start)
    # The first steps warm up, the median ignores disturbances; the optimiser and reading come on top.
    step = 1.15 * statistics.median(times[2:])
    return max(FEWEST_STEPS, min(MOST_STEPS, int(seconds / step) // 10 * 10))


def _with_baseline(result: Evaluation, predictor: Predictor, out: Path) -> Any:
    """The report's table with a line for the pixelwise table below each line of the network."""
    import numpy as np

    from ivan.data import find_cases
    from ivan.metrics import synthesis_metrics
    from ivan.report import MetricRow, MetricTable

    from .baseline import PixelTable

    names = (*SOURCES, *TARGETS)
    loaded = {case.name: predictor.load(case, names) for case in find_cases(out / "data", names)}
    seen = np.concatenate([loaded[name].slices for name in TRAINING])  # [S, 3, H, W]
    unseen = {case.name: predictor.load(case, names).slices for case in find_cases(out / "unseen", names)}
    table = result.to_table()
    rows = []
    for row in table.rows:
        given, _ = predictor.modalities(row.direction == "inverse")
        index, target = [names.index(name) for name in given], names.index(row.target)
        flat = seen.transpose(1, 0, 2, 3).reshape(len(names), -1)
        baseline = PixelTable.fit(flat[index], flat[target])
        stack = unseen[row.case]
        values = synthesis_metrics(
            stack[:, target], baseline.predict(stack[:, index].swapaxes(0, 1)), 1.0, axis=0
        )
        numbers = {name: float(value) for name, value in values.items()}
        rows += [row, MetricRow(row.case, row.target, numbers, row.direction, TABLE)]
    return MetricTable(table.columns, rows, table.protocol)


def round_trip(predictor: Predictor, out: Path) -> float:
    """Largest difference between the unseen sources and inverse(forward(sources)), in normalised units."""
    import torch

    from ivan.data import find_cases

    slices = predictor.load(find_cases(out / "unseen", SOURCES)[0], SOURCES).slices
    with torch.inference_mode():
        state = predictor.aug.augment_sources(torch.from_numpy(slices.copy()))
        return float((predictor.model.inverse(predictor.model(state)) - state).abs().max())


def _report(out: Path, result: Evaluation, table: Any, steps: int, error: float) -> Path:
    from ivan.evaluation import run_record
    from ivan.report import write_report
    from ivan.training.files import replace_json

    from .phantom import BIAS, ECHO_TIMES, NOISE, REPETITION_TIME, SIMULATED

    config, history = run_record(out / "run")
    rows = [{**vars(row), "values": dict(row.values)} for row in table.rows]
    replace_json(out / "metrics.json", {"protocol": result.protocol, "rows": rows})
    echoes = ", ".join(f"{name} TE {time:g} ms" for name, time in ECHO_TIMES.items())
    return write_report(
        out / "report.html",
        title="ivan demo: T1 + PD \u2192 T2 and back",
        summary=[
            "One invertible network was trained on slabs of the MNI152 head to synthesise T2 from T1 and PD. "
            "Its exact inverse, with the same weights, synthesises T1 and PD from T2. Images and numbers are "
            "of a slab it never saw, 8 mm or more from every slab it was trained on, of the same head.",
            f"This is a demonstration of minutes: {steps} steps of a network of {BLOCKS} blocks with growth "
            f"{GROWTH}; the paper's recipe is 300 epochs with 8 blocks and growth 32.",
        ],
        config=config,
        history=history,
        cases=result.views,
        metrics=table,
        notes=[
            f"Through the network and back, no value of the unseen slab changes by more than {error:.1e}.",
            f"T2 and PD: spin echo, TR {REPETITION_TIME:g} ms, {echoes}, 1.5 T, tissue values of the "
            f"BrainWeb simulator (Kwan et al., IEEE TMI 18(11), 1999), bias field \u00b1{BIAS:.0%}, Rician "
            f"noise {NOISE:.0%} of the CSF signal.",
            f'"{TABLE}": the least-squares best table from the source values of a pixel to its target value, '
            "fitted on the training slabs. What beats it was learnt from the neighbourhood of a pixel. T2 is "
            "computed from the same maps as PD, so forward the table comes close to what is possible at all.",
        ],
        simulated=SIMULATED,
    )


def _print_summary(table: Any, out: Path, report: Path, say: Callable[[str], None]) -> None:
    say("\nPSNR over the unseen slab (data range 1, background included; T2 and PD are simulated contrast):")
    say(f"  {'':24}{'iVAN':>10}{TABLE:>20}")
    pairs = zip(table.rows[::2], table.rows[1::2], strict=True)
    for network, baseline in pairs:
        given, made = (
            (TARGETS, network.target) if network.direction == "inverse" else (SOURCES, network.target)
        )
        label = f"{' + '.join(given)} > {made}" + (" (inverse)" if network.direction == "inverse" else "")
        say(f"  {label:24}{network.values['psnr']:>7.2f} dB{baseline.values['psnr']:>17.2f} dB")
    say(f"\nReport:  {report.resolve()}  (open it in a browser)")
    say(f"Images:  {(out / 'synthesized').resolve()}")
    say(f"Run:     {(out / 'run').resolve()}")
