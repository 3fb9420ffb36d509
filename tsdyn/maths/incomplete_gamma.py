"""Incomplete gamma functions with gradients of any order, also in their first argument.

    P(a, x) = 1/Γ(a) ∫_0^x s^{a-1} e^{-s} ds,   Q(a, x) = 1 - P(a, x),   a > 0,  x >= 0

Below x = 2 the power series, above it Legendre's continued fraction, both with a fixed number of terms:
sums, products and quotients, which automatic differentiation takes as they are. In double precision.

[1] NIST Digital Library of Mathematical Functions, sections 8.7 and 8.9.
"""

import torch
from torch import Tensor

SWITCH = 2.0
TERMS = 30  # of the series: 2^30 / 30! < 1e-23
LEVELS = 60  # of the continued fraction: exp(-4 √(60 · 2)) < 1e-18


def entire_lower(a: Tensor, x: Tensor) -> Tensor:
    """x^{-a} P(a, x), an entire function of both; 1 / Γ(a + 1) at x = 0."""
    small, near, far = _sides(x)
    series = scaled_entire_lower(a, near) * torch.exp(-near)
    power = far**-a
    return torch.where(small, series, power - power * torch.exp(-far) * _fraction(a, far))


def scaled_entire_lower(a: Tensor, x: Tensor) -> Tensor:
    """e^x x^{-a} P(a, x) = Σ_n x^n / Γ(a + n + 1), for x <= 2."""
    total = torch.ones_like(a * x)
    for n in range(TERMS, 0, -1):
        total = 1 + total * x / (a + n)
    return total * torch.exp(-torch.lgamma(a + 1))


def scaled_upper(a: Tensor, x: Tensor) -> Tensor:
    """e^x Q(a, x): falls like x^{a-1} / Γ(a), where Q itself would be rounded to zero."""
    small, near, far = _sides(x)
    tiny = near == 0  # 0^a has no gradient in x that could be written down
    power = near.where(~tiny, 1.0) ** a * (~tiny)
    series = torch.exp(near) - power * scaled_entire_lower(a, near)
    return torch.where(small, series, _fraction(a, far))


def _fraction(a: Tensor, x: Tensor) -> Tensor:
    """e^x Q(a, x) = x^a / Γ(a) / (x + 1 - a - 1 (1 - a) / (x + 3 - a - 2 (2 - a) / (x + 5 - a - ...)))"""
    below = x + (2 * LEVELS + 1) - a
    for n in range(LEVELS, 0, -1):
        below = x + (2 * n - 1) - a - n * (n - a) / below
    return torch.exp(a * torch.log(x) - torch.lgamma(a)) / below


def _sides(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which x are small, and x for either formula where it holds, so that no other gradient is infinite."""
    small = x < SWITCH
    return small, x.where(small, 1.0), x.where(~small, SWITCH)
