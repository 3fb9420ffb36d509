"""States at inducing times against the full method, and against the bound of dense matrices."""

import math

import pytest
import torch
from chains import irregular
from torch import Tensor

from tsdyn.errors import DataError
from tsdyn.maths import approximate, inducing
from tsdyn.maths.approximate import Observed
from tsdyn.maths.kalman import Sites, smoothed
from tsdyn.maths.kernels import Kernel, add, chain, coregionalize, gram
from tsdyn.maths.likelihoods import Gaussian, Logit, Poisson
from tsdyn.maths.matern import matern
from tsdyn.maths.periodic import periodic
from tsdyn.maths.trend import linear

double = torch.float64
KERNELS = {
    "matern": lambda: matern(2.5, 0.8, 1.3),
    "season": lambda: add(matern(1.5, 0.8, 1.0), periodic(1.5, 1.0, 0.7, 4)),
    "line": lambda: add(matern(0.5, 0.8, 1.0), linear(0.3, -1.0)),
}


@pytest.fixture(params=KERNELS)
def kernel(request) -> Kernel:
    return KERNELS[request.param]()


def tensor(x) -> Tensor:
    return torch.tensor(x, dtype=double)


def seen(likelihood, y: Tensor, offset=0.0) -> Observed:
    return Observed(
        likelihood, y[..., None], torch.ones_like(y, dtype=torch.bool)[..., None], offset
    )


def counts(kernel: Kernel, t: Tensor) -> Tensor:
    K = gram(kernel, t, t)[..., 0, 0] + 1e-8 * torch.eye(t.shape[-1], dtype=double)
    f = (torch.linalg.cholesky(K) @ torch.randn(*t.shape, 1, dtype=double))[..., 0]
    return torch.poisson(f.clamp(max=4.0).exp())


def test_without_data_the_law_is_the_prior_everywhere(kernel):
    """Before, between, behind and at inducing times."""
    z = tensor([0.3, 0.9, 1.0, 2.5])
    t = tensor([2.0, -0.7, 0.0, 0.3, 0.5, 0.999, 2.5, 4.0])
    pairs = inducing.pairs(kernel, z)
    none = inducing.nothing(pairs, inducing.project(kernel, z, t))
    mean, var = inducing.law(kernel, z, smoothed(pairs, none), t)
    prior = gram(kernel, t, t)[..., 0, 0].diagonal()
    torch.testing.assert_close(mean[:, 0], torch.zeros_like(t))
    torch.testing.assert_close(var[:, 0], prior, rtol=1e-10, atol=1e-10)


def test_inducing_times_at_all_data_are_the_full_method(kernel):
    t = irregular(40)
    y = counts(kernel, t)
    full = approximate.variational(chain(kernel, t), kernel.H, seen(Poisson(), y, 0.2))
    z = torch.cat([t, tensor([t[3] + 1e-3, t[-1] + 1.0])]).sort().values  # and at others
    for times in (t, z):
        order = torch.randperm(40)
        got = inducing.variational(kernel, times, t[order], seen(Poisson(), y[order], 0.2))
        mean, var = inducing.law(kernel, times, got.moments, t)
        exact = approximate.marginals(kernel.H, full.moments)
        torch.testing.assert_close(got.bound, full.bound, rtol=0, atol=1e-7)
        torch.testing.assert_close(mean, exact[0], rtol=0, atol=1e-7)
        torch.testing.assert_close(var, exact[1], rtol=0, atol=1e-7)


def test_more_inducing_times_raise_the_bound_up_to_the_full_one(kernel):
    t = irregular(60)
    y = counts(kernel, t)
    full = approximate.variational(chain(kernel, t), kernel.H, seen(Poisson(), y))
    bounds = [
        inducing.variational(kernel, t[:: 2**k], t, seen(Poisson(), y)).bound for k in (5, 4, 3, 1)
    ]
    assert (torch.stack([*bounds, full.bound]).diff() > 0).all()


def states(kernel: Kernel, t: Tensor, u: Tensor) -> Tensor:
    """Cov(x(t), x(u)) of times (N,) and (M,): (N S, M S)."""
    out = []
    for a in t:
        row = []
        for b in u:
            early, late = torch.minimum(a, b)[None], torch.maximum(a, b)[None]
            A = kernel.transition(early, late)[0][0]
            C = A @ kernel.covariance(early)[0]
            row.append(C if a >= b else C.mT)
        out.append(torch.cat(row, -1))
    return torch.cat(out)


def test_gaussian_values_have_the_collapsed_bound():
    """log N(y; 0, Qff + R) - tr(Kff - Qff) / 2R: Titsias 2009, the states in the place of f."""
    kernel, R = KERNELS["matern"](), 0.2
    t, z = irregular(30), tensor([0.2, 1.0, 1.7, 2.2])
    y = torch.randn(30, dtype=double)
    got = inducing.variational(kernel, z, t, seen(Gaussian(R), y))
    view = torch.block_diag(*[kernel.H] * 30)
    cross = view @ states(kernel, t, z)
    Qff = cross @ torch.linalg.solve(states(kernel, z, z), cross.mT)
    S = Qff + R * torch.eye(30, dtype=double)
    loose = (gram(kernel, t, t)[..., 0, 0] - Qff).trace() / (2 * R)
    fit = -(y @ torch.linalg.solve(S, y) + torch.logdet(2 * math.pi * S)) / 2
    torch.testing.assert_close(got.bound, fit - loose, rtol=1e-9, atol=1e-9)
    assert got.steps <= 1


def test_gradients_at_fixed_sites_are_those_of_the_converged_bound():
    t, z = irregular(20), tensor([0.1, 0.8, 1.5])
    y = counts(matern(1.5, 0.8, 1.0), t)

    def ask(p: Tensor) -> Tensor:
        kernel = matern(1.5, p[0].exp(), p[1].exp())
        return inducing.variational(kernel, z, t, seen(Poisson(), y, p[2]), tolerance=1e-13).bound

    p = tensor([-0.3, 0.2, 0.5]).requires_grad_()
    (gradient,) = torch.autograd.grad(ask(p), p)
    with torch.no_grad():
        for i in range(3):
            e = 1e-5 * torch.eye(3, dtype=double)[i]
            slope = (ask(p + e) - ask(p - e)) / 2e-5
            torch.testing.assert_close(gradient[i], slope, rtol=1e-6, atol=1e-7)


def test_many_chains_outputs_and_chunks(monkeypatch):
    """Two series with two outputs each, in chunks of seven values, as each series alone at once."""
    kernel = coregionalize([matern(1.5, 0.8, 1.0), matern(0.5, 0.3, 1.0)], torch.randn(2, 2))
    t, z = irregular(2, 25), irregular(2, 5) * 4
    y = torch.poisson(torch.rand(2, 25, 2, dtype=double) * 4)
    mask = torch.rand(2, 25, 2) > 0.2
    whole = [
        inducing.variational(kernel, z[b], t[b], Observed(Poisson(), y[b], mask[b], 0.3))
        for b in range(2)
    ]
    monkeypatch.setattr(inducing, "CHUNK", 14)
    offset = torch.full((2, 25, 2), 0.3, dtype=double)
    hidden = Observed(Poisson(), y.where(mask, torch.nan), mask, offset)
    got = inducing.variational(kernel, z, t, hidden)
    for b in range(2):
        torch.testing.assert_close(got.bound[b], whole[b].bound, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got.moments.mean[b], whole[b].moments.mean, rtol=0, atol=1e-6)


def test_steps_from_minibatches_average_to_the_step_from_all():
    kernel, z = matern(1.5, 0.8, 1.0), tensor([0.1, 0.8, 1.5])
    t = irregular(24)
    y = (counts(kernel, t) > 1).double()
    start = inducing.step(kernel, z, t, seen(Logit(), y), None, 0.7, 24)
    one = inducing.step(kernel, z, t, seen(Logit(), y), start, 0.4, 24)
    parts = [
        inducing.step(kernel, z, t[i::4], seen(Logit(), y[i::4]), start, 0.4, 24) for i in range(4)
    ]
    for k in range(2):
        mean = torch.stack([p[k] for p in parts]).mean(0)
        torch.testing.assert_close(mean, one[k], rtol=1e-10, atol=1e-10)
    # and so do the bounds
    ask = lambda i, n: inducing.bound(kernel, z, t[i::n], seen(Logit(), y[i::n]), start, total=24)
    torch.testing.assert_close(sum(ask(i, 4) for i in range(4)) / 4, ask(0, 1))


def test_minibatches_reach_the_optimum():
    """With rates 2 / k the sites are running means of their estimates; the bound is near its best."""
    kernel, z = matern(1.5, 0.8, 1.0), torch.linspace(0, 20, 21, dtype=double)
    t = 20 * torch.rand(2000, dtype=double)
    y = torch.poisson((torch.sin(t) + 0.5).exp())
    best = inducing.variational(kernel, z, t, seen(Poisson(), y))
    sites: Sites | None = None
    for k in range(60):
        part = torch.randint(2000, (200,))
        rate = min(1.0, 2 / (k + 1))
        sites = inducing.step(kernel, z, t[part], seen(Poisson(), y[part]), sites, rate, 2000)
    assert sites is not None
    gap = best.bound - inducing.bound(kernel, z, t, seen(Poisson(), y), sites)
    # of P means estimated from n of N values the bound is P N / 2 n too low; rates 2 / k add a third
    assert 0 <= gap < 2 * (4 / 3) * 42 / 2 * 2000 / (60 * 200)


def test_impossible_values():
    kernel, z, t = matern(1.5, 1.0, 1.0), tensor([0.0, 1.0]), tensor([0.2, 0.5])
    with pytest.raises(DataError, match="TSD-D14"):
        inducing.variational(kernel, z, t, seen(Poisson(), tensor([1.0, -1.0])))
    with pytest.raises(DataError, match="TSD-D14"):
        inducing.step(kernel, z, t, seen(Logit(), tensor([1.0, 2.0])), None, 1.0, 2)
