"""Mean-field algebra of tensors whose modes are functions, against sums written out and dense Gaussians."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from tsdyn.maths import tucker
from tsdyn.maths.kernels import chain, gram
from tsdyn.maths.matern import matern
from tsdyn.maths.tucker import Factor, Full, Noise, Sums, Superdiagonal, Terms

SIZES = (5, 4, 3)


@pytest.fixture(autouse=True)
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def covariance(*shape):
    root = torch.randn(*shape, shape[-1])
    return root @ root.mT


def random_factors(ranks, sizes=SIZES):
    return [Factor(torch.randn(n, R), covariance(n, R)) for n, R in zip(sizes, ranks)]


def random_core(kind, ranks):
    if kind == "cp":
        return Superdiagonal(ranks[0])
    return Full(torch.randn(*ranks), covariance(math.prod(ranks)))


def random_seen(n=20, sizes=SIZES):
    rows = torch.stack([torch.randint(s, (n,)) for s in sizes], 1)
    return rows, torch.randn(n), torch.rand(n) + 0.5


def dense_core(core, ranks):
    """E W and E vec W vec W' with every axis of its own."""
    if isinstance(core, Full):
        return core.mean, core.second
    W = torch.zeros(*ranks)
    r = torch.arange(ranks[0])
    W[(r,) * len(ranks)] = 1.0
    return W, W.reshape(*ranks, *(1,) * len(ranks)) * W


def written_out(core, ranks, factors, row):
    """E z and E z^2 of one entry, from a sum over all pairs of components."""
    W, WW = dense_core(core, ranks)
    mean = second = 0.0
    every = list(itertools.product(*(range(R) for R in ranks)))
    for r in every:
        mean += W[r] * math.prod(f.mean[i, a] for f, i, a in zip(factors, row, r))
        for s in every:
            moment = math.prod(f.second[i, a, b] for f, i, a, b in zip(factors, row, r, s))
            second += WW[(*r, *s)] * moment
    return mean, second


KINDS = [("cp", (2, 2, 2)), ("tucker", (2, 2, 2)), ("tucker", (3, 1, 2)), ("tucker", (1, 2, 3))]


@pytest.mark.parametrize("kind, ranks", KINDS)
def test_moments_of_entries_are_the_sums_written_out(kind, ranks):
    core, factors = random_core(kind, ranks), random_factors(ranks)
    rows, _, _ = random_seen(4)
    mean, var = tucker.contract(core, factors, rows)
    truth = torch.tensor([written_out(core, ranks, factors, row) for row in rows.tolist()])
    assert_close(mean, truth[:, 0])
    assert_close(var, truth[:, 1] - truth[:, 0].square(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind, ranks", KINDS)
@pytest.mark.parametrize("k", [0, 1, 2])
def test_what_entries_say_about_a_mode_is_the_form_of_the_expected_square(kind, ranks, k):
    """sum w E(y - z)^2 is quadratic in the moments of one mode: square - 2 h'm + tr(J S)."""
    core, factors = random_core(kind, ranks), random_factors(ranks)
    rows, y, weight = random_seen()
    seen = tucker.group(rows, y, weight)
    h, J = core.terms(tucker.gather(core, factors, seen, k), k)
    assert_close(J, J.mT)
    value = seen.square - 2 * (h * factors[k].mean).sum() + (J * factors[k].second).sum()
    mean, var = tucker.contract(core, factors, rows)
    assert_close(value, (weight * ((y - mean).square() + var)).sum())


@pytest.mark.parametrize("kind, ranks", KINDS)
def test_what_entries_say_about_the_core(kind, ranks):
    core, factors = random_core(kind, ranks), random_factors(ranks)
    rows, y, weight = random_seen()
    seen = tucker.group(rows, y, weight)
    sums = tucker.gather(core, factors, seen, 2)
    terms = core.about_core(sums, factors[2])
    mean, var = tucker.contract(core, factors, rows)
    truth = (weight * ((y - mean).square() + var)).sum()
    assert tucker.expected_square(seen, core, terms) == pytest.approx(float(truth))
    if kind == "tucker":  # and as a form in a core of its own
        other = random_core(kind, ranks)
        mean, var = tucker.contract(other, factors, rows)
        truth = (weight * ((y - mean).square() + var)).sum()
        assert tucker.expected_square(seen, other, terms) == pytest.approx(float(truth))


def test_the_core_given_known_functions_is_a_ridge_regression():
    ranks, tau = (2, 3, 2), 4.0
    certain = [f._replace(cov=torch.zeros_like(f.cov)) for f in random_factors(ranks)]
    core = random_core("tucker", ranks)
    rows, y, weight = random_seen(50)
    seen = tucker.group(rows, y, weight)
    h, J = core.about_core(tucker.gather(core, certain, seen, 2), certain[2])
    found = tucker.update_core(Terms(tau * h, tau * J), ranks, 1.0)
    X = torch.stack(
        [
            torch.kron(
                torch.kron(*(certain[j].mean[row[j]] for j in (0, 1))), certain[2].mean[row[2]]
            )
            for row in rows.tolist()
        ]
    )
    precision = torch.eye(12) + tau * X.T @ (weight[:, None] * X)
    assert_close(found.mean.flatten(), torch.linalg.solve(precision, tau * X.T @ (weight * y)))
    assert_close(found.cov, torch.linalg.inv(precision))


def test_chunks_add_up_to_the_whole(monkeypatch):
    core, factors = random_core("tucker", (2, 2, 2)), random_factors((2, 2, 2))
    rows, y, weight = random_seen(40)
    seen = tucker.group(rows, y, weight)
    whole, law = tucker.gather(core, factors, seen, 1), tucker.contract(core, factors, rows)
    largest = []
    products = Full.products
    monkeypatch.setattr(tucker, "HELD", 100)
    monkeypatch.setattr(
        Full, "products", lambda self, p: largest.append(products(self, p)) or largest[-1]
    )
    parts = tucker.gather(core, factors, seen, 1)
    assert_close(Sums(*parts), whole)
    assert_close(tucker.contract(core, factors, rows), law)
    assert max(f.numel() for f in largest) <= 100 < 40 * 9


def test_entries_of_one_index_are_one():
    rows = torch.tensor([[0, 1], [2, 1], [0, 1]])
    y, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 1.0, 3.0])
    seen = tucker.group(rows, y, weight)
    assert seen.rows.tolist() == [[0, 1], [2, 1]]
    assert seen.weight.tolist() == [4.0, 1.0] and seen.total.tolist() == [13.0, 2.0]
    assert seen.square == 1 + 4 + 48 and seen.size == 5


def test_a_mode_seen_through_sites_is_a_dense_gaussian():
    """u ~ GP, R = 2 seen through exp(h'u - u'Ju/2): covariance (K^-1 + J)^-1; normaliser in closed form."""
    n, R, t = 6, 2, torch.rand(6).sort().values
    kernel = matern(1.5, 0.4, 1.3)
    both = tucker.side_by_side(kernel, R)
    sites = Terms(torch.randn(n, R), covariance(n, R))
    factor, log_z = tucker.smooth(chain(both, t), both.H, sites)
    K = torch.kron(gram(kernel, t, t)[..., 0, 0], torch.eye(R))
    J = torch.block_diag(*sites.J)
    V = torch.linalg.inv(torch.linalg.inv(K) + J)
    m = V @ sites.h.flatten()
    assert_close(factor.mean.flatten(), m)
    for i in range(n):
        assert_close(factor.cov[i], V[R * i : R * i + R, R * i : R * i + R])
    known = (m @ sites.h.flatten() - torch.logdet(torch.eye(n * R) + K @ J)) / 2
    assert log_z == pytest.approx(float(known))

    # KL between the dense Gaussians
    precision = torch.linalg.inv(K)
    kl = (
        (precision @ V).trace() + m @ precision @ m - n * R + torch.logdet(K @ torch.linalg.inv(V))
    ) / 2
    assert tucker.factor_divergence(factor, sites, log_z) == pytest.approx(float(kl))


def test_divergences_are_those_of_torch():
    core = random_core("tucker", (2, 1, 2))
    normal = torch.distributions.MultivariateNormal
    ours = normal(core.mean.flatten(), core.cov)
    kl = torch.distributions.kl_divergence(ours, normal(torch.zeros(4), torch.eye(4)))
    assert core.divergence() == pytest.approx(float(kl))
    assert Superdiagonal(3).divergence() == 0.0

    gamma = torch.distributions.Gamma
    q, p = Noise(7.0, 3.0), Noise(2.0, 0.5)
    kl = torch.distributions.kl_divergence(*(gamma(torch.tensor(a), b) for a, b in (q, p)))
    assert q.divergence(p) == pytest.approx(float(kl))
    assert q.precision == pytest.approx(7 / 3) and q.variance == pytest.approx(0.5)
    draws = gamma(*(torch.tensor(v) for v in q)).sample((100_000,)).log()
    assert abs(q.log_precision - draws.mean()) < 4 * draws.std() / math.sqrt(len(draws))


def test_levels_know_nothing_of_each_other():
    t = torch.tensor([0.0, 0.3, 0.3, 1.0])
    K = gram(tucker.levels(1.7), t, t)[..., 0, 0]
    assert_close(K, 1.7 * (t[:, None] == t).double())
    law = chain(tucker.levels(torch.tensor(1.7)), t)
    assert law.A[1:, 0, 0].tolist() == [0.0, 1.0, 0.0]
    assert_close(law.Q[1:, 0, 0], torch.tensor([1.7, 0.0, 1.7]))


def test_draws_of_the_core_and_what_is_made_of_them():
    core = random_core("tucker", (2, 1, 2))
    draws = tucker.draw(core, 40_000).flatten(1)
    error = 4 * core.cov.diagonal().sqrt() / math.sqrt(40_000)
    assert ((draws.mean(0) - core.mean.flatten()).abs() < error).all()
    spread = core.cov.diagonal()
    error = 4 * torch.sqrt((spread[:, None] * spread + core.cov.square()) / 40_000)
    assert ((draws.T.cov() - core.cov).abs() < error).all()

    u = [torch.randn(7, R) for R in (2, 1, 2)]
    assert_close(tucker.tensor(core.mean, u), torch.einsum("abc,na,nb,nc->n", core.mean, *u))
