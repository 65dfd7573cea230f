"""Dense block, invertible 1x1 convolution and affine coupling on their own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from reversible_nets import dense_chain, foreign_subnet

from ivan_fast import AffineCoupling, DenseBlock, InvertibleBlock, InvertibleConv1x1


def test_dense_block_is_the_textbook_one() -> None:
    block = DenseBlock(2, 3, growth=4, depth=3, negative_slope=0.1).double()
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    h1 = F.leaky_relu(F.conv2d(x, block.weights[0], block.biases[0], padding=1), 0.1)
    h2 = F.leaky_relu(F.conv2d(torch.cat([x, h1], 1), block.weights[1], block.biases[1], padding=1), 0.1)
    y = F.conv2d(torch.cat([x, h1, h2], 1), block.weights[2], block.biases[2], padding=1)
    torch.testing.assert_close(block(x), y)


def test_dense_block_starts_xavier_normal() -> None:
    block = DenseBlock(1, 1, growth=64)
    for weight, bias in zip(block.weights, block.biases, strict=True):
        fans = 9 * (weight.shape[0] + weight.shape[1])
        if weight.numel() > 1000:
            assert float(weight.detach().std()) == pytest.approx((2 / fans) ** 0.5, rel=0.1)
        assert not bias.any()


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "growth", "depth"])
def test_dense_block_refuses_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DenseBlock(**({"in_channels": 1, "out_channels": 1} | {name: 0}))


def test_dense_block_refuses_unknown_options_and_shapes() -> None:
    with pytest.raises(ValueError, match="compute is 'half'"):
        DenseBlock(1, 1, compute="half")
    with pytest.raises(ValueError, match="backend is 'slow'"):
        DenseBlock(1, 1, backend="slow")
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\), expected \[N, 2, H, W\]"):
        DenseBlock(2, 1)(torch.zeros(1, 3, 4, 4))


def test_autocast_selects_the_compute_of_a_dense_block() -> None:
    block, x = DenseBlock(1, 1, growth=4), torch.randn(1, 1, 6, 6)
    explicit = DenseBlock(1, 1, growth=4, compute="bf16")
    explicit.load_state_dict(block.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
        assert block.compute_for(x) == "bf16"
        assert block.double().compute_for(x.double()) == "strict"
    assert y.dtype == torch.float32
    assert torch.equal(y, explicit(x))
    assert not torch.equal(y, block.float()(x))


@pytest.mark.parametrize("start", ["rotation", "identity"])
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 16])
def test_conv1x1_starts_as_asked_and_inverts(channels: int, start: str) -> None:
    mix = InvertibleConv1x1(channels, start=start)
    weight = mix.weight()
    torch.testing.assert_close(weight @ weight.t(), torch.eye(channels), atol=1e-5, rtol=0)
    if channels > 1:
        assert torch.equal(weight, torch.eye(channels)) == (start == "identity")
    with torch.no_grad():
        for parameter in mix.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(3, channels, 4, 5)
    torch.testing.assert_close(mix.inverse(mix(x)), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mix(x), torch.einsum("ij,njhw->nihw", mix.weight(), x), atol=1e-5, rtol=1e-5)


def test_conv1x1_refuses_an_unknown_start() -> None:
    with pytest.raises(ValueError, match="start is 'zero', expected one of rotation, identity"):
        InvertibleConv1x1(2, start="zero")


def test_conv1x1_gradients_of_its_factors() -> None:
    mix = InvertibleConv1x1(4).double()
    with torch.no_grad():
        for parameter in mix.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    grad_weight = torch.randn(4, 4, dtype=torch.float64)
    wanted = torch.autograd.grad(mix.weight(), (mix.lower, mix.log_s, mix.upper), grad_weight)
    for found, expected in zip(mix.parameter_gradients(grad_weight), wanted, strict=True):
        torch.testing.assert_close(found, expected)


def test_conv1x1_refuses_other_channels() -> None:
    for channels in (0, 17):
        with pytest.raises(ValueError, match="expected 1 to 16"):
            InvertibleConv1x1(channels)


def test_coupling_is_the_formula() -> None:
    subnets = [foreign_subnet(3, 2), foreign_subnet(2, 3), foreign_subnet(2, 3)]
    coupling = AffineCoupling(*subnets, split=2, clamp=0.5).double()
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    y1 = x[:, :2] + coupling.F(x[:, 2:])
    s = 0.5 * (2 * torch.sigmoid(coupling.H(y1)) - 1)
    expected = torch.cat([y1, x[:, 2:] * s.exp() + coupling.G(y1)], 1)
    torch.testing.assert_close(coupling(x), expected)
    torch.testing.assert_close(coupling.inverse(expected), x)


@pytest.mark.parametrize(("channels", "split"), [(2, 1), (3, 2), (7, 3), (16, 15)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 4)])
def test_round_trip(channels: int, split: int, size: tuple[int, int]) -> None:
    chain = dense_chain(channels, blocks=2, split=split).double()
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    torch.testing.assert_close(chain.inverse(chain(x)), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(chain(chain.inverse(x)), x, rtol=1e-10, atol=1e-10)


def test_coupling_says_what_is_wrong() -> None:
    coupling = AffineCoupling(DenseBlock(1, 1, 4), DenseBlock(1, 2, 4), DenseBlock(1, 1, 4))
    with pytest.raises(ValueError, match="more than split = 1"):
        coupling(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"G turned \(1, 1, 4, 4\) into \(1, 2, 4, 4\)"):
        coupling(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="split is 0"):
        AffineCoupling(DenseBlock(1, 1), DenseBlock(1, 1), DenseBlock(1, 1), split=0)
    with pytest.raises(ValueError, match="clamp is 0"):
        AffineCoupling(DenseBlock(1, 1), DenseBlock(1, 1), DenseBlock(1, 1), clamp=0)


def test_layers_copy_and_pickle() -> None:
    block = InvertibleBlock(
        InvertibleConv1x1(2), AffineCoupling(DenseBlock(1, 1, 4), DenseBlock(1, 1, 4), DenseBlock(1, 1, 4))
    )
    x = torch.randn(1, 2, 4, 4)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))


def test_official_conv1x1(shared) -> None:  # type: ignore[no-untyped-def]
    """W as the public network assembles it: its first block is the identity of the coupling's input."""
    np = pytest.importorskip("numpy")
    values = np.load(shared / "reference" / "official_2blocks.npz")
    mix = InvertibleConv1x1(2)
    state = {
        n: torch.from_numpy(values[f"state/operations.0.invconv.{n}"]).reshape(p.shape)
        for n, p in mix.state_dict().items()
    }
    mix.load_state_dict(state)
    lower, upper = state["lower"].tril(-1) + torch.eye(2), state["upper"].triu(1)
    expected = state["p"] @ lower @ (upper + torch.diag(state["sign_s"] * state["log_s"].exp()))
    torch.testing.assert_close(mix.weight(), expected)


def test_default_arithmetic_is_fast_where_rounding_does_not_matter():
    block = DenseBlock(1, 1, growth=4)
    sides = {(63, 65): "strict", (64, 64): "fast", (32, 128): "fast", (8, 8): "strict"}
    for side, expected in sides.items():
        assert block.compute_for(torch.zeros(1, 1, *side)) == expected
    x = torch.randn(1, 1, 64, 64)
    strict = DenseBlock(1, 1, growth=4, compute="strict")
    strict.load_state_dict(block.state_dict())
    assert not torch.equal(block(x), strict(x))
    torch.testing.assert_close(block(x), strict(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(block(x[..., :32]), strict(x[..., :32]))
    assert DenseBlock(1, 1, backend="reference").compute_for(x) == "strict"
    assert block.double().compute_for(x) == "strict"
