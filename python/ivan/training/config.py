"""`TrainConfig`: every setting of a training run with its default. The command line is generated from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ivan.errors import InputError
from ivan.training.settings import check, setting

FUSED = "fused"  # the target of fusion without a label, and the folder of fused images
MOST_CHANNELS = 16  # of the state of `ivan.IVAN`
PRECISIONS = ("32", "bf16-mixed", "fp16-mixed")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; the defaults are the recipe of the iVAN paper.

    A frozen dataclass of plain values: `config.json` of a run holds exactly these fields. `check()` raises
    InputError for the first value that cannot be meant.
    """

    # Data
    task: str = setting(
        "synthesis",
        "Data",
        "fusion: one image of two modalities (short forms: 1to1, 2to1 ...).",
        choices=("synthesis", "fusion"),
    )
    data: str = setting(
        "",
        "Data",
        "Folder of the images (MODALITY/case.nii.gz, case_MODALITY.nii.gz, BIDS), or dataset.json.",
        on_resume=True,
    )
    sources: tuple[str, ...] = setting((), "Data", "Source modality; repeat for several.", flags=("--from",))
    targets: tuple[str, ...] = setting((), "Data", "Target modality; repeat for several.", flags=("--to",))
    out: str = setting("", "Data", "Run folder to write.")
    roots: dict[str, str] = setting(  # noqa: RUF009
        {}, "Data", "Folder of each modality, instead of --data (--root1/2/3).", on_resume=True
    )
    split: str = setting(
        "", "Data", "JSON file that names cases and slice ranges for training and validation."
    )
    validation: float = setting(
        0.2, "Data", "Share of the patients kept for validation (without --split).", at_least=0, below=1
    )
    plane: str = setting("axial", "Data", "Plane of the slices.", choices=("axial", "coronal", "sagittal"))
    normalise: str = setting(
        "percentile", "Data", "Intensity scale of each volume.", choices=("percentile", "none")
    )
    percentile: float = setting(99.5, "Data", "Foreground percentile that becomes 1.", above=50, at_most=100)
    context: int = setting(
        0, "Data", "Neighbouring slices on each side as further source channels.", at_least=0, at_most=7
    )
    crop: bool = setting(False, "Data", "Crop every slice to the foreground of its volume for training.")
    patch_size: int = setting(
        0, "Data", "Train on random patches of this many pixels a side; 0: whole slices.", at_least=0
    )
    flips: bool = setting(True, "Data", "Augment by flips.")
    turns: bool = setting(True, "Data", "Augment by quarter turns.")
    rotate: float = setting(0.0, "Data", "Augment by turns of up to this many degrees.", at_least=0)
    zoom: float = setting(0.0, "Data", "Augment by zooms of up to this share.", at_least=0, below=1)
    translate: float = setting(0.0, "Data", "Augment by shifts of up to this many pixels.", at_least=0)
    bias_field: float = setting(0.0, "Data", "Augment by a smooth field; 0.3 is realistic.", at_least=0)
    contrast: float = setting(0.0, "Data", "Augment by gamma of up to 1 + this.", at_least=0)
    brightness: float = setting(0.0, "Data", "Augment by factors of up to 1 + this.", at_least=0, below=1)
    intensity_on: str = setting(
        "inputs",
        "Data",
        "Images whose intensities are augmented; inputs: what each direction starts from.",
        choices=("inputs", "sources", "all"),
    )
    min_foreground: float = setting(
        0.02, "Data", "Skip training slices with less foreground than this share.", at_least=0, at_most=1
    )
    cache: str = setting(
        "memory", "Data", "Where decoded slices are kept.", choices=("memory", "disk"), on_resume=True
    )
    cache_dir: str = setting("", "Data", "Folder of --cache disk (default: RUN/cache).", on_resume=True)
    workers: int = setting(0, "Data", "Processes that prepare slices.", at_least=0, on_resume=True)

    # Network
    blocks: int = setting(8, "Network", "Invertible blocks.", at_least=1)
    growth: int = setting(32, "Network", "Channels that each convolution of a dense block adds.", at_least=1)
    channels: int = setting(
        0, "Network", "Channels of the state; 0: as many as the modalities need.", at_least=0
    )
    coupling_split: int = setting(1, "Network", "Channels in the first half of each coupling.", at_least=1)
    clamp: float = setting(0.8, "Network", "Bound of the coupling's log scale.", above=0)
    last_scale: float = setting(
        0.0,
        "Network",
        "First weights of each dense block's last convolution, times Xavier; 0: 1, or 8/blocks above 8.",
        at_least=0,
    )
    fill: str = setting(
        "copy",
        "Network",
        "What fills the spare channels of the shorter side.",
        choices=("copy", "zero", "noise"),
    )
    memory: str = setting(
        "invert", "Network", "What the backward pass keeps.", choices=("invert", "boundary", "store")
    )
    compute: str = setting(
        "",
        "Network",
        "Arithmetic of the dense blocks (default: fast, or by --precision).",
        choices=("", "strict", "fast", "bf16", "fp16", "tf32"),
    )

    # Loss
    recipe: str = setting(
        "notes",
        "Loss",
        "Loss preset: notes trains both directions, public is the public code's.",
        choices=("notes", "public"),
    )
    weight: float = setting(1.0, "Loss", "Weight of the forward term against the reverse term.", at_least=0)
    reverse_from: str = setting(
        "", "Loss", "Start of the reverse term (default: by --recipe).", choices=("", "target", "prediction")
    )
    supervise: str = setting(
        "", "Loss", "What is compared (default: by --recipe).", choices=("", "copies", "mean")
    )
    norm: str = setting(
        "", "Loss", "l2: mean squared error, l1: mean absolute error (default: l2).", choices=("", "l2", "l1")
    )

    ssim_weight: float = setting(
        0.0, "Loss", "Weight of 1 - SSIM of the predictions, added in both directions.", at_least=0
    )
    fusion_target: str = setting(
        "",
        "Loss",
        "Fusion without --to: a rule's image (default: laplacian), or a loss that needs none.",
        choices=("", "laplacian", "wavelet", "unsupervised"),
    )
    intensity_weight: float = setting(
        1.0, "Loss", "Unsupervised fusion: keep the brighter value.", at_least=0
    )
    gradient_weight: float = setting(1.0, "Loss", "Unsupervised fusion: keep the stronger edge.", at_least=0)
    structure_weight: float = setting(1.0, "Loss", "Unsupervised fusion: keep local structure.", at_least=0)

    # Optimisation
    epochs: int = setting(300, "Optimisation", "Passes over the training slices.", at_least=1, on_resume=True)
    max_steps: int = setting(
        0, "Optimisation", "Stop after this many steps, if sooner; 0: no limit.", at_least=0, on_resume=True
    )
    batch_size: int = setting(1, "Optimisation", "Slices a step and process.", at_least=1)
    lr: float = setting(1e-4, "Optimisation", "Learning rate of Adam.", above=0, on_resume=True)
    schedule: str = setting(
        "step",
        "Optimisation",
        "step: multiply by --lr-factor every --lr-every epochs; cosine: to zero.",
        choices=("step", "cosine"),
        on_resume=True,
    )
    lr_factor: float = setting(
        0.5, "Optimisation", "Factor of the step schedule.", above=0, at_most=1, on_resume=True
    )
    lr_every: int = setting(
        50, "Optimisation", "Epochs between two steps of the schedule.", at_least=1, on_resume=True
    )
    warmup_steps: int = setting(
        0, "Optimisation", "Steps over which the learning rate rises linearly.", at_least=0
    )
    clip: float = setting(
        1.0, "Optimisation", "Largest norm of the gradient; 0: no clipping.", at_least=0, on_resume=True
    )
    weight_decay: float = setting(0.0, "Optimisation", "Weight decay of Adam (L2 penalty).", at_least=0)
    ema: float = setting(
        0.0,
        "Optimisation",
        "Decay of a running average of the weights, which is then what is used; 0: off.",
        at_least=0,
        below=1,
    )
    init: str = setting(
        "",
        "Optimisation",
        "Start from these weights: run folder, .safetensors or public .pth.",
        flags=("--ckpt",),
    )

    # Run
    device: str = setting(
        "auto", "Run", "auto: a CUDA GPU where there is one.", choices=("auto", "cpu", "cuda"), on_resume=True
    )
    devices: int = setting(
        1, "Run", "Processes, one a device; more than one trains data-parallel.", at_least=1
    )
    precision: str = setting("32", "Run", "Arithmetic of the dense blocks.", choices=PRECISIONS)
    threads: int = setting(0, "Run", "CPU threads; 0: as PyTorch chooses.", at_least=0, on_resume=True)
    seed: int = setting(0, "Run", "Seed of weights, order and augmentation.", at_least=0)

    # Log
    log_every: int = setting(
        10, "Log", "Steps between two lines of metrics.jsonl.", at_least=1, on_resume=True
    )
    validate_every: int = setting(
        0, "Log", "Steps between two validations; 0: by --validate-epochs.", at_least=0, on_resume=True
    )
    validate_epochs: int = setting(
        1, "Log", "Epochs between two validations; 0: only at the end.", at_least=0, on_resume=True
    )
    validation_slices: int = setting(
        16, "Log", "Slices a validation looks at; 0: all.", at_least=0, on_resume=True
    )
    checkpoint_every: int = setting(
        0, "Log", "Steps between two checkpoints; 0: by --checkpoint-minutes.", at_least=0, on_resume=True
    )
    checkpoint_minutes: float = setting(
        10.0, "Log", "Minutes between two checkpoints; 0: only at the end.", at_least=0, on_resume=True
    )
    keep: int = setting(3, "Log", "Checkpoints to keep.", at_least=1, on_resume=True)
    tensorboard: bool = setting(True, "Log", "Write TensorBoard events.", on_resume=True)

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
        """Self, with what a fusion run without a label implies: the target "fused", made by a rule."""
        if (
            self.task != "fusion"
            or self.targets not in ((), (FUSED,))
            or (self.targets and not self.fusion_target)
        ):
            return self
        return replace(self, targets=(FUSED,), fusion_target=self.fusion_target or "laplacian")

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
