"""Walking back through a coupling of dense blocks, in place: each of the three is evaluated once.

The backward op of a dense block gives its output too, and H's holds the coupling itself, so one evaluation
both inverts and differentiates: 4 units of work in all (forward, recompute, and two for the gradients). The
state and its gradient, ``[N, C, H, W]`` each, are overwritten; nothing else of their size is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ivan_fast.modules import AffineCoupling, DenseBlock
from ivan_fast.modules.backend import as_parameters, full_precision
from ivan_fast.modules.coupling import pair_arguments
from ivan_fast.modules.dense_block import is_plain
from ivan_fast.reversible.replay import ParameterGradients


def dense_subnets(
    coupling: AffineCoupling, state: Tensor
) -> tuple[DenseBlock, DenseBlock, DenseBlock] | None:
    """F, G and H, if this walk can take them.

    All three must be dense blocks of the coupling's own backend, their parameters of one dtype, and the
    state of that dtype or float64.
    """
    F, G, H = coupling.F, coupling.G, coupling.H
    if not (is_plain(F) and is_plain(G) and is_plain(H)):
        return None
    if {F.backend, G.backend, H.backend} != {coupling.backend}:
        return None
    dtypes = {p.dtype for net in (F, G, H) for p in net.parameters()}
    return (F, G, H) if len(dtypes) == 1 and dtypes <= {state.dtype, torch.float32} else None


def coupling_forward(
    coupling: AffineCoupling,
    subnets: tuple[DenseBlock, DenseBlock, DenseBlock],
    state: Tensor,
    grad: Tensor,
    tiny: Tensor | None,
    rounding: Tensor | None,
) -> ParameterGradients:
    """``(y, grad_y)`` of ``y = coupling(x)`` become ``(x, grad_x)``.

    Args:
        subnets: F, G and H. tiny: of `walk.without_noise`. rounding: of `as_parameters`.
    """
    F, G, H = subnets
    (first, second), (grad_first, grad_second) = coupling.parts(state), coupling.parts(grad)
    y1 = as_parameters(G, first, rounding)
    if pair := coupling.pair(y1):
        arguments = pair_arguments(pair, y1, coupling.clamp)
        with full_precision(state):
            x2, grad_x2, grad_y1, *both = coupling.functions.dense_block_pair_coupling_backward(
                second, grad_second, *arguments
            )
        grads = _of_parameters(G, *both[:2]) + _of_parameters(H, *both[2:])
        del both
    else:
        # The gradient of G's output is grad_y2 itself; H's needs h, g and x2, of which g must be there first.
        g, grad_y1, grads = differentiate(G, y1, grad_second)
        grad_first += grad_y1
        arguments = _arguments(H, y1, coupling.clamp)
        with full_precision(state):
            x2, grad_x2, grad_y1, *grads_h = coupling.functions.dense_block_coupling_backward(
                second, g.to(state.dtype), grad_second, *arguments
            )
        grads += _of_parameters(H, *grads_h)
        del g, grads_h
    del y1, arguments
    second.copy_(x2)
    grad_second.copy_(grad_x2)
    del x2, grad_x2
    _remove_noise(second, tiny)
    grad_first += grad_y1
    del grad_y1
    f, grad_x2, grads_f = differentiate(F, as_parameters(F, second, rounding), grad_first)
    first -= f
    _remove_noise(first, tiny)
    grad_second += grad_x2
    return grads + grads_f


def coupling_inverse(
    coupling: AffineCoupling,
    subnets: tuple[DenseBlock, DenseBlock, DenseBlock],
    state: Tensor,
    grad: Tensor,
    tiny: Tensor | None,
    rounding: Tensor | None,
) -> ParameterGradients:
    """``(x, grad_x)`` of ``x = coupling.inverse(y)`` become ``(y, grad_y)``."""
    F, G, H = subnets
    (first, second), (grad_first, grad_second) = coupling.parts(state), coupling.parts(grad)
    f, grad_x2, grads = differentiate(F, as_parameters(F, second, rounding), grad_first, negative=True)
    first += f
    _remove_noise(first, tiny)
    grad_second += grad_x2
    del f, grad_x2
    y1 = as_parameters(G, first, rounding)
    if pair := coupling.pair(y1):
        arguments = pair_arguments(pair, y1, coupling.clamp)
        with full_precision(state):
            y2, grad_y2, grad_y1, *both = coupling.functions.dense_block_pair_coupling_inverse_backward(
                second, grad_second, *arguments
            )
        second.copy_(y2)
        grad_second.copy_(grad_y2)
        _remove_noise(second, tiny)
        grad_first += grad_y1
        return grads + _of_parameters(G, *both[:2]) + _of_parameters(H, *both[2:])
    arguments = _arguments(H, y1, coupling.clamp)
    with full_precision(state):
        scaled, grad_y2, grad_y1, *grads_h = coupling.functions.dense_block_coupling_inverse_backward(
            second, grad_second, *arguments
        )
    del arguments
    second.copy_(scaled)
    grad_second.copy_(grad_y2)
    del scaled, grad_y2
    grad_first += grad_y1
    g, grad_y1, grads_g = differentiate(G, y1, grad_second, negative=True)
    second += g
    _remove_noise(second, tiny)
    grad_first += grad_y1
    return grads + _of_parameters(H, *grads_h) + grads_g


def differentiate(
    subnet: DenseBlock, x: Tensor, grad_output: Tensor, negative: bool = False
) -> tuple[Tensor, Tensor, ParameterGradients]:
    """``(output, grad_x, parameter gradients)`` in one evaluation, in the dtype of the parameters.

    Args:
        negative: the gradient of the output is ``-grad_output``.
    """
    own = grad_output.to(subnet.weights[0].dtype)
    arguments = _arguments(subnet, x)
    with full_precision(x):
        out, grad_x, *grads = subnet.functions.dense_block_backward(-own if negative else own, *arguments)
    return out, grad_x, _of_parameters(subnet, *grads)


def _arguments(
    subnet: DenseBlock, x: Tensor, *more: float
) -> tuple[Tensor | list[Tensor] | float | str, ...]:
    """What the ops take from x on; `more` stands before the slope. Autocast has its say here, if it is on."""
    x = x.to(subnet.weights[0].dtype)
    return x, list(subnet.weights), list(subnet.biases), *more, subnet.negative_slope, subnet.compute_for(x)


def _of_parameters(
    subnet: DenseBlock, grad_weights: list[Tensor], grad_biases: list[Tensor]
) -> ParameterGradients:
    pairs = zip([*subnet.weights, *subnet.biases], [*grad_weights, *grad_biases], strict=True)
    return [(p, g) for p, g in pairs if p.requires_grad]


def _remove_noise(state: Tensor, tiny: Tensor | None) -> None:
    if tiny is not None:
        state.masked_fill_(state.abs() <= tiny.reshape(-1, *[1] * (state.dim() - 1)), 0.0)
