"""G and H of a coupling in one call: the ops, their shapes, autograd, autocast, and their kernels on the CPU.

Compiled for CUDA, where both are in the same launches; on the CPU one runs after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ivan_fast._autograd import refuse_tangents, register_autocast, register_raising_formula
from ivan_fast._dense_block import check_gradient, empty_like_output, like
from ivan_fast._dense_block_coupling import check_halves
from ivan_fast._pair import Pair, PairGradients, WalkedPair

_ops = torch.ops.ivan_fast
_NAMES = (
    "dense_block_pair",
    "dense_block_pair_backward",
    "dense_block_pair_coupling_backward",
    "dense_block_pair_coupling_inverse_backward",
)


def _call(name: str, tensors: tuple[Tensor, ...], lists: tuple[Sequence[Tensor], ...], *rest: object) -> Any:
    """The op of that name, of the tensors up to x, the lists of parameters, and numbers and `compute`."""
    refuse_tangents(name, *tensors, *(t for one in lists for t in one))
    return getattr(_ops, name).default(*tensors, *(list(one) for one in lists), *rest)


def dense_block_pair(
    x: Tensor,
    weights_g: Sequence[Tensor],
    biases_g: Sequence[Tensor],
    weights_h: Sequence[Tensor],
    biases_h: Sequence[Tensor],
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> tuple[Tensor, Tensor]:
    """``(g, h)``, each ``[N, out, H, W]``: two dense blocks of one shape on one input, G and H of a coupling.

    On CUDA in the same launches; the values are those of two calls of :func:`dense_block`, bit for bit.

    Args:
        x: ``[N, in, H, W]``.
        weights_g, biases_g, weights_h, biases_h: parameters of each; these and the rest as in
            :func:`dense_block`.
    """
    lists = (weights_g, biases_g, weights_h, biases_h)
    return _call("dense_block_pair", (x,), lists, negative_slope, compute)


def dense_block_pair_backward(
    grad_g: Tensor,
    grad_h: Tensor,
    x: Tensor,
    weights_g: Sequence[Tensor],
    biases_g: Sequence[Tensor],
    weights_h: Sequence[Tensor],
    biases_h: Sequence[Tensor],
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> PairGradients:
    """Recompute :func:`dense_block_pair` and differentiate it, from gradients ``[N, out, H, W]``.

    Returns:
        ``(grad_x, grad_weights_g, grad_biases_g, grad_weights_h, grad_biases_h)``.
    """
    lists = (weights_g, biases_g, weights_h, biases_h)
    return _call("dense_block_pair_backward", (grad_g, grad_h, x), lists, negative_slope, compute)


def dense_block_pair_coupling_backward(
    y2: Tensor,
    grad_y2: Tensor,
    x: Tensor,
    weights_g: Sequence[Tensor],
    biases_g: Sequence[Tensor],
    weights_h: Sequence[Tensor],
    biases_h: Sequence[Tensor],
    clamp: float,
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> WalkedPair:
    """Walk back through a coupling ``y2 = x2 * exp(s) + g``, with ``(g, h) = dense_block_pair(x)``, s from h.

    Args:
        y2, grad_y2: coupled half of the state behind the coupling, and its gradient, ``[N, out, H, W]``, of
            the dtype of ``x`` or float64.
        x: what g and h are made of ``[N, in, H, W]``; parameters as in :func:`dense_block_pair`.
        clamp: bound of ``|s|``, >= 0.

    Returns:
        ``(x2, grad_x2, grad_x, grad_weights_g, grad_biases_g, grad_weights_h, grad_biases_h)``; ``grad_x`` is
        the sum of what comes through g and through h.
    """
    lists = (weights_g, biases_g, weights_h, biases_h)
    tensors = (y2, grad_y2, x)
    return _call("dense_block_pair_coupling_backward", tensors, lists, clamp, negative_slope, compute)


def dense_block_pair_coupling_inverse_backward(
    x2: Tensor,
    grad_x2: Tensor,
    x: Tensor,
    weights_g: Sequence[Tensor],
    biases_g: Sequence[Tensor],
    weights_h: Sequence[Tensor],
    biases_h: Sequence[Tensor],
    clamp: float,
    negative_slope: float = 0.2,
    compute: str = "strict",
) -> WalkedPair:
    """Walk back through ``x2 = (y2 - g) * exp(-s)``; arguments as of the walk through the other direction.

    Returns:
        ``(y2, grad_y2, grad_x, grad_weights_g, grad_biases_g, grad_weights_h, grad_biases_h)``.
    """
    lists = (weights_g, biases_g, weights_h, biases_h)
    tensors = (x2, grad_x2, x)
    return _call("dense_block_pair_coupling_inverse_backward", tensors, lists, clamp, negative_slope, compute)


# --- the ops beyond their kernels ---


def _check_alike(op: str, weights_g: Sequence[Tensor], weights_h: Sequence[Tensor]) -> None:
    """G and H must be of one shape."""
    found = [
        (len(w), w[0].shape[0], w[-1].shape[0]) if len(w) > 0 else (0, 0, 0) for w in (weights_g, weights_h)
    ]
    torch._check(
        found[0] == found[1],
        lambda: (
            "{}: G has depth {}, growth {} and {} outputs, H has depth {}, growth {} and {}; "
            "they must be the same".format(op, *found[0], *found[1])
        ),
    )


_SINGLE = Pair(
    _ops.dense_block,
    _ops.dense_block_backward,
    _ops.dense_block_coupling_backward,
    _ops.dense_block_coupling_inverse_backward,
)


def _on_cpu(name: str, first: int, function: Callable[..., object]) -> None:
    """The kernel of an op, one net after the other; its argument `first` is weights_g."""

    def kernel(*arguments: Any) -> object:
        weights_g, _, weights_h, _ = arguments[first : first + 4]
        _check_alike(name, weights_g, weights_h)
        return function(*arguments)

    torch.library.impl(f"ivan_fast::{name}", "CPU")(kernel)


_on_cpu(_NAMES[0], 1, _SINGLE.forward)
_on_cpu(_NAMES[1], 3, _SINGLE.backward)
_on_cpu(_NAMES[2], 3, _SINGLE.coupling_backward)
_on_cpu(_NAMES[3], 3, _SINGLE.coupling_inverse_backward)
for _name in _NAMES:
    register_autocast(_name)
for _name in _NAMES[1:]:
    register_raising_formula(_name)

_Parameters = list[Tensor]


def _output(
    op: str, x: Tensor, wg: _Parameters, bg: _Parameters, wh: _Parameters, bh: _Parameters, compute: str
) -> Tensor:
    """One of both outputs, empty; refuses what the compiled ops refuse."""
    g, _ = (empty_like_output(op, x, w, b, compute) for w, b in ((wg, bg), (wh, bh)))
    _check_alike(op, wg, wh)
    return g


def _gradients(
    x: Tensor, wg: _Parameters, bg: _Parameters, wh: _Parameters, bh: _Parameters
) -> PairGradients:
    one, two, three, four = ([like(t) for t in tensors] for tensors in (wg, bg, wh, bh))
    return like(x), one, two, three, four


@torch.library.register_fake("ivan_fast::dense_block_pair")
def _(
    x: Tensor,
    weights_g: _Parameters,
    biases_g: _Parameters,
    weights_h: _Parameters,
    biases_h: _Parameters,
    negative_slope: float,
    compute: str,
) -> tuple[Tensor, Tensor]:
    g = _output("dense_block_pair", x, weights_g, biases_g, weights_h, biases_h, compute)
    return g, like(g)


@torch.library.register_fake("ivan_fast::dense_block_pair_backward")
def _(
    grad_g: Tensor,
    grad_h: Tensor,
    x: Tensor,
    weights_g: _Parameters,
    biases_g: _Parameters,
    weights_h: _Parameters,
    biases_h: _Parameters,
    negative_slope: float,
    compute: str,
) -> PairGradients:
    op = "dense_block_pair_backward"
    g = _output(op, x, weights_g, biases_g, weights_h, biases_h, compute)
    check_gradient(op, x, g, "grad_g", grad_g)
    check_gradient(op, x, g, "grad_h", grad_h)
    return _gradients(x, weights_g, biases_g, weights_h, biases_h)


def _fake_walk(op: str, state_name: str) -> None:
    def fake(
        state: Tensor,
        grad: Tensor,
        x: Tensor,
        weights_g: _Parameters,
        biases_g: _Parameters,
        weights_h: _Parameters,
        biases_h: _Parameters,
        clamp: float,
        negative_slope: float,
        compute: str,
    ) -> WalkedPair:
        g = _output(op, x, weights_g, biases_g, weights_h, biases_h, compute)
        check_halves(op, {state_name: state, f"grad_{state_name}": grad}, x, g)
        return (like(state), like(state), *_gradients(x, weights_g, biases_g, weights_h, biases_h))

    torch.library.register_fake(f"ivan_fast::{op}")(fake)


_fake_walk(_NAMES[2], "y2")
_fake_walk(_NAMES[3], "x2")


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weights_g, biases_g, weights_h, biases_h, ctx.negative_slope, ctx.compute = inputs
    ctx.depth = len(weights_g)
    ctx.save_for_backward(x, *weights_g, *biases_g, *weights_h, *biases_h)


def _backward(ctx: Any, grad_g: Tensor, grad_h: Tensor) -> tuple[Any, ...]:
    x, *parameters = ctx.saved_tensors
    lists = [parameters[i * ctx.depth : (i + 1) * ctx.depth] for i in range(4)]
    grads = _ops.dense_block_pair_backward(grad_g, grad_h, x, *lists, ctx.negative_slope, ctx.compute)
    return (*grads, None, None)


torch.library.register_autograd("ivan_fast::dense_block_pair", _backward, setup_context=_setup)
