"""Every op on fake CUDA tensors, which need no device: shapes, dtypes, devices and layouts as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

OPS = sorted(
    name.split("::")[1].split(".")[0]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("ivan_fast::")
)
SHAPES = {"weight": (2, 2), "steps": (2,), "p": (2, 2), "lower": (2, 2), "upper": (2, 2), "log_s": (2,)}
SHAPES |= {"sign_s": (2,), "grad_weight": (2, 2), "grad_inverse": (2, 2), "inverse": (2, 2)}
DOUBLE = {("round_state", "x"), ("round_state", "steps")}
DOUBLE |= {("plu_weight_backward", "grad_inverse"), ("plu_weight_backward", "inverse")}
GROWTH, DEPTH = 4, 3


def arguments(name: str, device: str) -> list[object]:
    """Valid arguments by the schema's names: states [2, 2, 5, 6], a dense block 2 -> 2 of three levels."""
    found: list[object] = []
    for argument in getattr(torch.ops.ivan_fast, name).default._schema.arguments:
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            dtype = torch.float64 if (name, argument.name) in DOUBLE else torch.float32
            found.append(torch.empty(SHAPES.get(argument.name, (2, 2, 5, 6)), dtype=dtype, device=device))
        elif kind == "List[Tensor]":
            outputs = [GROWTH] * (DEPTH - 1) + [2]
            weights = [(o, 2 + GROWTH * i, 3, 3) for i, o in enumerate(outputs)]
            sizes = weights if argument.name.startswith("weights") else [w[:1] for w in weights]
            found.append([torch.empty(s, device=device) for s in sizes])
        elif kind == "str":
            found.append("strict")
        elif kind == "bool":
            found.append(True)
        else:
            found.append(0.5)
    return found


def tensors(result: object) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    else:
        for part in result:  # type: ignore[attr-defined]
            yield from tensors(part)


@pytest.mark.parametrize("name", OPS)
def test_fake_cuda_tensors_give_what_the_cpu_gives(name):
    real = list(tensors(getattr(torch.ops.ivan_fast, name)(*arguments(name, "cpu"))))
    with FakeTensorMode():
        fake = list(tensors(getattr(torch.ops.ivan_fast, name)(*arguments(name, "cuda"))))
    assert len(fake) == len(real) > 0
    for one, other in zip(fake, real, strict=True):
        assert one.device.type == "cuda"
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


@pytest.mark.parametrize("name", OPS)
def test_schema_promises_no_aliases_and_no_writes(name):
    schema = getattr(torch.ops.ivan_fast, name).default._schema
    assert not schema.is_mutable
    assert all(a.alias_info is None for a in (*schema.arguments, *schema.returns))


@pytest.mark.parametrize("name", [name for name in OPS if name.startswith("dense_block")])
def test_opcheck_of_the_dense_block(name):
    torch.manual_seed(0)
    checked = [
        [t.normal_() for t in a] if isinstance(a, list) else a.normal_() if isinstance(a, Tensor) else a
        for a in arguments(name, "cpu")
    ]
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(getattr(torch.ops.ivan_fast, name).default, tuple(checked), test_utils=tests)
