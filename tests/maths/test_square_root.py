"""Oracles: the filter and smoother of covariances in double precision, and numbers of many digits."""

import mpmath
import pytest
import torch

from tests.maths.chains import anything, irregular, matern12, matern32
from tsdyn.maths import kalman, square_root
from tsdyn.maths.kalman import LinearGaussian, Sites
from tsdyn.maths.observations import observe


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("S", [1, 2, 3, 5])
@pytest.mark.parametrize("ask", ["filtered", "smoothed"])
def test_the_law_is_that_of_the_covariances(S, ask):
    chain, sites = anything(9, S, 2)
    found, expected = getattr(square_root, ask)(chain, sites), getattr(kalman, ask)(chain, sites)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-10, atol=1e-10)
    covariance = found.factor @ found.factor.mT
    torch.testing.assert_close(covariance, expected.cov, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.log_z, expected.log_z, rtol=1e-10, atol=1e-10)


def test_singular_steps_and_rows_without_observation():
    t = irregular(30)
    t[10:15] = t[10]
    chain = matern32(t, 0.7, 1.3)
    mask = torch.arange(30) % 3 == 0
    sites = observe(torch.eye(2)[:1], torch.tensor(0.01), torch.sin(t)[:, None], mask[:, None])
    found, expected = square_root.smoothed(chain, sites), kalman.smoothed(chain, sites)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.factor @ found.factor.mT, expected.cov, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("noise", [1e-2, 1e-6, 1e-10])
def test_likelihood_of_sharp_observations(noise):
    """Both ways against 40 digits; the scan too, which never inverts a covariance."""
    t = irregular(100)
    y = torch.sin(3 * t) + noise**0.5 * torch.randn(100)
    chain = matern12(t, 0.7, 1.3)
    exact = mpmath_likelihood(chain, noise, y)
    sites = observe(torch.ones(1, 1), torch.tensor(noise), y[:, None])
    for found in (square_root.filtered(chain, sites).log_z, kalman.log_z(chain, sites)):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)


def mpmath_likelihood(chain: LinearGaussian, noise: float, y: torch.Tensor) -> torch.Tensor:
    with mpmath.workdps(40):
        m, P, total = mpmath.mpf(0), mpmath.mpf(float(chain.P0)), mpmath.mpf(0)
        for k, (a, q, value) in enumerate(zip(*(f.flatten().tolist() for f in (*chain[:2], y)))):
            if k:
                m, P = a * m, mpmath.mpf(a) ** 2 * P + q
            S, surprise = P + mpmath.mpf(noise), value - m
            total -= (mpmath.log(2 * mpmath.pi * S) + surprise**2 / S) / 2
            m, P = m + P / S * surprise, P * mpmath.mpf(noise) / S
        return torch.tensor(float(total))


def test_single_precision_stays_single_and_close():
    t = 0.01 * torch.arange(300.0)
    y = torch.sin(t) + 0.1 * torch.randn(300)
    chain = matern32(t, 0.7, 1.3)
    sites = observe(torch.eye(2)[:1], torch.tensor(1e-2), y[:, None])
    exact = kalman.smoothed(chain, sites)
    single = LinearGaussian(*(f.float() for f in chain[:3])), Sites(*(f.float() for f in sites))
    found = square_root.smoothed(*single)
    assert {f.dtype for f in found} == {torch.float32}
    assert (found.log_z - exact.log_z).abs() / 300 < 1e-5
    sd = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found.mean - exact.mean) / sd).abs().max() < 1e-3
    assert (found.factor.norm(dim=-1) / sd - 1).abs().max() < 1e-3
