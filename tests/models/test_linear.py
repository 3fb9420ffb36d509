"""Where the law is linear and Gaussian a ridge must come close to it."""

import math

import pytest
import torch

from tsdyn.batch import Paths, query, windows
from tsdyn.data.synthetic import OrnsteinUhlenbeck, SeasonalAR
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.errors import ModelError
from tsdyn.evaluation import pit_counts
from tsdyn.maths.score import gaussian_crps, interval, masked_mean
from tsdyn.models.linear import Linear


def law_score(law, want: Paths) -> float:
    return float(masked_mean(gaussian_crps(law.mean, law.var.sqrt(), want.x), want.mask))


def trained(system, task, fresh=None, **options):
    """A model fitted to one set of series, and the question it is judged on: others of the same law."""
    model = Linear(len(system.channels), **options)
    model.on_epoch(0, task(system(), torch.Generator().manual_seed(0)))
    return model, task((fresh or system)(), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize(
    "task", [Forecasting(steps=5), Imputation(0.3, "row")], ids=["ahead", "between"]
)
def test_it_comes_within_three_percent_of_the_exact_law(irregular, task):
    system = OrnsteinUhlenbeck(n=400, length=40, rate=0.7, level=2.0, irregular=irregular)
    fresh = OrnsteinUhlenbeck(n=400, length=40, rate=0.7, level=2.0, irregular=irregular, seed=1)
    model, (given, want) = trained(system, task, fresh, neighbours=2, reverting=True)
    ours = law_score(model.posterior(given, want.t), want)
    exact = law_score(system.law(given, want.t), want)
    assert exact <= ours * 1.002 < 1.03 * exact * 1.002


def test_the_mean_is_that_of_the_exact_law():
    """E x(t + s) = level + exp(-rate s) (x(t) - level); weights of 400 series err by a few percent."""
    system = OrnsteinUhlenbeck(n=600, length=40, rate=0.7, level=2.0, irregular=False)
    model, (given, want) = trained(system, Forecasting(steps=3), neighbours=1, reverting=True)
    error = model.posterior(given, want.t).mean - system.law(given, want.t).mean
    spread = system.sigma / math.sqrt(2 * system.rate)
    assert error[want.mask].square().mean().sqrt() < 0.08 * spread


def test_intervals_cover_what_they_say():
    """Values of different series are independent: 4 standard errors of a binomial over 500 of them."""
    system, fresh = (OrnsteinUhlenbeck(n=500, length=30, seed=s) for s in (0, 1))
    model, (given, want) = trained(system, Forecasting(steps=1), fresh, neighbours=2)
    draws = model.sample(given, want.t, 400)
    for level in (0.5, 0.9):
        low, high = interval(draws, level)
        inside = ((want.x >= low) & (want.x <= high))[want.mask].float().mean()
        assert abs(float(inside) - level) < 4 * math.sqrt(level * (1 - level) / 500) + 0.01
    counts = torch.tensor(pit_counts(draws, want), dtype=torch.float64)
    chi_square = ((counts - 50) ** 2 / 50).sum()
    assert chi_square < 9 + 4 * math.sqrt(18)


def test_a_season_is_found():
    system = SeasonalAR(n=1, length=900, span=300.0, period=4.0, irregular=False, amplitude=2.0)
    paths = windows(system(), 120, 4)
    task = Forecasting(steps=12)
    given, want = task(paths)
    scores = {}
    for periods in ((), (4.0,)):
        model = Linear(1, 2, periods)
        model.on_epoch(0, (given, want))
        scores[periods] = law_score(model.posterior(given, want.t), want)
    assert scores[(4.0,)] < 1.25 * law_score(system.law(given, want.t), want) < scores[()]


def test_covariates_known_ahead_are_used():
    """x is its covariate and a little noise: what is left is the noise."""
    c = torch.randn(200, 20, 1)
    t = torch.arange(20.0).expand(200, -1)
    paths = Paths(t, c + 0.1 * torch.randn(200, 20, 1), torch.ones(200, 20, 1).bool(), c)
    given, want = Forecasting(steps=4)(paths)
    model = Linear(1, 2, covariates=1)
    model.on_epoch(0, (given, want))
    error = (model.posterior(given, want.t).mean - want.x).square().mean().sqrt()
    assert 0.08 < error < 0.2  # the anchor carries the noise of the last value too


def test_without_reversion_nothing_depends_on_the_level_of_a_series():
    """Levels of their own, as of stocks: a constant added to each moves its forecasts by as much."""
    system = OrnsteinUhlenbeck(n=80, length=20)
    given, want = Forecasting(steps=4)(system())
    level = 100 * torch.randn(80, 1, 1)
    model = Linear(1, 3)
    model.on_epoch(0, (given._replace(x=given.x + level), want._replace(x=want.x + level)))
    law = model.posterior(given, want.t)
    moved = model.posterior(given._replace(x=given.x + level), want.t)
    torch.testing.assert_close(moved.mean, law.mean + level, rtol=0, atol=1e-4)


def test_shift_and_scale_of_values_and_of_time():
    system = OrnsteinUhlenbeck(n=50, length=20)
    laws = []
    for a, b, start, unit in ((0.0, 1.0, 0.0, 1.0), (1e3, 50.0, 1.7e9, 3600.0)):
        paths = system()
        paths = paths._replace(x=a + b * paths.x, t=start + unit * paths.t.double())
        given, want = Forecasting(steps=4)(paths)
        model = Linear(1, 2)
        model.on_epoch(0, (given, want))
        law = model.posterior(given, want.t)
        laws.append(((law.mean - a) / b, law.var / b**2))
    for plain, moved in zip(*laws):
        torch.testing.assert_close(plain, moved, rtol=5e-3, atol=5e-3)


def test_draws_are_joint_and_have_the_fitted_variance():
    system = OrnsteinUhlenbeck(n=200, length=30, irregular=False, rate=0.3)
    model, (given, want) = trained(system, Forecasting(steps=3), neighbours=1)
    n = 4000
    law = model.posterior(given, want.t)
    draws = model.sample(given, want.t, n)[:, 0, :, 0]
    deviation = (draws - law.mean[0, :, 0]) / law.var[0, :, 0].sqrt()
    assert (deviation.mean(0).abs() < 4 / math.sqrt(n)).all()
    assert ((deviation.var(0) - 1).abs() < 4 * math.sqrt(2 / n)).all()
    # corr of a walk at 1 and 2 steps: sqrt(1 / 2)
    correlation = float((deviation[:, 0] * deviation[:, 1]).mean())
    assert abs(correlation - math.sqrt(0.5)) < 4 * math.sqrt(1.5 / n)


def test_where_nothing_is_known_it_gives_the_moments_of_training():
    system = OrnsteinUhlenbeck(n=200, length=20, level=40.0)
    model, (given, _) = trained(system, Forecasting(steps=3), neighbours=2)
    nothing = query(torch.zeros(1, 1), given)
    law = model.posterior(nothing, torch.tensor([[3.0]]))
    spread = system.sigma / math.sqrt(2 * system.rate)
    assert abs(law.mean.item() - 40.0) < 4 * spread / math.sqrt(200)
    assert abs(law.var.item() / spread**2 - 1) < 0.15


def test_values_never_observed_are_never_read():
    system = OrnsteinUhlenbeck(n=30, length=20, missing=0.4)
    laws = []
    for filler in (0.0, torch.nan):
        paths = system()
        paths = paths._replace(x=paths.x.where(paths.mask, filler))
        given, want = Imputation(0.3)(paths, torch.Generator().manual_seed(0))
        model = Linear(1, 2)
        model.on_epoch(0, (given, want))
        laws.append(model.posterior(given, want.t))
    assert torch.equal(laws[0].mean, laws[1].mean) and torch.equal(laws[0].var, laws[1].var)


def test_before_training_it_refuses():
    given, want = Forecasting(steps=2)(OrnsteinUhlenbeck(n=2)())
    with pytest.raises(ModelError, match=r"TSD-M01.*Linear"):
        Linear(1).loss(given, want)
