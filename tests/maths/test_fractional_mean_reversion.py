"""Oracles: the Ornstein-Uhlenbeck process at H = 1/2, the spectral integral, kernels by quadrature."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import hyp1f1
from torch.testing import assert_close

from tsdyn.maths.fractional_exact import fractional_brownian, matrix, riemann_liouville
from tsdyn.maths.fractional_mean_reversion import (
    fractional_ou,
    mean_reverting,
    stationary_fractional_ou,
)

TIMES = torch.tensor([0.0, 0.01, 0.5, 0.51, 1.3, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.3, 2.0, 60.0])
def test_index_one_half_is_the_ornstein_uhlenbeck_process(rate):
    apart, total = (TIMES[:, None] - TIMES).abs(), TIMES[:, None] + TIMES
    stationary = torch.exp(-rate * apart) / (2 * rate)
    atol = 1e-14 * max(1.0, 60 / rate)
    assert_close(matrix(stationary_fractional_ou(0.5, rate), TIMES), stationary, rtol=0, atol=atol)
    from_zero = stationary - torch.exp(-rate * total) / (2 * rate)
    assert_close(matrix(fractional_ou(0.5, rate), TIMES), from_zero, rtol=0, atol=atol)
    assert_close(
        matrix(mean_reverting(fractional_brownian(0.5), rate, nodes=80), TIMES),
        from_zero,
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.7, 0.9])
def test_the_stationary_covariance_is_its_spectral_integral(hurst):
    """Gamma(2 H + 1) sin(pi H) / pi int_0^inf cos(r w) w^(1 - 2 H) / (rate² + w²) dw."""
    rate = 1.7
    height = math.gamma(2 * hurst + 1) * math.sin(math.pi * hurst) / math.pi
    for lag in (0.4, 3.0, 9.0):
        tail, _ = quad(
            lambda w: w ** (1 - 2 * hurst) / (rate**2 + w**2), 1, math.inf, weight="cos", wvar=lag
        )
        head, _ = quad(
            lambda w, lag=lag: math.cos(lag * w) / (rate**2 + w**2),
            0,
            1,
            weight="alg",
            wvar=(1 - 2 * hurst, 0),
        )
        lags = torch.tensor([0.0, lag], dtype=torch.float64)
        found = stationary_fractional_ou(hurst, rate)(*lags)
        assert_close(found.item(), height * (head + tail), rtol=0, atol=1e-6)


@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_the_ways_to_compute_it_meet(hurst):
    """The power series, incomplete gamma functions and the asymptotic series agree where one takes over from the next."""
    law = stationary_fractional_ou(hurst, 1.0)
    for edge in (4.0, 40.0):
        lags = torch.tensor([edge - 1e-9, edge, edge + 1e-9], dtype=torch.float64)
        values = law(torch.zeros(3), lags)
        slope = (values[2] - values[0]) / 2e-9
        assert_close(values, values[1] + slope * (lags - edge), rtol=0, atol=2e-13)
        assert values.diff().abs().max() < 1e-9


def test_the_stationary_variance():
    """H Gamma(2 H) / rate^2H."""
    for hurst, rate in ((0.2, 3.0), (0.6, 0.1), (0.9, 1.0)):
        found = stationary_fractional_ou(hurst, rate)(torch.zeros(1), torch.zeros(1))
        expected = hurst * math.gamma(2 * hurst) / rate ** (2 * hurst)
        assert_close(found.item(), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("hurst", [0.1, 0.4, 0.7, 0.9])
@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_quadrature_agrees_with_the_closed_form(hurst, rate):
    by_quadrature = matrix(mean_reverting(fractional_brownian(hurst), rate), TIMES)
    assert_close(by_quadrature, matrix(fractional_ou(hurst, rate), TIMES), rtol=0, atol=1e-11)


@pytest.mark.parametrize("hurst", [0.25, 0.8])
def test_a_riemann_liouville_driver(hurst):
    """X(t) = int_0^t k(t - u) dW(u), k(v) = v^(a - 1) (1 - (rate v / a) M(1, a + 1, -rate v)) / Gamma(a)."""
    rate, a, s, t = 1.5, hurst + 0.5, 0.8, 2.0

    def smooth(v: float) -> float:
        return (1 - rate * v / a * hyp1f1(1, a + 1, -rate * v)) / math.gamma(a)

    def integrand(w: float) -> float:
        later = w + t - s
        return smooth(w) * smooth(later) * later ** (a - 1)

    expected, _ = quad(integrand, 0, s, weight="alg", wvar=(a - 1, 0))
    early, late = torch.tensor(s, dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
    found = mean_reverting(riemann_liouville(hurst), rate)(late, early)
    assert_close(found.item(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("driver", [fractional_brownian, riemann_liouville])
def test_without_reversion_it_is_the_driver(driver):
    assert_close(
        matrix(mean_reverting(driver(0.3), 0.0), TIMES), matrix(driver(0.3), TIMES), rtol=0, atol=0
    )


@pytest.mark.parametrize("law", [stationary_fractional_ou, fractional_ou])
def test_derivatives_with_respect_to_index_and_rate(law):
    """In all three ranges of rate times lag."""
    hurst = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor([[0.5], [3.0], [30.0]], dtype=torch.float64, requires_grad=True)
    s, t = torch.tensor(0.3), torch.tensor(2.3)
    assert torch.autograd.gradcheck(lambda h, r: law(h, r)(s, t), (hurst, rate))


def test_derivatives_of_the_quadrature():
    hurst = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 1.0])
    assert torch.autograd.gradcheck(
        lambda h, r: matrix(mean_reverting(fractional_brownian(h), r, nodes=16), t), (hurst, rate)
    )


def test_batches_and_devices(device):
    hurst = torch.tensor([0.3, 0.7], device=device)[:, None, None]
    t = TIMES.float().to(device)
    for law in (fractional_ou(hurst, 2.0), stationary_fractional_ou(hurst, 2.0)):
        assert matrix(law, t).shape == (2, 6, 6) and matrix(law, t).device == t.device
    rate = torch.tensor([0.5, 2.0], device=device)[:, None, None]
    together = matrix(mean_reverting(fractional_brownian(0.3), rate), t)
    for C, one in zip(together, (0.5, 2.0)):
        assert_close(C, matrix(fractional_ou(0.3, one), t), rtol=0, atol=1e-11)
