"""Walking back through a block: its input and every gradient from its output, each subnet evaluated once.

All states and gradients are ``[N, C, H, W]``; `tiny` is that of `without_noise`. "forward" walks back through
``forward``, "inverse" through ``inverse``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ivan_fast.modules import AffineCoupling, DenseBlock, InvertibleConv1x1
from ivan_fast.modules.backend import as_parameters, full_precision
from ivan_fast.modules.dense_block import is_plain
from ivan_fast.reversible.dense_walk import differentiate
from ivan_fast.reversible.replay import Conditions, Evaluation, ParameterGradients, Recorder


def without_noise(state: Tensor, tiny: Tensor | None) -> Tensor:
    """A recovered state with 0 for what cannot be told from 0: values up to `tiny` ``[N]`` of their sample.

    A black background under zero biases is exactly 0, and LeakyReLU's derivative there is its slope.
    Recovered as rounding noise it would be the slope or 1 by chance, in every pixel of the background.
    None where recovered values are rounded before a subnet reads them: then nothing is done here.
    """
    if tiny is None:
        return state
    return torch.where(state.abs() <= tiny.reshape(-1, *[1] * (state.dim() - 1)), 0.0, state)


def is_deterministic(coupling: AffineCoupling) -> bool:
    """Whether all three subnets are dense blocks, which draw no random numbers and change no buffers."""
    return all(type(net) is DenseBlock for net in (coupling.F, coupling.G, coupling.H))


def coupling_forward(
    coupling: AffineCoupling,
    y: Tensor,
    grad_y: Tensor,
    recorder: Recorder,
    tiny: Tensor | None,
    rounding: Tensor | None,
) -> tuple[Tensor, Tensor, ParameterGradients]:
    """``(x, grad_x, parameter gradients)`` of ``y = coupling(x)``."""
    y1, y2 = coupling.parts(y)
    grad_y1, grad_y2 = coupling.parts(grad_y)
    # The gradient of G's output is grad_y2 itself; H's needs h, g and x2 first.
    g, grad_y1_g, grads_g = _differentiate(coupling.G, y1, grad_y2, recorder["G"], rounding)
    h = _evaluate(coupling.H, y1, recorder["H"], rounding)
    with full_precision(y):
        x2, grad_x2, grad_h = coupling.functions.affine_coupling_recompute_backward(
            y2, h.output.to(y.dtype), g, grad_y2, coupling.clamp
        )
    grad_y1_h, grads_h = h.backward(grad_h)
    x2 = without_noise(x2, tiny)
    grad_x1 = _sum(grad_y1, grad_y1_g, grad_y1_h)
    f, grad_x2_f, grads_f = _differentiate(coupling.F, x2, grad_x1, recorder["F"], rounding)
    x = torch.cat([without_noise(y1 - f, tiny), x2], 1)
    return x, torch.cat([grad_x1, _sum(grad_x2, grad_x2_f)], 1), grads_g + grads_h + grads_f


def coupling_inverse(
    coupling: AffineCoupling,
    x: Tensor,
    grad_x: Tensor,
    recorder: Recorder,
    tiny: Tensor | None,
    rounding: Tensor | None,
) -> tuple[Tensor, Tensor, ParameterGradients]:
    """``(y, grad_y, parameter gradients)`` of ``x = coupling.inverse(y)``."""
    x1, x2 = coupling.parts(x)
    grad_x1, grad_x2 = coupling.parts(grad_x)
    f, grad_x2_f, grads_f = _differentiate(coupling.F, x2, -grad_x1, recorder["F"], rounding)
    y1 = without_noise(x1 + f, tiny)
    h = _evaluate(coupling.H, y1, recorder["H"], rounding)
    h_out = h.output.to(x.dtype)
    with full_precision(x):
        grad_y2, grad_h = coupling.functions.affine_coupling_inverse_backward(
            _sum(grad_x2, grad_x2_f), x2, h_out, coupling.clamp
        )
    grad_y1_h, grads_h = h.backward(grad_h)
    g, grad_y1_g, grads_g = _differentiate(coupling.G, y1, -grad_y2, recorder["G"], rounding)
    with full_precision(x):
        y2 = coupling.functions.affine_coupling_forward(x2, h_out, g, coupling.clamp)
    grad_y1 = _sum(grad_x1, grad_y1_g, grad_y1_h)
    y = torch.cat([y1, without_noise(y2, tiny)], 1)
    return y, torch.cat([grad_y1, grad_y2], 1), grads_f + grads_h + grads_g


def mix_forward(
    mix: InvertibleConv1x1, y: Tensor, grad_y: Tensor, tiny: Tensor | None
) -> tuple[Tensor, Tensor, ParameterGradients]:
    """``(x, grad_x, parameter gradients)`` of ``y = mix(x)``."""
    with full_precision(y):
        weight, inverse = mix.weights(y.dtype)
        x = without_noise(mix.functions.channel_mix(y, inverse), tiny)
        grad_x, grad_weight = mix.functions.channel_mix_backward(grad_y, x, weight)
        return x, grad_x, _mix_gradients(mix, grad_weight)


def mix_inverse(
    mix: InvertibleConv1x1, x: Tensor, grad_x: Tensor, tiny: Tensor | None
) -> tuple[Tensor, Tensor, ParameterGradients]:
    """``(y, grad_y, parameter gradients)`` of ``x = mix.inverse(y)``."""
    with full_precision(x):
        weight, inverse = mix.weights(x.dtype)
        y = without_noise(mix.functions.channel_mix(x, weight), tiny)
        grad_y, grad_inverse = mix.functions.channel_mix_backward(grad_x, y, inverse)
        return y, grad_y, _mix_gradients(mix, None, grad_inverse, inverse)


def _mix_gradients(
    mix: InvertibleConv1x1,
    grad_weight: Tensor | None,
    grad_inverse: Tensor | None = None,
    inverse: Tensor | None = None,
) -> ParameterGradients:
    """From the gradient of W, or from that of its inverse, which then comes along."""
    parameters = (mix.lower, mix.log_s, mix.upper)
    if not any(p.requires_grad for p in parameters):
        return []
    pairs = zip(parameters, mix.parameter_gradients(grad_weight, grad_inverse, inverse), strict=True)
    return [(p, g) for p, g in pairs if p.requires_grad]


def _differentiate(
    subnet: nn.Module, x: Tensor, grad_output: Tensor, conditions: Conditions, rounding: Tensor | None
) -> tuple[Tensor, Tensor | None, ParameterGradients]:
    """``(output in the dtype of x, grad_x, parameter gradients)`` in one evaluation."""
    own = as_parameters(subnet, x, rounding)
    if not is_plain(subnet):
        evaluation = Evaluation(subnet, "forward", own, conditions)
        return (evaluation.output.to(x.dtype), *evaluation.backward(grad_output))
    out, grad_x, grads = differentiate(subnet, own, grad_output)
    return out.to(x.dtype), grad_x, grads


def _evaluate(subnet: nn.Module, x: Tensor, conditions: Conditions, rounding: Tensor | None) -> Evaluation:
    """One evaluation, to be differentiated once the gradient of its output is known."""
    x = as_parameters(subnet, x, rounding)
    if not is_plain(subnet):
        return Evaluation(subnet, "forward", x, conditions)
    depth, compute = subnet.depth, subnet.compute_for(x)

    def run(leaf: Tensor, parameters: list[Tensor]) -> Tensor:
        return subnet.functions.dense_block(
            leaf.to(parameters[0].dtype),
            parameters[:depth],
            parameters[depth:],
            subnet.negative_slope,
            compute,
        )

    with full_precision(x):
        return Evaluation.of_function(run, x, [*subnet.weights, *subnet.biases])


def _sum(first: Tensor, *others: Tensor | None) -> Tensor:
    """Sum of gradients in the dtype of the first; None stands for zero."""
    for other in others:
        if other is not None:
            first = first + other.to(first.dtype)
    return first
