"""Oracles: dense matrices of all rows at once, dense Gaussian processes, and AR(1) in closed form."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from tests.maths.chains import (
    anything,
    covariance12,
    covariance32,
    dense,
    irregular,
    joint,
    matern12,
    matern32,
)
from tsdyn.errors import ModelError
from tsdyn.maths.kalman import (
    LinearGaussian,
    Sites,
    filtered,
    log_z,
    messages,
    moments,
    posterior,
    smoothed,
)
from tsdyn.maths.observations import observe

LENGTHS = [1, 2, 3, 5, 1000]
GAUSSIAN_PROCESSES = [(matern12, covariance12), (matern32, covariance32)]


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seen(chain: LinearGaussian, noise, y, mask=None) -> Sites:
    """The first coordinate of the state with noise."""
    H = torch.eye(chain.A.shape[-1])[:1]
    return observe(H, noise, y[..., None], None if mask is None else mask[..., None])


def parameters(*values: float):
    return [torch.tensor(v, requires_grad=True) for v in values]


def close(found, expected, tolerance: float):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("process, covariance", GAUSSIAN_PROCESSES)
def test_likelihood_and_gradient_of_a_gaussian_process(process, covariance):
    """Irregular times with holes against the Cholesky factor of all covariances."""
    t = irregular(300)
    y, mask = torch.sin(t) + 0.3 * torch.randn_like(t), torch.rand(300) < 0.8
    theta = parameters(0.7, 1.3, 0.09)

    def exact(lengthscale, variance, noise):
        K = covariance(t, t, lengthscale, variance) + noise * torch.eye(300)
        return MultivariateNormal(torch.zeros(int(mask.sum())), K[mask][:, mask]).log_prob(y[mask])

    chain = process(t, *theta[:2])
    value = log_z(chain, seen(chain, theta[2], y.where(mask, torch.nan), mask))
    close(value, exact(*theta), 1e-9)
    found = torch.autograd.grad(value, theta)
    for f, e in zip(found, torch.autograd.grad(exact(*theta), theta)):
        close(f, e, 1e-9)


@pytest.mark.parametrize("process, covariance", GAUSSIAN_PROCESSES)
def test_the_posterior_of_a_gaussian_process(process, covariance):
    t = irregular(200)
    y, mask = torch.sin(t), torch.rand(200) < 0.5
    mask[80:120] = False
    chain = process(t, 0.7, 1.3)
    found = smoothed(chain, seen(chain, torch.tensor(0.09), y, mask))
    K = covariance(t, t, 0.7, 1.3)
    gain = torch.linalg.solve(K[mask][:, mask] + 0.09 * torch.eye(int(mask.sum())), K[mask]).mT
    after = K - gain @ K[mask]
    close(found.mean[:, 0], gain @ y[mask], 1e-11)
    close(found.cov[:, 0, 0], after.diagonal(), 1e-11)
    close(found.cross[:-1, 0, 0], after.diagonal(1), 1e-11)


@pytest.mark.parametrize("S", [1, 2, 3, 4, 7])
def test_every_part_of_a_chain_against_dense_matrices(S):
    """Means, offsets, changing matrices, rows of which all, one direction or nothing is seen."""
    chain, sites = anything(9, S)
    mean, cov, value = dense(chain, sites)
    after = smoothed(chain, sites)
    close(after.log_z, value, 1e-10)
    close(log_z(chain, sites), value, 1e-10)
    close(after.mean, mean, 1e-10)
    for k in range(9):
        close(after.cov[k], cov[k, :, k], 1e-10)
        if k < 8:
            close(after.cross[k], cov[k, :, k + 1], 1e-10)
    assert not after.cross[-1].any()


@pytest.mark.parametrize("S", [1, 2, 3, 4])
def test_the_filter_has_not_seen_later_rows(S):
    chain, sites = anything(7, S)
    found = filtered(chain, sites)
    for k in range(7):
        until = torch.arange(7) <= k
        past = Sites(*(f * until.reshape(-1, *(1,) * (f.ndim - 1)) for f in sites))
        mean, cov, _ = dense(chain, past)
        close(found.mean[k], mean[k], 1e-10)
        close(found.cov[k], cov[k, :, k], 1e-10)
    close(found.log_z, dense(chain, sites)[2], 1e-10)


def test_the_posterior_is_a_chain():
    chain, sites = anything(8, 2)
    mean, cov, _ = dense(chain, sites)
    found_mean, found_cov = joint(posterior(chain, sites))
    close(found_mean, mean, 1e-10)
    close(found_cov, cov, 1e-10)


@pytest.mark.parametrize("N", LENGTHS)
def test_scan_and_loop_agree(N):
    """Also with blocks of rows without observation, and with rows that share a time."""
    t = irregular(N)
    t[N // 2 : N // 2 + 2] = t[N // 2]
    t = t.sort().values
    mask = torch.rand(N) < 0.7
    mask[N // 3 : N // 2] = False
    y = torch.sin(t)
    theta = parameters(0.7, 1.3, 0.09)
    results = []
    for backend, chunk in (("loop", None), ("scan", None), ("scan", N // 6 + 1)):
        chain = matern32(t, *theta[:2])
        sites = seen(chain, theta[2], y, mask)
        value = log_z(chain, sites, backend, chunk)
        gradient = torch.autograd.grad(value, theta)
        past, after = filtered(chain, sites, backend, chunk), smoothed(chain, sites, backend, chunk)
        assert all(g.isfinite() for g in gradient)
        results.append((value, *gradient, *past, *after))
    for other in results[1:]:
        for f, e in zip(other, results[0]):
            close(f, e, 1e-11)


@pytest.mark.parametrize("S", [1, 2, 3])
def test_first_and_second_derivatives_with_respect_to_everything(S):
    chain, sites = anything(4, S, 2)
    roots = [torch.linalg.cholesky(f) for f in (chain.Q, chain.P0)]
    # a direction that is not seen stays so: J is built from its rows
    rows = torch.randn(2, 4, 1, S)

    def value(A, Q_root, P0_root, m0, b, h, rows, s):
        chain = LinearGaussian(A, Q_root @ Q_root.mT, P0_root @ P0_root.mT, m0, b)
        return log_z(chain, Sites(h, rows.mT @ rows, s, sites.c), chunk=3)

    inputs = [chain.A, *roots, chain.m0, chain.b, sites.h, rows, sites.s]
    inputs = [f.clone().requires_grad_() for f in inputs]
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs, fast_mode=True)


def test_the_exact_score_is_the_gradient_through_the_scans():
    """`filtered` is differentiated by autograd, `log_z` by its adjoint."""
    chain, sites = anything(50, 3, 4)
    weight = torch.randn(4)
    leaves = [f.requires_grad_() for f in (*chain, *sites[:3])]
    exact = torch.autograd.grad((weight * log_z(chain, sites)).sum(), leaves)
    plain = torch.autograd.grad((weight * filtered(chain, sites).log_z).sum(), leaves)
    for f, e in zip(exact, plain):
        if f.shape[-2:] == (3, 3):  # of covariances only the symmetric part acts
            f, e = f + f.mT, e + e.mT
        close(f, e, 1e-10)


def test_the_point_about_which_sites_are_written_is_free():
    chain, sites = anything(6, 2)
    shift = torch.randn(6, 2)
    # exp(s + h'd - d'Jd/2) with d = x - c, written about c + shift
    J_shift = (sites.J @ shift[..., None])[..., 0]
    moved = Sites(
        sites.h - J_shift,
        sites.J,
        sites.s + (sites.h * shift).sum(-1) - (shift * J_shift).sum(-1) / 2,
        sites.c + shift,
    )
    for f, e in zip(smoothed(chain, moved), smoothed(chain, sites)):
        close(f, e, 1e-11)
    theta = chain.A.requires_grad_()
    found, expected = (torch.autograd.grad(log_z(chain, s), theta)[0] for s in (moved, sites))
    close(found, expected, 1e-10)


def test_chains_are_worked_on_apart():
    """Leading axes broadcast: shared covariances, data of their own."""
    chain, sites = anything(6, 2)
    many = sites._replace(h=torch.randn(3, 4, 6, 2))
    found = smoothed(chain, many)
    assert found.cov.shape == (3, 4, 6, 2, 2) and found.log_z.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            alone = smoothed(chain, many._replace(h=many.h[i, j]))
            for f, e in zip(found, alone):
                close(f[i, j], e, 1e-12)


def test_gradients_of_shared_parts_are_summed():
    chain, sites = anything(5, 2)
    many = sites._replace(h=torch.randn(3, 5, 2))
    leaves = [f.requires_grad_() for f in (*chain, sites.J)]
    together = torch.autograd.grad(log_z(chain, many).sum(), leaves)
    apart = [torch.autograd.grad(log_z(chain, many._replace(h=h)), leaves) for h in many.h]
    for f, parts in zip(together, zip(*apart)):
        close(f, sum(parts), 1e-11)


def test_batched_chains_with_and_without_offsets():
    chain, sites = anything(5, 3, 4)
    found = log_z(chain, sites)
    for i in range(4):
        alone = LinearGaussian(*(f[i] for f in chain)), Sites(*(f[i] for f in sites))
        close(found[i], dense(*alone)[2], 1e-10)
    plain = chain._replace(m0=None, b=None)
    zero = chain._replace(m0=torch.zeros_like(chain.m0), b=torch.zeros_like(chain.b))
    close(log_z(plain, sites), log_z(zero, sites), 1e-14)


def test_one_row_of_matrices_serves_all_rows():
    chain, sites = anything(6, 2)
    short = chain._replace(A=chain.A[1:2], Q=chain.Q[1:2])
    long = chain._replace(A=chain.A[1:2].expand(6, -1, -1), Q=chain.Q[1:2].expand(6, -1, -1))
    close(log_z(short, sites), log_z(long, sites), 1e-14)


def test_the_first_row_of_the_steps_is_not_read():
    chain, sites = anything(4, 2)
    spoilt = chain._replace(A=chain.A.clone(), Q=chain.Q.clone(), b=chain.b.clone())
    for f in (spoilt.A, spoilt.Q, spoilt.b):
        f[0] = torch.nan
    leaves = [f.requires_grad_() for f in spoilt]
    for f, e in zip(smoothed(spoilt, sites), smoothed(chain, sites)):
        close(f, e, 1e-14)
    for gradient in torch.autograd.grad(log_z(spoilt, sites), leaves):
        assert gradient.isfinite().all()


def test_an_autoregression_without_noise():
    """log N(y_0; 0, v) + sum log N(y_k; a_k y_{k-1}, v (1 - a_k²)), a_k = exp(-gap / lengthscale)

    Noise of variance R = 1e-13 moves it by the order of N R / q, here 1e-10 at most.
    """
    t = 0.05 + irregular(200)
    t = t + 0.05 * torch.arange(200)
    y = torch.sin(t)
    a = torch.exp(-t.diff() / 0.7)
    q = torch.cat([torch.tensor([1.3]), 1.3 * (1 - a**2)])
    v = torch.cat([y[:1], y[1:] - a * y[:-1]])
    exact = -(v**2 / q + (2 * math.pi * q).log()).sum() / 2
    chain = matern12(t, 0.7, 1.3)
    found = log_z(chain, seen(chain, torch.tensor(1e-13), y))
    close(found, exact, 1e-10)


def test_the_middle_of_a_gap_between_exact_observations():
    """variance (1 - e) / (1 + e), e = exp(-gap / lengthscale)"""
    t = torch.tensor([0.0, 0.4, 0.8])
    chain = matern12(t, 0.7, 1.3)
    mask = torch.tensor([True, False, True])
    found = smoothed(chain, seen(chain, torch.tensor(1e-13), torch.sin(t), mask))
    e = math.exp(-0.8 / 0.7)
    close(found.cov[1, 0, 0], torch.tensor(1.3 * (1 - e) / (1 + e)), 1e-11)


def test_sharp_observations_lose_no_digits():
    """Noise 1e10 times smaller than the process; far apart, so that the dense answer is exact too."""
    t = torch.arange(50.0)
    y = 100 * torch.sin(t)
    K = covariance12(t, t, 0.7, 1.3) + 1e-10 * torch.eye(50)
    exact = MultivariateNormal(torch.zeros(50), K).log_prob(y)
    chain = matern12(t, 0.7, 1.3)
    close(log_z(chain, seen(chain, torch.tensor(1e-10), y)), exact, 1e-12)


@pytest.mark.parametrize("backend", ["scan", "loop"])
def test_singular_chains(backend):
    """No noise in the steps, an uncertain start of rank one: a line through the origin."""
    t = torch.linspace(-1, 1, 20)
    A = torch.tensor([[1.0, 2 / 19], [0.0, 1.0]]).expand(20, 2, 2)
    P0 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # slope ~ N(0, 1), f = slope t
    chain = LinearGaussian(A, torch.zeros_like(A), P0)
    y = 0.5 * t + 0.1 * torch.randn(20)
    found = smoothed(chain, seen(chain, torch.tensor(0.01), y), backend)
    precision = 1 + (t**2).sum() / 0.01
    slope = (t * y).sum() / 0.01 / precision
    close(found.mean, torch.stack([slope * t, slope.expand(20)], -1), 1e-12)
    close(found.cov[:, 0, 0], t**2 / precision, 1e-12)
    close(found.cross[:-1, 0, 0], t[:-1] * t[1:] / precision, 1e-12)


def test_no_variance_is_negative():
    t = irregular(500).div(100)
    chain = matern32(t, 0.7, 1.3)
    after = smoothed(chain, seen(chain, torch.tensor(1e-12), torch.sin(t)))
    assert (after.cov.diagonal(dim1=-2, dim2=-1) >= 0).all()


def test_nothing_seen_is_the_prior():
    t = irregular(6)
    chain = matern32(t, 0.7, 1.3)
    y = torch.full((6,), torch.nan)
    after = smoothed(chain, seen(chain, torch.tensor(0.1), y, torch.zeros(6).bool()))
    assert after.log_z == 0 and not after.mean.any()
    close(after.cov, chain.P0.expand(6, 2, 2), 1e-12)


def test_messages_meet_in_moments():
    chain, sites = anything(6, 2)
    for f, e in zip(moments(messages(chain, sites)), smoothed(chain, sites)):
        assert torch.equal(f, e)


def test_single_precision_is_worked_on_in_double():
    t = 1e-3 * torch.arange(1000)
    y = torch.sin(t) + 0.1 * torch.randn(1000)
    chain = matern32(t, 0.7, 1.3)
    sites = seen(chain, torch.tensor(1e-2), y)
    exact = log_z(chain, sites)
    single = LinearGaussian(*(f.float() for f in chain[:3]))
    rounded = Sites(*(f.float() for f in sites))
    found = log_z(single, rounded)
    assert found.dtype == torch.float32
    assert (found - exact).abs() / 1000 < 1e-5
    assert all(f.dtype == torch.float32 for f in smoothed(single, rounded))


@pytest.mark.parametrize("ask", [log_z, filtered, smoothed, posterior, messages])
def test_a_covariance_that_is_none_is_refused_with_its_row(ask):
    chain, sites = anything(9, 2)
    broken = chain._replace(Q=chain.Q.clone())
    broken.Q[5] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ModelError, match=r"TSD-M04: The covariance Q of a step.*at row 5\."):
        ask(broken, sites)
    with pytest.raises(ModelError, match=r"TSD-M04: The covariance P0.*at row 0\."):
        ask(chain._replace(P0=-chain.P0), sites)
    many, seen_of_many = anything(9, 3, 4)
    many.Q[2, 7] = torch.nan
    with pytest.raises(ModelError, match=r"at row 7 of chain \(2,\)"):
        ask(many, seen_of_many)


def test_rounding_is_not_refused():
    """A rank-one covariance has a pivot of zero, on either side of which rounding may land."""
    direction = torch.randn(1000, 3, 1)
    chain, sites = anything(1000, 3)
    assert log_z(chain._replace(Q=direction @ direction.mT), sites).isfinite()


def test_on_the_device(device):
    chain, sites = anything(40, 2, 3)
    moved = LinearGaussian(*(f.to(device) for f in chain)), Sites(*(f.to(device) for f in sites))
    for f, e in zip(smoothed(*moved), smoothed(chain, sites)):
        close(f.cpu(), e, 1e-10)
