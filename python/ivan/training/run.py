"""`fit`: one training run from settings to a run folder."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ivan.data import CaseRange, SliceDataset
from ivan.data.writing import remove_leftovers
from ivan.errors import InputError
from ivan.training.build import build_model, choose_device, load_weights_from
from ivan.training.checkpoint import clean, has_checkpoint, read_checkpoint
from ivan.training.config import TrainConfig
from ivan.training.data import Batches, RunData, load_data, write_normalisation
from ivan.training.files import replace_json, resume_command
from ivan.training.log import RunLog
from ivan.training.loop import Trainer
from ivan.training.settings import flag
from ivan.training.stop import Stopped, StopRequest


def fit(
    config: TrainConfig | None = None, *, resume: bool = False, progress: bool = True, **settings: Any
) -> Path:
    """Train a network and return its run folder, as `ivan train` does.

    The run folder receives config.json, split.json, normalisation.json, metrics.jsonl, checkpoint/, images/,
    tensorboard/ and report.html.

    Args:
        config: the settings; None for the defaults.
        resume: continue the run in `out` from its last checkpoint. Other settings are then those of its
            config.json; only those that TrainConfig marks as changeable on resume may differ.
        progress: show progress on standard output.
        settings: fields of `TrainConfig` that replace those of `config`.

    Returns:
        The run folder.

    Raises:
        InputError: settings or data that cannot be used, or a run folder that is not empty (without
            `resume`). RunError: training failed: a loss that is not finite, a full disk. Stopped: Ctrl-C or
            SIGTERM; a KeyboardInterrupt, raised after a checkpoint was written.
    """
    config = _resolve(config, resume, settings)
    run = Path(config.out)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = _fabric(config, device)
    first = fabric.is_global_zero
    say = print if progress and first else _silent
    started = resume and has_checkpoint(run)
    data = load_data(config, run / "split.json" if started else None, say)
    model, aug = build_model(config)
    if config.init and not started:
        load_weights_from(model, Path(config.init), say)
    batches = Batches(data.training, config, fabric.device, fabric.global_rank, fabric.world_size)
    torch.manual_seed(config.seed + fabric.global_rank)  # noise in dummy channels differs between processes
    trainer = Trainer(config, fabric, run, model, aug, batches, data.validation)
    if first:
        clean(run)
        for folder in (run, run / "checkpoint", run / "images", Path(config.cache_dir or run / "cache")):
            remove_leftovers(folder)
        replace_json(run / "config.json", config.to_json())
        if not started:
            data.split.save(run / "split.json")
            write_normalisation(run / "normalisation.json", config, data)
    fabric.barrier()
    if started:
        trainer.load(read_checkpoint(run, notice=say))
        say(f"continuing from step {trainer.step}")
    say(
        f"{'+'.join(config.sources)} > {'+'.join(config.targets)}: {len(data.training)} training slices, "
        f"{len(data.validation) if data.validation else 0} for validation, "
        f"{trainer.total_steps} steps on {fabric.device}"
    )
    log = RunLog(
        run,
        trainer.step,
        trainer.total_steps,
        tensorboard=config.tensorboard,
        progress=progress and first,
        enabled=first,
    )
    with StopRequest(log.say) as stop:
        try:
            trainer.train(log, stop)
        finally:
            log.close()
        if stop.requested and trainer.step < trainer.total_steps:
            raise Stopped(
                f"stopped at step {trainer.step}, all is saved; go on with: {resume_command(Path(run))}",
                stop.number,
            )
    if first:
        _report(run, config, trainer, data)
    if trainer.trained:
        say(f"{100 * trainer.waited / trainer.trained:.1f} % of the time was spent waiting for data")
    say(f"done: {run / 'report.html'}")
    return run


def _resolve(config: TrainConfig | None, resume: bool, settings: dict[str, Any]) -> TrainConfig:
    """The checked settings of this call; on resume those of the run folder with the allowed changes."""
    known = {item.name: item for item in fields(TrainConfig)}
    if strange := sorted(set(settings) - set(known)):
        raise InputError(f"{strange[0]}: no such setting; ivan.TrainConfig lists them")
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    for name in ("sources", "targets"):
        if isinstance(settings.get(name), str):  # one modality
            settings[name] = (settings[name],)
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in settings.items()}
    if settings.get("lr") == 0:  # as a default it means "by recipe"
        raise InputError("--lr: 0 given, must be above 0; leave it out for the rate of --recipe")
    asked = replace(config or TrainConfig(), **settings)
    if not asked.out:
        raise InputError("--out: no run folder given; name a new folder for the run")
    run = Path(asked.out)
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: is a file, expected a folder for the run; choose another --out")
    asked = asked.completed()
    if not resume:
        asked.check()
        if not _is_child() and run.exists() and any(not _leftover(path) for path in run.iterdir()):
            raise InputError(
                f"{run}: the run folder is not empty; choose a new --out, or continue its run with --resume"
            )
        return asked
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder to resume; leave out --resume to start a new run")
    stored = replace(TrainConfig.read(run / "config.json"), out=asked.out)
    given = {item.name for item in fields(TrainConfig)} if config is not None else set(settings)
    changes = {name: getattr(asked, name) for name in given if getattr(asked, name) != getattr(stored, name)}
    for name in sorted(changes):
        if not known[name].metadata["on_resume"]:
            raise InputError(
                f"{flag(known[name])}: {changes[name]!r} given, but {run} was started with "
                f"{getattr(stored, name)!r}; leave the option out, or start a new run"
            )
    if settings.get("data") and not settings.get("roots"):
        changes["roots"] = {}  # folders of an earlier start must not win over the folder given now
    if settings.get("roots") and not settings.get("data"):
        changes["data"] = ""
    return replace(stored, **changes).check()


def _leftover(path: Path) -> bool:
    """A temporary file: all there is where a run was killed before its config.json."""
    return path.name.startswith(".") and path.suffix == ".part"


def _is_child() -> bool:
    """Whether this is a process that Fabric or torchrun started beside the first one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) != 0


def _fabric(config: TrainConfig, device: torch.device) -> Any:
    """A launched Lightning Fabric for the devices and the precision of a run."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision

    class FloatState(MixedPrecision):
        """Mixed precision that leaves inputs alone: dense blocks compute in 16 bits, the state does not."""

        def convert_input(self, data: Any) -> Any:
            return data

    plugins: list[Any] = []
    if config.precision != "32":
        kind: Any = {"bf16-mixed": "bf16-mixed", "fp16-mixed": "16-mixed"}[config.precision]
        plugins.append(FloatState(kind, device.type))
    devices, nodes = config.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has started the processes already
        devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            f"--devices: {devices} given, this machine has {torch.cuda.device_count()} CUDA devices"
        )
    # Fabric's hints (use all GPUs, set float32 precision) do not fit here.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            plugins=plugins or None,
        )
        fabric.launch()
    return fabric


def _silent(line: str) -> None:
    """Say nothing."""


def _report(run: Path, config: TrainConfig, trainer: Trainer, data: RunData) -> None:
    """Write report.html: curves, configuration, and the network on the first validation case."""
    from ivan.environment import collect
    from ivan.evaluation import Evaluation, run_record
    from ivan.evaluation.run import evaluate_cases
    from ivan.inference import load_predictor
    from ivan.report import write_report

    _, history = run_record(run)
    found: Any = Evaluation([], {})
    if data.validation is not None:
        shown = _middle(data.split.validation[0], data.validation, config.validation_slices)
        predictor = load_predictor(run, device=config.device)
        try:
            if config.task == "fusion":
                from ivan.fusion.job import preview

                found = preview(predictor, shown.case)
            else:
                found = evaluate_cases(predictor, [shown])
        except InputError as error:  # slices too small to measure must not fail a run that has trained
            logging.getLogger("ivan").warning("report without images: %s", error)
    write_report(
        run / "report.html",
        title=f"{' + '.join(config.sources)} to {' + '.join(config.targets)}",
        summary=[f"{trainer.step} steps, {trainer.steps_per_epoch} an epoch. Images: a validation case."],
        config=config.to_json(),
        history=history,
        cases=found.views,
        metrics=found.to_table() if found.views else None,
        notes=data.notes,
        warnings=found.warnings,
        environment={"Trained on": {"device": str(trainer.device)}, **collect()},
    )


def _middle(item: CaseRange, dataset: SliceDataset, wanted: int) -> CaseRange:
    """The `wanted` slices in the middle of a case range; the whole range for 0."""
    numbers = [number for name, number in dataset.entries if name == item.case.name]
    start, stop = item.bounds(max(numbers) + 1)
    extra = max(0, stop - start - wanted) if wanted else 0
    return CaseRange(item.case, start + extra // 2, stop - (extra + 1) // 2)
