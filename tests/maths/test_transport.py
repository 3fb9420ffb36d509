"""Oracles: POT, closed forms of Gaussians, maps verified by Waddington-OT, brute force, finite differences."""

import itertools
import math

import pytest
import torch

from tsdyn.errors import DataError, ModelError
from tsdyn.maths import cost as costs
from tsdyn.maths.assignment import assignment, exact
from tsdyn.maths.cost import Dense, matrix, quadratic
from tsdyn.maths.plan import (
    apply,
    barycentric,
    dense,
    pairs,
    partners,
    pull,
    push,
    row_mass,
    top,
    transposed,
)
from tsdyn.maths.transport import sinkhorn
from tsdyn.maths.transport_value import transport_value
from tsdyn.maths.unbalanced import grown, learn_growth, posterior_growth


def clouds(n=40, m=30, d=2):
    x = torch.randn(n, d, dtype=torch.float64)
    return x, 1.3 * torch.randn(m, d, dtype=torch.float64) + 0.5


def weights(*shape):
    w = 0.2 + torch.rand(*shape, dtype=torch.float64)
    return w / w.sum(-1, keepdim=True)


def even(n):
    return torch.full((n,), 1 / n, dtype=torch.float64)


def kl(p, q):
    return (p * (p / q).log() - p + q).sum()


# costs


def test_quadratic_is_the_quadratic_form_of_every_pair():
    x, y = torch.randn(3, 7, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    root = torch.randn(3, 7, 4, 4, dtype=torch.float64)
    gap = y[:, None] - x[:, :, None]  # (3, 7, 5, 4)
    each, one, constant = root @ root.mT, root[:, 0] @ root[:, 0].mT, torch.randn(3, 7).double()
    for precision, form in (
        (None, torch.eye(4, dtype=x.dtype)),
        (one, one[:, None, None]),
        (each, each[:, :, None]),
    ):
        expected = (gap[..., None, :] @ form @ gap[..., None])[..., 0, 0] / 2
        found = quadratic(x, y, precision, constant)
        torch.testing.assert_close(matrix(found), expected + constant[..., None])
        a, b = weights(3, 7), weights(3, 5)
        mean = (a[:, :, None] * b[:, None] * matrix(found)).sum((1, 2))
        torch.testing.assert_close(costs.mean(found, a, b), mean)


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_parts_of_a_cost_are_parts_of_its_matrix(kind):
    x, y = (torch.randn(2, k, 3, dtype=torch.float64) for k in (9, 6))
    cost = quadratic(x, y)
    whole = matrix(cost)
    cost = cost if kind == "factored" else Dense(whole)
    index = torch.randint(9, (2, 4))
    assert costs.size(cost) == ((2,), 9, 6)
    torch.testing.assert_close(matrix(costs.rows(cost, 2, 5)), whole[:, 2:5])
    torch.testing.assert_close(matrix(costs.transposed(cost)), whole.mT)
    torch.testing.assert_close(
        matrix(costs.take(cost, index)), whole.take_along_dim(index[..., None], 1)
    )


# duals


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02])
def test_duals_are_those_of_pot(epsilon):
    """POT's duals hold the weights; one constant may move from one side to the other."""
    ot = pytest.importorskip("ot")
    x, y = clouds()
    a, b = weights(40), weights(30)
    cost = quadratic(x, y)
    plan, log = ot.bregman.sinkhorn_log(
        a, b, matrix(cost), epsilon, numItermax=200_000, stopThr=1e-12, log=True
    )
    ours = sinkhorn(cost, a, b, epsilon, tolerance=1e-10)
    f, g = log["log_u"] * epsilon - epsilon * a.log(), log["log_v"] * epsilon - epsilon * b.log()
    shift = (ours.f - f).mean()
    torch.testing.assert_close(ours.f - shift, f, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.g + shift, g, rtol=0, atol=1e-6)
    torch.testing.assert_close(dense(ours), plan, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tau", [(0.7, 0.9), (1.0, 0.5), (0.3, 1.0)])
def test_unbalanced_plans_solve_their_problem(tau):
    """The objective is convex: no direction goes down, by automatic differentiation of its definition."""
    x, y = clouds(12, 9)
    a, b = weights(12), 1.7 * weights(9)
    cost = quadratic(x, y)
    epsilon = 0.3
    ours = sinkhorn(cost, a, b, epsilon, tau=tau, tolerance=1e-11)
    plan = dense(ours).requires_grad_()

    def objective():
        value = (plan * matrix(cost)).sum() + epsilon * kl(plan, a[:, None] * b)
        for own, sums, t in ((a, plan.sum(1), tau[0]), (b, plan.sum(0), tau[1])):
            if t < 1:
                value = value + epsilon * t / (1 - t) * kl(sums, own)
        return value

    (slope,) = torch.autograd.grad(objective(), plan)
    if tau[0] == 1:  # what is left are the prices of the marginals that are kept
        torch.testing.assert_close(plan.sum(1), a)
        slope = slope - slope.mean(1, keepdim=True)
    if tau[1] == 1:
        torch.testing.assert_close(plan.sum(0), b)
        slope = slope - slope.mean(0, keepdim=True)
    assert slope.abs().max() < 1e-8
    value, _ = transport_value(cost, a, b, epsilon, tau=tau, tolerance=1e-11)
    torch.testing.assert_close(value, objective().detach())


def test_unbalanced_plan_is_that_of_pot():
    ot = pytest.importorskip("ot")
    x, y = clouds()
    a, b = weights(40), 1.5 * weights(30)
    cost, epsilon, tau = quadratic(x, y), 0.2, (0.8, 0.9)
    price = tuple(epsilon * t / (1 - t) for t in tau)
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        a, b, matrix(cost), epsilon, price, reg_type="kl", numItermax=50_000, stopThr=1e-13
    )
    ours = dense(sinkhorn(cost, a, b, epsilon, tau=tau, tolerance=1e-11))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def test_another_reference_is_another_cost():
    """KL against counting measure, which POT calls entropy, where weights are not equal."""
    ot = pytest.importorskip("ot")
    x, y = clouds()
    a, b = weights(40), weights(30)
    cost, epsilon = matrix(quadratic(x, y)), 0.2
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, epsilon, 0.8, reg_type="entropy", numItermax=50_000, stopThr=1e-13
    )
    own = cost + epsilon * (a.log()[:, None] + b.log())
    ours = dense(sinkhorn(Dense(own), a, b, epsilon, tau=(0.8, 0.8), tolerance=1e-11))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    "earlier, later, key",
    [(10.0, 10.5, "tmap_10_105"), (10.5, 11.0, "tmap_105_11"), (10.0, 11.0, "tmap_10_11")],
)
def test_maps_of_waddington_ot(real_data, earlier, later, key):
    """Reprogrammed cells in 50 joint principal components, cost over its mean: as published maps, normalised."""
    anndata = pytest.importorskip("anndata")
    table = anndata.read_h5ad(real_data / "snapshots" / "moscot_temporal_tests.h5ad")
    days = torch.tensor(table.obs["day"].astype(float).to_numpy())
    genes = torch.tensor(table.X.toarray(), dtype=torch.float64)
    kept = (days == earlier) | (days == later)
    centred = genes[kept] - genes[kept].mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = (u * s)[:, :50]
    x, y = scores[days[kept] == earlier], scores[days[kept] == later]
    cost = torch.cdist(x, y).square()
    ours = dense(
        sinkhorn(
            Dense(cost / cost.mean()),
            epsilon=table.uns["eps"],
            tau=(table.uns["tau_a"], table.uns["tau_b"]),
            tolerance=1e-8,
        )
    )
    theirs = torch.tensor(table.uns[key]).double()
    ours, theirs = ours / ours.sum(), theirs / theirs.sum()
    together = torch.stack([ours.flatten(), theirs.flatten()])
    assert torch.corrcoef(together)[0, 1] >= 0.99999
    assert (ours - theirs).abs().sum() / 2 <= 1e-3


def test_the_coupling_of_gaussians_has_the_closed_form():
    """Cov(X, Y) = A½ (A½ B A½ + ε²/4)½ A^-½ - ε/2 for the cost |x - y|² / 2.

    The finite clouds are given exact moments; what is left is their shape, of order 1 / n.
    """
    n, d, epsilon = 1500, 2, 0.5
    a = torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=torch.float64)
    b = torch.tensor([[0.6, -0.3], [-0.3, 1.4]], dtype=torch.float64)

    def root(s, power=0.5):
        values, vectors = torch.linalg.eigh(s)
        return vectors @ torch.diag(values**power) @ vectors.mT

    def cloud(s):
        z = torch.randn(n, d, dtype=torch.float64)
        z = z - z.mean(0)
        return z @ root(z.mT @ z / n, -0.5) @ root(s)

    x, y = cloud(a), cloud(b)
    plan = sinkhorn(quadratic(x, y), epsilon=epsilon, tolerance=1e-5)
    found = x.mT @ barycentric(plan, y) / n
    inner = root(root(a) @ b @ root(a) + epsilon**2 / 4 * torch.eye(d, dtype=a.dtype))
    expected = root(a) @ inner @ root(a, -0.5) - epsilon / 2 * torch.eye(d, dtype=a.dtype)
    assert (found - expected).norm() / expected.norm() <= 0.01


def test_marginals_fit():
    x, y = clouds(200, 150, 5)
    a, b = weights(200), weights(150)
    p = sinkhorn(quadratic(x, y), a, b, 0.05)
    plan = dense(p)
    assert (plan.sum(0) - b).abs().sum() <= 1e-4
    torch.testing.assert_close(plan.sum(1), a, rtol=1e-10, atol=0)
    torch.testing.assert_close(p.error, (plan.sum(0) - b).abs().sum(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("tau", [(1.0, 1.0), (0.9, 0.8)])
def test_chunks_are_the_dense_kernel(monkeypatch, tau):
    x, y = clouds(70, 50, 3)
    root = torch.randn(70, 3, 3, dtype=torch.float64)
    cost = quadratic(x, y, root @ root.mT + torch.eye(3, dtype=x.dtype))
    options = {"tau": tau, "tolerance": 1e-12}
    kept = dense(sinkhorn(Dense(matrix(cost)), None, None, 0.2, **options))
    monkeypatch.setattr(costs, "ENTRIES", 170)
    monkeypatch.setattr(costs.stretches, "__defaults__", (170,))
    streamed = dense(sinkhorn(cost, None, None, 0.2, memory=0, **options))
    torch.testing.assert_close(streamed, kept, rtol=0, atol=1e-8 / (70 * 50))


@pytest.mark.parametrize("memory", [0, 1e9])
def test_problems_side_by_side_are_each_alone(memory):
    """Also with padding that holds anything."""
    x, y = torch.randn(3, 20, 2, dtype=torch.float64), torch.randn(3, 16, 2, dtype=torch.float64)
    lengths = [(20, 16), (11, 16), (20, 7)]
    a, b = torch.zeros(3, 20, dtype=torch.float64), torch.zeros(3, 16, dtype=torch.float64)
    for k, (n, m) in enumerate(lengths):
        x[k, n:], y[k, m:] = torch.nan, torch.nan
        a[k, :n], b[k, :m] = weights(n), weights(m)
    options = {"tolerance": 1e-11, "memory": memory}
    together = sinkhorn(quadratic(x, y), a, b, 0.1, **options)
    plans, sent = dense(together), push(together, a)
    means = barycentric(together, y)
    for k, (n, m) in enumerate(lengths):
        alone = sinkhorn(quadratic(x[k, :n], y[k, :m]), a[k, :n], b[k, :m], 0.1, **options)
        torch.testing.assert_close(plans[k, :n, :m], dense(alone), rtol=0, atol=1e-10)
        torch.testing.assert_close(means[k, :n], barycentric(alone, y[k, :m]))
        torch.testing.assert_close(sent[k, :m], b[k, :m])
        assert not plans[k, n:].any() and not plans[k, :, m:].any()


def test_far_apart_clouds_do_not_underflow():
    """Costs of 10⁶ ε: the plan is the cheapest assignment, and all numbers are finite."""
    x, y = clouds(30, 30)
    y = y + 1000.0
    p = sinkhorn(quadratic(x, y), epsilon=1e-2, tolerance=1e-6)
    assert p.f.isfinite().all() and p.g.isfinite().all()
    assert (dense(p).sum(0) - 1 / 30).abs().sum() <= 1e-6
    cold = sinkhorn(quadratic(x, y), epsilon=1e-2, tolerance=1e-6, start=torch.zeros(30), memory=0)
    torch.testing.assert_close(dense(cold), dense(p), rtol=0, atol=1e-5)


def test_single_precision():
    x, y = clouds(200, 150, 5)
    ours = sinkhorn(quadratic(x, y), epsilon=0.5, dtype=torch.float32)
    assert ours.f.dtype == torch.float32 and ours.error <= 1e-4
    double = sinkhorn(quadratic(x, y), epsilon=0.5)
    assert (dense(ours) - dense(double)).abs().sum() <= 5e-4


def test_a_warm_start_needs_fewer_iterations():
    x, y = clouds(150, 150, 3)
    cold = sinkhorn(quadratic(x, y), epsilon=0.05)
    near = quadratic(x + 0.01 * torch.randn_like(x), y)
    warm = sinkhorn(near, epsilon=0.05, start=cold.g)
    assert warm.iterations < sinkhorn(near, epsilon=0.05).iterations
    assert warm.iterations < sinkhorn(near, epsilon=0.05, start=torch.zeros(150)).iterations
    assert sinkhorn(quadratic(x, y), epsilon=0.05, start=cold.g).iterations == 1


def test_too_few_iterations_are_told():
    x, y = clouds()
    with pytest.warns(UserWarning, match=r"TSD-M06.*1 of 1 problems"):
        p = sinkhorn(quadratic(x, y), epsilon=0.001, steps=3)
    assert p.error > 1e-4


@pytest.mark.parametrize("wrong", [[-1.0, 2.0], [0.0, 0.0], [math.nan, 1.0], [1.0, 1.0]])
def test_weights_that_cannot_be(wrong):
    cost = Dense(torch.rand(2, 3).double())
    with pytest.raises(DataError, match="TSD-D14"):
        sinkhorn(cost, torch.tensor(wrong), None)


# what is asked of a plan


@pytest.fixture
def small():
    x, y = clouds(25, 20)
    return sinkhorn(quadratic(x, y), weights(25), weights(20), 0.2, tolerance=1e-10), y


def test_questions_are_products_with_the_dense_plan(small):
    p, y = small
    plan = dense(p)
    mass, fate = torch.rand(25).double(), torch.rand(20).double()
    torch.testing.assert_close(row_mass(p), plan.sum(1))
    torch.testing.assert_close(dense(transposed(p)), plan.mT)
    torch.testing.assert_close(apply(p, y), plan @ y)
    torch.testing.assert_close(push(p, mass), mass / plan.sum(1) @ plan)
    torch.testing.assert_close(push(p, mass).sum(), mass.sum())
    torch.testing.assert_close(pull(p, fate), plan @ (fate / plan.sum(0)))
    torch.testing.assert_close(barycentric(p, y), plan @ y / plan.sum(1, keepdim=True))


def test_top_holds_the_largest_of_every_row(small):
    p, _ = small
    plan, found = dense(p), top(p, 4)
    torch.testing.assert_close(found.mass, plan.sort(1, descending=True).values[:, :4])
    torch.testing.assert_close(plan.gather(1, found.target), found.mass)
    torch.testing.assert_close(found.kept, found.mass.sum(1) / plan.sum(1))
    torch.testing.assert_close(top(p, 20).kept, torch.ones(25).double())


def test_pairs_are_drawn_as_the_plan_says(small):
    """Pearson's χ² over the entries that are expected 5 times or more: mean k, variance about 2 k."""
    p, _ = small
    n, expected = 50_000, dense(p).flatten()
    i, j = pairs(p, n, torch.Generator().manual_seed(1))
    counts = torch.bincount(i * 20 + j, minlength=500).double()
    often = expected * n >= 5
    rest = counts[~often].sum(), expected[~often].sum() * n
    chi2 = ((counts - expected * n).square() / (expected * n))[often].sum()
    chi2 = chi2 + (rest[0] - rest[1]) ** 2 / rest[1]
    k = int(often.sum())
    assert abs(chi2 - k) < 4 * math.sqrt(2 * k)


def test_partners_come_from_their_row(small):
    p, _ = small
    n = 40_000
    j = partners(p, torch.full((n,), 7), torch.Generator().manual_seed(2))
    share = dense(p)[7] / dense(p)[7].sum()
    found = torch.bincount(j, minlength=20) / n
    assert ((found - share).abs() <= 5 * (share * (1 - share) / n).sqrt() + 1e-12).all()
    again = partners(p, torch.full((n,), 7), torch.Generator().manual_seed(2))
    assert (again == j).all()


# growth


def test_growth_that_was_known_is_found_again():
    """Two places far apart: the cells of one double per day, those of the other stand still."""
    x = torch.tensor([[0.0], [10.0]], dtype=torch.float64).repeat_interleave(10, 0)
    y = torch.tensor([[0.0], [10.0]], dtype=torch.float64).repeat_interleave(
        torch.tensor([40, 10]), 0
    )
    x, y = x + 0.1 * torch.randn_like(x), y + 0.1 * torch.randn_like(y)
    span, believed = 2.0, torch.ones(20, dtype=torch.float64)
    cost = quadratic(x, y)
    plan, growth = learn_growth(
        cost, even(20), even(50), 0.1, (0.5, 0.99), believed, span, rounds=6
    )
    ratio = growth[:10].mean() / growth[10:].mean()
    torch.testing.assert_close(ratio, torch.tensor(2.0).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(posterior_growth(plan, even(20), span), growth)
    first = sinkhorn(cost, even(20), even(50), 0.1, tau=(0.5, 0.99))
    before = posterior_growth(first, even(20), span)
    assert before[:10].mean() / before[10:].mean() < ratio


def test_grown_weights():
    w, growth = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, torch.nan])
    torch.testing.assert_close(grown(w, growth, 2.0), torch.tensor([0.9, 0.1, 0.0]))


# gradients


@pytest.mark.parametrize("tau", [(1.0, 1.0), (0.8, 0.9)])
@pytest.mark.parametrize("own", ["one precision", "each its own"])
def test_gradients_of_the_value_are_finite_differences(tau, own):
    x, y = clouds(6, 5)
    shape = (2, 2) if own == "one precision" else (6, 2, 2)
    root = (torch.eye(2) + 0.3 * torch.randn(shape)).double()
    constant, raw_a, raw_b = (
        torch.randn(6).double(),
        torch.randn(6).double(),
        torch.randn(5).double(),
    )
    inputs = [v.requires_grad_() for v in (x, y, root, constant, raw_a, raw_b)]

    def value(x, y, root, constant, raw_a, raw_b):
        cost = quadratic(x, y, root @ root.mT, constant)
        a, b = raw_a.softmax(0), raw_b.softmax(0)
        return transport_value(cost, a, b, 0.4, tau=tau, tolerance=1e-13, steps=500)[0]

    assert torch.autograd.gradcheck(value, inputs, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_gradient_of_the_value_of_a_matrix_is_the_plan():
    a, b = weights(2, 6), weights(2, 5)
    c = torch.rand(2, 6, 5, dtype=torch.float64, requires_grad=True)
    value, p = transport_value(Dense(c), a, b, 0.1, tolerance=1e-12)
    slope = torch.tensor([2.0, -1.0]).double()
    (found,) = torch.autograd.grad(value, c, slope)
    torch.testing.assert_close(found, slope[:, None, None] * dense(p))
    assert torch.autograd.gradcheck(
        lambda c: transport_value(Dense(c), a, b, 0.1, tolerance=1e-13, steps=500)[0], c, eps=1e-5
    )


# exact plans


def test_assignment_is_the_best_of_all_permutations():
    c = torch.rand(6, 6, dtype=torch.float64)
    rows = torch.arange(6)
    best = min(c[rows, torch.tensor(j)].sum() for j in itertools.permutations(range(6)))
    torch.testing.assert_close(c[rows, assignment(c)].sum(), best)
    torch.testing.assert_close(exact(c).cost, best / 6)


@pytest.mark.parametrize("n, m", [(8, 8), (6, 4), (4, 6), (30, 45)])
def test_equal_weights_are_an_assignment_of_copies(n, m):
    c = torch.rand(n, m, dtype=torch.float64)
    ours = exact(c)
    program = exact(c, even(n), even(m))
    torch.testing.assert_close(ours.cost, program.cost, rtol=1e-9, atol=0)
    for found in (ours, program):
        plan = torch.zeros(n, m, dtype=torch.float64).index_put(
            (found.i, found.j), found.mass, accumulate=True
        )
        torch.testing.assert_close(plan.sum(0), even(m))
        torch.testing.assert_close(plan.sum(1), even(n))
        torch.testing.assert_close((plan * c).sum(), found.cost)


@pytest.mark.parametrize("n, m", [(60, 90), (150, 100)])
def test_exact_plans_of_unequal_weights_are_those_of_pot(n, m):
    ot = pytest.importorskip("ot")
    x, y = clouds(n, m, 3)
    a, b = weights(n), weights(m)
    a[3], b[5] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    c = torch.cdist(x, y).square()
    torch.testing.assert_close(exact(c, a, b).cost, ot.emd2(a, b, c), rtol=1e-9, atol=0)
    torch.testing.assert_close(exact(c, 3 * a, 3 * b).cost, 3 * ot.emd2(a, b, c), rtol=1e-9, atol=0)


def test_small_epsilon_approaches_the_exact_cost():
    """0 <= <C, P_ε> - <C, P_0> <= ε log N for equal weights, whose plans have entropies up to log N apart.

    An error e of the marginals changes the cost by at most e max C.
    """
    x, y = clouds(40, 40)
    c = torch.cdist(x, y).square()
    p = sinkhorn(Dense(c), epsilon=1e-2, tolerance=1e-6)
    gap = (dense(p) * c).sum() - exact(c).cost
    slack = 1e-6 * c.max()
    assert -slack <= gap <= 1e-2 * math.log(40) + slack


def test_too_many_points_for_an_exact_plan():
    with pytest.raises(ModelError, match=r"TSD-M05.*sinkhorn"):
        exact(torch.zeros(2501, 1))


def test_exact_plans_ask_for_equal_sums():
    with pytest.raises(DataError, match="TSD-D14"):
        exact(torch.rand(2, 2), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]))
