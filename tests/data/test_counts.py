"""Counts against the moments of their law."""

import math

import pytest
import torch

from tsdyn.data.counts import LogGaussianCounts
from tsdyn.errors import ConfigError


def test_moments_and_correlations():
    """E y = exp(level + v / 2) = m, Cov(y(s), y(t)) = m^2 (exp k(s, t) - 1) plus m on the diagonal."""
    source = LogGaussianCounts(n=40_000, length=3, span=4.0, irregular=False, deviation=0.6)
    y = source().x[..., 0].double()
    v = 0.6**2
    m = math.exp(1.0 + v / 2)
    lags = torch.tensor([[0.0, 2.0, 4.0], [2.0, 0.0, 2.0], [4.0, 2.0, 0.0]], dtype=torch.float64)
    cov = m**2 * torch.expm1(v * torch.exp(-lags / 3)) + m * torch.eye(3, dtype=torch.float64)
    error = (cov.diagonal() / len(y)).sqrt()
    assert ((y.mean(0) - m).abs() < 5 * error).all()
    products = (y - m)[:, :, None] * (y - m)[:, None, :]
    assert ((products.mean(0) - cov).abs() < 5 * products.std(0) / len(y) ** 0.5).all()


def test_they_are_counts_and_the_seed_decides():
    a, b, c = (LogGaussianCounts(n=4, length=9, missing=0.3, seed=s)() for s in (0, 0, 1))
    assert (a.x == a.x.round()).all() and (a.x >= 0).all() and a.x.dtype == torch.float32
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x)
    assert a.names.channels == ("y0",) and not a.mask.all()


def test_what_cannot_be():
    for fields in ({"noise": 0.1}, {"deviation": 0.0}, {"lengthscale": -1.0}):
        with pytest.raises(ConfigError, match="TSD-X01"):
            LogGaussianCounts(**fields)
