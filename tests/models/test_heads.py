"""Oracles: the distributions of torch, mixtures by hand, and moments of draws."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal, StudentT

from tsdyn.batch import Paths
from tsdyn.maths import score
from tsdyn.models.heads import LOSSES, Law

K, B, T, D = 5, 3, 4, 2


def law(tails="student", dtype=torch.float64):
    mean, scale = torch.randn(K, B, T, D, dtype=dtype), 0.2 + torch.rand(K, B, T, D, dtype=dtype)
    return Law(mean, scale, torch.tensor([3.0, 9.0], dtype=dtype) if tails == "student" else None)


def want():
    mask = torch.rand(B, T, D) < 0.7
    x = torch.randn(B, T, D, dtype=torch.float64).where(mask, torch.nan)
    return Paths(torch.zeros(B, T), x, mask)


def components(of: Law):
    if of.dof is None:
        return Normal(of.mean, of.scale)
    return StudentT(of.dof, of.mean, of.scale)


@pytest.mark.parametrize("tails", ["gaussian", "student"])
def test_nll_is_that_of_the_mixture(tails):
    paths, asked = law(tails), want()
    one = components(Law(*(f.movedim(0, -1) for f in paths[:2]), None))
    if tails == "student":
        one = StudentT(paths.dof[:, None], paths.mean.movedim(0, -1), paths.scale.movedim(0, -1))
    mixture = MixtureSameFamily(Categorical(torch.ones(B, T, D, K)), one)
    exact = -mixture.log_prob(asked.x.nan_to_num())[asked.mask].mean()
    torch.testing.assert_close(LOSSES["nll"](paths, asked), exact)


@pytest.mark.parametrize("tails", ["gaussian", "student"])
def test_draws_have_the_moments_of_the_law(tails):
    n = 200_000
    paths = Law(
        torch.full((n, 1, 1, 2), 0.5),
        torch.full((n, 1, 1, 2), 2.0),
        torch.tensor([5.0, 9.0]) if tails == "student" else None,
    )
    x = paths.draw()[:, 0, 0]
    v = torch.tensor([5.0, 9.0])
    var = 4.0 * (v / (v - 2) if tails == "student" else torch.ones(2))
    # The standard error of a variance is var sqrt((kurtosis - 1) / n); kurtosis 3 + 6 / (v - 4).
    kurtosis = 3 + (6 / (v - 4) if tails == "student" else torch.zeros(2))
    assert ((x.mean(0) - 0.5).abs() < 4 * (var / n).sqrt()).all()
    assert ((x.var(0) / var - 1).abs() < 4 * ((kurtosis - 1) / n).sqrt()).all()


def test_scores_are_those_of_the_draws():
    paths, asked = law(), want()
    torch.manual_seed(1)
    x = paths.draw()
    for name, exact in {
        "crps": score.crps(x, asked.x)[asked.mask].mean(),
        "energy": score.energy_score(x, asked.x, asked.mask)[asked.mask.any(-1)].mean(),
    }.items():
        torch.manual_seed(1)
        torch.testing.assert_close(LOSSES[name](paths, asked), exact)
    error = (paths.mean.mean(0) - asked.x)[asked.mask].square().mean()
    torch.testing.assert_close(LOSSES["mse"](paths, asked), error)


@pytest.mark.parametrize("name", ["nll", "crps", "energy"])
def test_the_true_law_is_the_best_on_average(name):
    """Proper scores: half or twice the true spread costs more, by more than four standard errors."""
    n = 4000
    x = torch.randn(n, 1, 1, dtype=torch.float64)
    asked = Paths(torch.zeros(n, 1), x, torch.ones(n, 1, 1, dtype=torch.bool))
    ones = torch.ones(8, n, 1, 1, dtype=torch.float64)
    losses = {}
    for spread in (0.5, 1.0, 2.0):
        torch.manual_seed(0)
        losses[spread] = float(LOSSES[name](Law(0 * ones, spread * ones), asked))
    margin = 4 * 0.5 / math.sqrt(n)  # scores of single values differ by less than half on average
    assert losses[1.0] + margin < min(losses[0.5], losses[2.0])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_values_under_a_false_mask_are_never_read(name):
    paths, asked = law(), want()
    paths = Law(paths.mean.requires_grad_(), paths.scale.requires_grad_(), paths.dof)
    torch.manual_seed(0)
    loss = LOSSES[name](paths, asked)
    loss.backward()
    assert loss.isfinite() and paths.mean.grad.isfinite().all()
