"""Each likelihood against torch.distributions, against integrals on a fine grid, and against gradcheck."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from tsdyn.errors import DataError
from tsdyn.maths.likelihoods import (
    Gaussian,
    Logit,
    NegativeBinomial,
    Poisson,
    Probit,
    StudentT,
    expected,
    tilted,
)

double = torch.float64


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=double, requires_grad=True)


# name -> what makes it, its parameters, and values that it may give
CASES = {
    "gaussian": (Gaussian, [0.3], [-1.2, 0.4, 2.0]),
    "student": (StudentT, [3.0, 0.7], [-1.2, 0.4, 9.0]),
    "poisson": (Poisson, [], [0.0, 1.0, 7.0]),
    "negative binomial": (NegativeBinomial, [1.7], [0.0, 1.0, 7.0]),
    "logit": (Logit, [], [0.0, 1.0, 1.0]),
    "probit": (Probit, [], [0.0, 1.0, 1.0]),
}
MEAN = torch.tensor([-0.4, 0.3, 1.1], dtype=double)
VAR = torch.tensor([0.3, 0.05, 0.6], dtype=double)


@pytest.fixture(params=CASES)
def case(request):
    make, parameters, y = CASES[request.param]
    return make, [number(p) for p in parameters], torch.tensor(y, dtype=double)


def integral(g, mean: Tensor, var: Tensor) -> Tensor:
    """E g(f), f ~ N(mean, var), on a grid so fine and wide that it is exact to rounding."""
    x = torch.linspace(-12.0, 12.0, 40001, dtype=double)
    w = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    return (w * g(mean[..., None] + var.sqrt()[..., None] * x)).sum(-1)


def test_densities_are_those_of_torch():
    f, y = torch.randn(50, dtype=double), torch.arange(50, dtype=double) % 7
    d = torch.distributions
    pairs = [
        (Gaussian(0.3), d.Normal(f, 0.3**0.5)),
        (StudentT(3.0, 0.7), d.StudentT(torch.tensor(3.0, dtype=double), f, 0.7)),
        (Poisson(), d.Poisson(f.exp())),
        (NegativeBinomial(1.7), d.NegativeBinomial(1.7, logits=f - math.log(1.7))),
    ]
    for ours, law in pairs:
        torch.testing.assert_close(ours.log_prob(y, f), law.log_prob(y), rtol=1e-11, atol=1e-11)
    label = y % 2
    torch.testing.assert_close(
        Logit().log_prob(label, f), d.Bernoulli(logits=f).log_prob(label), rtol=1e-12, atol=1e-12
    )
    one = torch.special.ndtr(f)
    torch.testing.assert_close(
        Probit().log_prob(label, f), torch.where(label == 1, one, 1 - one).log(), rtol=1e-9, atol=0
    )


def test_derivatives_by_finite_differences(case):
    """Of log p, of its mean and of the tilted integral, by f, mean, variance and every parameter."""
    make, parameters, y = case
    m, v = MEAN.clone().requires_grad_(), VAR.clone().requires_grad_()
    assert gradcheck(lambda m, v, *p: make(*p).expected(y, m, v), (m, v, *parameters))
    assert gradcheck(lambda m, v, *p: make(*p).tilted(y, m, v), (m, v, *parameters))
    assert gradcheck(lambda f, *p: make(*p).log_prob(y, f), (m, *parameters))
    assert gradgradcheck(lambda f: make(*parameters).log_prob(y, f), (m,))
    assert gradgradcheck(lambda m: make(*parameters).tilted(y, m, VAR), (m,))


def test_expectation_and_its_derivatives_against_integrals(case):
    """d/dmean is E (log p)' and d/dvar is E (log p)'' / 2."""
    make, parameters, y = case
    likelihood = make(*(p.detach() for p in parameters))
    got = expected(likelihood, y, MEAN, VAR)

    def by_grid(order: int) -> Tensor:
        def g(f: Tensor) -> Tensor:
            f = f.requires_grad_()
            out = likelihood.log_prob(y[:, None], f)
            for _ in range(order):
                (out,) = torch.autograd.grad(out.sum(), f, create_graph=True)
            return out.detach()

        return integral(g, MEAN, VAR)

    # what is not a polynomial has an error of quadrature: 20 nodes leave it below this
    loose = dict(rtol=2e-4, atol=2e-4) if make is StudentT else dict(rtol=1e-7, atol=1e-7)
    for ours, exact in zip(got, (by_grid(0), by_grid(1), by_grid(2) / 2)):
        torch.testing.assert_close(ours, exact, **loose)


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("widen", [1.0, 20.0])
def test_tilted_against_integrals(case, power, widen):
    """Also under a law much wider than the likelihood."""
    make, parameters, y = case
    likelihood = make(*(p.detach() for p in parameters))
    var = widen * VAR

    def weighed(g) -> Tensor:
        return integral(
            lambda f: g(f) * (power * likelihood.log_prob(y[:, None], f)).exp(), MEAN, var
        )

    z = weighed(torch.ones_like)
    mean = weighed(lambda f: f) / z
    spread = weighed(lambda f: (f - mean[:, None]) ** 2) / z
    got = tilted(likelihood, y, MEAN, var, power)
    # in closed form, or smooth next to the law, or close to a step in it
    error = 1e-8 if make in (Gaussian, StudentT) else 1e-6 if widen == 1 else 1e-4
    tight = dict(rtol=error, atol=error)
    torch.testing.assert_close(got.value, z.log(), **tight)
    torch.testing.assert_close(MEAN + var * got.slope, mean, **tight)
    torch.testing.assert_close(var + var**2 * got.curvature, spread, **tight)


def test_large_counts_under_a_wide_law():
    """The mode is far from the mean, and exp overflows on the way."""
    y = torch.tensor([2000.0, 0.0, 5.0], dtype=double)
    mean = torch.tensor([0.0, 8.0, 8.0], dtype=double)
    var = torch.tensor([9.0, 25.0, 4.0], dtype=double)
    f = torch.linspace(-40.0, 40.0, 400001, dtype=double)
    step = f[1] - f[0]
    log = Poisson().log_prob(y[:, None], f) - (f - mean[:, None]) ** 2 / (2 * var[:, None])
    exact = log.logsumexp(-1) + step.log() - (2 * math.pi * var).log() / 2
    torch.testing.assert_close(Poisson().tilted(y, mean, var), exact, rtol=1e-5, atol=1e-5)


def test_moments_under_a_gaussian_against_integrals(case):
    make, parameters, _ = case
    likelihood = make(*(p.detach() for p in parameters))
    mean, var = likelihood.predicted(MEAN, VAR)
    first = integral(lambda f: likelihood.moments(f)[0], MEAN, VAR)
    second = integral(lambda f: sum_of_squares(likelihood, f), MEAN, VAR)
    torch.testing.assert_close(mean, first, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(var, second - first**2, rtol=1e-7, atol=1e-7)


def sum_of_squares(likelihood, f: Tensor) -> Tensor:
    mean, var = likelihood.moments(f)
    return mean**2 + var


def test_draws_have_the_moments(case):
    make, parameters, _ = case
    if make is StudentT:
        parameters = [number(9.0), number(0.7)]  # with a fourth moment
    likelihood = make(*(p.detach() for p in parameters))
    n = 100_000
    draws = likelihood.draw(MEAN.expand(n, 3))
    mean, var = likelihood.moments(MEAN)
    assert ((draws.mean(0) - mean).abs() <= 5 * (var / n).sqrt()).all()
    fourth = (draws - mean).pow(4).mean(0)
    assert ((draws.var(0) - var).abs() <= 5 * ((fourth - var**2) / n).sqrt()).all()


def test_without_a_second_moment_the_variance_is_infinite():
    assert StudentT(1.5, 1.0).moments(MEAN)[1].isinf().all()


def test_values_that_cannot_be():
    mask = torch.tensor([[True, False], [True, True]])
    with pytest.raises(DataError, match=r"TSD-D14: -3.0 is not a count \(index \(1, 0\); 1 such"):
        Poisson().require(torch.tensor([[1.0, -9.0], [-3.0, 2.0]]), mask)
    with pytest.raises(DataError, match=r"1\.5 is not a count"):
        NegativeBinomial(1.0).require(torch.tensor([[1.5, 0.0], [0.0, 0.0]]), mask)
    with pytest.raises(DataError, match=r"2\.0 is not a label"):
        Probit().require(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), mask)
    Logit().require(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), mask)
    StudentT(3.0, 1.0).require(torch.tensor([[1.5, torch.nan], [-2.0, 0.0]]), mask)
