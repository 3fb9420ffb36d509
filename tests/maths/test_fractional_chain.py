"""The chain of a linear equation with fractional noise, against dense Gaussian laws of the same process."""

import math

import pytest
import torch
from fractional_linear import NOISE, TIMES, T, draws, evidence, linear, potentials

from tsdyn.maths import gaussian_evidence
from tsdyn.maths.fractional import (
    brownian_motion,
    covariance,
    geometric_speeds,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
)
from tsdyn.maths.fractional_chain import (
    Linear,
    Potentials,
    chain,
    divided,
    guide,
    inverse,
    log_evidence,
    motion,
)
from tsdyn.maths.fractional_exact import (
    riemann_liouville as exact_covariance,
)
from tsdyn.maths.fractional_mean_reversion import mean_reverting
from tsdyn.maths.grid import grid


@pytest.mark.parametrize("kind", [riemann_liouville, mandelbrot_van_ness])
@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.5, 0.8])
def test_the_evidence_is_that_of_the_gaussian_process(kind, hurst):
    """Also with a law of the start; the step of the grid does not matter."""
    y = draws()
    approximation = kind(hurst, speeds_for(T, 0.05), T)
    law = linear(0.0, 1.3, 0.2, 0.5)

    def dense(s, t):
        return 1.3**2 * covariance(approximation, s, approximation, t) + 0.25

    want = gaussian_evidence.log_evidence(dense, TIMES, y - 0.2, NOISE)
    for dt in (None, 0.3):
        assert abs(float(evidence(approximation, law, y, dt=dt) - want)) < 1e-5


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7])
def test_mean_reversion_is_exact_in_one_step_from_each_time_to_the_next(hurst):
    y = draws()
    approximation = riemann_liouville(hurst, speeds_for(T, 0.05), T)

    def driver(s, t):
        return 1.3**2 * covariance(approximation, s, approximation, t)

    want = gaussian_evidence.log_evidence(mean_reverting(driver, 1.3), TIMES, y, NOISE)
    assert abs(float(evidence(approximation, linear(1.3, 1.3), y) - want)) < 1e-6


BRIDGES = [(0.3, 0.0), (0.5, 0.0), (0.7, 0.0), (0.9, 0.0), (0.6, 1.0), (0.8, 1.0), (0.8, 2.0)]


@pytest.mark.parametrize("hurst, kappa", BRIDGES)
def test_the_approximation_costs_two_thousandths_of_a_nat(hurst, kappa):
    """One observation of 0 at T = 2 through noise of .1, against the exact motion of Riemann and Liouville."""
    y, times = torch.zeros(1, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    approximation = riemann_liouville(hurst, geometric_speeds(0.05, 20, 5), 2.0, "kernel")
    exact = mean_reverting(exact_covariance(hurst), kappa) if kappa else exact_covariance(hurst)
    want = gaussian_evidence.log_evidence(exact, times, y, NOISE)
    found = evidence(approximation, linear(kappa), y, times)
    assert abs(float(found - want)) < 0.002


def test_an_index_that_moves_with_time():
    """B(t_n) = Σ w(H(t_n)) Y(t_n), the covariance of the multifractional motion."""
    y, steps = draws(), grid(TIMES, None, t0=0.0)
    t = torch.cat([torch.zeros(1, dtype=torch.float64), TIMES])
    hurst = 0.3 + 0.4 * torch.sigmoid(t - 2)
    law = linear(0.0, 1.0)
    moving = motion(riemann_liouville(hurst[:, None, None], speeds_for(T, 0.05), T), steps)
    seen = potentials(steps, y)
    found = log_evidence(guide(chain(moving, law), seen), seen.precision)

    each = riemann_liouville(hurst[1:], speeds_for(T, 0.05), T)

    def dense(
        s, t
    ):  # both are (4, 4) by broadcasting, the rows of `each` in the order of the times
        first = each._replace(weights=each.weights[:, None])
        second = each._replace(weights=each.weights[None])
        return covariance(first, s, second, t)

    want = gaussian_evidence.log_evidence(dense, TIMES, y, NOISE)
    assert abs(float(found - want)) < 1e-6


def test_brownian_motion_needs_one_process():
    y = draws()

    def dense(s, t):
        return torch.minimum(s, t)

    want = gaussian_evidence.log_evidence(dense, TIMES, y, NOISE)
    assert abs(float(evidence(brownian_motion(), linear(), y) - want)) < 1e-10


def test_without_potentials_the_guide_does_nothing():
    steps = grid(TIMES, None, t0=0.0)
    moving = motion(riemann_liouville(0.3, speeds_for(T, 0.05), T), steps)
    law = linear(0.7, 1.2, 0.1, 0.4)
    nothing = torch.zeros(len(steps.h) + 1, 1, 1, dtype=torch.float64)
    found = guide(chain(moving, law), Potentials(nothing, nothing))
    assert float(found.gain.abs().max()) == 0 and float(found.offset.abs().max()) == 0
    torch.testing.assert_close(
        found.root, torch.eye(found.root.shape[-1]).expand_as(found.root).double()
    )
    assert float(found.log_evidence) == 0


def test_gradients_of_the_evidence():
    """To the rate, the scale, the start and the Hurst index, by finite differences."""
    y = draws()

    def value(hurst, kappa, sigma, std):
        approximation = riemann_liouville(hurst, speeds_for(T, 0.5, 4), T)
        law = Linear(kappa[None], sigma[None], torch.zeros(1, dtype=torch.float64), std[None])
        return evidence(approximation, law, y)

    at = tuple(
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.35, 0.8, 1.1, 0.4)
    )
    assert torch.autograd.gradcheck(value, at, eps=1e-5, atol=1e-4, rtol=1e-4)


def test_a_rate_that_equals_a_speed():
    """The divided difference goes over into the derivative."""
    speeds = geometric_speeds(0.5, 8.0, 3)
    approximation, y = riemann_liouville(0.4, speeds, T), draws()
    near = [float(evidence(approximation, linear(2.0 + d, 1.0), y)) for d in (-1e-3, 0.0, 1e-3)]
    assert float(speeds[1]) == pytest.approx(2.0)
    assert near[1] == pytest.approx((near[0] + near[2]) / 2, abs=1e-6)


def test_divided_differences():
    a = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    want = torch.tensor([math.exp(-2) - math.exp(-1), -math.exp(-1), -1.0], dtype=torch.float64)
    found = divided(lambda x: torch.exp(-x), a, b, torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(found, want, atol=1e-8, rtol=0)


def test_the_inverse_of_a_root():
    steps = grid(TIMES, None, t0=0.0)
    root = motion(riemann_liouville(0.3, speeds_for(T, 0.05), T), steps).root
    eye = inverse(root) @ root
    kept = (root.abs().amax(-2) > 0).double()  # columns of zeros have none
    torch.testing.assert_close(eye, torch.diag_embed(kept), atol=1e-6, rtol=0)
