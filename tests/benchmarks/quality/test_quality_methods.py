"""The plans, the methods that are compared, and what is measured of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch


def test_ixi_plan(ixi: Path) -> None:
    from quality_lib.plans import ixi_plan

    from ivan.errors import InputError

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    names = [item.case.name for item in plan.training]
    assert names == ["IXI002-Guys-0802", "IXI012-Guys-0812", "IXI013-Guys-0813"]
    assert [item.case.name[:6] for item in plan.measured] == ["IXI015", "IXI016"]  # IXI014 is kept aside
    assert {(item.start, item.stop) for item in (*plan.training, *plan.measured)} == {(2, 5)}
    assert "25" not in plan.protocol
    assert plan.load(plan.measured[0])[1].shape == (3, 2, 14, 13)
    for path in ixi.glob("IXI016*"):
        path.unlink()
    for path in ixi.glob("IXI017*"):
        path.unlink()
    with pytest.raises(InputError, match="5 subjects"):
        ixi_plan(ixi, ("T1",), ("T2",))


def test_what_is_left_in_an_empty_background_is_measured_apart(quality: Any, ixi: Path) -> None:
    from quality_lib.measure import measure
    from quality_lib.plans import ixi_plan

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    truth = {item.case.name: plan.load(item)[1] for item in plan.measured}
    left = iter(truth.values())

    def right_but_for_the_background(given: np.ndarray) -> np.ndarray:
        real = next(left)[:, 1:]
        assert ((given == 0) == (real == 0)).all()
        return np.where(given == 0, 0.1, real)

    rows = measure(plan, right_but_for_the_background, lambda slices: None)
    assert len(rows) == 2
    for row in rows:
        assert row["values"]["psnr"] < 25
        assert row["values"]["ssim"] < 0.9995
        assert row["values"]["psnr_cleared"] == np.inf
        assert row["values"]["ssim_cleared"] > 0.99999


def test_public_recipe_halves_its_rate_and_uses_the_public_loss(quality: Any) -> None:
    from quality_lib.methods import Size, build

    import ivan

    method = build("public-twin", 1, 1, Size(1, 2), 0)
    ours = build("ivan", 1, 1, Size(1, 2), 0)
    assert method is not None
    assert ours is not None
    assert [method.rate * method.schedule(s) for s in (0.0, 0.2, 0.99)] == [1e-4, 5e-5, 1e-4 / 32]
    assert ours.schedule(0.0) < 0.01 < ours.schedule(0.03)
    batch = {"source": torch.rand(1, 1, 9, 9), "target": torch.rand(1, 1, 9, 9)}
    wanted = ivan.bidirectional_loss(
        method.net, batch["source"], batch["target"], ivan.VariableAugmentation(1, 1), recipe="public"
    )
    assert torch.equal(method.loss(batch), wanted["total"])


def test_the_u_nets_are_as_large_as_the_network(quality: Any) -> None:
    from quality_lib.methods import Size, build

    for sources, targets in ((1, 1), (2, 1), (1, 2)):
        sizes = []
        for name in ("ivan", "unet"):
            method = build(name, sources, targets, Size(), 0)
            assert method is not None
            sizes.append(sum(p.numel() for p in method.parameters()))
        assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
        assert build("hi-net", sources, targets, Size(), 0) is None or sources == 2


def test_total_variation_smooths_the_table(quality: Any, ixi: Path) -> None:
    from quality_lib.measure import tables
    from quality_lib.plans import ixi_plan

    plan = ixi_plan(ixi, ("T1",), ("T2",))
    slices = plan.load(plan.measured[0])[1]
    plain, smooth = (tables(plan, smooth=s)[0](slices[:, :1]) for s in (False, True))
    assert plain is not None
    assert smooth is not None
    assert plain.shape == smooth.shape == (3, 1, 14, 13)
    assert np.abs(np.diff(smooth, axis=3)).sum() < np.abs(np.diff(plain, axis=3)).sum()


def test_cases_of_unequal_sizes(quality: Any, ixi: Path) -> None:
    """As the eight reductions of one head are."""
    from quality_lib.measure import tables
    from quality_lib.plans import ixi_plan

    for name in ("T1", "T2"):
        path = ixi / f"IXI012-Guys-0812-{name}.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :-1], image.affine), path)
    plan = ixi_plan(ixi, ("T1",), ("T2",))
    slices = plan.load(plan.measured[0])[1]
    for smooth in (False, True):
        made = tables(plan, smooth=smooth)[0](slices[:, :1])
        assert made is not None
        assert made.shape == (3, 1, 14, 13)
        assert np.abs(made - slices[:, 1:]).mean() < 0.2


def test_score_model_trains_and_samples(quality: Any, ixi: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from quality_lib import score
    from quality_lib.plans import ixi_plan
    from quality_lib.train import Budget, train

    torch.manual_seed(0)
    model = score.ScoreModel(1, 2)
    model.steps = 3
    plan = ixi_plan(ixi, ("T1",), ("T2", "PD"))
    before = next(model.net.parameters()).detach().clone()
    found = train(model, plan, Budget(0.01, patch=12), 0, tmp_path / "s.pt", print)
    assert found["steps"] >= 1
    assert np.isfinite(found["last_loss"])
    assert not torch.equal(before, next(model.net.parameters()))
    source = torch.rand(2, 1, 13, 10)
    made = model.forward_predict(source)
    assert made.shape == (2, 2, 13, 10)
    assert torch.isfinite(made).all()
    assert torch.equal(made, model.forward_predict(source))  # the noise does not change
    assert model.reverse_predict(made) is None
