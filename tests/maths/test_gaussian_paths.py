"""Oracles: covariances of the draws within their standard errors, dense regressions, another library."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch.testing import assert_close

from tsdyn.errors import ModelError
from tsdyn.maths.fractional_exact import (
    fractional_brownian,
    fractional_noise,
    matrix,
    multifractional,
    riemann_liouville,
)
from tsdyn.maths.gaussian_paths import (
    circulant,
    durbin_levinson,
    factored,
    fractional_brownian_paths,
    fractional_noise_paths,
    hosking,
)

INDICES = [0.1, 0.3, 0.5, 0.75, 0.9]


def autocovariance(hurst: float, n: int) -> torch.Tensor:
    return fractional_noise(hurst)(torch.zeros(n), torch.arange(n))


def assert_covariance(draws: torch.Tensor, C: torch.Tensor) -> None:
    """Draws (R, n) of N(0, C): each product moment within 5.5 standard errors, their mean square within 10 %."""
    found = draws.T @ draws / len(draws)
    variance = C.diagonal()
    error = ((variance[:, None] * variance + C**2) / len(draws)).sqrt()
    score = (found - C) / error.where(error > 0, 1.0)
    assert score.abs().max() < 5.5
    # correlated scores: the mean square of those of one matrix has a standard deviation far below its bound
    assert score.square().mean() < 4


@pytest.mark.parametrize("hurst", INDICES)
def test_paths_have_the_covariance_of_fractional_brownian_motion(hurst):
    n, step = 20, 0.1
    draws = fractional_brownian_paths(hurst, n, step, (40000,))
    assert_covariance(draws, matrix(fractional_brownian(hurst), step * torch.arange(n + 1)))


@pytest.mark.parametrize("hurst", INDICES)
def test_all_ways_to_draw_have_one_law(hurst):
    n, r = 16, autocovariance(hurst, 16)
    C = matrix(fractional_noise(hurst), torch.arange(n))
    for draws in (circulant(r, (20000,)), hosking(r, (20000,)), factored(C, (20000,))):
        assert_covariance(draws, C)


@pytest.mark.parametrize("hurst", [0.25, 0.75])
def test_paths_agree_with_another_library(hurst):
    """Two-sample Kolmogorov-Smirnov tests of the end and the range of paths, at a level of 0.001."""
    from fbm import FBM

    np.random.seed(3)  # its only source of chance
    process = FBM(n=64, hurst=hurst, length=2.0, method="daviesharte")
    theirs = torch.tensor(np.stack([process.fbm() for _ in range(1500)]))
    ours = fractional_brownian_paths(hurst, 64, 2.0 / 64, (1500,))
    assert ours.shape == theirs.shape and not ours[:, 0].any()
    for summary in (lambda x: x[:, -1], lambda x: x.amax(-1) - x.amin(-1)):
        assert ks_2samp(summary(ours), summary(theirs)).pvalue > 1e-3


def test_variances_of_increments_are_powers_of_the_step():
    """E (B(t + step) - B(t))² = step^2H, over 20000 nearly independent values."""
    for hurst in (0.2, 0.4):
        noise = fractional_noise_paths(hurst, 10, 0.01, (2000,))
        assert_close(
            (noise**2).mean().item(), 0.01 ** (2 * hurst), rtol=4 * (2 / 10000) ** 0.5, atol=0
        )


@pytest.mark.parametrize("n", [1, 2, 3, 1024])
def test_the_circulant_matrix_of_noise_is_positive_for_every_index(n):
    hurst = torch.linspace(0.01, 0.99, 50)
    assert fractional_noise_paths(hurst, n, size=(2,)).shape == (2, 50, n)


def test_no_process_on_the_circle():
    """A box of correlations on a line is a process for few lags, but not on this circle."""
    r = torch.tensor([1.0, 0.6, -0.2])
    with pytest.raises(ModelError, match="M04"):
        circulant(r)
    assert hosking(r, (3,)).shape == (3, 3)


@pytest.mark.parametrize("hurst", INDICES)
def test_predictions_are_those_of_dense_regression(hurst):
    n = 12
    C = matrix(fractional_noise(hurst), torch.arange(n))
    for k, (phi, variance) in enumerate(durbin_levinson(autocovariance(hurst, n))):
        expected = torch.linalg.solve(C[:k, :k], C[:k, k]) if k else C[:0, 0]
        assert_close(phi, expected.flip(-1), rtol=1e-10, atol=1e-13)
        assert_close(variance, C[k, k] - expected @ C[:k, k], rtol=1e-10, atol=0)


def test_the_rest_given_the_past():
    """Mean and covariance of x_5 .. x_9 given x_0 .. x_4, by dense conditioning."""
    n, past, r = 10, 5, autocovariance(0.8, 10)
    C = matrix(fractional_noise(0.8), torch.arange(n))
    given = torch.randn(past, dtype=torch.float64)
    draws = hosking(r, (40000,), given)
    assert torch.equal(draws[:, :past], given.expand(40000, -1))
    gain = torch.linalg.solve(C[:past, :past], C[:past, past:]).T
    assert_covariance(draws[:, past:] - gain @ given, C[past:, past:] - gain @ C[:past, past:])


def test_what_is_no_autocovariance():
    with pytest.raises(ModelError, match="M04"):
        hosking(torch.tensor([1.0, 0.9, -0.9]))


@pytest.mark.parametrize(
    "law",
    [
        riemann_liouville(0.3),
        riemann_liouville(0.8),
        multifractional(lambda t: 0.3 + 0.5 * torch.sigmoid(7 * (1 - t))),
    ],
)
def test_irregular_times(law):
    t = torch.tensor([0.0, 0.1, 0.11, 0.5, 1.2, 2.0])
    C = matrix(law, t)
    draws = factored(C, (40000,))
    assert not draws[:, 0].any()
    assert_covariance(draws, C)


def test_equal_times_have_no_factor():
    with pytest.raises(ModelError, match="M04"):
        factored(matrix(fractional_brownian(0.5), torch.tensor([1.0, 1.0, 2.0])))


def test_batches_and_devices(device):
    hurst = torch.tensor([[0.2, 0.5, 0.9]], device=device)
    x = fractional_brownian_paths(hurst, 7, size=(4, 5))
    assert x.shape == (4, 5, 1, 3, 8) and x.device == hurst.device and x.dtype == torch.float64
    r = autocovariance(0.3, 6).to(device).expand(2, -1)
    assert hosking(r, (3,), torch.zeros(2, 2, device=device)).shape == (3, 2, 6)
    C = matrix(fractional_brownian(0.3), torch.arange(4, device=device))
    assert factored(C.expand(2, -1, -1), (3,)).shape == (3, 2, 4)
