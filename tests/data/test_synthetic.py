"""Every system against what is known of its law. Tolerances of draws are 4 to 5 standard errors."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import i0e, i1e
from torch.testing import assert_close

from tsdyn.batch import Paths
from tsdyn.data.synthetic import (
    SYSTEMS,
    DoubleWell,
    GeometricBrownianMotion,
    Lorenz,
    LotkaVolterra,
    OrnsteinUhlenbeck,
    Pendulum,
    SeasonalAR,
)
from tsdyn.errors import ConfigError


def small(cls, **fields):
    return cls(**{"n": 5, "length": 8, **fields})


def one(t, x, mask=None):
    """A single series of one channel, in double precision."""
    t = torch.tensor(np.asarray(t, dtype=float))[None]
    x = torch.tensor(x, dtype=torch.float64).reshape(1, -1, 1)
    seen = (
        torch.ones_like(x, dtype=torch.bool) if mask is None else torch.tensor(mask)[None, :, None]
    )
    return Paths(t, x, seen)


def within(draws, expected, dim=0, errors=4.5):
    """The mean of draws lies within so many of its own standard errors of what is expected."""
    error = draws.std(dim) / draws.shape[dim] ** 0.5
    assert ((draws.mean(dim) - expected).abs() <= errors * error + 1e-12).all()


# ---- what all have in common


@pytest.mark.parametrize("name", SYSTEMS)
class TestEverySystem:
    def test_gives_paths(self, name):
        system = small(SYSTEMS[name], missing=0.3, noise=0.1)
        paths = system()
        n, length, dim = paths.x.shape
        assert (n, length, dim) == (5, 8, len(system.channels))
        assert paths.t.dtype == paths.x.dtype == torch.float32
        assert (paths.t.diff(dim=1) > 0).all()
        assert paths.t.min() >= 0 and paths.t.max() <= system.span
        assert (
            paths.mask.sum(1) == 6
        ).all()  # int(0.3 * 8) = 2 of 8 values of each channel are gone
        assert paths.x.isfinite().all()
        assert paths.names.channels == system.channels

    def test_seed_decides_everything_and_global_generator_nothing(self, name):
        system = small(SYSTEMS[name], missing=0.3, noise=0.1)
        state = torch.get_rng_state()
        first = system()
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(7)
        again, other = system(), dataclasses.replace(system, seed=1)()
        for a, b in zip(first[:3], again[:3]):
            assert torch.equal(a, b)
        assert not torch.equal(first.x, other.x)

    def test_regular_times_are_shared(self, name):
        system = small(SYSTEMS[name], irregular=False, span=3.5)
        assert_close(system().t, torch.arange(8).expand(5, 8) * 0.5)

    def test_simulate_starts_where_it_is_told(self, name):
        system = small(SYSTEMS[name])
        generator = torch.Generator().manual_seed(1)
        x0 = system.initial(3, generator)
        t = torch.tensor([[0.0, 0.5], [0.0, 0.1], [0.0, 0.0]], dtype=torch.float64)
        x = system.simulate(x0, t, 4, generator)
        assert x.shape == (4, 3, 2, len(system.channels)) and x.dtype == torch.float64
        assert_close(x[:, :, 0], x0.expand(4, -1, -1))
        assert_close(x[:, 2, 1], x0[2].expand(4, -1))

    def test_equal_times_are_equal_states(self, name):
        system = small(SYSTEMS[name])
        x0 = system.initial(2, torch.Generator().manual_seed(1))
        t = torch.tensor([[0.2, 0.2, 0.7], [0.1, 0.4, 0.4]], dtype=torch.float64)
        a, b = (system.simulate(x0, t, 2, torch.Generator().manual_seed(2)) for _ in range(2))
        assert torch.equal(a, b)
        assert_close(a[:, 0, 0], a[:, 0, 1])
        assert_close(a[:, 1, 1], a[:, 1, 2])


@pytest.mark.parametrize("bad", [{"n": 0}, {"length": 0}, {"span": 0.0}, {"missing": 1.0}])
def test_impossible_fields_are_named(bad):
    with pytest.raises(ConfigError, match="TSD-X01"):
        OrnsteinUhlenbeck(**bad)


# ---- conditional laws in closed form


def transitions(t, rate, sigma, start_var):
    """x = L e of an OU process about 0 at increasing t, row after row: covariance L L'."""
    L = np.zeros((len(t), len(t)))
    L[0, 0] = np.sqrt(start_var)
    for k in range(1, len(t)):
        keep = np.exp(-rate * (t[k] - t[k - 1]))
        L[k] = keep * L[k - 1]
        L[k, k] = np.sqrt(sigma**2 / (2 * rate) * (1 - keep**2))
    return L @ L.T


def brute_force(mean, cov, y, seen, noise):
    """Mean and covariance of the rows not seen, given those seen with noise."""
    hidden = [i for i in range(len(mean)) if i not in seen]
    inverse = np.linalg.inv(cov[np.ix_(seen, seen)] + noise**2 * np.eye(len(seen)))
    gain = cov[np.ix_(hidden, seen)] @ inverse
    return (
        mean[hidden] + gain @ (y - mean[seen]),
        cov[np.ix_(hidden, hidden)] - gain @ cov[np.ix_(seen, hidden)],
    )


TIMES = np.array([0.3, 0.7, 1.5, 1.6, 2.9, 3.4, 5.0])
SEEN, ASKED = [0, 2, 3, 5], [1, 4, 6]
VALUES = np.array([0.4, -0.2, 0.1, 0.9])


@pytest.mark.parametrize("start", [None, 1.5])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_ou_law_is_the_conditioned_joint_gaussian(start, noise):
    system = OrnsteinUhlenbeck(rate=0.8, level=0.5, sigma=0.7, start=start, noise=noise)
    stationary = 0.7**2 / 1.6
    first = stationary if start is None else stationary * (1 - np.exp(-1.6 * TIMES[0]))
    cov = transitions(TIMES, 0.8, 0.7, first)
    mean = np.full(7, 0.5) if start is None else 0.5 + (start - 0.5) * np.exp(-0.8 * TIMES)
    expected, spread = brute_force(mean, cov, VALUES, SEEN, noise)
    # a value under a False mask is never read, NaN included
    given = one([*TIMES[SEEN], 9.0], [*VALUES, float("nan")], [True] * 4 + [False])
    at = torch.tensor(TIMES[ASKED])[None]
    law = system.law(given, at)
    assert_close(law.mean[0, :, 0], torch.tensor(expected), rtol=1e-9, atol=1e-9)
    assert_close(law.var[0, :, 0], torch.tensor(spread.diagonal() + noise**2), rtol=1e-8, atol=1e-9)
    latent = system.law(given, at, kind="latent")
    assert_close(latent.var, law.var - noise**2)
    draws = system.sample_law(given, at, 20_000, kind="latent")[:, 0, :, 0]
    within(draws, torch.tensor(expected))
    products = (draws - torch.tensor(expected))[:, :, None] * (draws - torch.tensor(expected))[
        :, None
    ]
    within(products, torch.tensor(spread))


def test_ou_after_its_last_observation_forgets_all_others():
    system = OrnsteinUhlenbeck(rate=0.5, level=2.0, sigma=1.0)
    law = system.law(one([0.0, 1.0, 4.0], [5.0, -3.0, 1.0]), torch.tensor([[4.0, 6.0, 1e6]]))
    gone = np.exp(-1.0)
    assert_close(law.mean[0, :, 0], torch.tensor([1.0, 2.0 - gone, 2.0]).double())
    assert_close(law.var[0, :, 0], torch.tensor([0.0, 1 - gone**2, 1.0]).double())


def test_without_observations_the_law_is_the_prior():
    system = OrnsteinUhlenbeck(rate=0.5, level=2.0, sigma=1.0, noise=0.5)
    law = system.law(one([0.0], [9.0], [False]), torch.tensor([[1.0, 2.0]]))
    assert_close(law.mean, torch.full((1, 2, 1), 2.0).double())
    assert_close(law.var, torch.full((1, 2, 1), 1.25).double())


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_seasonal_law_is_the_conditioned_joint_gaussian(noise):
    system = SeasonalAR(level=1.0, amplitude=0.6, period=2.5, rate=0.8, sigma=0.7, noise=noise)
    phase = 2 * np.pi * TIMES / 2.5
    waves = 0.6 * np.stack([np.cos(phase), np.sin(phase)], 1)
    cov = transitions(TIMES, 0.8, 0.7, 0.7**2 / 1.6) + waves @ waves.T
    expected, spread = brute_force(np.ones(7), cov, VALUES, SEEN, noise)
    given, at = one(TIMES[SEEN], VALUES), torch.tensor(TIMES[ASKED])[None]
    law = system.law(given, at)
    assert_close(law.mean[0, :, 0], torch.tensor(expected), rtol=1e-9, atol=1e-9)
    assert_close(law.var[0, :, 0], torch.tensor(spread.diagonal() + noise**2), rtol=1e-8, atol=1e-9)


def test_seasonal_paths_from_a_point_follow_its_law():
    system = SeasonalAR(level=1.0, amplitude=0.6, period=2.5, rate=0.8, sigma=0.7)
    x0, t = torch.tensor([[2.0]]), torch.tensor([[0.5, 1.3]])
    law, draws = system.moments(x0, t), system.simulate(x0, t, 20_000)
    within(draws, law.mean)
    within((draws - law.mean) ** 2, law.var)


def test_seasonal_gap_is_one_stretch_without_observations():
    mask = SeasonalAR(n=20, length=40, gap=0.25)().mask[..., 0].int()
    assert (mask.sum(1) == 30).all()
    assert (
        mask.diff(dim=1, prepend=torch.ones(20, 1), append=torch.ones(20, 1)).abs().sum(1) == 2
    ).all()


def test_gbm_forecast_and_bridge_in_closed_form():
    mu, sigma = 0.3, 0.5
    system = GeometricBrownianMotion(drift=mu, sigma=sigma)
    law = system.law(one([1.0, 2.0], [1.2, 3.0]), torch.tensor([[1.25, 5.0]]))
    log_mean = torch.tensor(
        [0.75 * np.log(1.2) + 0.25 * np.log(3.0), np.log(3.0) + 3 * (mu - sigma**2 / 2)]
    )
    log_var = torch.tensor([sigma**2 * 0.25 * 0.75, 3 * sigma**2]).double()
    assert_close(law.log_mean[0, :, 0], log_mean)
    assert_close(law.log_var[0, :, 0], log_var)
    assert_close(law.mean[0, 1, 0], torch.tensor(3.0 * np.exp(3 * mu)).double())
    var = 9.0 * np.exp(6 * mu) * (np.exp(3 * sigma**2) - 1)
    assert_close(law.var[0, 1, 0], torch.tensor(var).double())


def test_gbm_draws_follow_their_law():
    system = GeometricBrownianMotion(drift=0.3, sigma=0.4, noise=0.2)
    given, at = one([0.5, 1.0], [1.2, 0.9]), torch.tensor([[0.7, 1.5]])
    law, draws = system.law(given, at), system.sample_law(given, at, 20_000)
    assert (draws > 0).all()
    within(draws.log(), law.log_mean)
    within((draws.log() - law.log_mean) ** 2, law.log_var)
    within(draws, law.mean)


@pytest.mark.parametrize(
    "system", [OrnsteinUhlenbeck(dim=2, level=1.0), GeometricBrownianMotion(dim=2)]
)
def test_paths_from_a_point_have_the_exact_moments(system):
    x0, t = torch.tensor([[2.0, 0.5]]), torch.tensor([[0.3, 0.4, 2.0]])
    law, draws = system.moments(x0, t), system.simulate(x0, t, 20_000)
    within(draws, law.mean)
    within((draws - law.mean) ** 2, law.var)


@pytest.mark.parametrize(
    "system",
    [
        OrnsteinUhlenbeck(n=2000, length=12, noise=0.2, missing=0.3, dim=2),
        OrnsteinUhlenbeck(n=2000, length=12, start=2.0, irregular=False),
        SeasonalAR(n=2000, length=12, noise=0.2),
    ],
    ids=["ou", "ou from a point", "seasonal"],
)
def test_the_law_is_calibrated_on_the_data(system):
    """(y - mean) / sd of rows held back is standard normal."""
    paths = system()
    held = torch.zeros_like(paths.mask)
    held[:, 3::3] = True
    given = paths._replace(mask=paths.mask & ~held)
    law = system.law(given, paths.t)
    # one row per series: rows of a series are not independent, and series are
    z = ((paths.x - law.mean) / law.var.sqrt())[:, 6, 0][paths.mask[:, 6, 0]]
    within(z, 0.0)
    within(z**2, 1.0)


# ---- the others


def test_double_well_moments():
    """E x^2 at sigma = 0.8, and the identity E x U'(x) = sigma^2 / 2 of any stationary law."""
    system = DoubleWell(sigma=0.8)
    assert abs(system.moment(0) - 1) < 1e-12
    assert abs(system.moment(1)) < 1e-12
    assert abs(system.moment(2) - 0.8447) < 5e-5
    assert abs(system.moment(4) - system.moment(2) - 0.32) < 1e-9


def test_double_well_starts_and_stays_stationary():
    system = DoubleWell(sigma=0.8)
    x0 = system.initial(20_000)
    t = torch.tensor([[1.0]]).expand(20_000, 1)
    for x in (x0, system.simulate(x0, t, 1)[0, :, 0]):
        for k in (1, 2, 4):
            within(x**k, system.moment(k))


def test_lotka_volterra_stays_positive_under_strong_noise():
    paths = LotkaVolterra(n=50, sigma=0.8, noise=0.5)()
    assert (paths.x > 0).all()


def test_lotka_volterra_keeps_its_energy_without_noise():
    system = LotkaVolterra(alpha=1.1, beta=0.4, gamma=0.4, delta=0.1, sigma=0.0, step=0.005)
    x0 = torch.tensor([[10.0, 3.0]]).double()
    x = system.simulate(x0, torch.tensor([[5.0, 20.0]]), 1)[0]
    assert_close(system.energy(x), system.energy(x0).expand(1, 2), rtol=1e-3, atol=0.0)


def test_lotka_volterra_gains_energy_at_the_exact_rate():
    system = LotkaVolterra(alpha=1.0, gamma=0.5, sigma=0.2)
    x0 = torch.tensor([[0.7, 1.4]]).double()
    x = system.simulate(x0, torch.tensor([[1.0, 3.0]]), 4000)
    gain = 1.5 * 0.2**2 / 2 * torch.tensor([1.0, 3.0])
    within(system.energy(x)[:, 0], system.energy(x0) + gain)


def test_lorenz_without_noise_is_the_lorenz_equation():
    system = Lorenz(diffusion=0.0, step=0.001)

    def rhs(_, s):
        return [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]]

    exact = solve_ivp(rhs, (0, 1), [1.0, 2.0, 20.0], t_eval=[0.3, 1.0], rtol=1e-10, atol=1e-10).y.T
    x = system.simulate(torch.tensor([[1.0, 2.0, 20.0]]), torch.tensor([[0.3, 1.0]]), 1)[0, 0]
    assert_close(x, torch.tensor(exact), rtol=1e-3, atol=1e-3)


def test_lorenz_is_stationary():
    """E xy = beta E z and E x^2 = E xy + s^2 / (2 sigma): see the docstring."""
    system = Lorenz(diffusion=4.0, burn_in=8.0)
    x, y, z = system.initial(4000).unbind(-1)
    within(x * y - 8 / 3 * z, 0.0)
    within(x**2 - x * y, 4.0**2 / 20)


def test_pendulum_linear_moments_solve_the_moment_equations():
    system = Pendulum(frequency=1.7, damping=0.3, sigma=0.6)
    A, Q = np.array([[0, 1], [-(1.7**2), -0.3]]), np.diag([0, 0.36])

    def rhs(_, s):
        P = s[2:].reshape(2, 2)
        return np.concatenate([A @ s[:2], (A @ P + P @ A.T + Q).ravel()])

    times = [0.4, 3.0]
    exact = solve_ivp(
        rhs, (0, 3), [0.5, -0.2, 0, 0, 0, 0], t_eval=times, rtol=1e-10, atol=1e-12
    ).y.T
    mean, cov = system.linear_moments(
        torch.tensor([[0.5, -0.2]]).double(), torch.tensor([times]).double()
    )
    assert_close(mean[0], torch.tensor(exact[:, :2]), rtol=1e-7, atol=1e-9)
    assert_close(cov[0], torch.tensor(exact[:, 2:]).reshape(2, 2, 2), rtol=1e-7, atol=1e-9)


def test_pendulum_near_rest_is_gaussian():
    """Small pushes: sin(angle) - angle is below 1e-6 of it, and the linear law must hold."""
    system = Pendulum(sigma=1e-3)
    x0, t = torch.tensor([[1e-3, 0.0]]).double(), torch.tensor([[0.5, 2.0]]).double()
    mean, cov = system.linear_moments(x0, t)
    apart = system.simulate(x0, t, 5000)[:, 0] - mean[0]
    within(apart, 0.0)
    within(apart[..., :, None] * apart[..., None, :], cov[0])
    moments = system.moments(x0, t, 5000)
    assert_close(moments.var[0], cov[0].diagonal(dim1=-2, dim2=-1), rtol=0.1, atol=0.0)


def test_pendulum_starts_and_stays_stationary():
    """E v^2 = T and E cos(angle) = I1(k) / I0(k) with k = frequency^2 / T."""
    system = Pendulum(frequency=1.0, damping=0.5, sigma=1.0)
    x0 = system.initial(10_000)
    t = torch.tensor([[2.0]]).expand(10_000, 1)
    for x in (x0, system.simulate(x0, t, 1)[0, :, 0]):
        within(x[:, 1] ** 2, 1.0)
        within(x[:, 0].cos(), i1e(1.0) / i0e(1.0))


def test_pendulum_from_a_point():
    x = Pendulum(n=3, length=2, irregular=False, start=(3.0, 0.0))().x
    assert_close(x[:, 0], torch.tensor([[3.0, 0.0]]).expand(3, 2))
