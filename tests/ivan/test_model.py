"""The network: shapes it takes, what it starts as, and that it is its own inverse in every memory mode."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ivan
from ivan.errors import InputError


def small(channels=2, blocks=2, **options):
    return ivan.IVAN(channels, blocks, growth=options.pop("growth", 3), **options)


def test_paper_network_has_the_published_size():
    assert sum(p.numel() for p in ivan.IVAN().parameters()) == 1_385_792


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_channels_split_size_and_batch(data):
    channels = data.draw(st.integers(2, 16), "channels")
    split = data.draw(st.integers(1, channels - 1), "split")
    shape = (
        data.draw(st.integers(1, 3)),
        channels,
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(1, 9)),
    )
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = small(
        channels, split=split, memory=data.draw(st.sampled_from(["invert", "boundary", "store"]))
    ).double()
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    y = model(x)
    assert y.shape == x.shape
    torch.testing.assert_close(model.inverse(y), x, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model(model.inverse(x)), x, rtol=1e-9, atol=1e-10)
    # d f^-1(f(x)) / dx is the identity: one backward through both directions.
    direction = torch.rand_like(x)
    gradient = torch.autograd.grad((model.inverse(model(x)) * direction).sum(), x)[0]
    torch.testing.assert_close(gradient, direction, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 2, 1, 17), (1, 2, 19, 1), (3, 2, 5, 8)])
def test_memory_modes_agree(shape):
    torch.manual_seed(4)
    model = small(blocks=3)
    x, direction = torch.rand(shape), torch.rand(shape)
    gradients = {}
    for memory in ("store", "boundary", "invert"):
        model.memory = memory
        assert model.memory == memory
        both = (model(x) * direction).sum() + (model.inverse(x) * direction).sum()
        gradients[memory] = torch.cat(
            [g.flatten() for g in torch.autograd.grad(both, list(model.parameters()))]
        )
    assert torch.equal(gradients["boundary"], gradients["store"])
    error = (gradients["invert"] - gradients["store"]).norm() / gradients["store"].norm()
    assert error < 1e-4
    assert model.guard_trips == 0


def test_one_block_by_hand():
    """y1 = x1 + F(x2); y2 = x2 exp(s) + G(y1), s = clamp (2 sigmoid(H(y1)) - 1), after the 1x1 mixing."""
    torch.manual_seed(2)
    model = small(3, 1, split=2, clamp=0.5, backend="reference").double()
    block = model.chain[0]
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    mixed = torch.einsum("ij,njhw->nihw", block.mix.weight(), x)
    y1 = mixed[:, :2] + block.coupling.F(mixed[:, 2:])
    s = 0.5 * (2 * torch.sigmoid(block.coupling.H(y1)) - 1)
    y2 = mixed[:, 2:] * torch.exp(s) + block.coupling.G(y1)
    torch.testing.assert_close(model(x), torch.cat([y1, y2], 1), rtol=1e-12, atol=1e-12)


def test_deep_networks_start_closer_to_the_identity():
    torch.manual_seed(0)
    plain = ivan.IVAN(blocks=8, growth=4)
    torch.manual_seed(0)
    deep = ivan.IVAN(blocks=16, growth=4)
    # The first block draws the same random numbers in both.
    for name in ("F", "G", "H"):
        one, two = (getattr(m.chain[0].coupling, name).weights for m in (plain, deep))
        torch.testing.assert_close(two[-1], one[-1] * 0.5, rtol=1e-6, atol=0)
        assert torch.equal(one[0], two[0])


def test_the_start_of_the_last_convolutions_can_be_chosen():
    torch.manual_seed(0)
    plain = ivan.IVAN(blocks=8, growth=4)
    torch.manual_seed(0)
    near_identity = ivan.IVAN(blocks=8, growth=4, last_scale=0.1)
    for one, two in zip(plain.chain, near_identity.chain, strict=True):
        for name in ("F", "G", "H"):
            a, b = (getattr(block.coupling, name).weights for block in (one, two))
            torch.testing.assert_close(b[-1], a[-1] * 0.1)
            assert torch.equal(a[-2], b[-2])


def test_eighty_blocks_reconstruct_and_train_without_the_guard():
    torch.manual_seed(0)
    model = ivan.IVAN(blocks=80, growth=8)
    x = torch.rand(1, 2, 12, 12)
    with torch.no_grad():
        back = model.inverse(model(x))
    assert ((back - x).norm() / x.norm()).item() < 1e-5
    model(x).square().mean().backward()
    assert model.guard_trips == 0


def test_start_is_a_seeded_rotation_and_xavier():
    torch.manual_seed(7)
    one = small(4)
    torch.manual_seed(7)
    two = small(4)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    weight = one.chain[0].mix.weight()
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), rtol=0, atol=1e-5)
    for name in ("F", "G", "H"):
        assert not any(b.any() for b in getattr(one.chain[0].coupling, name).biases)


def test_copies_pickles_and_state_dicts_compute_the_same():
    model = small(3, memory="boundary")
    x = torch.rand(1, 3, 4, 4)
    expected = model(x)
    fresh = small(3)
    fresh.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert torch.equal(twin(x), expected)
    assert copy.deepcopy(model).memory == "boundary"


def test_double_backward_with_the_reference_backend():
    model = small(memory="store", backend="reference").double()
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)[0]
    gradient.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()


def test_autocast_keeps_the_state_in_float32():
    model = small(growth=8)
    x = torch.rand(1, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        assert y.dtype == torch.float32
        assert model(x.bfloat16()).dtype == torch.float32
        back = model.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    assert not torch.equal(y, model(x))  # the dense blocks did compute in bfloat16


BAD = {
    "one channel": (lambda: ivan.IVAN(1), "channels is 1"),
    "17 channels": (lambda: ivan.IVAN(17), "2 to 16"),
    "fraction": (lambda: ivan.IVAN(2.0), "channels is 2.0"),
    "no blocks": (lambda: ivan.IVAN(blocks=0), "blocks is 0"),
    "split": (lambda: ivan.IVAN(3, split=3), "split is 3, expected 1 to 2"),
    "growth": (lambda: ivan.IVAN(growth=0), "growth is 0"),
    "clamp": (lambda: ivan.IVAN(clamp=0.0), "clamp"),
    "memory": (lambda: ivan.IVAN(blocks=1, memory="disk"), "memory"),
    "backend": (lambda: ivan.IVAN(blocks=1, backend="gpu"), "backend"),
    "compute": (lambda: ivan.IVAN(blocks=1, compute="int8"), "compute"),
    "last scale": (lambda: ivan.IVAN(blocks=1, last_scale=0.0), "last_scale is 0.0, expected a positive"),
    "mix start": (lambda: ivan.IVAN(mix_start="zero"), "mix_start is 'zero', expected rotation or identity"),
    "tol": (lambda: ivan.IVAN(blocks=1, tol=-1.0), "tol"),
    "memory later": (lambda: setattr(small(), "memory", "disk"), "memory"),
    "state channels": (lambda: small()(torch.rand(1, 3, 4, 4)), r"\(1, 3, 4, 4\), expected \[N, 2, H, W\]"),
    "inverse channels": (lambda: small().inverse(torch.rand(1, 1, 4, 4)), "VariableAugmentation"),
    "no batch": (lambda: small()(torch.rand(2, 4, 4)), r"\[N, 2, H, W\]"),
    "no pixel": (lambda: small()(torch.rand(1, 2, 0, 4)), r"\[N, 2, H, W\]"),
    "float64 state": (lambda: small()(torch.rand(1, 2, 4, 4).double()), "expected torch.float32"),
    "half state": (lambda: small()(torch.rand(1, 2, 4, 4).half()), "expected torch.float32"),
    "integers": (lambda: small()(torch.zeros(1, 2, 4, 4).int()), "expected torch.float32"),
    "other device": (lambda: small()(torch.rand(1, 2, 4, 4, device="meta")), "on cpu"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_say_what_is_expected(case):
    call, words = BAD[case]
    with pytest.raises(InputError, match=words):
        call()


def test_import_is_cheap_and_names_resolve_lazily():
    code = (
        "import sys, ivan; heavy = {'torch', 'numpy', 'nibabel', 'monai'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "assert {'IVAN', 'load_official', 'metrics', 'fit'} <= set(dir(ivan)); "
        "assert ivan.metrics.psnr and ivan.VariableAugmentation and ivan.IVAN and ivan.bidirectional_loss; "
        "assert 'torch' in sys.modules and 'nibabel' not in sys.modules and 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'psrn'"):
        _ = ivan.psrn
