"""Oracles: POT, scipy, closed forms, all pairs by hand."""

import math

import pytest
import scipy.stats
import torch

from tsdyn.errors import ModelError
from tsdyn.maths import distances
from tsdyn.maths.distances import (
    energy_distance,
    median_distance,
    mmd,
    sliced_wasserstein,
    wasserstein,
)


def clouds(n=60, m=45, d=3):
    x = torch.randn(n, d, dtype=torch.float64)
    return x, 1.4 * torch.randn(m, d, dtype=torch.float64) + 0.3


def weights(n):
    return 0.1 + torch.rand(n, dtype=torch.float64)


def pair_means(x, y, a, b, kernel):
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y), one pair after another."""
    a, b = a / a.sum(), b / b.sum()

    def mean(x, y, a, b):
        return sum(
            a[i] * b[j] * kernel((x[i] - y[j]).square().sum().sqrt())
            for i in range(len(x))
            for j in range(len(y))
        )

    return mean(x, x, a, a) + mean(y, y, b, b) - 2 * mean(x, y, a, b)


@pytest.mark.parametrize("chunk", [50, 2**19])
def test_energy_distance_and_mmd_visit_all_pairs(monkeypatch, chunk):
    monkeypatch.setattr(distances, "ENTRIES", chunk)
    x, y = clouds(20, 15)
    a, b = weights(20), weights(15)
    torch.testing.assert_close(energy_distance(x, y, a, b), pair_means(x, y, a, b, lambda r: -r))
    gauss = pair_means(x, y, a, b, lambda r: torch.exp(-(r**2) / (2 * 1.5**2)))
    torch.testing.assert_close(mmd(x, y, a, b, width=1.5), gauss.sqrt())
    even = torch.ones(20), torch.ones(15)
    torch.testing.assert_close(energy_distance(x, y), energy_distance(x, y, *even))


def test_energy_distance_of_scipy():
    """On a line, its square root over sqrt 2 would be Cramér's distance; scipy takes the root only."""
    x, y = clouds(d=1)
    theirs = scipy.stats.energy_distance(x[:, 0], y[:, 0])
    torch.testing.assert_close(energy_distance(x, y).sqrt(), torch.tensor(theirs).double())


def test_mmd_of_gaussians_has_the_closed_form():
    """For N(0, I) and N(s, I): 2 (w² / (w² + 2))^(D/2) (1 - exp(-|s|² / 2 (w² + 2))).

    The estimate over all pairs is too large by the pairs of a point with itself, at most 2 / N, and its
    standard error is at most 4 sqrt(2 / N) sqrt(MMD²) + 8 / N for a kernel between 0 and 1.
    """
    n, d, w = 3000, 2, 1.2
    shift = torch.tensor([1.0, 0.5], dtype=torch.float64)
    x, y = torch.randn(n, d).double(), torch.randn(n, d).double() + shift
    scale = (w**2 / (w**2 + 2)) ** (d / 2)
    exact = 2 * scale * (1 - math.exp(-float(shift.square().sum()) / (2 * (w**2 + 2))))
    noise = 4 * math.sqrt(2 / n * exact) + 8 / n
    assert abs(float(mmd(x, y, width=w).square()) - exact) < 2 / n + noise
    assert exact > 3 * noise


def test_equal_clouds_are_at_distance_zero():
    x, _ = clouds()
    y = x[torch.randperm(len(x))]
    for distance in (energy_distance, mmd, wasserstein, sliced_wasserstein):
        assert abs(float(distance(x, y))) < 1e-7  # MMD is a root of what rounds to 1e-16


def test_distances_do_not_move_with_the_origin():
    x, y = clouds()
    for distance in (energy_distance, mmd, wasserstein):
        torch.testing.assert_close(distance(x + 1e4, y + 1e4), distance(x, y), rtol=1e-7, atol=0)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_median_distance_is_the_median_of_all_pairs(n):
    x = torch.randn(n, 3, dtype=torch.float64)
    pairs = [(x[i] - x[j]).norm() for i in range(n) for j in range(i)]
    torch.testing.assert_close(median_distance(x), torch.stack(pairs).quantile(0.5))
    default = mmd(x[:1], x[1:])
    torch.testing.assert_close(default, mmd(x[:1], x[1:], width=float(median_distance(x))))


def test_median_distance_of_some():
    """Of a grid, 201 of 2001 rows spread evenly have the same median, to the width of a cell."""
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    assert abs(median_distance(x, most=201) - (1 - math.sqrt(0.5))) < 0.01


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_wasserstein_on_a_line_is_that_of_sorted_points(order):
    x, y = clouds(50, 50, 1)
    gap = x[:, 0].sort().values - y[:, 0].sort().values
    expected = (gap.abs() ** order).mean() ** (1 / order)
    torch.testing.assert_close(wasserstein(x, y, order=order), expected)
    flat = [torch.cat([z, torch.zeros_like(z)], 1) for z in (x, y)]
    torch.testing.assert_close(wasserstein(*flat, order=order), expected)


def test_wasserstein_on_a_line_with_weights_is_that_of_scipy():
    x, y = clouds(d=1)
    a, b = weights(60), weights(45)
    a[7], b[0] = 0, 0
    theirs = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0], a, b)
    torch.testing.assert_close(wasserstein(x, y, a, b), torch.tensor(theirs).double())


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("n, m, even", [(60, 60, True), (60, 45, True), (60, 45, False)])
def test_wasserstein_is_that_of_pot(order, n, m, even):
    ot = pytest.importorskip("ot")
    x, y = clouds(n, m)
    a, b = (torch.ones(k).double() if even else weights(k) for k in (n, m))
    a, b = a / a.sum(), b / b.sum()
    theirs = ot.emd2(a, b, torch.cdist(x, y) ** order) ** (1 / order)
    given = () if even else (7 * a, 0.2 * b)
    torch.testing.assert_close(wasserstein(x, y, *given, order=order), theirs, rtol=1e-8, atol=0)


def test_wasserstein_of_a_shift_is_its_length():
    x, _ = clouds(80)
    shift = torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64)
    for order in (1.0, 2.0):
        torch.testing.assert_close(wasserstein(x, x + shift, order=order), shift.norm())


def test_sliced_wasserstein_of_a_shift():
    """|s|² / D, the mean of (θ·s)²; its square has variance 2 (D - 1) / (D² (D + 2)) |s|⁴ over directions."""
    x, _ = clouds(200, d=3)
    shift = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    length, d, n = float(shift.square().sum()), 3, 4000
    found = sliced_wasserstein(x, x + shift, directions=n)
    error = math.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / n) * length
    assert abs(float(found.square()) - length / d) < 4 * error


def test_sliced_wasserstein_is_the_mean_over_directions():
    """In one dimension every direction gives the same; with weights, points count as often as they weigh."""
    x, y = clouds(30, 20, 1)
    torch.testing.assert_close(sliced_wasserstein(x, y, directions=5), wasserstein(x, y, order=2.0))
    x, y = clouds(30, 20)
    twice = torch.ones(30, dtype=torch.float64)
    twice[:10] = 2
    often = torch.cat([x, x[:10]])
    same = [torch.Generator().manual_seed(3) for _ in range(2)]
    torch.testing.assert_close(
        sliced_wasserstein(x, y, a=twice, generator=same[0]),
        sliced_wasserstein(often, y, generator=same[1]),
    )


@pytest.mark.parametrize("distance", [energy_distance, mmd, wasserstein, sliced_wasserstein])
def test_gradients(distance):
    x, y = (z.requires_grad_() for z in clouds(6, 5, 2))
    options = {"width": 1.0} if distance is mmd else {}

    def value(x, y):
        if distance is sliced_wasserstein:
            options["generator"] = torch.Generator().manual_seed(0)
        return distance(x, y, **options)

    assert torch.autograd.gradcheck(value, (x, y))


def test_too_many_points():
    x = torch.zeros(2600, 2)
    with pytest.raises(ModelError, match="TSD-M05"):
        wasserstein(x, x)
    assert wasserstein(x[:, :1], x[:, :1] + 1) == 1
