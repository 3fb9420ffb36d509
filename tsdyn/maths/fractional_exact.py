"""Covariances of fractional processes, Cov(X(s), X(t)), exact and differentiable in the Hurst index H.

A covariance is a function of two times that broadcast, so that the matrix of times t is
`matrix(fractional_brownian(H), t)`. H lies in (0, 1); it is a number or a tensor that broadcasts against
the times, a batch (..., 1, 1) for instance. Everything is computed in double precision.

    B(t) = int_0^t (t - u)^(H - 1/2) dW(u) / Gamma(H + 1/2)                            Riemann-Liouville
    B(t) = that + int_-inf^0 [(t - u)^(H - 1/2) - (-u)^(H - 1/2)] dW(u) / Gamma(H + 1/2)   Mandelbrot-van Ness

The second has stationary increments; divided by the root of `brownian_variance(H)` it is fractional
Brownian motion of Var B(1) = 1.

[1] Mandelbrot & Van Ness. Fractional Brownian motions, fractional noises and applications. SIAM Review
    10, 1968.
[2] Marinucci & Robinson. Alternative forms of fractional Brownian motion. Journal of Statistical Planning
    and Inference 80, 1999: both forms side by side.
[3] Lim. Fractional Brownian motion and multifractional Brownian motion of Riemann-Liouville type. Journal
    of Physics A 34, 2001.
[4] Cheridito, Kawaguchi & Maejima. Fractional Ornstein-Uhlenbeck processes. Electronic Journal of
    Probability 8, 2003.
[5] Olver et al. NIST digital library of mathematical functions: 8.9 (incomplete gamma functions), 15.8
    (hypergeometric functions), 25.11 (the zeta function of Hurwitz).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .blocks import doubles

Covariance = Callable[[Tensor, Tensor], Tensor]


def matrix(law: Covariance, t: Tensor, u: Tensor | None = None) -> Tensor:
    """Cov(X(t_i), X(u_j)) of times (..., N) and (..., M), by default the same: (..., N, M)."""
    return law(t[..., :, None], (t if u is None else u)[..., None, :])


def brownian_variance(hurst: Tensor | float) -> Tensor:
    """1 / (Gamma(2 H + 1) sin(pi H)): Var B(1) of the Mandelbrot-van Ness integral  [1]"""
    (h,) = doubles(hurst)
    return torch.exp(-torch.lgamma(2 * h + 1)) / torch.sin(math.pi * h)


def riemann_liouville_variance(hurst: Tensor | float) -> Tensor:
    """1 / (2 H Gamma(H + 1/2)^2): Var B(1) of the Riemann-Liouville integral."""
    (h,) = doubles(hurst)
    return torch.exp(-2 * torch.lgamma(h + 0.5)) / (2 * h)


def fractional_brownian(hurst: Tensor | float) -> Covariance:
    """(|s|^2H + |t|^2H - |t - s|^2H) / 2  [1]"""

    def law(s: Tensor, t: Tensor) -> Tensor:
        h, s, t = doubles(hurst, s, t)
        return (
            absolute_power(s, 2 * h) + absolute_power(t, 2 * h) - absolute_power(t - s, 2 * h)
        ) / 2

    return law


def fractional_noise(hurst: Tensor | float, step: float = 1.0) -> Covariance:
    """Of X(t) = B(t + step) - B(t): (|r + step|^2H - 2 |r|^2H + |r - step|^2H) / 2,  r = t - s  [1]"""

    def law(s: Tensor, t: Tensor) -> Tensor:
        h, s, t = doubles(hurst, s, t)
        lag = (t - s).abs()
        near = (
            absolute_power(lag + step, 2 * h)
            + absolute_power(lag - step, 2 * h)
            - 2 * absolute_power(lag, 2 * h)
        )
        far = lag > 30 * step  # where the three powers cancel
        ratio = torch.where(far, step / lag.where(far, 1.0), 0.0)
        return torch.where(far, absolute_power(lag, 2 * h) * _second_difference(h, ratio), near / 2)

    return law


def absolute_power(x: Tensor, exponent: Tensor) -> Tensor:
    """|x|^exponent, exponent > 0, whose derivatives of any order are zero at x = 0."""
    size = x.abs()
    return torch.where(size > 0, size.where(size > 0, 1.0) ** exponent, 0.0)


def _second_difference(h: Tensor, ratio: Tensor) -> Tensor:
    """((1 + x)^2H + (1 - x)^2H - 2) / 2 = sum over even n of binomial(2 H, n) x^n, for small x."""
    found, term = torch.zeros_like(ratio * h), torch.ones_like(ratio * h)
    for n in range(2, 12, 2):
        term = term * (2 * h - n + 2) * (2 * h - n + 1) / (n * (n - 1)) * ratio**2
        found = found + term
    return found


def noise_spectrum(frequency: Tensor, hurst: Tensor | float) -> Tensor:
    """Density of the variance of fractional noise of step 1 over frequencies, which are angles in (0, 2 pi)

        2 sin(pi H) Gamma(2 H + 1) (1 - cos w) sum_j |w + 2 pi j|^(-2 H - 1) / (2 pi),

    all whole j, by zeta functions of Hurwitz  [5]. Its integral over (0, 2 pi) is 1. Not differentiable
    in H.
    """
    h, w = doubles(hurst, frequency)
    power, share = 2 * h + 1, w / (2 * math.pi)
    aliases = torch.special.zeta(power, share) + torch.special.zeta(power, 1 - share)
    height = torch.sin(math.pi * h) * torch.exp(torch.lgamma(power)) / math.pi
    density: Tensor = height * 2 * torch.sin(w / 2) ** 2 * (2 * math.pi) ** -power * aliases
    return density


def riemann_liouville(hurst: Tensor | float) -> Covariance:
    """s^a t^(a - 1) F(1 - a, 1; 1 + a; s / t) / (Gamma(a) Gamma(a + 1)),  0 <= s <= t,  a = H + 1/2  [2]"""
    return multifractional(lambda t: doubles(hurst, t)[0])


def multifractional(hurst: Callable[[Tensor], Tensor]) -> Covariance:
    """s^a t^(b - 1) F(1 - b, 1; 1 + a; s / t) / (Gamma(b) Gamma(a + 1)),  a = H(s) + 1/2, b = H(t) + 1/2  [3]

    The Riemann-Liouville integral with the index of the time it is read at; 0 <= s <= t.

    Args:
        hurst: t -> H(t), elementwise, in (0, 1).
    """

    def law(s: Tensor, t: Tensor) -> Tensor:
        s, t = doubles(s, t)
        early, late = torch.minimum(s, t), torch.maximum(s, t)
        return _overlap(early, late, hurst(early) + 0.5, hurst(late) + 0.5)

    return law


def _overlap(s: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """int_0^s (s - u)^(a - 1) (t - u)^(b - 1) du / (Gamma(a) Gamma(b)) for 0 <= s <= t."""
    started = s > 0
    s, t = s.where(started, 1.0), t.where(started, 2.0)
    apart = 3 * s <= 2 * t
    far = _far(s.where(apart, 1.0), t.where(apart, 2.0), a, b)
    near = _near(s.where(~apart, 2.0), t.where(~apart, 2.5), a, b)
    return torch.where(apart, far * torch.exp(-torch.lgamma(b)), near).where(started, 0.0)


def _far(s: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The hypergeometric series in s / t <= 2 / 3, without 1 / Gamma(b)."""
    z, series = s / t, torch.ones_like(s)
    for n in range(90, 0, -1):
        series = 1 + (n - b) / (n + a) * z * series
    return s**a * t ** (b - 1) * torch.exp(-torch.lgamma(a + 1)) * series


def _near(s: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The same about s = t, in d = t - s <= s / 2, where the series in s / t stalls.

        d^h Gamma(a) Gamma(-h) / Gamma(1 - b) + sum_n binomial(b - 1, n) d^n s^(h - n) / (h - n),  h = a + b - 1

    The integral from 0 to infinity over s - u, less that from s on  [5, 15.8]. Near h = 1, where H is
    1/2, the first term and that of n = 1 are infinite one by one; both together are

        (1 - b) d s^(h - 1) (e^(y) - 1) / e,   e = h - 1,  y = e log(d / s) + log(Gamma(a) Gamma(1 - e) / (Gamma(a - e) h)).
    """
    h = a + b - 1
    d, e = t - s, h - 1
    ratio = d / s
    series, binomial = s**h / h, b - 1
    for n in range(2, 56):
        binomial = binomial * (b - n) / n
        series = series + binomial * ratio**n * s**h / (h - n)
    slope = torch.log(ratio.clamp(min=1e-300)) + _gamma_slope(a, e)
    series = series + (1 - b) * ratio * s**h * slope * _expm1_ratio(e * slope)
    return series * torch.exp(-torch.lgamma(a) - torch.lgamma(b))


def _gamma_slope(a: Tensor, e: Tensor) -> Tensor:
    """(log Gamma(a) - log Gamma(a - e) + log Gamma(1 - e) - log(1 + e)) / e, also at e = 0."""
    small = e.abs() < 0.01
    rise = e.where(~small, 1 / 4)
    exact = torch.lgamma(a) - torch.lgamma(a - rise) + torch.lgamma(1 - rise) - torch.log1p(rise)
    f = e.where(small, 0.0)
    central = _central_digamma(a - f / 2, f) - _central_digamma(1 - f / 2, f)
    middle = 1 + f / 2
    central = central - (1 + f**2 / (12 * middle**2) + f**4 / (80 * middle**4)) / middle
    return torch.where(small, central, exact / rise)


def _central_digamma(middle: Tensor, width: Tensor) -> Tensor:
    """The mean of digamma over an interval of small width, but for width^6."""
    second, fourth = torch.polygamma(2, middle), torch.polygamma(4, middle)
    return torch.digamma(middle) + width**2 / 24 * second + width**4 / 1920 * fourth


def _expm1_ratio(y: Tensor) -> Tensor:
    """(e^y - 1) / y, also at y = 0."""
    small = y.abs() < 1e-4
    safe = y.where(~small, 1.0)
    return torch.where(small, 1 + y / 2 * (1 + y / 3 * (1 + y / 4)), torch.expm1(safe) / safe)
