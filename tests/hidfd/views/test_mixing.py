"""Mixed views hold what their partners show, in boxes or as a weighted mean, and as often as was asked for."""

import pytest
import torch
from torch import Tensor

from hidfd.distributed.random_streams import Draws
from hidfd.views.mixing import mix, partners

MANY = 4000


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def mixed(kind: str, fraction: float = 1.0) -> Tensor:
    """Return the share of the partner in each pixel of many views, `n x 16 x 16`."""
    zeros, ones = torch.zeros(MANY, 1, 16, 16), torch.ones(MANY, 1, 16, 16)
    return mix(zeros, ones, kind, draws(), fraction=fraction)[:, 0]


def test_cutmix_puts_one_box_of_the_partner_into_each_view() -> None:
    seen = mixed("cutmix")
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    rows, columns = seen.amax(dim=2), seen.amax(dim=1)
    assert torch.equal(seen, rows[:, :, None] * columns[:, None, :])  # a rectangle
    for side in (rows, columns):  # without gaps
        assert ((side[:, 1:] - side[:, :-1]).clamp(min=0).sum(dim=1) + side[:, 0] <= 1).all()


def test_cutmix_boxes_have_the_areas_of_a_uniform_lambda_before_the_border_cuts_them() -> None:
    areas = mixed("cutmix").mean(dim=(1, 2))
    inner = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(1))  # the same by simulation: share, x, y
    half = inner[:, 0].sqrt() / 2
    sides = [(inner[:, n] + half).clamp(max=1) - (inner[:, n] - half).clamp(min=0) for n in (1, 2)]
    assert areas.mean().item() == pytest.approx((sides[0] * sides[1]).mean().item(), abs=0.012)


def test_mixup_weighs_partners_by_a_uniform_lambda() -> None:
    shares = mixed("mixup")
    assert torch.equal(shares.amin(dim=(1, 2)), shares.amax(dim=(1, 2)))
    quantiles = shares[:, 0, 0].quantile(torch.tensor([0.1, 0.5, 0.9]))
    assert quantiles.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_only_the_fraction_is_mixed(kind: str) -> None:
    touched = (mixed(kind, fraction=0.25).amax(dim=(1, 2)) > 0).float().mean().item()
    assert touched == pytest.approx(0.25, abs=0.03)
    assert mixed(kind, fraction=0.0).amax() == 0


def test_partners_are_of_the_same_source_and_each_view_is_one_partner() -> None:
    found = partners([10, 0, 30], torch.Generator().manual_seed(0))
    assert sorted(found[:10].tolist()) == list(range(10))
    assert sorted(found[10:].tolist()) == list(range(10, 40))
    assert not torch.equal(found, torch.arange(40))
