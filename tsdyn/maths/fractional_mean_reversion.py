"""Covariances of mean-reverting processes driven by fractional noise: dX = -rate X dt + dB.

    X(t) = B(t) - rate int_0^t e^(-rate (t - u)) B(u) du,   X(0) = 0

holds for every driver and every Hurst index, because nothing is integrated with respect to B. Three ways: a
closed form for fractional Brownian motion, in its stationary state or from zero, and a quadrature for any
driver.

[1] Cheridito, Kawaguchi & Maejima. Fractional Ornstein-Uhlenbeck processes. Electronic Journal of
    Probability 8, 2003.
[2] Takahasi & Mori. Double exponential formulas for numerical integration. Publications of the RIMS 9,
    1974.
"""

import math

import torch
from torch import Tensor

from .blocks import doubles
from .fractional_exact import Covariance, absolute_power
from .incomplete_gamma import scaled_upper


def stationary_fractional_ou(hurst: Tensor | float, rate: Tensor | float) -> Covariance:
    """int_-inf^s e^(-rate (s - u)) dB(u), B fractional Brownian motion of Var B(1) = 1  [1]

    Of the lag alone; rate^(-2 H) H Gamma(2 H) at lag 0. Differentiable in the index and the rate, both of
    which broadcast against the times.
    """

    def law(s: Tensor, t: Tensor) -> Tensor:
        h, theta, s, t = doubles(hurst, rate, s, t)
        return _scaled(theta * (t - s).abs(), h) * theta ** (-2 * h)

    return law


def fractional_ou(hurst: Tensor | float, rate: Tensor | float) -> Covariance:
    """Z(t) - e^(-rate t) Z(0), Z the stationary process: begins at 0, driven by B from 0 on  [1]

    Times are not negative. Relative to Var B(t) about 1e-15 (rate t)^(-2 H) is lost, so that a rate
    which is zero to within rounding asks for `fractional_brownian` itself.
    """
    stationary = stationary_fractional_ou(hurst, rate)

    def law(s: Tensor, t: Tensor) -> Tensor:
        theta, s, t = doubles(rate, s, t)
        here, there = torch.exp(-theta * s), torch.exp(-theta * t)
        start = torch.zeros_like(s)
        return (
            stationary(s, t)
            - here * stationary(start, t)
            - there * stationary(start, s)
            + here * there * stationary(start, start)
        )

    return law


def mean_reverting(driver: Covariance, rate: Tensor | float, nodes: int = 40) -> Covariance:
    """B(t) - rate int_0^t e^(-rate (t - u)) B(u) du for a driver B of any covariance, by quadrature  [2]

    Begins at 0. The driver is read 2 nodes² times for each pair of times: made for tens of them. The
    nodes crowd at both ends of each piece, where B at nearby times makes the driver's covariance rough.

    Args:
        driver: of B, for times >= 0, B(0) = 0; elementwise over any leading axes.
        rate: broadcasts against the times.
        nodes: in each direction; 40 leave an error of 1e-11 for rate t up to 4, of 1e-9 up to 10.
    """
    place, weight = _tanh_sinh(nodes)

    def law(s: Tensor, t: Tensor) -> Tensor:
        theta, s, t = doubles(rate, s, t)
        theta = theta + torch.zeros_like(s + t)
        early, late = torch.minimum(s, t), torch.maximum(s, t)
        x, w = place.to(s.device), weight.to(s.device)
        theta, early, late = (f[..., None] for f in (theta, early, late))
        gap = late - early

        u, wu = early * x, early * w * torch.exp(-theta * early * (1 - x))  # of X(early)
        v, wv = early + gap * x, gap * w * torch.exp(-theta * gap * (1 - x))  # after it, of X(late)
        carried = torch.exp(-theta * gap)

        crossed = (wu * driver(u, late)).sum(-1) + (wv * driver(early, v)).sum(-1)
        crossed = crossed + (wu * carried * driver(u, early)).sum(-1)
        apart = (
            wu[..., :, None] * wv[..., None, :] * driver(u[..., :, None], v[..., None, :])
        ).sum((-2, -1))
        # of [0, early]² the half below the diagonal, stretched to a square
        inner = u[..., :, None] * x
        decay = torch.exp(-theta[..., None] * (early[..., None] - inner))
        below = wu[..., :, None] * u[..., :, None] * w * decay * driver(inner, u[..., :, None])
        together = 2 * carried[..., 0] * below.sum((-2, -1))
        theta = theta[..., 0]
        return driver(s, t) - theta * crossed + theta**2 * (apart + together)

    return law


def _tanh_sinh(n: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights of int_0^1, for integrands rough at both ends: (n,) each."""
    tau = torch.linspace(-3.2, 3.2, n, dtype=torch.float64)
    angle = math.pi / 2 * torch.sinh(tau)
    place = torch.special.expit(2 * angle)
    weight = math.pi / 4 * torch.cosh(tau) / torch.cosh(angle) ** 2 * (tau[1] - tau[0])
    return place, weight


def _scaled(x: Tensor, h: Tensor) -> Tensor:
    """The stationary covariance at rate 1 and lag x >= 0, r'' = r - (x^2H)'' / 2, by the size of x."""
    h = h + torch.zeros_like(x)
    x = x + torch.zeros_like(h)
    low, high = x < 4, x > 40
    middle = ~(low | high)
    near = _power_series(x.where(low, 1.0), h)
    between = _parts(x.where(middle, 10.0), h)
    far = _asymptotic(x.where(high, 100.0), h)
    return torch.where(low, near, torch.where(high, far, between)) / 2


def _power_series(x: Tensor, h: Tensor) -> Tensor:
    """Gamma(2 H + 1) (cosh x - sum_k x^(2 H + 2 k) / Gamma(2 H + 1 + 2 k)); cancels as e^x."""
    a = 2 * h + 1
    series = torch.ones_like(x)
    for k in range(20, 0, -1):
        series = 1 + x**2 / ((a + 2 * k - 1) * (a + 2 * k - 2)) * series
    return torch.exp(torch.lgamma(a)) * torch.cosh(x) - absolute_power(x, 2 * h) * series


def _parts(x: Tensor, h: Tensor) -> Tensor:
    """(e^-x Gamma(a) + e^x Gamma(a, x) + e^-x int_0^x e^u u^(a - 1) du) / 2 - x^2H,  a = 2 H + 1; cancels as x²."""
    a = 2 * h + 1
    term = torch.exp(-x)
    below = term / a
    for n in range(1, 140):
        term = term * x / n
        below = below + term / (a + n)
    tails = torch.exp(torch.lgamma(a)) * (torch.exp(-x) + scaled_upper(a, x))
    return (tails + x**a * below) / 2 - x ** (2 * h)


def _asymptotic(x: Tensor, h: Tensor) -> Tensor:
    """sum_n 2 H (2 H - 1) ... (2 H - 2 n + 1) x^(2 H - 2 n): no cancellation, for large x  [1]"""
    term = x ** (2 * h)
    found = torch.zeros_like(term)
    for n in range(1, 12):
        term = term * (2 * h - 2 * n + 2) * (2 * h - 2 * n + 1) / x**2
        found = found + term
    return found
