"""Oracles: lattices whose nearest distances are known, all distances at once, and a change of units."""

import math

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Snapshots, snapshots_of
from tsdyn.data import volatility
from tsdyn.data.snapshots import from_arrays
from tsdyn.data.volatility import suggest_sigma
from tsdyn.errors import DataError


def snapshots(*clouds: Tensor, t: tuple[float, ...]) -> Snapshots:
    time = torch.cat([torch.full((len(x),), s).double() for x, s in zip(clouds, t)])
    return from_arrays(torch.cat(clouds), time)


def cloud(n: int, D: int = 2) -> Tensor:
    return torch.randn(n, D, dtype=torch.float64)


@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("span", [0.5, 3.0])
def test_shifted_lattices(D, span):
    """Every cell moves by 0.1 along each axis: σ² = D 0.01 / (D Δt)."""
    lattice = torch.cartesian_prod(*[torch.arange(3).double()] * D).view(-1, D)
    found = suggest_sigma(snapshots(lattice, lattice + 0.1, t=(1.0, 1.0 + span)))
    assert found == pytest.approx(0.1 / math.sqrt(span))


def test_the_median_is_over_the_cells_of_all_intervals():
    """Three cells move by 1 in Δt = 1, then two by 3 in Δt = 9 and one by 30: σ² = 1, 1, 1, 1, 1, 100."""
    far = torch.tensor([0.0, 1e3, 2e3], dtype=torch.float64)[:, None]
    later = far + 1
    last = later + torch.tensor([3.0, 3.0, 30.0])[:, None]
    assert suggest_sigma(snapshots(far, later, last, t=(0.0, 1.0, 10.0))) == pytest.approx(1.0)


def test_the_nearest_is_the_nearest_of_all():
    clouds, t = [cloud(40), cloud(30), cloud(50)], (0.0, 0.5, 2.0)
    square = [
        (x[:, None] - y).square().sum(-1).amin(1) / (2 * span)
        for x, y, span in zip(clouds, clouds[1:], (0.5, 1.5))
    ]
    want = float(torch.cat(square).median().sqrt())
    assert suggest_sigma(snapshots(*clouds, t=t)) == pytest.approx(want)


def test_few_distances_at_a_time_find_the_same(monkeypatch):
    given = snapshots(cloud(70), cloud(60), t=(0.0, 1.0))
    want, sizes = suggest_sigma(given), []
    measure = torch.cdist

    def seen(x: Tensor, y: Tensor, **options: str) -> Tensor:
        sizes.append(x.shape[0] * y.shape[0])
        return measure(x, y, **options)

    monkeypatch.setattr(volatility._nearest, "__defaults__", (500,))
    monkeypatch.setattr(torch, "cdist", seen)
    assert suggest_sigma(given) == want
    assert max(sizes) <= 500 and sum(sizes) == 70 * 60


def test_units_carry_over():
    a, b = cloud(40), cloud(40)
    one = suggest_sigma(snapshots(a, b, t=(0.0, 1.0)))
    other = suggest_sigma(snapshots(7 * a, 7 * b, t=(0.0, 4.0)))
    assert other == pytest.approx(7 * one / 2)


def test_cells_far_from_the_origin_keep_their_distances():
    """|x|² - 2 x·y + |y|² would be off by 1e16 · 2e-16 here."""
    a, b = cloud(40), cloud(40)
    near = suggest_sigma(snapshots(a, b, t=(0.0, 1.0)))
    far = suggest_sigma(snapshots(a + 1e8, b + 1e8, t=(0.0, 1.0)))
    assert far == pytest.approx(near, rel=1e-6)


def test_padding_is_not_read():
    a, b = cloud(5), cloud(9)
    given = snapshots(a, b, t=(0.0, 1.0))
    poisoned = given._replace(x=given.x.masked_fill(~given.mask[..., None], torch.nan))
    assert suggest_sigma(poisoned) == suggest_sigma(given)


def test_sparse_cells_in_brownian_motion_have_the_order_of_sigma():
    """A cell far from all others is nearest to itself, and |Δ|² / (D σ² Δt) is χ² of D degrees of freedom by D.

    For D = 4 the median of χ² is z = 3.357, and the density of χ² / 4 there is z exp(-z / 2). The median of n
    draws has a standard error of 1 / (2 density √n).
    """
    D, sigma, span, n, z = 4, 0.3, 2.0, 400, 3.357
    x = 1e3 * torch.cartesian_prod(*[torch.arange(5).double()] * D)[:n]
    y = x + sigma * math.sqrt(span) * cloud(n, D)
    found = suggest_sigma(snapshots(x, y, t=(0.0, span)))
    error = 1 / (2 * z * math.exp(-z / 2) * math.sqrt(n))
    assert abs(found**2 / sigma**2 - z / 4) < 4 * error


def test_copies_and_single_snapshots_are_refused():
    a = cloud(10)
    copies = snapshots(a, a, t=(0.0, 1.0))
    with pytest.raises(DataError, match=r"TSD-D20: 100% of the cells have a copy"):
        suggest_sigma(copies)
    with pytest.raises(DataError, match="TSD-D20"):
        suggest_sigma(snapshots_of(copies, torch.tensor([0])))
