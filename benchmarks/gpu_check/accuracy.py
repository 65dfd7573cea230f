"""Whether the network is right here: against float64 on the CPU, and the public implementation's numbers."""

from __future__ import annotations

import copy
import os
import statistics
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from networks import Case
from torch import Tensor

from ivan.model import IVAN
from ivan.official import load_official, official_state_dict

# Error of ours at most this many times the larger of two, plus what tiny errors vary by: PyTorch's own at the
# same precision, and that of exact sums of rounded operands (cuDNN need not use the precision it is allowed).
FACTOR, SLACK = 2.0, {"float32": 1e-6, "tf32": 1e-4, "bf16": 1e-3}
SEEDS = {"forward": 5, "inverse": 5, "gradient": 11}
# LeakyReLU's derivative jumps at 0, so a single rounding to the other side costs the gradient 1e-4 to 1e-3,
# in right networks too. Of images this small few meet one (4 of 30 in float32), and the median over them
# tells; of 21 x 21 nearly half do, and a right network would fail one check in five.
GRADIENT_SIDE = 13
SIGNIFICANT_BITS = {"tf32": 11, "bf16": 8}
OFFICIAL_TOLERANCE = 1e-4  # float32 on the device against the public implementation's float64


def relative(found: Tensor, truth: Tensor) -> float:
    truth = truth.double()
    return float((found.detach().cpu().double() - truth).norm() / truth.norm().clamp_min(1e-300))


def gradients(model: torch.nn.Module, x: Tensor, y: Tensor, precision: str) -> Tensor:
    """The gradient of a step's loss with respect to the image."""
    x = x.clone().requires_grad_()
    with networks.precision(precision, x.device):
        loss = torch.nn.functional.mse_loss(model(x).float() if precision == "bf16" else model(x), y)
    with networks.precision("float32" if precision == "bf16" else precision, x.device):
        (grad,) = torch.autograd.grad(loss, x)
    return grad


def rounded(truth: networks.EagerIVAN, bits: int) -> networks.EagerIVAN:
    """A copy whose 3x3 convolutions get operands of so many significant bits, in the backward too."""

    def nearest(x: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(x.detach())
        return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)

    copied = copy.deepcopy(truth)
    for module in copied.modules():
        if isinstance(module, torch.nn.Conv2d):
            with torch.no_grad():
                module.weight.copy_(nearest(module.weight))
            module.register_forward_pre_hook(
                lambda _, given: (given[0] + nearest(given[0]) - given[0].detach(),)
            )
            module.register_full_backward_pre_hook(lambda _, grads: (nearest(grads[0]),))
    return copied


def against_float64(precision: str, device: torch.device, size: int, blocks: int) -> list[dict[str, Any]]:
    """Output, inverse and gradient of ours, of eager PyTorch and of rounded operands, at one precision,
    against float64: medians over images, of the side `size` or for the gradient at most GRADIENT_SIDE."""
    ours = networks.our_network(precision, device, blocks)
    eager = networks.twin_of(ours)
    truth = networks.twin_of(networks.our_network("float32", torch.device("cpu"), blocks).double())
    bits = SIGNIFICANT_BITS.get(precision)
    exact_sums = truth if bits is None else rounded(truth, bits)
    errors: dict[str, list[tuple[float, ...]]] = {what: [] for what in SEEDS}
    for what, pairs in errors.items():
        side = min(size, GRADIENT_SIDE) if what == "gradient" else size
        for seed in range(SEEDS[what]):
            x, y = networks.images(Case(side, 2, precision), device, seed=seed)
            x64, y64 = x.cpu().double(), y.cpu().double()
            if what == "gradient":
                expected = gradients(truth, x64, y64, "float32")
                found = [gradients(model, x, y, precision) for model in (ours, eager)]
                found.append(gradients(exact_sums, x64, y64, "float32"))
            else:
                expected = networks.make_job(truth, what, x64, y64, "float32")()
                found = [networks.make_job(model, what, x, y, precision)() for model in (ours, eager)]
                found.append(networks.make_job(exact_sums, what, x64, y64, "float32")())
            pairs.append(tuple(relative(f, expected) for f in found))
    rows = []
    for what, pairs in errors.items():
        mine, theirs, least = (statistics.median(pair[i] for pair in pairs) for i in range(3))
        good = mine <= FACTOR * max(theirs, least) + SLACK[precision]
        row = {"what": what, "precision": precision, "ours": mine, "eager": theirs, "rounded": least}
        rows.append({**row, "good": good})
    return rows


def official(device: torch.device) -> dict[str, Any] | None:
    """Largest relative error of outputs and gradients against the public implementation's vectors in
    ``$IVAN_SHARED/reference``, or None where they are absent."""
    path = Path(os.environ.get("IVAN_SHARED", "../shared")) / "reference" / "official_2blocks.npz"
    if not path.is_file():
        return None
    vectors = np.load(path, allow_pickle=False)
    state = {
        k.removeprefix("state/"): torch.from_numpy(vectors[k]) for k in vectors.files if k[:6] == "state/"
    }
    model = load_official(IVAN(blocks=2, compute="strict"), state).to(device)
    x, target = (torch.from_numpy(vectors[k]).float().to(device) for k in ("x", "target"))
    with networks.precision("float32", device):
        y, inverse = model(x), model.inverse(x)
        clamped = y.clamp(0, 1)
        mse = torch.nn.functional.mse_loss
        loss = mse(clamped.mean(1, keepdim=True), target) + mse(model.inverse(clamped).clamp(0, 1), x)
        loss.backward()
    errors = {"forward": relative(y, torch.from_numpy(vectors["forward"]))}
    errors["inverse"] = relative(inverse, torch.from_numpy(vectors["inverse_of_x"]))
    names = {tensor.data_ptr(): key for key, tensor in official_state_dict(model).items()}
    for parameter in model.parameters():
        expected = torch.from_numpy(vectors[f"grad/{names[parameter.data_ptr()]}"])
        if expected.any():
            assert parameter.grad is not None
            errors["gradients"] = max(errors.get("gradients", 0.0), relative(parameter.grad, expected))
    return {"errors": errors, "good": max(errors.values()) <= OFFICIAL_TOLERANCE}
