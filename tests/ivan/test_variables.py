"""Variable augmentation: every N -> M, every fill, and what each channel weighs."""

import itertools
import pickle

import pytest
import torch

from ivan import VariableAugmentation
from ivan.errors import InputError
from ivan.variables import fixed_noise

COUNTS = list(itertools.product((1, 2, 3, 5), repeat=2))


def batch(modalities, n=2, h=3, w=4):
    return torch.rand(n, modalities, h, w, dtype=torch.float64)


@pytest.mark.parametrize(("sources", "targets"), COUNTS)
@pytest.mark.parametrize("extra", [0, 1, 4])
@pytest.mark.parametrize("fill", ["copy", "zero", "noise"])
def test_collapse_undoes_augment(sources, targets, extra, fill):
    least = max(sources, targets, 2)
    aug = VariableAugmentation(sources, targets, channels=least + extra if extra else None, fill=fill)
    assert aug.channels == least + extra
    x, y = batch(sources), batch(targets)
    for data, augment, collapse, weights in (
        (x, aug.augment_sources, aug.collapse_sources, aug.source_weights()),
        (y, aug.augment_targets, aug.collapse_targets, aug.target_weights()),
    ):
        count = data.shape[1]
        whole = augment(data)
        assert whole.shape == (2, aug.channels, 3, 4)
        assert whole.dtype == data.dtype
        torch.testing.assert_close(whole[:, :count], data, rtol=0, atol=0)
        torch.testing.assert_close(collapse(whole), data, rtol=1e-15, atol=0)
        for c in range(count, aug.channels):
            if fill == "copy":
                assert torch.equal(whole[:, c], data[:, c % count])
            elif fill == "zero":
                assert not whole[:, c].any()
            else:
                assert 0 <= whole[:, c].min() < whole[:, c].max() < 1
        # Every modality weighs the same, however many channels hold it.
        assert len(weights) == aug.channels
        for m in range(count):
            held = weights[m::count] if fill == "copy" else weights[m : m + 1]
            assert sum(held) == pytest.approx(1 / count)
            assert len(set(held)) == 1
        assert sum(weights) == pytest.approx(1)


def test_collapse_is_the_mean_over_copies():
    aug = VariableAugmentation(3, 2, channels=5)
    state = batch(5)
    expected = torch.stack([state[:, [0, 2, 4]].mean(1), state[:, [1, 3]].mean(1)], 1)
    torch.testing.assert_close(aug.collapse_targets(state), expected)
    expected = torch.stack([state[:, [0, 3]].mean(1), state[:, [1, 4]].mean(1), state[:, 2]], 1)
    torch.testing.assert_close(aug.collapse_sources(state), expected)
    zero = VariableAugmentation(3, 2, channels=5, fill="zero")
    assert torch.equal(zero.collapse_targets(state), state[:, :2])


def test_noise_is_reproducible_and_does_not_depend_on_the_batch():
    aug = VariableAugmentation(1, 1, fill="noise")
    x = batch(1, n=3)
    torch.manual_seed(1)
    first = aug.augment_sources(x)
    torch.manual_seed(2)
    torch.testing.assert_close(aug.augment_sources(x), first, rtol=0, atol=0)
    torch.testing.assert_close(aug.augment_sources(x[1:2]), first[1:2], rtol=0, atol=0)
    assert not torch.equal(VariableAugmentation(1, 1, fill="noise", seed=5).augment_sources(x), first)
    assert torch.equal(VariableAugmentation(1, 1, fill="noise").augment_targets(x), first)

    def drawn(seed):
        return aug.augment_sources(x, torch.Generator().manual_seed(seed))[:, 1]

    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))
    assert not torch.equal(drawn(7)[0], drawn(7)[1])  # a generator draws fresh noise for every image
    assert not torch.equal(aug.augment_sources(x.float())[:, 1].double(), torch.rand(3, 3, 4).double())


def test_fixed_noise_is_uniform_and_depends_on_the_pixel_alone():
    field = fixed_noise(3, 4, 200, 300)
    assert field.shape == (1, 4, 200, 300)
    assert 0 <= field.min() < 1e-4
    assert 1 - 1e-4 < field.max() < 1
    assert torch.equal(fixed_noise(3, 2, 50, 70), field[:, :2, :50, :70])
    counts = torch.histc(field, 64, 0, 1) / field.numel() * 64
    assert (counts - 1).abs().max() < 0.08  # five standard deviations
    x = field[0].double() - 0.5
    for a, b in ((x[:, 1:], x[:, :-1]), (x[..., 1:], x[..., :-1]), (x[1:], x[:-1])):
        assert ((a * b).mean() * 12).abs() < 0.02  # neighbours in row, column and channel are unrelated
    assert ((x * (fixed_noise(4, 4, 200, 300)[0] - 0.5)).mean() * 12).abs() < 0.02


def test_gradients_reach_every_copy():
    aug = VariableAugmentation(2, 1, channels=5)
    x = batch(2).requires_grad_()
    aug.augment_sources(x).sum().backward()
    torch.testing.assert_close(x.grad[:, 0], torch.full_like(x.grad[:, 0], 3))
    torch.testing.assert_close(x.grad[:, 1], torch.full_like(x.grad[:, 1], 2))


def test_is_a_plain_value():
    aug = VariableAugmentation(sources=2, targets=3, fill="zero")
    assert pickle.loads(pickle.dumps(aug)) == aug == VariableAugmentation(2, 3, 3, "zero")
    assert aug != VariableAugmentation(2, 3)
    with pytest.raises(AttributeError):
        aug.channels = 4


BAD = {
    "no sources": (lambda: VariableAugmentation(0, 1), "sources"),
    "fraction": (lambda: VariableAugmentation(1, 1.5), "targets"),
    "few channels": (lambda: VariableAugmentation(3, 1, channels=2), "at least 3"),
    "one channel": (lambda: VariableAugmentation(1, 1, channels=1), "at least 2"),
    "zero channels": (lambda: VariableAugmentation(1, 1, channels=0), "at least 2"),
    "fill": (lambda: VariableAugmentation(1, 1, fill="mirror"), "copy, zero, noise"),
    "modalities": (lambda: VariableAugmentation(2, 1).augment_sources(batch(1)), r"\[B, 2, H, W\]"),
    "targets": (lambda: VariableAugmentation(2, 1).augment_targets(batch(2)), "targets"),
    "no batch": (lambda: VariableAugmentation(2, 1).augment_sources(batch(2)[0]), "shape"),
    "state": (lambda: VariableAugmentation(2, 1).collapse_targets(batch(3)), r"\[B, 2, H, W\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_say_what_is_expected(case):
    call, words = BAD[case]
    with pytest.raises(InputError, match=words):
        call()
