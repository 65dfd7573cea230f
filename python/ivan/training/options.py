"""Every setting of a training run with its default, help and bounds, in the groups that `--help` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ivan.training.settings import setting

PRECISIONS = ("32", "bf16-mixed", "fp16-mixed")
# What a recipe means beside the loss (`ivan.losses.LOSS_RECIPES`), where an option is not given: `notes` as
# docs/results.md measured it, `public` as the published code. A last_scale of 0 is that of `ivan.IVAN`.
RECIPES: dict[str, dict[str, Any]] = {
    "notes": {
        "lr": 2e-3,
        "schedule": "cosine",
        "warmup_steps": -1,
        "last_scale": 0.1,
        "mix_start": "identity",
    },
    "public": {"lr": 1e-4, "schedule": "step", "warmup_steps": 0, "last_scale": 0.0, "mix_start": "rotation"},
}
TUNING_RATE = 1e-4  # for weights that were trained already (--init): they do not start near the identity
WARMUP_SHARE = 0.03  # of all steps, where warmup_steps is -1


@dataclass(frozen=True)
class DataOptions:
    """What is read, and how slices are made of it and changed."""

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
        "auto",
        "Data",
        "Intensity scale of each volume; auto: percentile, but in fusion none for PNG and colours.",
        choices=("auto", "percentile", "none"),
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


@dataclass(frozen=True)
class NetworkOptions:
    """The network: its shape, its start, what it computes with."""

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
        "First weights of each dense block's last convolution, times Xavier; public: 1, or 8/blocks above 8.",
        at_least=0,
    )
    mix_start: str = setting(
        "",
        "Network",
        "How the 1x1 convolutions start.",
        choices=("", "identity", "rotation"),
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


@dataclass(frozen=True)
class LossOptions:
    """What training minimises."""

    recipe: str = setting(
        "notes",
        "Loss",
        "Preset of loss, start and rates: notes trains both directions, public is the public code's.",
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


@dataclass(frozen=True)
class OptimisationOptions:
    """How long and how the weights are changed."""

    epochs: int = setting(300, "Optimisation", "Passes over the training slices.", at_least=1, on_resume=True)
    max_steps: int = setting(
        0, "Optimisation", "Stop after this many steps, if sooner; 0: no limit.", at_least=0, on_resume=True
    )
    batch_size: int = setting(1, "Optimisation", "Slices a step and process.", at_least=1)
    lr: float = setting(0.0, "Optimisation", "Learning rate of Adam.", at_least=0, on_resume=True)
    schedule: str = setting(
        "",
        "Optimisation",
        "cosine: to zero; step: times --lr-factor every --lr-every epochs.",
        choices=("", "step", "cosine"),
        on_resume=True,
    )
    lr_factor: float = setting(
        0.5, "Optimisation", "Factor of the step schedule.", above=0, at_most=1, on_resume=True
    )
    lr_every: int = setting(
        50, "Optimisation", "Epochs between two steps of the schedule.", at_least=1, on_resume=True
    )
    warmup_steps: int = setting(
        -1,
        "Optimisation",
        "Steps over which the learning rate rises linearly; -1: 3 % of all.",
        at_least=-1,
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


@dataclass(frozen=True)
class RunOptions:
    """Where and with what it runs."""

    device: str = setting(
        "auto", "Run", "auto: a CUDA GPU where there is one.", choices=("auto", "cpu", "cuda"), on_resume=True
    )
    devices: int = setting(
        1, "Run", "Processes, one a device; more than one trains data-parallel.", at_least=1
    )
    precision: str = setting("32", "Run", "Arithmetic of the dense blocks.", choices=PRECISIONS)
    threads: int = setting(0, "Run", "CPU threads; 0: as PyTorch chooses.", at_least=0, on_resume=True)
    seed: int = setting(0, "Run", "Seed of weights, order and augmentation.", at_least=0)


@dataclass(frozen=True)
class LogOptions:
    """What is written while it runs."""

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
