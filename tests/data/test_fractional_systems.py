"""Fractional Ornstein-Uhlenbeck data against what is known of their law. Tolerances of draws are 4.5 standard errors."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from torch.testing import assert_close

from tsdyn.batch import Paths
from tsdyn.data.fractional_systems import FractionalOU
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.errors import ConfigError
from tsdyn.maths.fractional_exact import fractional_brownian
from tsdyn.maths.fractional_mean_reversion import mean_reverting

TIMES = torch.tensor([[0.3, 0.7, 1.5, 1.6, 2.9, 3.4, 5.0]], dtype=torch.float64)
STARTS = pytest.mark.parametrize("start", [None, 1.5], ids=["stationary", "from a point"])


def within(draws, expected, errors=4.5):
    """The mean of draws lies within so many of its own standard errors of what is expected."""
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() <= errors * error + 1e-12).all()


@STARTS
def test_at_one_half_it_is_the_markov_process(start):
    fields = {"rate": 0.7, "level": 0.4, "sigma": 0.6, "start": start, "noise": 0.1}
    half, markov = FractionalOU(hurst=0.5, **fields), OrnsteinUhlenbeck(**fields)
    s, t = TIMES[0, :, None], TIMES[0]
    assert_close(half.covariance(s, t), markov.covariance(s, t), rtol=1e-9, atol=1e-12)
    assert_close(half.mean(t), markov.mean(t))
    x0 = torch.tensor([[0.9]])
    for a, b in zip(half.moments(x0, TIMES), markov.moments(x0, TIMES), strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-12)
    given, at = markov(), TIMES.expand(256, -1) + 8
    for a, b in zip(half.law(given, at), markov.law(given, at), strict=True):
        assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("hurst", [0.3, 0.8])
def test_from_a_point_it_is_driven_by_the_motion_from_then_on(hurst):
    """Against a quadrature of the motion's own covariance; and x(0) is left without noise."""
    system = FractionalOU(hurst=hurst, rate=0.6, sigma=0.5, start=1.0, level=0.2)
    s, t = TIMES[0, :, None], TIMES[0]
    want = 0.25 * mean_reverting(fractional_brownian(hurst), 0.6)(s, t)
    assert_close(system.covariance(s, t), want, rtol=1e-7, atol=1e-9)
    assert_close(system.mean(t), 0.2 + 0.8 * torch.exp(-0.6 * t))


@pytest.mark.parametrize("hurst", [0.3, 0.8])
def test_stationary_covariance_is_the_transform_of_its_spectrum(hurst):
    """sigma^2 Gamma(2 H + 1) sin(pi H) / pi int_0^inf cos(w u) w^(1 - 2 H) / (rate^2 + w^2) dw  [1]"""
    system = FractionalOU(hurst=hurst, rate=0.6, sigma=0.5)
    scale = 0.25 * math.gamma(2 * hurst + 1) * math.sin(math.pi * hurst) / math.pi
    for lag in (0.5, 2.0, 7.0):

        def density(w):
            return w ** (1 - 2 * hurst) / (0.36 + w**2)

        near, _ = quad(lambda w, u: density(w) * math.cos(w * u), 0, 1, args=(lag,), limit=200)
        far, _ = quad(density, 1, np.inf, weight="cos", wvar=lag)
        found = system.covariance(torch.tensor(1.0), torch.tensor(1.0 + lag))
        assert float(found) == pytest.approx(scale * (near + far), rel=1e-6)


@STARTS
@pytest.mark.parametrize("hurst", [0.3, 0.8])
def test_data_have_the_covariance_they_say(start, hurst):
    """5,000 series at the same times; with observation noise on the diagonal."""
    fields = {"hurst": hurst, "rate": 0.6, "sigma": 0.5, "level": 0.3, "noise": 0.2, "start": start}
    system = FractionalOU(n=5000, length=6, span=4.0, irregular=False, **fields)
    paths = system()
    t, x = paths.t[0].double(), paths.x[..., 0].double()
    within(x, system.mean(t))
    miss = x - system.mean(t)
    want = system.covariance(t[:, None], t) + 0.04 * torch.eye(6).double()
    within(miss[:, :, None] * miss[:, None], want)


@STARTS
def test_paths_from_a_value_have_the_exact_moments(start):
    system = FractionalOU(hurst=0.8, rate=0.6, sigma=0.5, level=0.3, start=start, dim=2)
    x0 = torch.tensor([[1.5, -0.4], [1.5, 2.0]])
    t = torch.tensor([[0.0, 0.3, 4.0], [0.5, 0.5, 2.0]])
    law, draws = system.moments(x0, t), system.simulate(x0, t, 20_000)
    assert draws.shape == (20_000, 2, 3, 2) and draws.dtype == torch.float64
    assert_close(draws[:, 0, 0], x0[0].double().expand(20_000, -1), rtol=0, atol=1e-6)
    assert_close(draws[:, 1, 0], draws[:, 1, 1], rtol=0, atol=1e-6)
    within(draws[:, :, 1:], law.mean[:, 1:])
    within((draws[:, :, 1:] - law.mean[:, 1:]) ** 2, law.var[:, 1:])


@STARTS
def test_the_law_is_calibrated_on_the_data(start):
    """(y - mean) / sd of rows held back is standard normal; one row of a series, for rows are not independent."""
    system = FractionalOU(n=2000, length=12, noise=0.2, missing=0.3, hurst=0.7, start=start)
    paths = system()
    held = torch.zeros_like(paths.mask)
    held[:, 3::3] = True
    law = system.law(paths._replace(mask=paths.mask & ~held), paths.t)
    z = ((paths.x - law.mean) / law.var.sqrt())[:, 6, 0][paths.mask[:, 6, 0]]
    within(z, 0.0)
    within(z**2, 1.0)


@STARTS
def test_evidence_is_the_density_of_what_is_seen(start):
    """scipy's density of each channel's values; a value that is not seen may be anything."""
    system = FractionalOU(
        n=3, length=7, dim=2, hurst=0.7, noise=0.3, missing=0.3, level=0.5, start=start
    )
    paths = system()
    want = []
    for t, x, mask in zip(paths.t.double(), paths.x.double(), paths.mask, strict=True):
        C = system.covariance(t[:, None], t) + 0.09 * torch.eye(7).double()
        each = [
            multivariate_normal(system.mean(t)[m], C[m][:, m]).logpdf(x[m, d])
            for d, m in enumerate(mask.T)
        ]
        want.append(sum(each))
    unread = paths._replace(x=paths.x.where(paths.mask, torch.nan))
    assert_close(system.log_evidence(unread), torch.tensor(want), rtol=1e-9, atol=1e-9)


def test_evidence_is_the_product_of_forecasts():
    """log p(y) = log p(first) + log p(second | first), the second by the conditional law."""
    system = FractionalOU(n=4, length=9, hurst=0.85, noise=0.1)
    paths = system()
    before = paths._replace(mask=paths.mask & (torch.arange(9) < 8)[:, None])
    law = system.law(before, paths.t[:, 8:])
    last = torch.distributions.Normal(law.mean, law.var.sqrt()).log_prob(paths.x[:, 8:].double())
    gained = system.log_evidence(paths) - system.log_evidence(before)
    assert_close(gained, last[:, 0, 0], rtol=1e-6, atol=1e-6)


def test_seed_decides_everything_and_global_generator_nothing():
    system = FractionalOU(n=5, length=8, missing=0.3, noise=0.1)
    state = torch.get_rng_state()
    first = system()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again, other = system(), dataclasses.replace(system, seed=1)()
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert not torch.equal(first.x, other.x)
    assert isinstance(first, Paths) and first.x.dtype == torch.float32


@pytest.mark.parametrize("bad", [{"hurst": 1.0}, {"hurst": 0.0}, {"rate": 0.0}, {"n": 0}])
def test_impossible_fields_are_named(bad):
    with pytest.raises(ConfigError, match="TSD-X01"):
        FractionalOU(**bad)
