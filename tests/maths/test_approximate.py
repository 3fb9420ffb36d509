"""Approximate posteriors of chains against dense matrices, brute-force integrals and exact answers."""

import math

import pytest
import torch
from chains import covariance32, dense, irregular, matern32
from torch import Tensor

from tsdyn.errors import DataError, ModelError
from tsdyn.maths.approximate import Observed, complaint, marginals, propagated, variational
from tsdyn.maths.kalman import log_z, smoothed
from tsdyn.maths.likelihoods import (
    Gaussian,
    Logit,
    NegativeBinomial,
    Poisson,
    Probit,
    StudentT,
)
from tsdyn.maths.observations import observe

double = torch.float64
H = torch.tensor([[1.0, 0.0]], dtype=double)  # of a Matern-3/2
BOTH = [variational, propagated]


def tensor(x) -> Tensor:
    return torch.tensor(x, dtype=double)


def path(t: Tensor, lengthscale: float = 0.7, variance: float = 1.3) -> Tensor:
    """A draw of a Matern-3/2 process at times (N,)."""
    K = covariance32(t, t, lengthscale, variance) + 1e-9 * torch.eye(len(t), dtype=double)
    return torch.linalg.cholesky(K) @ torch.randn(len(t), dtype=double)


def values(likelihood, y: Tensor, offset=0.0) -> Observed:
    """(..., N) values of one output, of which all are there."""
    return Observed(
        likelihood, y[..., None], torch.ones_like(y, dtype=torch.bool)[..., None], offset
    )


class Dense:
    """The posterior under sites, with the whole covariance K: V = K (I + Lam K)^-1, m = V h."""

    def __init__(self, K: Tensor, h: Tensor, precision: Tensor):
        self.K, self.h, self.precision = K, h, precision

    def ratio(self) -> Tensor:
        """K^-1 V, without the inverse of K, which is nearly singular."""
        eye = torch.eye(len(self.K), dtype=self.K.dtype)
        return torch.linalg.inv(eye + self.precision[:, None] * self.K)

    def posterior(self) -> tuple[Tensor, Tensor]:
        cov = self.K @ self.ratio()
        return cov @ self.h, cov

    def kl(self) -> Tensor:
        m, ratio = self.posterior()[0], self.ratio()
        return (ratio.trace() + m @ ratio @ self.h - len(m) - torch.logdet(ratio)) / 2


def dense_variational(K: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Poisson counts: E exp f is known, and so are its derivatives."""
    site = Dense(K, y.log1p(), torch.ones_like(y))
    for _ in range(steps):
        m, V = site.posterior()
        rate = torch.exp(m + V.diagonal() / 2)
        site = Dense(K, y - rate + rate * m, rate)
    m, V = site.posterior()
    rate = torch.exp(m + V.diagonal() / 2)
    value = (y * m - rate - torch.lgamma(y + 1)).sum()
    return m, V.diagonal(), value - site.kl()


def dense_propagation(K: Tensor, y: Tensor, sweeps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probit labels in {-1, 1}, one site after the other, and the evidence as in Rasmussen & Williams,
    equation 3.65 in the form of log Z = sum of log Z_i, of moments and of the cavities."""
    N = len(y)
    site = Dense(K, torch.zeros(N, dtype=double), torch.zeros(N, dtype=double))

    def cavity(i: int) -> tuple[Tensor, Tensor]:
        m, V = site.posterior()
        c = 1 / (1 / V[i, i] - site.precision[i])
        return c * (m[i] / V[i, i] - site.h[i]), c

    for _ in range(sweeps):
        for i in range(N):
            m, c = cavity(i)
            z = y[i] * m / (1 + c).sqrt()
            ratio = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) / torch.special.ndtr(z)
            mean = m + y[i] * c * ratio / (1 + c).sqrt()
            var = c - c**2 * ratio / (1 + c) * (z + ratio)
            site.precision[i] = 1 / var - 1 / c
            site.h[i] = mean / var - m / c
    m, V = site.posterior()
    total = torch.tensor(0.0, dtype=double)
    for i in range(N):
        c_mean, c = cavity(i)
        z = y[i] * c_mean / (1 + c).sqrt()
        s2, mu = 1 / site.precision[i], site.h[i] / site.precision[i]
        # the scale of the site: tilted integral over that of a normalised Gaussian site
        normal = -((c_mean - mu) ** 2) / (2 * (c + s2)) - (2 * math.pi * (c + s2)).log() / 2
        total = total + torch.special.log_ndtr(z) - normal
    S = K + torch.diag(1 / site.precision)
    mu = site.h / site.precision
    total = total - mu @ torch.linalg.solve(S, mu) / 2 - torch.logdet(2 * math.pi * S) / 2
    return m, V.diagonal(), total


@pytest.mark.parametrize("method", BOTH)
def test_gaussian_values_take_one_step(method):
    t = irregular(60)
    y, R, level = path(t) + 0.4 + 0.3 * torch.randn(60, dtype=double), tensor(0.09), tensor(0.4)
    chain = matern32(t, 0.7, 1.3)
    got = method(chain, H, values(Gaussian(R), y, level), steps=1)
    sites = observe(H, R, (y - level)[:, None])
    exact = smoothed(chain, sites)
    assert got.steps <= 1
    torch.testing.assert_close(got.moments.mean, exact.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.moments.cov, exact.cov, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.bound, exact.log_z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_gaussian_values_are_exact_for_every_power(power):
    t = irregular(30)
    y = path(t)
    chain = matern32(t, 0.7, 1.3)
    got = propagated(chain, H, values(Gaussian(tensor(0.2)), y), power=power)
    exact = smoothed(chain, observe(H, tensor(0.2), y[:, None]))
    torch.testing.assert_close(got.bound, exact.log_z, rtol=1e-9, atol=1e-9)


def test_poisson_counts_are_dense_variational_inference():
    t = irregular(150)
    y = torch.poisson(path(t).exp())
    got = variational(matern32(t, 0.7, 1.3), H, values(Poisson(), y), tolerance=1e-13)
    mean, var, bound = dense_variational(covariance32(t, t, 0.7, 1.3), y, 60)
    ours = marginals(H, got.moments)
    torch.testing.assert_close(ours[0][:, 0], mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours[1][:, 0], var, rtol=0, atol=1e-8)
    torch.testing.assert_close(got.bound, bound, rtol=0, atol=1e-8)


def test_probit_labels_are_dense_expectation_propagation():
    t = irregular(40)
    y = (path(t) > 0.0).double()
    got = propagated(matern32(t, 0.7, 1.3), H, values(Probit(), y), tolerance=1e-13)
    mean, var, total = dense_propagation(covariance32(t, t, 0.7, 1.3), 2 * y - 1, 25)
    ours = marginals(H, got.moments)
    torch.testing.assert_close(ours[0][:, 0], mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours[1][:, 0], var, rtol=0, atol=1e-8)
    torch.testing.assert_close(got.bound, total, rtol=0, atol=1e-8)


def brute_force(K: Tensor, log_p) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances and log evidence of three values, on a grid of 121^3 points."""
    x = torch.linspace(-6.5, 6.5, 121, dtype=double)
    white = torch.cartesian_prod(x, x, x)
    f = white @ torch.linalg.cholesky(K).mT
    log = log_p(f).sum(-1) - white.square().sum(-1) / 2 - 1.5 * math.log(2 * math.pi)
    log = log + 3 * (x[1] - x[0]).log()
    total = log.logsumexp(0)
    w = (log - total).exp()
    mean = w @ f
    return mean, w @ (f - mean) ** 2, total


@pytest.mark.parametrize(
    "likelihood, y",
    [
        (Probit(), [1.0, 1.0, 0.0]),
        (Logit(), [1.0, 0.0, 0.0]),
        (Poisson(), [0.0, 2.0, 5.0]),
        (NegativeBinomial(tensor(2.0)), [0.0, 2.0, 5.0]),
        (StudentT(tensor(4.0), tensor(0.5)), [0.1, -0.4, 0.9]),
    ],
)
def test_three_values_by_brute_force(likelihood, y):
    """The bound is below the evidence; propagation is near it, and nearer in variance."""
    t, y = tensor([0.0, 0.3, 1.0]), tensor(y)
    mean, var, total = brute_force(
        covariance32(t, t, 0.7, 1.3), lambda f: likelihood.log_prob(y, f)
    )
    chain = matern32(t, 0.7, 1.3)
    lower = variational(chain, H, values(likelihood, y))
    close = propagated(chain, H, values(likelihood, y))
    assert -0.1 < lower.bound - total < 0.0
    assert (close.bound - total).abs() < 0.01
    for found, error in ((lower, 0.06), (close, 0.015)):
        m, v = (f[:, 0] for f in marginals(H, found.moments))
        assert ((m - mean).abs() < error * var.sqrt()).all()
        assert ((v / var - 1).abs() < 4 * error).all()


def test_one_value_is_propagated_exactly():
    """Moments are matched, and the evidence is that of the one tilted law."""
    t, y = tensor([0.0]), tensor([4.0])
    got = propagated(matern32(t, 0.7, 1.3), H, values(Poisson(), y))
    f = torch.linspace(-8.0, 8.0, 20001, dtype=double)
    w = (Poisson().log_prob(y, f) - f**2 / 2.6).exp() * (f[1] - f[0]) / math.sqrt(2.6 * math.pi)
    mean = (w * f).sum() / w.sum()
    m, v = marginals(H, got.moments)
    torch.testing.assert_close(got.bound, w.sum().log(), rtol=0, atol=1e-7)
    torch.testing.assert_close(m[0, 0], mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(v[0, 0], (w * (f - mean) ** 2).sum() / w.sum(), rtol=0, atol=1e-7)


def test_the_variational_law_is_where_the_bound_is_highest():
    """Any other Gaussian law, with any other sites, has a lower bound."""
    t = 0.3 * torch.arange(12, dtype=double)  # so that K can be inverted
    y = (path(t) > 0).double()
    chain, K = matern32(t, 0.7, 1.3), covariance32(t, t, 0.7, 1.3)
    got = variational(chain, H, values(Logit(), y), tolerance=1e-12)

    def bound(m: Tensor, V: Tensor) -> Tensor:
        value = Logit().expected(y, m, V.diagonal()).sum()
        inv = torch.linalg.inv(K)
        det = torch.logdet(K) - torch.logdet(V)
        return value - ((inv @ V).trace() + m @ inv @ m - len(m) + det) / 2

    law = dense(chain, got.sites)
    m, V = law[0][:, 0].requires_grad_(), law[1][:, 0, :, 0].requires_grad_()
    top = bound(m, V)
    torch.testing.assert_close(top, got.bound, rtol=0, atol=1e-8)
    for gradient in torch.autograd.grad(top, (m, V)):
        # quadrature and rounding of the inverse of K
        assert gradient.abs().max() < 1e-8


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("name", ["poisson", "negative binomial", "probit"])
def test_gradients_at_fixed_sites_are_those_of_the_converged_bound(method, name):
    """By kernel, offset, view and likelihood, against central differences of the whole iteration."""
    t = irregular(12)
    f = path(t)
    y = (f > 0).double() if name == "probit" else torch.poisson((f + 0.5).exp())

    def ask(p: Tensor) -> Tensor:
        likelihood = {
            "poisson": Poisson(),
            "negative binomial": NegativeBinomial(p[4].exp()),
            "probit": Probit(),
        }[name]
        chain = matern32(t, p[0].exp(), p[1].exp())
        seen = values(likelihood, y, p[2])
        return method(chain, H * p[3], seen, tolerance=1e-13).bound

    p = tensor([-0.3, 0.2, 0.5, 1.1, 0.7]).requires_grad_()
    (gradient,) = torch.autograd.grad(ask(p), p)
    step = 1e-5
    with torch.no_grad():
        for i in range(5 if name == "negative binomial" else 4):
            e = torch.eye(5, dtype=double)[i] * step
            slope = (ask(p + e) - ask(p - e)) / (2 * step)
            torch.testing.assert_close(gradient[i], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", BOTH)
def test_heavy_tails_ignore_an_outlier(method):
    """Against the same values without it; Gaussian errors would follow it."""
    t = torch.linspace(0, 6, 60, dtype=double)
    y = torch.sin(t) + 0.1 * torch.randn(60, dtype=double)
    y[30] = 15.0
    chain, seen = matern32(t, 1.0, 1.0), values(StudentT(tensor(3.0), tensor(0.1)), y)
    without = seen._replace(mask=(torch.arange(60) != 30)[:, None])
    m, v = marginals(H, method(chain, H, seen).moments)
    there, _ = marginals(H, method(chain, H, without).moments)
    gaussian, _ = marginals(H, method(chain, H, values(Gaussian(tensor(0.01)), y)).moments)
    assert ((m - there).abs() < 0.2 * v.sqrt())[30].all()
    assert ((gaussian - there).abs() > 10 * v.sqrt())[30].all()


@pytest.mark.parametrize("method", BOTH)
def test_values_not_seen_are_as_if_they_were_not_there(method):
    t = irregular(20)
    y = torch.poisson(path(t).exp())
    kept = torch.arange(20) % 3 > 0
    hidden = Observed(Poisson(), y.where(kept, torch.nan)[:, None], kept[:, None])
    got = method(matern32(t, 0.7, 1.3), H, hidden)
    few = method(matern32(t[kept], 0.7, 1.3), H, values(Poisson(), y[kept]))
    torch.testing.assert_close(got.bound, few.bound, rtol=0, atol=1e-8)
    torch.testing.assert_close(got.moments.mean[kept], few.moments.mean, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", BOTH)
def test_many_chains_are_worked_on_as_each_alone(method):
    """Also where one needs damping that the others do not."""
    t = irregular(3, 30)
    y = torch.poisson(torch.stack([path(t[0]), path(t[1]) + 6.0, path(t[2]) - 2.0]).exp())
    both = method(matern32(t, 0.7, 1.3), H, values(Poisson(), y))
    for b in range(3):
        alone = method(matern32(t[b], 0.7, 1.3), H, values(Poisson(), y[b]))
        torch.testing.assert_close(both.bound[b], alone.bound, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(both.moments.mean[b], alone.moments.mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", BOTH)
def test_two_outputs_of_one_state(method):
    """Two values per row are two rows at the same time."""
    t = irregular(15)
    y = torch.poisson(torch.stack([path(t), path(t)], -1).exp())
    views = tensor([[1.0, 0.0], [0.7, 0.2]])
    seen = Observed(Poisson(), y, torch.ones_like(y, dtype=torch.bool))
    got = method(matern32(t, 0.7, 1.3), views, seen, tolerance=1e-12)
    twice = t.repeat_interleave(2)
    first = torch.arange(30) % 2 == 0
    mask = torch.stack([first, ~first], -1)
    apart = Observed(Poisson(), y.repeat_interleave(2, 0), mask)
    alone = method(matern32(twice, 0.7, 1.3), views, apart, tolerance=1e-12)
    torch.testing.assert_close(got.bound, alone.bound, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.moments.mean, alone.moments.mean[::2], rtol=0, atol=1e-8)


def test_the_bound_never_falls_and_large_counts_are_reached():
    """Undamped steps from far away would overflow."""
    t = irregular(40)
    y = torch.poisson((path(t) + 7.0).exp())
    chain, bounds = matern32(t, 0.7, 1.3), []
    for steps in (1, 2, 3, 5, 10, 40):
        bounds.append(variational(chain, H, values(Poisson(), y), steps=steps).bound)
    assert (torch.stack(bounds).diff() >= -1e-9).all()
    _, _, bound = dense_variational(covariance32(t, t, 0.7, 1.3), y, 100)
    torch.testing.assert_close(bounds[-1], bound, rtol=1e-8, atol=1e-6)


def test_smaller_powers_come_near_the_variational_law():
    t = irregular(20)
    y = (path(t) > 0).double()
    chain, seen = matern32(t, 0.7, 1.3), values(Logit(), y)
    exact = marginals(H, variational(chain, H, seen).moments)[1]
    gaps = [
        (marginals(H, propagated(chain, H, seen, power=a).moments)[1] - exact).abs().max()
        for a in (1.0, 0.5, 0.05)
    ]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.1 * gaps[0]


def test_no_site_takes_precision_away():
    t = irregular(30)
    y = path(t)
    y[::7] += 8.0
    seen = values(StudentT(tensor(2.0), tensor(0.1)), y)
    for method in BOTH:
        got = method(matern32(t, 0.7, 1.3), H, seen)
        assert (torch.linalg.eigvalsh(got.sites.J) >= -1e-12).all()


def test_stopping_early_is_told():
    t = irregular(30)
    chain, seen = matern32(t, 0.7, 1.3), values(Poisson(), torch.poisson((path(t) + 2).exp()))
    for method in BOTH:
        assert "stopped after 1 steps with 1 of 1 chains" in complaint(
            method(chain, H, seen, steps=1)
        )
        assert complaint(method(chain, H, seen)) == ""


def test_impossible_values_and_impossible_bounds():
    t = irregular(5)
    for method in BOTH:
        with pytest.raises(DataError, match="TSD-D14"):
            method(matern32(t, 0.7, 1.3), H, values(Poisson(), tensor([1.0, 2.0, -1.0, 0.0, 1.0])))
    y = torch.ones(5, dtype=double)
    with pytest.raises(ModelError, match="TSD-M02"):
        variational(matern32(t, 0.7, 1.3), H, values(Poisson(), y, torch.nan))
    assert "still changing" in complaint(
        variational(matern32(t, 0.7, 1.3), H, values(Poisson(), y, 2000.0))
    )


def test_sites_of_values_are_what_observing_them_says():
    """Gaussian sites through H are those of `observe`, but for what does not depend on x."""
    t = irregular(10)
    y, R = torch.randn(10, 2, dtype=double), tensor([0.3, 0.7])
    views = torch.randn(2, 2, dtype=double)
    seen = Observed(Gaussian(R), y, torch.rand(10, 2) > 0.3)
    chain = matern32(t, 0.7, 1.3)
    got = variational(chain, views, seen)
    exact = observe(views, R, y, seen.mask)
    torch.testing.assert_close(got.bound, log_z(chain, exact), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.sites.J, exact.J, rtol=1e-12, atol=1e-12)
