"""InducingGP against StateSpaceGP where it is exact, and against what a bound has to do where it is not."""

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths, hide, query
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.errors import ConfigError, ModelError
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.gp_inducing import InducingGP, spread
from tsdyn.models.kernels import Coregionalized, LearnedKernel, Linear, Matern, Periodic, Sum
from tsdyn.models.likelihoods import GaussianNoise
from tsdyn.models.mean_functions import MeanFunction

double = torch.float64
KERNELS = {
    "shared": lambda: Matern(1.5, 0.7, 1.3),
    "own": lambda: Matern(2.5, [0.7, 2.0], [1.3, 0.4]),
    "sum": lambda: Sum([Matern(0.5, 0.5), Periodic(1.0, 3.0, harmonics=3)]),
    "line": lambda: Sum([Linear(0.3), Matern(1.5, 0.7)]),
    "mixed": lambda: Coregionalized([Matern(0.5, 2.0), Matern(1.5, 0.7)], 2),
}


@pytest.fixture(params=KERNELS)
def kernel(request) -> LearnedKernel:
    return KERNELS[request.param]()


def paths(B: int, T: int, D: int) -> Paths:
    """Irregular times, two of them the same; holes that hold NaN; padding behind all but the first series."""
    t = 8 * torch.rand(B, T, dtype=double)
    t[:, 1] = t[:, 0]
    t = t.sort(1).values
    last = T - 1 - torch.arange(B)[:, None]
    pad = torch.arange(T) > last
    t = t.where(~pad, t.gather(1, last))
    mask = (torch.rand(B, T, D) > 0.3) & ~pad[..., None]
    x = torch.randn(B, T, D, dtype=double)
    return Paths(t, x.where(mask, torch.nan), mask)


def both(kernel: LearnedKernel, inducing: int, dim: int = 2) -> tuple[InducingGP, StateSpaceGP]:
    """The same law, through states at some times and at all."""
    noise = GaussianNoise(dim, [0.4, 0.2][:dim])
    level = MeanFunction(dim)
    sparse = InducingGP(dim, inducing, kernel, noise, level)
    level.coefficients.data.fill_(0.3)
    sparse.gp.fitted.fill_(True)
    return sparse, sparse.gp


def dense_paths(n: int = 65) -> Paths:
    """One series of a wave, observed at n distinct times."""
    t = 8 * torch.rand(1, n, dtype=double).sort(1).values
    x = torch.sin(2 * t[..., None]) + 0.3 * torch.randn(1, n, 1, dtype=double)
    return Paths(t, x, torch.ones_like(x, dtype=torch.bool))


def test_with_states_at_all_times_it_is_the_full_method(kernel):
    """Loss, its gradient, means and variances: before, between, at and behind the observations."""
    p = paths(3, 14, 2)
    given, want = hide(p, torch.rand(3, 14, 2) > 0.5)
    sparse, full = both(kernel, 14)
    learned = [q for q in full.parameters() if q.requires_grad]
    losses = sparse.loss(given, want), full.loss(given, want)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-8)
    gradients = [torch.autograd.grad(loss, learned) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-8)
    at = torch.cat([torch.tensor([4.0, -1.0, 9.5, 4.0], dtype=double).expand(3, -1), p.t], 1)
    for latent in (True, False):
        laws = (m.posterior(given, at, latent) for m in (sparse, full))
        torch.testing.assert_close(*laws, rtol=0, atol=1e-8)


@pytest.mark.parametrize("nu", [0.5, 2.5])
def test_the_loss_lies_above_the_exact_one_and_falls_as_states_are_added(nu):
    """Each set of 2^k + 1 of 65 times holds the one before."""
    p = dense_paths()
    none = query(p.t[:, :1], p)
    losses = []
    for inducing in (2, 3, 5, 9, 17, 33, 65):
        sparse, full = both(Matern(nu, 0.7, 1.3), inducing, 1)
        losses.append(sparse.loss(none, p).detach())
    exact = full.loss(none, p).detach()
    assert (torch.stack(losses).diff() < 0).all()
    assert (torch.stack(losses[:-1]) > exact).all()
    torch.testing.assert_close(losses[-1], exact, rtol=0, atol=1e-8)


def test_what_is_given_is_known_through_the_states_of_the_whole_question():
    """-log p(want | given) p(given) of one set of states: both losses add up to that of all."""
    p = dense_paths()
    given, want = hide(p, (p.t > 5.0)[..., None])
    none = query(p.t[:, :1], p)
    sparse, _ = both(Matern(1.5, 0.7, 1.3), 9, 1)
    z = spread(p.t, 9)
    whole, part = (sparse._told(q, z).found.bound.sum() for q in (p, given))
    torch.testing.assert_close(
        sparse.loss(given, want) * want.mask.sum(), part - whole, rtol=1e-10, atol=0
    )
    torch.testing.assert_close(
        sparse.loss(none, p) * p.mask.sum(), -sparse.evidence(p).sum(), rtol=1e-10, atol=0
    )


def test_draws_are_jointly_those_of_the_full_method(kernel):
    """Several of the times lie between the same two states, some before and some behind all."""
    p = paths(2, 10, 2)
    sparse, full = both(kernel, 10)
    at = torch.tensor([4.0, -1.0, 4.1, 9.5, 9.0, -0.5, 4.1, 4.05], dtype=double).expand(2, -1)
    n = 4_000
    with torch.no_grad():
        draws = sparse.sample(p, at, n, latent=True).flatten(2)  # (n, B, T D)
        answer = full.at(p)(at, latent=True)
        mean, cov = answer.mean.flatten(1), answer.covariance
    deviation = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * deviation / n**0.5).all()
    rest = draws - mean
    found = torch.einsum("nbi,nbj->bij", rest, rest) / n
    squares = deviation[..., :, None] * deviation[..., None, :]
    error = ((squares**2 + cov**2) / n).sqrt()  # of a product of two Gaussians
    assert ((found - cov).abs() < 5 * error).all()


def test_draws_of_few_states_have_the_moments_of_the_posterior():
    p, n = dense_paths(), 20_000
    sparse, _ = both(Matern(1.5, 0.7, 1.3), 6, 1)
    at = torch.linspace(9, -1, 21, dtype=double)[None]
    with torch.no_grad():
        draws, law = sparse.sample(p, at, n), sparse.posterior(p, at)
    assert ((draws.mean(0) - law.mean).abs() < 5 * (law.var / n).sqrt()).all()
    assert ((draws.var(0) / law.var - 1).abs() < 5 * (2 / n) ** 0.5).all()


def test_fit_finds_the_largest_bound():
    """No gradient is left, and the bound is above that of the law that made the data."""
    p = OrnsteinUhlenbeck(n=5, length=80, rate=0.7, sigma=0.5, level=2.0, noise=0.1)()
    gp = InducingGP(1, 40, Matern(0.5)).fit(p)
    loss = -gp.evidence(p).sum() / p.mask.sum()
    loss.backward()
    assert all(q.grad.abs().max() < 1e-4 for q in gp.parameters())
    truth = InducingGP(
        1, 40, Matern(0.5, 1 / 0.7, 0.25 / 1.4), GaussianNoise(1, 0.1), MeanFunction(1)
    )
    truth.on_epoch(0, (p, p))
    truth.gp.mean.coefficients.data.fill_(2.0)
    assert gp.evidence(p).sum() > truth.evidence(p).sum()
    assert gp.channels == p.names.channels


def test_it_answers_in_inference_mode():
    p = dense_paths()
    sparse, _ = both(Matern(1.5, 0.7, 1.3), 6, 1)
    with torch.inference_mode():
        copy = p._replace(t=p.t + 0.0, x=p.x + 0.0)
        inside = sparse.posterior(copy, copy.t)
        assert sparse.sample(copy, copy.t, 2).isfinite().all()
    torch.testing.assert_close(inside, sparse.posterior(p, p.t))


def test_states_are_spread_over_the_distinct_times_of_each_series():
    t = torch.tensor([[0.0, 0.0, 1.0, 5.0, 6.0, 6.0, 9.0], [2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]])
    every: Tensor = torch.tensor([[0.0, 1.0, 5.0, 6.0, 9.0], [2.0, 2.0, 2.0, 3.0, 3.0]])
    torch.testing.assert_close(spread(t, 100), every.double())
    few = torch.tensor([[0.0, 5.0, 9.0], [2.0, 2.0, 3.0]])
    torch.testing.assert_close(spread(t, 3), few.double())
    assert spread(t, 1).tolist() == [[0.0], [2.0]]


def test_wrong_numbers_and_questions_that_come_too_early():
    with pytest.raises(ConfigError, match="TSD-X01"):
        InducingGP(1, 0)
    p = dense_paths()
    with pytest.raises(ModelError, match="TSD-M01"):
        InducingGP(1, 5).posterior(p, p.t)
    fixed = Matern(1.5, 0.7), GaussianNoise(1, 0.3), "zero"
    with pytest.raises(ModelError, match="TSD-M05"):  # 65 pairs of 4 numbers: 0.25 MB
        InducingGP(1, 65, *fixed, memory=2e-4).posterior(p, p.t)
    few = InducingGP(1, 4, *fixed, memory=5e-5)
    few.posterior(p, p.t)
    with pytest.raises(ModelError, match="TSD-M05"):  # the gradient of 65 values: 0.06 MB
        few.evidence(p)
