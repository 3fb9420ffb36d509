"""What must be beaten, against formulas worked by hand."""

import math

import pytest
import torch
from ragged import make

from tsdyn.batch import Paths
from tsdyn.models.baselines import (
    Gaussian,
    LastValue,
    LinearInterpolation,
    SeasonalNaive,
    gaussian_loss,
)


def paths(t: list[float], x: list[float], dtype=torch.float64) -> Paths:
    values = torch.tensor(x, dtype=dtype).view(1, -1, 1)
    return Paths(torch.tensor([t], dtype=torch.float64), values, values.isfinite())


def asked(*t: float) -> torch.Tensor:
    return torch.tensor([t], dtype=torch.float64)


HISTORY = paths([0.0, 1.0, 3.0], [1.0, 2.0, 0.0])
RATE = (1 + 4) / 3


def test_last_value_by_hand():
    law = LastValue().posterior(HISTORY, asked(-1.0, 0.0, 0.5, 2.0, 5.0))
    assert law.mean.flatten().tolist() == [1.0, 1.0, 1.0, 2.0, 0.0]
    expected = RATE * torch.tensor([1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(law.var.flatten(), expected)


def test_linear_interpolation_by_hand():
    law = LinearInterpolation().posterior(HISTORY, asked(-1.0, 0.5, 2.5, 5.0))
    torch.testing.assert_close(law.mean.flatten(), torch.tensor([1.0, 1.5, 0.5, 0.0]).double())
    spread = torch.tensor([1.0, 0.5 * 0.5 / 1, 1.5 * 0.5 / 2, 2.0], dtype=torch.float64)
    torch.testing.assert_close(law.var.flatten(), RATE * spread)


@pytest.mark.parametrize("model", [LastValue(), LinearInterpolation()])
def test_draws_have_the_moments_of_the_posterior(model):
    at, n = asked(-1.0, 0.5, 2.0, 2.5, 4.0), 20_000
    law, draws = model.posterior(HISTORY, at), model.sample(HISTORY, at, n)
    error = 4.5 * (law.var / n).sqrt()
    assert ((draws.mean(0) - law.mean).abs() <= error + 1e-12).all()
    assert ((draws.var(0) - law.var).abs() <= 4.5 * law.var * math.sqrt(2 / n) + 1e-12).all()


def test_last_value_draws_are_joint_paths():
    """cov(x(s), x(t)) = v min(s, t) after the last value: increments are independent."""
    n = 20_000
    draws = LastValue().sample(HISTORY, asked(4.0, 6.0, 7.0), n)[:, 0, :, 0]
    steps = draws.diff(dim=1)
    assert abs(float((steps[:, 0] * steps[:, 1]).mean())) < 4 * RATE * math.sqrt(2 * 1 / n)
    assert abs(float(steps[:, 0].var()) / (2 * RATE) - 1) < 4 * math.sqrt(2 / n)


def test_nothing_given_means_the_pooled_law():
    """A channel that this series never showed has the moments of the others."""
    x = torch.tensor([[[1.0], [3.0]], [[math.nan], [math.nan]]])
    given = Paths(asked(0.0, 1.0).expand(2, -1), x, x.isfinite())
    for model in (LastValue(), LinearInterpolation(), SeasonalNaive(1.0)):
        law = model.posterior(given, asked(2.0).expand(2, -1))
        assert law.mean[1].item() == 2.0 and law.var[1].item() == 1.0
        draws = model.sample(given, asked(2.0).expand(2, -1), 4000)[:, 1].flatten()
        assert abs(float(draws.mean()) - 2.0) < 4 / math.sqrt(4000)
        nothing = given._replace(mask=torch.zeros_like(given.mask))
        law = model.posterior(nothing, asked(2.0).expand(2, -1))
        assert law.mean.tolist() == [[[0.0]], [[0.0]]] and law.var.tolist() == [[[1.0]], [[1.0]]]


def test_loss_is_the_negative_log_density():
    law = Gaussian(torch.randn(2, 3, 2), torch.rand(2, 3, 2) + 0.1)
    want = make([[[True, False]] * 3, [[True, True]] * 3], 0, dtype=torch.float32)
    exact = -torch.distributions.Normal(law.mean, law.var.sqrt()).log_prob(want.x.nan_to_num())
    torch.testing.assert_close(gaussian_loss(law, want), exact[want.mask].mean())


def sawtooth(n: int, per: int = 4) -> Paths:
    return paths([float(i) for i in range(n)], [float(i % per) for i in range(n)])


def test_a_season_repeats():
    at = asked(*(float(t) for t in range(12, 24)))
    law = SeasonalNaive(4.0).posterior(sawtooth(12), at)
    torch.testing.assert_close(law.mean.flatten(), (at[0] % 4))
    assert law.var.abs().max() < 1e-12  # it never changed


def test_a_season_ahead_helps_at_the_start():
    given = sawtooth(12)
    given = given._replace(mask=given.mask.clone())
    given.mask[0, 1] = False
    assert SeasonalNaive(4.0).posterior(given, asked(1.0)).mean.item() == 1.0


def test_the_spread_of_a_season_grows_with_the_number_of_seasons():
    """x = season + slope t: each season differs by 4 slope from the one before, so s^2 = (4 slope)^2."""
    given = sawtooth(12)
    given = given._replace(x=given.x + 0.1 * given.t[..., None])
    law = SeasonalNaive(4.0).posterior(given, asked(12.0, 16.0, 20.0, 23.0))
    expected = 0.16 * torch.tensor([1.0, 2.0, 3.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(law.var.flatten(), expected)


def test_a_series_shorter_than_a_season_is_last_value():
    at = asked(6.0, 9.0)
    short, plain = (
        SeasonalNaive(50.0).posterior(sawtooth(5), at),
        LastValue().posterior(sawtooth(5), at),
    )
    assert torch.equal(short.mean, plain.mean) and torch.equal(short.var, plain.var)


def test_seasons_at_irregular_times():
    """A sine seen at random times, one season later: interpolation errs by at most gap^2 / 8."""
    t = torch.rand(1, 400, dtype=torch.float64).sort(1).values * 5
    given = Paths(t, (2 * math.pi * t).sin()[..., None], torch.ones(1, 400, 1).bool())
    at = torch.linspace(5, 8, 50, dtype=torch.float64)[None]
    error = SeasonalNaive(1.0).posterior(given, at).mean[..., 0] - (2 * math.pi * at).sin()
    inside = (at - at.floor() < 0.95) & (at - at.floor() > 0.05)
    gap = float(t.diff(dim=1).max())
    assert error[inside].abs().max() < (2 * math.pi * gap) ** 2 / 8


@pytest.mark.parametrize("model", [LastValue(), LinearInterpolation(), SeasonalNaive(2.0)])
def test_shift_and_scale_of_values_and_of_time(model):
    """x -> a + b x and t -> c + d t move the law along: N(a + b mean, b^2 var)."""
    given = make([[[True, True], [False, True]] * 6, [[True, False], [True, True]] * 6], 1)
    given = given._replace(t=torch.rand(2, 12, dtype=torch.float64).sort(1).values * 8)
    at = torch.tensor([[1.0, 5.0, 11.0], [0.0, 7.0, 10.0]], dtype=torch.float64)
    law = model.posterior(given, at)
    moved = model.posterior(given._replace(x=3.0 - 2.0 * given.x), at)
    torch.testing.assert_close(moved.mean, 3.0 - 2.0 * law.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved.var, 4.0 * law.var, rtol=1e-4, atol=1e-5)
    if not isinstance(model, SeasonalNaive):
        later = model.posterior(given._replace(t=1e6 + 10 * given.t), 1e6 + 10 * at)
        torch.testing.assert_close(later.var, law.var, rtol=1e-4, atol=1e-5)
