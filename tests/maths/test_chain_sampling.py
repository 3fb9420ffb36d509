"""Oracle: the joint law of all rows. Tolerances are those of sample moments of n normal draws."""

import pytest
import torch

from tests.maths.chains import anything, covariance32, dense, irregular, joint, matern32
from tsdyn.maths.chain_sampling import sample_matheron, sample_posterior, sample_prior
from tsdyn.maths.kalman import smoothed
from tsdyn.maths.observations import observe

DRAWS = 20_000


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def has_law(draws, mean, cov):
    """Draws (n, K) of N(mean, cov): first and second moments within 5 standard errors.

    The standard error of a sample covariance is sqrt((c_ii c_jj + c_ij²) / n).
    """
    n, var = len(draws), cov.diagonal()
    assert ((draws.mean(0) - mean).abs() <= 5 * (var / n).sqrt() + 1e-12).all()
    error = ((var[:, None] * var + cov**2) / n).sqrt()
    assert ((draws.T.cov() - cov).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("S", [1, 2, 4])
def test_the_prior(S):
    chain, _ = anything(6, S)
    mean, cov = joint(chain)
    draws = sample_prior(chain, DRAWS)
    assert draws.shape == (DRAWS, 6, S)
    has_law(draws.flatten(1), mean.flatten(), cov.reshape(6 * S, 6 * S))


@pytest.mark.parametrize("sample", [sample_posterior, sample_matheron])
@pytest.mark.parametrize("S", [1, 2, 4])
def test_the_posterior(sample, S):
    chain, sites = anything(6, S)
    mean, cov, _ = dense(chain, sites)
    draws = sample(chain, sites, DRAWS)
    assert draws.shape == (DRAWS, 6, S)
    has_law(draws.flatten(1), mean.flatten(), cov.reshape(6 * S, 6 * S))


@pytest.mark.parametrize("sample", [sample_posterior, sample_matheron])
def test_a_gaussian_process_given_data(sample):
    """Variances within 5 %, which is 5 standard errors sqrt(2 / n), and neighbours' covariances."""
    t = irregular(40)
    chain = matern32(t, 0.7, 1.3)
    sites = observe(torch.eye(2)[:1], torch.tensor(0.1), torch.sin(t)[:, None])
    after = smoothed(chain, sites)
    draws = sample(chain, sites, DRAWS)[..., 0]
    ratio = draws.var(0) / after.cov[:, 0, 0]
    assert ratio.min() > 0.95 and ratio.max() < 1.05
    centred = draws - after.mean[:, 0]
    found = (centred[:, 1:] * centred[:, :-1]).mean(0)
    scale = (after.cov[1:, 0, 0] * after.cov[:-1, 0, 0]).sqrt()
    # sd of a product of normals is at most sqrt(2) times that of each, of the mean sqrt(n) less
    assert ((found - after.cross[:-1, 0, 0]) / scale).abs().max() < 5 * (2 / DRAWS) ** 0.5


@pytest.mark.parametrize("sample", [sample_posterior, sample_matheron])
def test_series_that_share_a_chain_are_drawn_apart(sample):
    t = irregular(5)
    y = torch.randn(3, 5)
    chain = matern32(t, 0.7, 1.3)
    sites = observe(torch.eye(2)[:1], torch.tensor(0.5), y[..., None])
    draws = sample(chain, sites, DRAWS)
    assert draws.shape == (DRAWS, 3, 5, 2)
    for i in range(3):
        mean, cov, _ = dense(chain, observe(torch.eye(2)[:1], torch.tensor(0.5), y[i, :, None]))
        has_law(draws[:, i].flatten(1), mean.flatten(), cov.reshape(10, 10))
    first, second = (draws[:, i, 2, 0] for i in (0, 1))
    # the standard error of a sample correlation is 1 / sqrt(n)
    assert torch.stack([first, second]).corrcoef()[0, 1].abs() < 5 / DRAWS**0.5


def test_sharp_observations_hold_every_draw():
    t = irregular(30)
    chain = matern32(t, 0.7, 1.3)
    sites = observe(torch.eye(2)[:1], torch.tensor(1e-12), torch.sin(t)[:, None])
    for sample in (sample_posterior, sample_matheron):
        draws = sample(chain, sites, 100)[..., 0]
        assert (draws - torch.sin(t)).abs().max() < 6e-6  # 6 of sd 1e-6


def test_rows_that_share_a_time_share_their_state():
    t = irregular(20)
    t[10] = t[9]
    draws = sample_prior(matern32(t, 0.7, 1.3), 50)
    torch.testing.assert_close(draws[:, 10], draws[:, 9])


def test_many_chains_with_long_rows_have_the_law_of_each():
    """More rows than are worked on at once, and chains of their own."""
    t = irregular(3, 2000)
    chain = matern32(t, 0.7, 1.3)
    chain = chain._replace(P0=chain.P0.expand(3, 2, 2))
    draws = sample_prior(chain, 400)[..., 0]  # (400, 3, 2000)
    at = torch.tensor([0, 999, 1000, 1001, 1999])
    for i in range(3):
        K = covariance32(t[i, at], t[i, at], 0.7, 1.3)
        has_law(draws[:, i, at], torch.zeros(5), K)


def test_draws_are_differentiable_and_come_from_the_generator():
    scale = torch.tensor(1.3, requires_grad=True)

    def draw(scale):
        torch.manual_seed(1)
        return sample_prior(matern32(torch.arange(5.0) / 3, 0.7, scale), 3)

    assert torch.equal(draw(scale), draw(scale))
    # a path is proportional to the square root of the variance
    (found,) = torch.autograd.grad(draw(scale).sum(), scale)
    torch.testing.assert_close(found, draw(scale).sum().detach() / (2 * scale.detach()))


def test_draws_have_the_precision_of_the_chain():
    chain, sites = anything(4, 2)
    single = type(chain)(*(f.float() for f in chain))
    assert sample_prior(single, 2).dtype == torch.float32
    rounded = type(sites)(*(f.float() for f in sites))
    assert sample_posterior(single, rounded, 2).dtype == torch.float32
    assert sample_matheron(single, rounded, 2).dtype == torch.float32
