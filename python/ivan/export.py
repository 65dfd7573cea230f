"""`ivan export`: one direction of a trained network as one file that PyTorch alone can run.

The program holds plain ATen operations and the weights. Neither `ivan` nor `ivan_fast` is needed to run it:

    import torch
    program = torch.export.load("t1_to_t2.pt2", extra_files=(extra := {"ivan.json": ""}))
    made = program.module()(images)   # [S, N, H, W] -> [S, M, H, W] float32

`extra["ivan.json"]` then says which modalities these are, how images are normalised before and scaled after.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ivan.errors import InputError
from ivan_fast import reference
from ivan_fast.modules import AffineCoupling, DenseBlock, InvertibleBlock

if TYPE_CHECKING:
    from ivan.inference import Predictor

_INTERFACE = (
    "images [S, given modalities, H, W] float32, any S, H, W of at least 2: axial, coronal or sagittal "
    "slices as "
    "'plane' says, upright (rows from anterior or superior), each volume divided by 'percentile' of its "
    "values "
    "above 0 (images with negative values: mapped from low to high as in 'scales'); returns [S, predicted "
    "modalities, H, W]; multiply by high - low and add low of 'scales' for the training set's units"
)


class PortableDirection(nn.Module):
    """One direction of an IVAN in plain PyTorch, with its variable augmentation and clipping.

    Args:
        predictor: the trained network; its weights are copied.
        inverse: from targets to sources.
    """

    low: Tensor

    def __init__(self, predictor: Predictor, inverse: bool) -> None:
        super().__init__()
        self.aug, self.inverse = predictor.aug, inverse
        names = predictor.modalities(inverse)[1]
        # As `Predictor.predict`: nothing below 0 where the training images had nothing below.
        low = [
            0.0 if predictor.scales.get(name) is None or predictor.scales[name].low == 0 else -torch.inf
            for name in names
        ]
        self.register_buffer("low", torch.tensor(low).reshape(1, -1, 1, 1))
        blocks = list(predictor.model.chain.blocks)
        self.blocks = nn.ModuleList(
            _Block(block, inverse) for block in (reversed(blocks) if inverse else blocks)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[S, N, H, W] float32 to [S, M, H, W] float32."""
        state = self.aug.augment_targets(images) if self.inverse else self.aug.augment_sources(images)
        for block in self.blocks:
            state = block(state)
        made = self.aug.collapse_sources(state) if self.inverse else self.aug.collapse_targets(state)
        return torch.maximum(made, self.low)


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


def export(run: str | Path, out: str | Path, *, inverse: bool = False, checkpoint: str = "") -> Path:
    """Write one direction of a run as a `torch.export` program.

    Args:
        run: run folder of `ivan train`.
        out: the file, ending in .pt2; an older one is replaced, whole.
        inverse: from targets to sources.
        checkpoint: one of the run's checkpoints, such as "step-400"; empty: the newest.

    Returns:
        `out`.

    Raises:
        InputError: no such run, another suffix, or a network with noise in its dummy channels.
        RunError: the file cannot be written.
    """
    from ivan.data import atomic_file
    from ivan.inference import load_predictor

    path = Path(out)
    if path.suffix.lower() != ".pt2":
        raise InputError(f"--out: '{out}' given, expected a name that ends in .pt2, such as t1_to_t2.pt2")
    predictor = load_predictor(run, checkpoint=checkpoint, device="cpu")
    if predictor.config.fill == "noise":
        raise InputError(
            f"{run}: was trained with --fill noise, whose field depends on the image size; only --fill "
            "copy and "
            "zero can be exported"
        )
    if predictor.config.context or predictor.config.task == "fusion":
        raise InputError(f"{run}: has --context or fuses; only plain synthesis can be exported")
    module = PortableDirection(predictor, inverse).eval()
    given = predictor.modalities(inverse)[0]
    slices, height, width = (torch.export.Dim(name, min=2) for name in ("slices", "height", "width"))
    example = torch.zeros(3, len(given), 24, 20)
    with torch.no_grad():
        program = torch.export.export(
            module, (example,), dynamic_shapes={"images": {0: slices, 2: height, 3: width}}
        )
    file = io.BytesIO()
    torch.export.save(
        program, file, extra_files={"ivan.json": json.dumps(_description(predictor, inverse), indent=1)}
    )
    with atomic_file(path) as target:
        target.write(file.getvalue())
    return path


def _description(predictor: Predictor, inverse: bool) -> dict[str, Any]:
    from importlib.metadata import version

    config = predictor.config
    given, made = predictor.modalities(inverse)
    return {
        "given": list(given),
        "predicted": list(made),
        "interface": _INTERFACE,
        "plane": config.plane,
        "normalise": config.normalise,
        "percentile": config.percentile,
        "scales": {name: {"low": scale.low, "high": scale.high} for name, scale in predictor.scales.items()},
        "checkpoint": predictor.origin.name,
        "ivan": version("ivan_fast"),
        "torch": torch.__version__,
    }
