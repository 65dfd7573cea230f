"""The public implementation's numbers and checkpoints: agreement in every memory mode, and hostile files."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

import ivan
from ivan.errors import InputError
from ivan.official import official_shape, official_state_dict


@pytest.fixture(scope="module")
def reference(shared):
    return np.load(shared / "reference" / "official_2blocks.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def checkpoint(reference):
    return {
        k.removeprefix("state/"): torch.from_numpy(reference[k])
        for k in reference.files
        if k.startswith("state/")
    }


def relative(found, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return ((found.detach().double() - expected).norm() / expected.norm().clamp_min(1e-300)).item()


@pytest.mark.data
@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("memory", ["invert", "boundary", "store"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_agrees_with_the_public_implementation(reference, checkpoint, dtype, tolerance, memory, backend):
    model = ivan.load_official(ivan.IVAN(blocks=2, memory=memory, backend=backend), checkpoint).to(dtype)
    x, target = torch.from_numpy(reference["x"]).to(dtype), torch.from_numpy(reference["target"]).to(dtype)
    assert relative(model(x), reference["forward"]) < tolerance
    assert relative(model.inverse(x), reference["inverse_of_x"]) < tolerance
    aug = ivan.VariableAugmentation(2, 1)
    parts = ivan.bidirectional_loss(model, x, target, aug, reverse_from="prediction", supervise="mean")
    assert relative(parts["forward"], reference["forward_loss"]) < tolerance
    assert relative(parts["reverse"], reference["reverse_loss"]) < tolerance
    parts["total"].backward()
    names = {tensor.data_ptr(): key for key, tensor in official_state_dict(model).items()}
    checked = 0
    for parameter in model.parameters():
        key = names[parameter.data_ptr()]
        expected = torch.from_numpy(reference[f"grad/{key}"])
        if expected.any():
            assert relative(parameter.grad, expected) < tolerance, key
        else:
            assert not parameter.grad.any(), key
        checked += 1
    assert checked == sum(k.startswith("grad/") for k in reference.files)
    assert model.guard_trips == 0


def small(**options):
    return ivan.IVAN(blocks=2, growth=3, **options)


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}}},
        lambda s: {k: v.double() for k, v in s.items()},
    ],
    ids=["plain", "nested", "DataParallel", "nested twice", "float64"],
)
def test_round_trip_through_a_file(tmp_path, wrap):
    torch.manual_seed(1)
    one, two = small(), small()
    path = saved(tmp_path / "latest.pth", wrap(dict(official_state_dict(one))))
    assert ivan.load_official(two, path) is two
    assert ivan.load_official(two, str(path)) is two
    for key, tensor in official_state_dict(one).items():
        assert torch.equal(tensor, official_state_dict(two)[key]), key
    x = torch.rand(1, 2, 4, 5)
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("channels", [3, 5])
def test_keys_are_all_parameters_and_buffers(channels):
    model = ivan.IVAN(channels=channels, blocks=2, split=2, growth=3)
    held = {t.data_ptr() for t in [*model.parameters(), *model.buffers()]}
    state = official_state_dict(model)
    assert {t.data_ptr() for t in state.values()} == held
    assert len(state) == 2 * (3 * 10 + 5)


def test_loading_keeps_dtype_gradients_and_training(tmp_path):
    model = small().double()
    ivan.load_official(model, {k: v.float() for k, v in official_state_dict(small()).items()})
    assert all(p.dtype == torch.float64 and p.requires_grad and p.is_leaf for p in model.parameters())


class Touch:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def changed(**entries):
    return {**official_state_dict(small()), **entries}


def bad_files(tmp_path):
    good = official_state_dict(small())
    key = "operations.0.F.conv1.weight"
    mixing = "operations.1.invconv."
    whole = saved(tmp_path / "whole.pth", dict(good)).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "folder.pth").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with open(tmp_path / "evil.pth", "wb") as file:
        pickle.dump({"state_dict": Touch(tmp_path / "owned")}, file)
    saved(tmp_path / "evil_zip.pth", {**good, "extra": Touch(tmp_path / "owned")})
    return {
        "missing": (tmp_path / "no.pth", "No such file"),
        "folder": (tmp_path / "folder.pth", "cannot be read"),
        "cut": (tmp_path / "cut.pth", "damaged"),
        "text": (tmp_path / "text.pth", "damaged"),
        "empty": (tmp_path / "empty.pth", "damaged"),
        "zip": (tmp_path / "zip.pth", "damaged"),
        "pickle": (tmp_path / "evil.pth", "not tensors only.*torch.save"),
        "pickle in zip": (tmp_path / "evil_zip.pth", "not tensors only.*torch.save"),
        "list": (saved(tmp_path / "list.pth", [1, 2]), "holds a list"),
        "tensor": (saved(tmp_path / "tensor.pth", torch.zeros(3)), "holds a Tensor"),
        "other model": (saved(tmp_path / "o.pth", {"conv.weight": torch.zeros(2)}), "conv.weight"),
        "nothing": (saved(tmp_path / "nothing.pth", {}), "operations.0.F.conv1.weight"),
        "blocks": (
            saved(tmp_path / "b.pth", dict(official_state_dict(ivan.IVAN(blocks=3, growth=3)))),
            "blocks=3",
        ),
        "channels": (
            saved(tmp_path / "c.pth", dict(official_state_dict(ivan.IVAN(3, 2, growth=3)))),
            "shape",
        ),
        "shape": (
            saved(tmp_path / "s.pth", changed(**{key: torch.zeros(3, 1, 3, 5)})),
            r"\(3, 1, 3, 5\), expected",
        ),
        "key": (saved(tmp_path / "k.pth", {k: v for k, v in good.items() if k != key}), f"{key} is missing"),
        "extra": (saved(tmp_path / "x.pth", changed(extra=torch.zeros(1))), "unexpected entry 'extra'"),
        "nan": (saved(tmp_path / "n.pth", changed(**{key: torch.full((3, 1, 3, 3), torch.nan)})), "NaN"),
        "integers": (saved(tmp_path / "i.pth", changed(**{key: torch.zeros(3, 1, 3, 3).int()})), "int32"),
        "sparse": (
            saved(tmp_path / "sp.pth", changed(**{key: torch.zeros(3, 1, 3, 3).to_sparse()})),
            "sparse",
        ),
        "text entry": (saved(tmp_path / "t.pth", changed(**{key: "weights"})), "a str"),
        "permutation": (
            saved(tmp_path / "p.pth", changed(**{mixing + "p": torch.ones(2, 2)})),
            "permutation",
        ),
        "signs": (saved(tmp_path / "g.pth", changed(**{mixing + "sign_s": torch.zeros(2)})), "-1 and 1"),
    }


@pytest.mark.parametrize(
    "shape",
    [
        {"channels": 2, "blocks": 8, "split": 1, "growth": 4},
        {"channels": 5, "blocks": 1, "split": 3, "growth": 7},
    ],
)
def test_shape_of_a_checkpoint(tmp_path, shape):
    path = tmp_path / "latest.pth"
    torch.save({"state_dict": official_state_dict(ivan.IVAN(**shape))}, path)
    assert official_shape(path) == shape


def test_shape_of_a_checkpoint_that_asks_for_all_memory(tmp_path):
    path = tmp_path / "latest.pth"
    state = official_state_dict(ivan.IVAN(channels=2, blocks=1, growth=4))
    torch.save({**state, "operations.0.F.conv1.weight": torch.zeros(1).expand(10**6, 1, 3, 3)}, path)
    with pytest.raises(InputError, match="growth 1000000"):
        official_shape(path)
    torch.save({**state, **{f"operations.{i}.x": torch.zeros(1) for i in range(1000)}}, path)
    with pytest.raises(InputError, match="1000 blocks"):
        official_shape(path)


def test_bad_checkpoints_change_nothing_and_run_nothing(tmp_path):
    model = small()
    before = {k: v.clone() for k, v in official_state_dict(model).items()}
    for name, (path, words) in bad_files(tmp_path).items():
        with pytest.raises(InputError, match=words) as caught:
            ivan.load_official(model, path)
        message = str(caught.value)
        assert message.startswith(str(path)), name
        assert "\n" not in message
        assert not (tmp_path / "owned").exists(), name
        for key, tensor in official_state_dict(model).items():
            assert torch.equal(tensor, before[key]), (name, key)


def test_bad_state_dicts_are_named(tmp_path):
    with pytest.raises(InputError, match="state dict"):
        ivan.load_official(small(), {"operations": 3})
