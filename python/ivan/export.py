"""`ivan export`: one direction of a trained network as one file that PyTorch alone can run.

The program holds plain ATen operations and the weights. Neither `ivan` nor `ivan_fast` is needed to run it:

    import torch
    program = torch.export.load("t1_to_t2.pt2", extra_files=(extra := {"ivan.json": ""}))
    made = program.module()(images)   # [S, channels given, H, W] -> [S, channels made, H, W] float32

`extra["ivan.json"]` then says which modality and neighbouring slice each channel is, how images are
normalised before and scaled after.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ivan.data.context import offsets as slice_offsets
from ivan.errors import InputError
from ivan_fast import reference
from ivan_fast.modules import AffineCoupling, DenseBlock, InvertibleBlock

if TYPE_CHECKING:
    from ivan.inference import Predictor


class PortableDirection(nn.Module):
    """One direction of an IVAN in plain PyTorch, with its variable augmentation and clipping.

    Args:
        predictor: the trained network; its weights are copied.
        inverse: from targets to sources.
        state: the network's whole output in place of the targets: returned, or for `inverse` taken.
    """

    low: Tensor

    def __init__(self, predictor: Predictor, inverse: bool, state: bool = False) -> None:
        super().__init__()
        self.aug, self.inverse, self.state = predictor.aug, inverse, state
        names = predictor.modalities(inverse)[1]
        # As `Predictor.predict`: nothing below 0 where the training images had nothing below.
        low = [0.0 if predictor.nonnegative(name) else -torch.inf for name in names]
        self.made, self.high = len(names), torch.inf
        self.given = len(predictor.modalities(inverse)[0])  # the slice itself; its neighbours come after
        self.fusing = predictor.config.task == "fusion" and not inverse
        if self.fusing:  # as `ivan fuse`: a fused image is from 0 to 1, and 0 where both sources are
            low, self.high = [0.0] * self.made, 1.0
        self.register_buffer("low", torch.tensor(low).reshape(1, -1, 1, 1))
        blocks = list(predictor.model.chain.blocks)
        self.blocks = nn.ModuleList(
            _Block(block, inverse) for block in (reversed(blocks) if inverse else blocks)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[S, channels given, H, W] float32 to [S, channels made, H, W] float32."""
        if self.inverse:
            state = images if self.state else self.aug.augment_targets(images)
        else:
            state = self.aug.augment_sources(images)
        for block in self.blocks:
            state = block(state)
        if self.state and not self.inverse:
            return state
        made = self.aug.collapse_sources(state) if self.inverse else self.aug.collapse_targets(state)
        made = made[:, : self.made]  # the slice itself, not its neighbours
        if self.state:  # what is undone exactly is not clipped
            return made
        made = torch.maximum(made, self.low).clamp_max(self.high)
        if self.fusing:
            made = made.masked_fill((images[:, : self.given] == 0).all(1, keepdim=True), 0)
        return made


class _Block(nn.Module):
    """One invertible block in one direction: the formulas of `ivan_fast.reference` on copied weights."""

    mix: Tensor

    def __init__(self, block: Any, inverse: bool) -> None:
        super().__init__()
        if not isinstance(block, InvertibleBlock) or not isinstance(block.coupling, AffineCoupling):
            raise InputError(f"export: a block of type {type(block).__name__}, expected those of ivan.IVAN")
        coupling = block.coupling
        self.inverse, self.split, self.clamp = inverse, coupling.split, coupling.clamp
        weight = block.mix.inverse_weight() if inverse else block.mix.weight()
        self.register_buffer("mix", weight.detach().float().clone())
        self.F, self.G, self.H = (_dense(getattr(coupling, name)) for name in "FGH")

    def forward(self, state: Tensor) -> Tensor:
        if not self.inverse:
            state = reference.channel_mix(state, self.mix)
        first, second = state[:, : self.split], state[:, self.split :]
        if self.inverse:
            second = reference.affine_coupling_inverse(second, self.H(first), self.G(first), self.clamp)
            return reference.channel_mix(torch.cat([first - self.F(second), second], 1), self.mix)
        first = first + self.F(second)
        second = reference.affine_coupling_forward(second, self.H(first), self.G(first), self.clamp)
        return torch.cat([first, second], 1)


def _dense(block: Any) -> DenseBlock:
    """A strict copy of a dense block on the CPU, in plain PyTorch."""
    if not isinstance(block, DenseBlock):
        raise InputError(f"export: a subnet of type {type(block).__name__}, expected dense blocks")
    copied = DenseBlock(
        block.in_channels,
        block.out_channels,
        block.growth,
        block.depth,
        block.negative_slope,
        "strict",
        "reference",
    )
    copied.load_state_dict({name: value.float().cpu() for name, value in block.state_dict().items()})
    return copied


def export(
    run: str | Path, out: str | Path, *, inverse: bool = False, state: bool = False, checkpoint: str = ""
) -> Path:
    """Write one direction of a run as a `torch.export` program.

    Args:
        run: run folder of `ivan train`.
        out: the file, ending in .pt2; an older one is replaced, whole.
        inverse: from targets to sources.
        state: of a run of fusion: the program returns the network's whole output instead of the fused image,
            or, for `inverse`, takes it and gives the sources back exactly.
        checkpoint: one of the run's checkpoints, such as "step-400"; empty: the newest.

    Returns:
        `out`.

    Raises:
        InputError: no such run, another suffix, or `state` of a run that does not fuse.
        RunError: the file cannot be written.
    """
    from ivan.data import atomic_file
    from ivan.data.writing import remove_leftovers
    from ivan.inference import load_predictor

    path = Path(out)
    if path.suffix.lower() != ".pt2":
        raise InputError(f"--out: '{out}' given, expected a name that ends in .pt2, such as t1_to_t2.pt2")
    if path.is_dir():
        raise InputError(f"--out: '{out}' is a folder, expected the name of a file")
    predictor = load_predictor(run, checkpoint=checkpoint, device="cpu")
    if state and predictor.config.task != "fusion":
        raise InputError(
            f"--state: {run} is a run of synthesis; only fused images keep a state, leave --state out"
        )
    about = describe(predictor, inverse, state)
    module = PortableDirection(predictor, inverse, state).eval()
    slices, height, width = (torch.export.Dim(name, min=2) for name in ("slices", "height", "width"))
    example = torch.zeros(3, len(about["channels_given"]), 24, 20)
    with torch.no_grad():
        program = torch.export.export(
            module, (example,), dynamic_shapes={"images": {0: slices, 2: height, 3: width}}
        )
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"ivan.json": json.dumps(about, indent=1)})
    remove_leftovers(path.parent)
    with atomic_file(path) as target:
        target.write(file.getvalue())
    return path


def describe(predictor: Predictor, inverse: bool, state: bool = False) -> dict[str, Any]:
    """What `ivan.json` in a program says: its channels, and how images become its input and its output."""
    from importlib.metadata import version

    config = predictor.config
    given, made = predictor.modalities(inverse)
    context = 0 if inverse else config.context
    whole: list[str | dict[str, Any]] = [f"state {channel}" for channel in range(predictor.aug.channels)]
    channels_given = [
        {"modality": name, "slice": offset} for offset in slice_offsets(context) for name in given
    ]
    return {
        "given": list(given),
        "predicted": list(made),
        "channels_given": whole if state and inverse else channels_given,
        "channels_made": whole
        if state and not inverse
        else [{"modality": name, "slice": 0} for name in made],
        "interface": _interface(predictor, inverse, state),
        "context": context,
        "task": config.task,
        "fill": predictor.aug.fill,
        "plane": config.plane,
        "normalise": config.normalise,
        "percentile": config.percentile,
        "scales": {name: {"low": scale.low, "high": scale.high} for name, scale in predictor.scales.items()},
        "checkpoint": predictor.origin.name,
        "ivan": version("ivan_fast"),
        "torch": torch.__version__,
    }


def _interface(predictor: Predictor, inverse: bool, state: bool) -> str:
    """How to call the program, in words."""
    config = predictor.config
    said = [
        "images [S, channels_given, H, W] float32, any S, H and W of at least 2; returns "
        "[S, channels_made, H, W] float32"
    ]
    if state and inverse:
        said.append("images are what the program of --state without --inverse returned, unchanged")
    else:
        said.append(
            f"{config.plane} slices, upright (rows from anterior or superior, columns from "
            f"{'posterior' if config.plane == 'sagittal' else 'left'}), all on one grid; "
            + _normalisation(predictor, inverse)
        )
    if config.context and not inverse:
        said.append(
            "channels: all modalities of the slice itself, then those of the slices at -1, +1, -2, +2 ... "
            f"{config.context} in the same volume ('slice' in channels_given); beyond the first and the "
            "last slice of a volume, that slice again"
        )
    if config.task == "fusion" and not (state and inverse):
        said.append(
            "a source in colour enters as its luma Y = 0.299 R + 0.587 G + 0.114 B; the fused image is from "
            "0 to 1, and 0 where both sources are, in colour with that source's chroma"
            if not inverse
            else "images: the fused image from 0 to 1, of a colour image the luma"
        )
    if state and not inverse:
        said.append(
            "returned is the whole output; the fused image is the mean of its copies, cut to 0..1, and 0 "
            "where both sources are 0"
        )
    elif inverse and state:
        said.append("returned are the normalised sources, to be scaled as each volume was")
    elif inverse or config.task != "fusion":
        said.append(
            "multiply by high - low and add low of 'scales' for the training set's units; where low is 0 "
            "ivan synthesize sets values below 0 to 0"
        )
    return "; ".join(said)


def _normalisation(predictor: Predictor, inverse: bool) -> str:
    config = predictor.config
    if inverse and config.task == "fusion":
        return "no normalisation"
    if config.normalise == "none":
        return "values as in the files (normalise 'none')"
    as_is = "PNG and colours as they are, from 0 to 1; other files: " if config.normalise == "auto" else ""
    return (
        f"{as_is}each volume divided by the {config.percentile:g}th percentile of its values above 0 (with "
        f"negative values: minus low, divided by high - low; low is the {100 - config.percentile:g}th "
        f"percentile of all values, high the {config.percentile:g}th of those above low)"
    )
