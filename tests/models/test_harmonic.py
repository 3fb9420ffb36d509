"""A trend and seasons that are known are found again, and what is left goes to the model inside."""

import math

import pytest
import torch

from tsdyn.batch import Paths
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import ModelError
from tsdyn.models.baselines import LastValue
from tsdyn.models.harmonic import Harmonic

YEAR = 31557600.0


def curve(t: torch.Tensor) -> torch.Tensor:
    """Two channels of trends and seasons of a year and a week."""
    u, year, week = (t - t.min()) / (10 * YEAR), 2 * math.pi * t / YEAR, 2 * math.pi * t / 604800
    one = 5 + 3 * u + 2 * year.cos() - (2 * year).sin() + 0.5 * week.sin()
    return torch.stack([one, -300 * u + 40 * week.cos()], -1)


def daily(noise: float = 0.0) -> Paths:
    """Ten years, 3000 irregular times in epoch seconds, a third of the values missing."""
    t = 1.6e9 + 10 * YEAR * torch.rand(1, 3000, dtype=torch.float64).sort(1).values
    x = curve(t) + noise * torch.randn(1, 3000, 2)
    mask = torch.rand(1, 3000, 2) < 2 / 3
    return Paths(t, x.float().where(mask, torch.nan), mask)


def fitted(paths: Paths, **options) -> tuple[Harmonic, tuple[Paths, Paths]]:
    pair = Forecasting(fraction=0.9)(paths)
    model = Harmonic(LastValue(), 2, (YEAR, 604800.0), **options)
    model.on_epoch(0, pair)
    return model, pair


def test_coefficients_are_recovered():
    paths = daily()
    model, _ = fitted(paths, order=2)
    # columns: 1, u, then cos and sin of each harmonic of each season
    expected = torch.zeros(10, 2, dtype=torch.float64)
    span = float(model.span / (10 * YEAR))
    expected[:2] = torch.tensor([[5.0, 0.0], [3.0 * span, -300.0 * span]])
    expected[2, 0], expected[5, 0], expected[7, 0], expected[6, 1] = 2.0, -1.0, 0.5, 40.0
    start = float((paths.t[paths.mask.any(-1)].min() - paths.t.min()) / (10 * YEAR))
    expected[0] += torch.tensor([3.0, -300.0]) * start
    # float32 values of size 300 are rounded to 3e-5 and the ridge bends by 1e-8 of the trend
    torch.testing.assert_close(model.coefficients, expected, rtol=1e-4, atol=1e-3)


def test_errors_of_the_coefficients_are_those_of_least_squares():
    """A harmonic of n noisy values has variance 2 noise^2 / n."""
    model, _ = fitted(daily(noise=0.3), order=2)
    error = abs(float(model.coefficients[2, 0]) - 2.0)
    assert error < 4 * 0.3 * math.sqrt(2 / 2000)


def test_the_residual_of_a_pure_season_is_nothing():
    model, (given, want) = fitted(daily(), order=2)
    inside = model.inside(given)
    assert inside.x[inside.mask].abs().max() < 5e-3  # of a range of 340
    draws = model.sample(given, want.t, 3)
    assert (draws - want.x).abs()[:, want.mask].max() < 2e-2
    assert draws.dtype == torch.float32


def test_loss_and_draws_are_those_of_the_model_inside_on_the_residual():
    model, (given, want) = fitted(daily(noise=0.5), order=1)
    torch.testing.assert_close(
        model.loss(given, want), LastValue().loss(model.inside(given), model.inside(want))
    )
    torch.manual_seed(3)
    draws = model.sample(given, want.t, 2)
    torch.manual_seed(3)
    residual = LastValue().sample(model.inside(given), want.t, 2)
    torch.testing.assert_close(draws, (residual + model.fixed(want.t)).float())


def test_a_channel_never_seen_has_no_curve():
    paths = daily()
    paths.mask[..., 1] = False
    model, _ = fitted(paths)
    assert (model.coefficients[:, 1] == 0).all()


def test_one_time_gives_its_level_at_all_times():
    paths = Paths(
        torch.tensor([[3.0, 3.0]]), torch.full((1, 2, 2), 4.0), torch.ones(1, 2, 2).bool()
    )
    model = Harmonic(LastValue(), 2)
    model.on_epoch(0, (paths, paths))
    level = model.fixed(torch.tensor([[3.0, 9.0]]))
    assert level.isfinite().all()
    torch.testing.assert_close(level[:, 0], torch.full((1, 2), 4.0).double(), rtol=1e-6, atol=0)


def test_before_training_it_refuses():
    with pytest.raises(ModelError, match=r"TSD-M01.*Harmonic"):
        Harmonic(LastValue(), 2).sample(daily(), torch.ones(1, 1), 1)
