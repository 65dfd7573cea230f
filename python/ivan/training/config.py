"""`TrainConfig`: every setting of a training run, checked. The command line is generated from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ivan.errors import InputError
from ivan.training.options import (
    RECIPES,
    TUNING_RATE,
    DataOptions,
    LogOptions,
    LossOptions,
    NetworkOptions,
    OptimisationOptions,
    RunOptions,
)
from ivan.training.settings import check

FUSED = "fused"  # the target of fusion without a label, and the folder of fused images
MOST_CHANNELS = 16  # of the state of `ivan.IVAN`


@dataclass(frozen=True)
class TrainConfig(LogOptions, RunOptions, OptimisationOptions, LossOptions, NetworkOptions, DataOptions):
    """Settings of one training run. `ivan.training.options` holds them, by group, with their defaults.

    A frozen dataclass of plain values: `config.json` of a run holds exactly these fields. `check()` raises
    InputError for the first value that cannot be meant; `completed()` fills in what depends on others.
    """

    def check(self) -> TrainConfig:
        """Return self, or raise InputError that names the first option that cannot be meant."""
        for item in fields(self):
            check(item, getattr(self, item.name))
        if not self.sources or not self.targets:
            missing = "--from" if not self.sources else "--to"
            raise InputError(
                f"{missing}: no modality given; name it as in the data folder, for example {missing} T1"
            )
        names = [*self.sources, *self.targets]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"--from/--to: {min(twice)} is named twice; name every modality once")
        if not self.out:
            raise InputError("--out: no run folder given; name a new folder for the run")
        if not self.data and not self.roots:
            raise InputError("--data: no folder of images given; see 'ivan train --help' for its layout")
        if missing_roots := [n for n in self.file_modalities if self.roots and n not in self.roots]:
            raise InputError(
                f"--root1/2/3: no folder for {missing_roots[0]}; give one folder for each modality"
            )
        self._check_fusion()
        needed = max(self.source_channels, len(self.targets), 2)
        if needed > MOST_CHANNELS:
            raise InputError(
                f"--context: {len(self.sources)} sources with {self.context} neighbours on each side are "
                f"{needed} "
                f"channels, at most {MOST_CHANNELS} are possible; give a smaller --context or fewer "
                "modalities"
            )
        if self.channels and self.channels < needed:
            raise InputError(f"--channels: {self.channels} given, these modalities need at least {needed}")
        if self.channels > MOST_CHANNELS:
            raise InputError(f"--channels: {self.channels} given, at most {MOST_CHANNELS} are possible")
        if self.coupling_split >= max(self.channels, needed):
            raise InputError(
                f"--coupling-split: {self.coupling_split} given, "
                f"must be below the {max(self.channels, needed)} channels"
            )
        return self

    def _check_fusion(self) -> None:
        if self.task != "fusion":
            if self.fusion_target:
                raise InputError("--fusion-target: goes with --task fusion; leave it out")
            return
        if len(self.sources) != 2 or len(self.targets) != 1:
            raise InputError(
                f"--task fusion: {len(self.sources)} sources and {len(self.targets)} targets given, expected "
                "two "
                "--from and at most one --to (the label)"
            )
        if self.fusion_target and self.targets != (FUSED,):
            raise InputError(
                f"--fusion-target: given together with the label --to {self.targets[0]}; give one of them"
            )
        unsupervised = self.fusion_target == "unsupervised"
        if unsupervised and not (self.intensity_weight or self.gradient_weight or self.structure_weight):
            raise InputError(
                "--intensity-weight: all weights of the unsupervised loss are 0; raise one of them"
            )
        if unsupervised and self.ssim_weight:
            raise InputError(
                "--ssim-weight: needs a target; use --structure-weight with this --fusion-target"
            )

    def completed(self) -> TrainConfig:
        """Self with what its recipe implies, and fusion without a label: a target made by a rule."""
        whole = self._by_recipe()
        if self.task != "fusion" and self.normalise == "auto":
            whole = replace(whole, normalise="percentile")
        if (
            self.task != "fusion"
            or self.targets not in ((), (FUSED,))
            or (self.targets and not self.fusion_target)
        ):
            return whole
        return replace(whole, targets=(FUSED,), fusion_target=self.fusion_target or "laplacian")

    def _by_recipe(self) -> TrainConfig:
        implied = dict(RECIPES.get(self.recipe, {}))  # `check` names an unknown one
        if self.init:
            implied["lr"] = TUNING_RATE
        not_given = {"lr": 0.0, "schedule": "", "warmup_steps": -1, "last_scale": 0.0, "mix_start": ""}
        return replace(
            self, **{name: value for name, value in implied.items() if getattr(self, name) == not_given[name]}
        )

    @property
    def source_channels(self) -> int:
        """Channels that the sources take: one a modality and slice of the context."""
        return len(self.sources) * (2 * self.context + 1)

    @property
    def file_modalities(self) -> tuple[str, ...]:
        """The modalities that a training case must have files of."""
        return self.sources if self.fusion_target else (*self.sources, *self.targets)

    @property
    def loss_options(self) -> dict[str, Any]:
        """Keyword arguments of `ivan.bidirectional_loss`."""
        options = {"reverse_from": self.reverse_from, "supervise": self.supervise, "norm": self.norm}
        given = {name: value for name, value in options.items() if value}
        return {"recipe": self.recipe, "weight": self.weight, "ssim_weight": self.ssim_weight, **given}

    @property
    def fusion_options(self) -> dict[str, Any] | None:
        """Keyword arguments of `ivan.fusion.loss.fusion_loss`; None where a target is trained on."""
        if self.fusion_target != "unsupervised":
            return None
        names = ("weight", "intensity_weight", "gradient_weight", "structure_weight")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Plain values for `config.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any, path: Path | str = "config.json") -> TrainConfig:
        """A checked config from the content of `config.json`; InputError names `path` where it is none."""
        if not isinstance(values, dict):
            raise InputError(
                f"{path}: expected a JSON object of training settings; is this a run folder of ivan train?"
            )
        known = {item.name: item for item in fields(cls)}
        if strange := sorted(set(values) - set(known)):
            raise InputError(
                f"{path}: unknown setting '{strange[0]}'; was it written by another version of ivan?"
            )
        clean: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        try:
            return cls(**clean).check()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Read and check a `config.json`."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); expected the run folder of ivan train"
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise InputError(
                f"{path}: not valid JSON; the run's configuration is damaged, train anew"
            ) from None
        return cls.from_json(values, path)
