"""Oracles: closed forms, all pairs by brute force, and the package scoringrules."""

import math

import numpy as np
import pytest
import torch

from tsdyn.maths import score


def draws(s=40, shape=(6, 3)):
    return torch.randn(s, *shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)


def test_crps_is_all_pairs():
    s, x = draws()
    pairs = (s[:, None] - s[None]).abs().sum((0, 1)) / (len(s) * (len(s) - 1))
    torch.testing.assert_close(score.crps(s, x), (s - x).abs().mean(0) - 0.5 * pairs)


def test_crps_is_fair_crps_of_scoringrules():
    rules = pytest.importorskip("scoringrules")
    s, x = draws()
    theirs = rules.crps_ensemble(x.numpy(), np.moveaxis(s.numpy(), 0, -1), estimator="fair")
    np.testing.assert_allclose(score.crps(s, x), theirs, rtol=1e-9)


def test_crps_of_many_normal_draws_is_the_closed_form():
    n = 200_000
    x = torch.tensor([-1.0, 0.0, 0.3, 2.0], dtype=torch.float64)
    s = 0.5 + 2.0 * torch.randn(n, 4, dtype=torch.float64)
    exact = score.gaussian_crps(torch.tensor(0.5), torch.tensor(2.0), x)
    # Each of the two means has a standard error below std / sqrt(n).
    torch.testing.assert_close(score.crps(s, x), exact, atol=4 * 2 * 2.0 / math.sqrt(n), rtol=0)


def test_fair_crps_has_the_same_mean_for_three_draws_as_for_many():
    n, x = 200_000, torch.zeros(200_000, dtype=torch.float64)
    scores = score.crps(torch.randn(3, n, dtype=torch.float64), x)
    exact = score.gaussian_crps(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0))
    assert abs(scores.mean() - exact) < 4 * scores.std() / math.sqrt(n)


def test_energy_score_in_one_dimension_is_crps():
    s, x = draws(shape=(6, 1))
    mask = torch.ones_like(x, dtype=torch.bool)
    torch.testing.assert_close(score.energy_score(s, x, mask), score.crps(s, x)[..., 0])


def test_energy_score_is_fair_energy_score_of_scoringrules():
    rules = pytest.importorskip("scoringrules")
    s, x = draws()
    theirs = rules.es_ensemble(x.numpy(), np.moveaxis(s.numpy(), 0, -2), estimator="fair")
    mask = torch.ones_like(x, dtype=torch.bool)
    np.testing.assert_allclose(score.energy_score(s, x, mask, rows=4), theirs, rtol=1e-9)


def test_energy_score_leaves_unobserved_coordinates_out():
    s, x = draws()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 1] = False
    kept = [0, 2]
    torch.testing.assert_close(
        score.energy_score(s, x.where(mask, torch.nan), mask),
        score.energy_score(s[..., kept], x[..., kept], mask[..., kept]),
    )


@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.99, 1.0])
def test_quantile_is_torch_quantile(q):
    s, _ = draws()
    torch.testing.assert_close(score.quantile(s, q), torch.quantile(s, q, dim=0))


def test_mean_quantile_loss_approaches_twice_crps():
    # CRPS = integral over q of the (doubled) quantile loss [Gneiting & Ranjan 2011, eq. 3].
    s, x = torch.randn(4001, 1, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    levels = [(i + 0.5) / 400 for i in range(400)]
    mean = torch.stack(
        [score.quantile_loss(p, x, q) for q, p in zip(levels, score.quantile(s, levels))]
    ).mean()
    assert abs(mean - score.crps(s, x)) < 2e-3


def test_pit_of_draws_from_the_same_law_is_uniform():
    n = 20_000
    u = score.pit(torch.randn(99, n), torch.randn(n))
    counts = torch.histc(u, 10, 0, 1)
    expected = n / 10
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < 27.9  # 99.9 % point of chi^2 with 9 degrees of freedom


def test_interval_of_normal_draws():
    low, high = score.interval(torch.randn(100_000, 1, dtype=torch.float64), 0.9)
    # standard error of a quantile: sqrt(q (1 - q) / n) / density
    se = math.sqrt(0.05 * 0.95 / 1e5) / 0.1031
    assert abs(low + 1.6449) < 4 * se and abs(high - 1.6449) < 4 * se


@pytest.mark.parametrize("draws", [19, 32, 100])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_an_interval_holds_the_next_draw_as_often_as_it_says(draws, level):
    n = 40_000
    x = torch.randn(draws + 1, n, dtype=torch.float64)
    low, high = score.interval(x[1:], level)
    inside = ((x[0] >= low) & (x[0] <= high)).double().mean()
    # Interpolating between order statistics is exact for uniform draws, and for normal ones to .004.
    assert abs(inside - level) < 4 * math.sqrt(level * (1 - level) / n) + 0.004


def test_area_under_roc_counts_pairs():
    """Every pair of a positive and a negative, one by one; ties count half."""
    g = torch.Generator().manual_seed(0)
    value = torch.randint(0, 6, (40,), generator=g).double()
    positive = torch.rand(40, generator=g) < 0.3
    gaps = value[positive][:, None] - value[~positive]
    exact = ((gaps > 0).double() + (gaps == 0).double() / 2).mean()
    torch.testing.assert_close(score.area_under_roc(value, positive), exact)
    assert score.area_under_roc(value, torch.zeros(40, dtype=torch.bool)).isnan()
