"""The loss against its formula, spelled out with a small invertible model, and the adversarial identity."""

import pytest
import torch
from torch import nn

import ivan
from ivan.errors import InputError
from ivan.losses import LOSS_RECIPES, loss_options


class Mixing(nn.Module):
    """Bent channel mixing, exactly invertible: small, nonlinear and independent of the real network."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(
            torch.eye(channels).double() + 0.3 * torch.randn(channels, channels).double()
        )

    def forward(self, x):
        return torch.sinh(torch.einsum("ij,njhw->nihw", self.weight, x))

    def inverse(self, y):
        return torch.einsum("ij,njhw->nihw", torch.linalg.inv(self.weight), torch.asinh(y))


def task(n, m, channels=None, fill="copy"):
    aug = ivan.VariableAugmentation(n, m, channels, fill)
    x, y = torch.rand(2, n, 3, 4).double(), torch.rand(2, m, 3, 4).double()
    return Mixing(aug.channels), x, y, aug


def distance(a, b, norm):
    return (a - b).square().mean() if norm == "l2" else (a - b).abs().mean()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("supervise", ["copies", "mean"])
@pytest.mark.parametrize("reverse_from", ["target", "prediction"])
@pytest.mark.parametrize(
    ("n", "m", "channels"), [(1, 1, None), (2, 1, None), (1, 2, None), (3, 2, None), (2, 3, 5)]
)
def test_options_are_the_formula(n, m, channels, reverse_from, supervise, norm):
    model, x, y, aug = task(n, m, channels)
    parts = ivan.bidirectional_loss(
        model, x, y, aug, weight=0.7, reverse_from=reverse_from, supervise=supervise, norm=norm
    )
    cyclic_x = x[:, [c % n for c in range(aug.channels)]]
    cyclic_y = y[:, [c % m for c in range(aug.channels)]]
    out = model(cyclic_x)
    if reverse_from == "prediction":
        out = out.clamp(0, 1)
        back = model.inverse(out).clamp(0, 1)
    else:
        back = model.inverse(cyclic_y)

    def term(estimate, truth):
        each = []
        for i in range(truth.shape[1]):
            copies = estimate[:, i :: truth.shape[1]]
            if supervise == "mean":
                each.append(distance(copies.mean(1), truth[:, i], norm))
            else:
                each.append(distance(copies, truth[:, i : i + 1].expand_as(copies), norm))
        return sum(each) / len(each)

    forward, reverse = term(out, y), term(back, x)
    assert set(parts) == {"total", "forward", "reverse"}
    torch.testing.assert_close(parts["forward"], forward, rtol=1e-13, atol=0)
    torch.testing.assert_close(parts["reverse"], reverse, rtol=1e-13, atol=0)
    torch.testing.assert_close(parts["total"], 0.7 * forward + reverse, rtol=1e-13, atol=0)
    got = torch.autograd.grad(parts["total"], model.weight)[0]
    torch.testing.assert_close(got, torch.autograd.grad(0.7 * forward + reverse, model.weight)[0])


def test_defaults_are_the_notes():
    model, x, y, aug = task(2, 1)
    default = ivan.bidirectional_loss(model, x, y, aug)
    assert default == ivan.bidirectional_loss(model, x, y, aug, recipe="notes")
    assert default == ivan.bidirectional_loss(
        model, x, y, aug, weight=1.0, reverse_from="target", supervise="copies", norm="l2"
    )
    both = torch.cat([y, y], 1)
    torch.testing.assert_close(
        default["total"], distance(model(x), both, "l2") + distance(model.inverse(both), x, "l2")
    )


def test_recipes_and_single_options():
    model, x, y, aug = task(2, 1)
    public = ivan.bidirectional_loss(model, x, y, aug, recipe="public")
    assert public == ivan.bidirectional_loss(model, x, y, aug, reverse_from="prediction", supervise="mean")
    assert public != ivan.bidirectional_loss(model, x, y, aug)
    assert loss_options("public", norm="l1") == {**LOSS_RECIPES["public"], "norm": "l1"}


def test_public_reverse_term_is_zero_unless_the_clamp_bites():
    model, x, y, aug = task(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.2], [0.1, 0.6]]))
        x = 0.1 + 0.4 * x  # f(x) stays inside [0, 1]
    parts = ivan.bidirectional_loss(model, x, y, aug, recipe="public")
    assert parts["reverse"] < 1e-28
    assert torch.autograd.grad(parts["reverse"], model.weight)[0].abs().max() < 1e-13
    trained = ivan.bidirectional_loss(model, x, y, aug)
    assert trained["reverse"] > 1e-3
    assert torch.autograd.grad(trained["reverse"], model.weight)[0].abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_adversarial_identity(norm):
    """With G = f and D = f^-1, |D(G(x)) - D(y)| = |x - f^-1(y)|: value and gradient of the reverse term."""
    model, x, y, aug = task(2, 1)
    parts = ivan.bidirectional_loss(model, x, y, aug, norm=norm)
    generator, discriminator = model, model.inverse
    fake, real = generator(aug.augment_sources(x)), aug.augment_targets(y)
    loss_1 = distance(fake, real, norm)
    loss_2 = distance(discriminator(fake), discriminator(real), norm)
    torch.testing.assert_close(parts["forward"], loss_1, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts["reverse"], loss_2, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(loss_2, model.weight)[0]
    # D(G(x)) is x whatever the weights are: nothing but D(y) is left to differentiate.
    torch.testing.assert_close(
        torch.autograd.grad(parts["reverse"], model.weight)[0], expected, rtol=1e-10, atol=1e-12
    )


def test_adversarial_identity_of_the_network():
    torch.manual_seed(3)
    model = ivan.IVAN(blocks=2, growth=4).double()
    aug = ivan.VariableAugmentation(1, 1)
    x, y = torch.rand(2, 1, 5, 6).double(), torch.rand(2, 1, 5, 6).double()
    reverse = ivan.bidirectional_loss(model, x, y, aug)["reverse"]
    fake = model(aug.augment_sources(x))
    loss_2 = (model.inverse(fake) - model.inverse(aug.augment_targets(y))).square().mean()
    torch.testing.assert_close(reverse, loss_2, rtol=1e-10, atol=0)
    for one, two in zip(
        torch.autograd.grad(reverse, list(model.parameters())),
        torch.autograd.grad(loss_2, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("fill", ["zero", "noise"])
@pytest.mark.parametrize("supervise", ["copies", "mean"])
def test_dummies_enter_both_directions_and_are_not_supervised(fill, supervise):
    model, x, y, aug = task(2, 1, channels=3, fill=fill)
    parts = ivan.bidirectional_loss(
        model, x, y, aug, supervise=supervise, generator=torch.Generator().manual_seed(4)
    )
    generator = torch.Generator().manual_seed(4)
    whole_x, whole_y = aug.augment_sources(x, generator), aug.augment_targets(y, generator)
    torch.testing.assert_close(parts["forward"], distance(model(whole_x)[:, :1], y, "l2"))
    torch.testing.assert_close(parts["reverse"], distance(model.inverse(whole_y)[:, :2], x, "l2"))


def test_noise_is_fresh_at_every_step_and_follows_the_seed():
    model, x, y, aug = task(1, 1, fill="noise")

    def total():
        return ivan.bidirectional_loss(model, x, y, aug)["total"].item()

    torch.manual_seed(0)
    first, second = total(), total()
    torch.manual_seed(0)
    assert first == total()
    assert first != second


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reverse_from": "source"}, "target, prediction"),
        ({"supervise": "all"}, "copies, mean"),
        ({"norm": "l3"}, "l2, l1"),
        ({"recipe": "paper"}, "notes, public"),
        ({"weight": -1.0}, "at least 0"),
        ({"weight": float("nan")}, "finite"),
    ],
)
def test_bad_options(options, words):
    model, x, y, aug = task(1, 1)
    with pytest.raises(InputError, match=words):
        ivan.bidirectional_loss(model, x, y, aug, **options)


def test_sources_and_targets_must_fit():
    model, x, y, aug = task(1, 1)
    with pytest.raises(InputError, match="height"):
        ivan.bidirectional_loss(model, x, y[..., :-1], aug)
    with pytest.raises(InputError, match="batch"):
        ivan.bidirectional_loss(model, x[:1], y, aug)
    with pytest.raises(InputError, match="one channel a modality"):
        ivan.bidirectional_loss(model, torch.cat([x, x], 1), y, aug)


def test_changed_inputs_are_compared_with_unchanged_images():
    model, x, y, aug = task(1, 1)
    dim, bright = 0.8 * x, 1.1 * y
    parts = ivan.bidirectional_loss(model, x, y, aug, source_inputs=dim, target_inputs=bright)
    forward = distance(model(aug.augment_sources(dim)), aug.augment_targets(y), "l2")
    reverse = distance(model.inverse(aug.augment_targets(bright)), aug.augment_sources(x), "l2")
    torch.testing.assert_close(parts["forward"], forward)
    torch.testing.assert_close(parts["reverse"], reverse)


def test_ssim_term_by_hand_and_its_gradient():
    from ivan.metrics import ssim

    torch.manual_seed(3)
    model = ivan.IVAN(blocks=1, growth=4).double()
    aug = ivan.VariableAugmentation(1, 1)
    x, y = torch.rand(2, 1, 12, 13, dtype=torch.float64), torch.rand(2, 1, 12, 13, dtype=torch.float64)
    plain = ivan.bidirectional_loss(model, x, y, aug, weight=2.0)
    parts = ivan.bidirectional_loss(model, x, y, aug, weight=2.0, ssim_weight=0.3)
    with torch.no_grad():
        made = aug.collapse_targets(model(aug.augment_sources(x)))
        back = aug.collapse_sources(model.inverse(aug.augment_targets(y)))
    there = ssim(y, made, data_range=1.0).mean()
    assert parts["ssim_forward"].item() == pytest.approx(float(there), abs=1e-9)
    assert parts["ssim_reverse"].item() == pytest.approx(
        float(ssim(x, back, data_range=1.0).mean()), abs=1e-9
    )
    expected = plain["total"] + 0.3 * (2 * (1 - parts["ssim_forward"]) + 1 - parts["ssim_reverse"])
    assert torch.allclose(parts["total"], expected)
    (parts["total"] - plain["total"]).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(InputError, match="11x11"):
        ivan.bidirectional_loss(model, x[..., :9], y[..., :9], aug, ssim_weight=0.1)
    with pytest.raises(InputError, match="ssim_weight"):
        ivan.bidirectional_loss(model, x, y, aug, ssim_weight=-1.0)
