"""Oracles: torch's multivariate normal, joint densities, values computed elsewhere, known indices."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from tsdyn.errors import ModelError
from tsdyn.maths.fractional_exact import (
    brownian_variance,
    fractional_brownian,
    matrix,
    riemann_liouville,
)
from tsdyn.maths.fractional_mean_reversion import fractional_ou, mean_reverting
from tsdyn.maths.gaussian_evidence import condition, log_evidence
from tsdyn.maths.gaussian_paths import factored

# one value 0 with standard deviation 0.1 at t = 2 of dX = -rate X dt + dB, X(0) = 0, computed elsewhere by
# dense linear algebra: (H, rate): (log evidence, posterior standard deviation at t = 1)
UNIT = {
    (0.3, 0): (-1.1302, 0.7897),
    (0.5, 0): (-1.2680, 0.7089),
    (0.7, 0): (-1.4060, 0.5854),
    (0.9, 0): (-1.5442, 0.3632),
    (0.6, 1): (-0.6043, 0.5801),
    (0.8, 1): (-0.6840, 0.4543),
    (0.8, 2): (-0.2103, 0.3754),
}
MANDELBROT = {
    (0.3, 0): (-1.2915, 0.9283),
    (0.5, 0): (-1.2680, 0.7089),
    (0.7, 0): (-1.4036, 0.5840),
    (0.9, 0): (-1.8723, 0.5024),
    (0.6, 1): (-0.5814, 0.5667),
    (0.8, 1): (-0.7697, 0.4950),
    (0.8, 2): (-0.2939, 0.4090),
}
ONE_SIDED = {
    (0.3, 0): (-1.2329, 0.9131),
    (0.5, 0): (-1.2680, 0.7089),
    (0.7, 0): (-1.3235, 0.5764),
    (0.9, 0): (-1.3705, 0.4767),
    (0.6, 1): (-0.5717, 0.5628),
    (0.8, 1): (-0.6141, 0.4668),
    (0.8, 2): (-0.1807, 0.3797),
}


def mandelbrot(hurst):
    law = fractional_brownian(hurst)
    return lambda s, t: brownian_variance(hurst) * law(s, t)


@pytest.mark.parametrize(
    ("driver", "known"),
    [(fractional_brownian, UNIT), (mandelbrot, MANDELBROT), (riemann_liouville, ONE_SIDED)],
)
def test_a_bridge(driver, known):
    t, y, at = torch.tensor([2.0]), torch.zeros(1), torch.tensor([1.0])
    for (hurst, rate), (evidence, deviation) in known.items():
        law = mean_reverting(driver(hurst), rate)
        assert_close(log_evidence(law, t, y, 0.01).item(), evidence, rtol=0, atol=6e-5)
        mean, C = condition(law, t, y, 0.01, at)
        assert_close(C.sqrt().item(), deviation, rtol=0, atol=6e-5)
        assert mean == 0


def problem():
    t = torch.rand(3, 8, dtype=torch.float64) + 0.05
    y = torch.randn(3, 8, dtype=torch.float64)
    noise = 0.1 + torch.rand(3, 8, dtype=torch.float64)
    return t, y, noise


@pytest.mark.parametrize("law", [riemann_liouville(0.3), fractional_ou(0.8, 2.0)])
def test_evidence_is_the_density_of_the_observations(law):
    t, y, noise = problem()
    expected = MultivariateNormal(torch.zeros(8).double(), matrix(law, t) + torch.diag_embed(noise))
    assert_close(log_evidence(law, t, y, noise), expected.log_prob(y))


def test_what_is_not_observed_does_not_count():
    """Nor is it read: it may be NaN."""
    law = fractional_brownian(0.7)
    t, y, noise = problem()
    mask = torch.rand(3, 8) < 0.6
    mask[2] = False
    at = torch.linspace(0, 2, 5, dtype=torch.float64).expand(3, -1)
    holes = y.where(mask, torch.nan)
    together = log_evidence(law, t, holes, noise, mask)
    mean, C = condition(law, t, holes, noise, at, mask)
    for b in range(3):
        seen = t[b, mask[b]], y[b, mask[b]], noise[b, mask[b]]
        assert_close(together[b], log_evidence(law, *seen))
        own_mean, own_C = condition(law, *seen, at[b])
        assert_close(mean[b], own_mean)
        assert_close(C[b], own_C)


def test_evidence_and_posterior_make_the_joint_density():
    """p(y) p(x | y) = p(x) p(y | x) for any values x."""
    law = riemann_liouville(0.4)
    t, y, noise = problem()
    at = t + 0.3
    x = torch.randn(3, 8, dtype=torch.float64)
    mean, C = condition(law, t, y, noise, at)
    posterior = log_evidence(law, t, y, noise) + MultivariateNormal(mean, C).log_prob(x)
    both = torch.cat([at, t], -1)
    variances = torch.cat([torch.zeros_like(noise), noise], -1)
    assert_close(
        posterior, log_evidence(law, both, torch.cat([x, y], -1), variances), rtol=1e-7, atol=1e-7
    )


def test_exact_values_are_kept():
    law = fractional_brownian(0.6)
    t, y, _ = problem()
    mean, C = condition(law, t, y, 0.0, t)
    assert_close(mean, y, rtol=0, atol=1e-7)
    assert C.abs().max() < 1e-9


def test_two_exact_values_of_one_time():
    with pytest.raises(ModelError, match="M04"):
        log_evidence(fractional_brownian(0.5), torch.tensor([1.0, 1.0]), torch.zeros(2), 0.0)


def test_derivatives_with_respect_to_index_and_noise():
    t, y, _ = (f[:2, :3] for f in problem())
    hurst = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    noise = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def read(h, v):
        law = riemann_liouville(h)
        return (log_evidence(law, t, y, v), *condition(law, t, y, v, t[:, :1] + 0.1))

    assert torch.autograd.gradcheck(read, (hurst, noise))


@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8])
def test_the_index_of_paths_is_found(hurst):
    """The likelihood of 8 paths of 100 values has its peak within 4 standard errors of the index they have."""
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    paths = factored(matrix(riemann_liouville(hurst), t), (8,))
    h = torch.tensor(hurst, dtype=torch.float64, requires_grad=True)
    total = log_evidence(riemann_liouville(h), t, paths, 0.0).sum()
    (slope,) = torch.autograd.grad(total, h, create_graph=True)
    (bend,) = torch.autograd.grad(slope, h)
    # at the truth the score has the variance of the information
    assert bend < 0
    assert slope.abs() < 4 * (-bend).sqrt()
    assert 1 / math.sqrt(-bend) < 0.03


def test_devices(device):
    t, y, noise = (f.float().to(device) for f in problem())
    found = log_evidence(fractional_brownian(0.3), t, y, noise)
    assert found.dtype == torch.float64 and found.device == t.device
    mean, C = condition(fractional_brownian(0.3), t, y, noise, t[:, :2])
    assert mean.shape == (3, 2) and C.shape == (3, 2, 2)
