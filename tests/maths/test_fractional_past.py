"""Oracles: the difference of two exact covariances, and scipy's quadrature of one function."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from tsdyn.maths.fractional_exact import (
    brownian_variance,
    fractional_brownian,
    riemann_liouville,
    riemann_liouville_variance,
)
from tsdyn.maths.fractional_past import modes, past

T = torch.linspace(0, 1, 41, dtype=torch.float64)


def exact(hurst, s, t):
    """Cov(G(s), G(t))"""
    whole = brownian_variance(hurst) * fractional_brownian(hurst)(s, t)
    return whole - riemann_liouville(hurst)(s, t)


def covariance(hurst, t, count):
    curves = modes(past(hurst, count), t)
    return curves @ curves.mT


@pytest.mark.parametrize("hurst", [0.05, 0.1, 0.3, 0.7, 0.9, 0.95])
def test_many_modes_are_what_separates_the_two_motions(hurst):
    """With 12 of them nothing of the covariance is left but 1e-8; each further one takes a part of the error."""
    h = torch.tensor(hurst, dtype=torch.float64)
    s, t = T[:, None], T
    assert_close(covariance(h, T, 12), exact(h, s, t), rtol=0, atol=1e-8)
    total = (brownian_variance(h) - riemann_liouville_variance(h)) / (2 * h + 1)
    shares = [float(past(h, count).error / total) for count in (1, 2, 3, 4)]
    assert all(share < bound for share, bound in zip(shares, [1.7e-2, 1e-3, 1e-4, 1.5e-5]))


@pytest.mark.parametrize("hurst", [0.1, 0.7])
def test_the_error_is_the_variance_that_is_missing(hurst):
    """∫_0^1 E(G - Σ φ ξ)² dt, from the exact variance of G and the modes, by scipy."""
    h = torch.tensor(hurst, dtype=torch.float64)
    law = past(h, 2)

    def missing(t):
        t = torch.tensor(t, dtype=torch.float64)
        return float(exact(h, t, t) - modes(law, t).square().sum())

    expected = quad(missing, 0, 1, epsabs=1e-10, limit=200)[0]
    assert math.isclose(law.error, expected, rel_tol=1e-4)


def test_one_half_has_no_past_but_one_that_begins():
    """G vanishes at H = 1/2, its modes do not jump there, and both have derivatives."""
    half = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = modes(past(half, 3), T)
    assert not found.any()
    assert_close(past(half, 3).error, torch.zeros_like(half))
    around = [modes(past(half.detach() + step, 3), T) for step in (-1e-5, 1e-5)]
    slope = torch.autograd.functional.jacobian(lambda h: modes(past(h, 3), T), half)
    assert_close(slope, (around[1] - around[0]) / 2e-5, rtol=0, atol=1e-8)


def test_modes_move_with_the_index_without_a_jump():
    """A sign that flipped anywhere would be a jump of twice the curve; divided by H - 1/2, which does change sign."""
    hurst = torch.linspace(0.03, 0.97, 190, dtype=torch.float64)
    curves = modes(past(hurst, 4), T[1:, None]) / (hurst - 0.5)[:, None]
    size = curves.abs().amax(0)
    assert (curves.diff(dim=1).abs().amax(0) < 0.2 * size[1:]).all()


def test_an_index_per_coordinate_is_each_alone():
    hurst = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    together = past(hurst, 3)
    found = modes(together, T[:, None])
    for d, h in enumerate(hurst):
        assert_close(found[:, d], modes(past(h, 3), T))
        assert_close(together.error[d], past(h, 3).error)


@pytest.mark.parametrize("hurst", [0.12, 0.5, 0.85])
def test_gradients_to_second_order(hurst):
    """Of the curves and of the error, also where their size is zero."""
    h = torch.tensor(hurst, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)

    def curves(h):
        law = past(h, 3)
        return modes(law, t), law.error * 1e3

    assert torch.autograd.gradcheck(curves, h)
    assert torch.autograd.gradgradcheck(curves, h)


@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.7, 0.95])
def test_many_times_share_a_table(hurst):
    """A thousand times at once are a hundred and a hundred, from zero to beyond the horizon; gradients too."""
    index = torch.tensor(hurst, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0, 1.5, 1000, dtype=torch.float64) ** 4
    many = modes(past(index, 3), t)
    few = torch.cat([modes(past(index, 3), part) for part in t.split(100)])
    size = float(few.detach().abs().max())
    assert float((many - few).detach().abs().max()) < 1e-10 * size
    slopes = [
        torch.autograd.grad(f.square().sum(), index, retain_graph=True)[0] for f in (many, few)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=0)


def test_coordinates_share_a_table_each():
    index = torch.tensor([0.2, 0.8], dtype=torch.float64)
    t = torch.rand(30, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = modes(past(index, 3), t)
    for d in range(2):
        want = modes(past(index[d], 3), t[..., 0])
        torch.testing.assert_close(found[..., d, :], want, atol=1e-12, rtol=0)
