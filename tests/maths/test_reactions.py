"""Oracles: Poisson laws, closed moments of linear networks, matrices built by hand, exact expectations.

Tolerances of draws are standard errors: 5 of them for one number.
"""

import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch

from tests.maths.jump_processes import birth_death
from tsdyn.errors import DataError, ModelError
from tsdyn.maths import reactions
from tsdyn.maths.rate_matrix import require_rate_matrix, stationary
from tsdyn.maths.reactions import (
    ReactionNetwork,
    finite_state_projection,
    leap,
    linear_noise,
    normal_closure,
    propensities,
    rate_matrix_within,
    reachable,
    require_network,
    simulate,
)


def network(reactants, products, rates) -> ReactionNetwork:
    before, after = torch.tensor(reactants), torch.tensor(products)
    return ReactionNetwork(after - before, torch.as_tensor(rates, dtype=torch.float64), before)


def immigration_death(rate: float = 10.0, death: float = 1.0) -> ReactionNetwork:
    """0 -> X -> 0: Poisson laws stay Poisson."""
    return network([[0], [1]], [[1], [0]], [rate, death])


def dimerisation(rate: float = 0.05) -> ReactionNetwork:
    """2 A -> B"""
    return network([[2, 0]], [[0, 1]], [rate])


def predator_prey() -> ReactionNetwork:
    """Prey breed, are eaten, and predators die."""
    return network([[1, 0], [1, 1], [0, 1]], [[2, 0], [0, 2], [0, 0]], [1.0, 0.05, 0.8])


def expression() -> ReactionNetwork:
    """0 -> M -> 0, M -> M + P, P -> 0: linear, with two species that go together."""
    reactants = [[0, 0], [1, 0], [1, 0], [0, 1]]
    return network(reactants, [[1, 0], [0, 0], [1, 1], [0, 0]], [2.0, 1.0, 1.5, 0.5])


def close(found, expected, atol=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)


def require_moments(states: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor):
    """Sample means and covariances of (K, T, S) are within 5 standard errors of (T, S), (T, S, S)."""
    x, K = states.double(), len(states)
    assert ((x.mean(0) - mean).abs() <= 5 * x.std(0) / K**0.5 + 1e-9).all()
    off = x - mean
    product = off[..., None] * off[..., None, :]
    assert ((product.mean(0) - cov).abs() <= 5 * product.std(0) / K**0.5 + 1e-9).all()


def moments_of(p: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of laws (T, N) over states (N, S): (T, S), (T, S, S)."""
    x = states.double()
    mean = p @ x
    return mean, torch.einsum("tn,ni,nj->tij", p, x, x) - mean[..., None] * mean[:, None]


def certain(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64)[0]


def test_propensities_count_combinations():
    reacts = network(
        [[2, 0], [1, 1], [3, 0], [0, 0]], [[0, 1], [0, 0], [0, 0], [1, 0]], [1, 2, 3, 4]
    )
    x = torch.tensor([[5, 3], [1, 2], [0, 0]], dtype=torch.float64)
    close(propensities(reacts, x), [[10, 30, 30, 4], [0, 4, 0, 4], [0, 0, 0, 4]], 0)
    each = reacts._replace(rates=torch.arange(12.0).reshape(3, 4))
    close(propensities(each, x)[0], [0, 15, 20, 3], 0)


def test_immigration_and_death_are_poisson():
    t = torch.tensor([0.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    mean = 10 * (1 - torch.exp(-t))
    space = reachable(immigration_death(), torch.tensor([0]), torch.tensor([60]))
    assert space.states[:, 0].tolist() == list(range(61))
    found = finite_state_projection(immigration_death(), space, certain(61), t)
    poisson = scipy.stats.poisson(mean[:, None]).pmf(space.states[:, 0])
    close(found.p, poisson, 1e-12)
    assert found.error.amax() < 1e-12
    Q = rate_matrix_within(immigration_death(), space)
    require_rate_matrix(Q)
    up, down = torch.full((60,), 10.0), torch.arange(1.0, 61.0)
    close(Q, birth_death(up.double(), down.double()), 1e-12)
    close(stationary(Q), scipy.stats.poisson(10).pmf(space.states[:, 0]), 1e-12)
    for method in (linear_noise, normal_closure):
        moments = method(immigration_death(), torch.zeros(1, 1), t)
        close(moments.mean[0, :, 0], mean)
        close(moments.cov[0, :, 0, 0], mean)
    assert abs(float(moments.mean[0, 2, 0]) - 6.3212) < 1e-4


def test_draws_of_immigration_and_death():
    """Also the memory between two times: Cov(x_s, x_t) = exp(s - t) Var(x_s)."""
    K = 20_000
    t = torch.tensor([3.0, 3.5, 4.0, 4.0])  # paths begin at the first time
    x = simulate(immigration_death(), torch.zeros(K, 1), t)[..., 0]
    assert x.dtype == torch.int64 and not x[:, 0].any()
    assert torch.equal(x[:, 2], x[:, 3])
    for k in (1, 2):
        mean = 10 * (1 - torch.exp(3.0 - t[k].double()))
        found = torch.bincount(x[:, k], minlength=61)[:61]
        expected = K * torch.as_tensor(scipy.stats.poisson(mean).pmf(range(61)))
        often = expected > 10
        chi2 = ((found - expected)[often] ** 2 / expected[often]).sum()
        assert scipy.stats.chi2(int(often.sum())).sf(float(chi2)) > 1e-4
    a, b = (x[:, k].double() - x[:, k].double().mean() for k in (1, 2))
    expected = torch.exp(torch.tensor(-0.5)) * 10 * (1 - torch.exp(torch.tensor(-0.5)))
    assert ((a * b).mean() - expected).abs() < 5 * (a * b).std() / K**0.5


def test_death_from_many_with_closed_moments():
    """Binomial survivors of x0, and Poisson immigrants."""
    t = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    x0, e = torch.tensor([[40.0], [3.0]], dtype=torch.float64), torch.exp(-t)
    mean = x0 * e + 10 * (1 - e)
    for method in (linear_noise, normal_closure):
        found = method(immigration_death(), x0, t)
        close(found.mean[..., 0], mean)
        close(found.cov[..., 0, 0], x0 * e * (1 - e) + 10 * (1 - e))
    spread = linear_noise(immigration_death(), x0, t, cov0=torch.full((2, 1, 1), 7.0))
    close(spread.cov[..., 0, 0], 7 * e**2 + x0 * e * (1 - e) + 10 * (1 - e))


def test_linear_networks_have_exact_moments():
    """Mean, variances and covariance of two species against the whole law."""
    t = torch.tensor([0.0, 0.7, 3.0], dtype=torch.float64)
    start = torch.tensor([1, 2])
    space = reachable(expression(), start, torch.tensor([20, 60]))
    projection = finite_state_projection(expression(), space, certain(len(space.states)), t)
    assert projection.error[-1] < 1e-9
    mean, cov = moments_of(projection.p, space.states)
    for method in (linear_noise, normal_closure):
        found = method(expression(), start[None].double(), t)
        close(found.mean[0], mean)
        close(found.cov[0], cov)
    require_moments(simulate(expression(), start.expand(20_000, 2), t), mean, cov)


def test_dimerisation():
    """The number of pairs made is a pure birth process of rate k C(x0 - 2 n, 2)."""
    t = torch.tensor([0.0, 0.4, 2.0], dtype=torch.float64)
    space = reachable(dimerisation(), torch.tensor([21, 0]), torch.tensor([21, 21]))
    pairs = torch.arange(11.0, dtype=torch.float64)
    assert space.states.tolist() == [[21 - 2 * n, n] for n in range(11)]
    left = 21 - 2 * pairs
    Q = birth_death(0.05 * left[:-1] * (left[:-1] - 1) / 2, torch.zeros(10, dtype=torch.float64))
    close(rate_matrix_within(dimerisation(), space), Q, 1e-12)
    found = finite_state_projection(dimerisation(), space, certain(11), t)
    for k in range(3):
        close(found.p[k], scipy.linalg.expm((Q * t[k]).numpy())[0], 1e-12)
    assert not found.error.any()
    K = 20_000
    # both one by one: numbers are too small to leap
    for draw in (simulate, leap):
        x = draw(dimerisation(), torch.tensor([21, 0]).expand(K, 2), t)
        assert (x[..., 0] + 2 * x[..., 1] == 21).all()
        for k in (1, 2):
            share = torch.bincount(x[:, k, 1], minlength=11) / K
            p = found.p[k]
            assert ((share - p).abs() <= 5 * (p * (1 - p) / K).sqrt() + 1e-12).all()


def test_predators_and_prey():
    """The whole law on 12,000 states against draws; closing the moments beats the linear noise."""
    t = torch.tensor([0.0, 0.5, 1.5], dtype=torch.float64)
    start = torch.tensor([15, 10])
    space = reachable(predator_prey(), start, torch.tensor([120, 100]))
    projection = finite_state_projection(predator_prey(), space, certain(len(space.states)), t)
    assert projection.error[-1] < 1e-6
    mean, cov = moments_of(projection.p, space.states)
    require_moments(simulate(predator_prey(), start.expand(20_000, 2), t), mean, cov)
    require_moments(leap(predator_prey(), start.expand(20_000, 2), t), mean, cov)
    rough, closed = (f(predator_prey(), start[None], t) for f in (linear_noise, normal_closure))
    assert ((closed.mean[0] - mean).abs() <= 0.2 * (rough.mean[0] - mean).abs() + 1e-9).all()


def test_the_linear_noise_is_that_of_large_numbers():
    """0 -> A, 2 A -> 0 in a volume: relative errors of mean and variance fall as its inverse."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def errors(volume: int) -> torch.Tensor:
        here = network([[0], [2]], [[1], [0]], [2.0 * volume, 2.0 / volume])
        start = torch.tensor([2 * volume])
        space = reachable(here, start, torch.tensor([5 * volume + 20]))
        law = finite_state_projection(here, space, certain(len(space.states)), t)
        mean, cov = moments_of(law.p, space.states)
        found = linear_noise(here, start[None], t)
        return torch.stack([found.mean[0, 1, 0] - mean[1, 0], found.cov[0, 1, 0, 0] - cov[1, 0, 0]])

    small, large = errors(20) / 20, errors(40) / 40
    order = (small / large).abs().log2()
    assert ((order > 0.9) & (order < 1.1)).all()


def test_rate_equations():
    """The mean of the linear noise is the solution of scipy."""
    t = torch.linspace(0, 8, 9, dtype=torch.float64)

    def right(_, x):
        a = 1.0 * x[0], 0.05 * x[0] * x[1], 0.8 * x[1]
        return a[0] - a[1], a[1] - a[2]

    exact = scipy.integrate.solve_ivp(right, (0, 8), (15, 10), t_eval=t, rtol=1e-10, atol=1e-10)
    found = linear_noise(predator_prey(), torch.tensor([[15.0, 10.0]]), t)
    close(found.mean[0].mT, exact.y)


def test_the_closure_is_exact_for_normal_laws():
    """dm/dt and dC/dt against expectations by Gauss-Hermite quadrature, exact for polynomials."""
    reacts = network(
        [[1, 0], [2, 0], [1, 1], [2, 1], [3, 0]],
        [[2, 0], [0, 1], [0, 2], [3, 0], [2, 0]],
        [1.0, 0.3, 0.2, 0.05, 0.01],
    )
    mean = torch.tensor([6.0, 4.0], dtype=torch.float64)
    cov = torch.tensor([[3.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    node, weight = (
        torch.as_tensor(f, dtype=torch.float64) for f in scipy.special.roots_hermitenorm(8)
    )
    weight = weight / weight.sum()
    z = torch.cartesian_prod(node, node)
    w = torch.cartesian_prod(weight, weight).prod(-1)
    off = z @ torch.linalg.cholesky(cov).mT
    a = propensities(reacts, mean + off)  # (64, R)
    change = reacts.change.double()
    drift = (w[:, None] * a).sum(0) @ change
    cross = torch.einsum("q,qr,ri,qj->ij", w, a, change, off)
    noise = torch.einsum("q,qr,ri,rj->ij", w, a, change, change)
    h = 1e-5
    t = torch.tensor([0.0, h, 2 * h], dtype=torch.float64)
    found = normal_closure(reacts, mean[None], t, cov0=cov[None], rtol=1e-12)
    for path, slope in ((found.mean[0], drift), (found.cov[0], cross + cross.mT + noise)):
        rise = (-3 * path[0] + 4 * path[1] - path[2]) / (2 * h)  # of second order
        torch.testing.assert_close(rise, slope, rtol=1e-6, atol=1e-6)


def test_what_leaves_the_space_is_the_error():
    """A small space gives lower bounds, none too low by more than the error, nor all together."""
    t = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    small = reachable(immigration_death(), torch.tensor([0]), torch.tensor([9]))
    found = finite_state_projection(immigration_death(), small, certain(10), t)
    exact = torch.as_tensor(scipy.stats.poisson(10 * (1 - torch.exp(-t))[:, None]).pmf(range(10)))
    assert found.error[-1] > 0.1
    assert (found.p <= exact + 1e-12).all()
    assert ((exact - found.p).sum(-1) <= found.error + 1e-12).all()
    close(found.p.sum(-1) + found.error, torch.ones(4), 1e-12)
    # the first passage to ten has happened: the error only grows
    assert (found.error.diff() >= 0).all()


def test_long_times_in_pieces():
    """The chance of no tick among 1500 underflows; the law is Poisson in the end."""
    space = reachable(immigration_death(), torch.tensor([30]), torch.tensor([45]))
    found = finite_state_projection(
        immigration_death(5.0), space, certain(46), torch.tensor([0.0, 30.0])
    )
    close(found.p[1], scipy.stats.poisson(5).pmf(space.states[:, 0]), 1e-9)


def test_leaps_on_a_fine_grid_have_closed_moments():
    """x + Poisson(k h) - Poisson(h x) at every step: m' = m + (k - m) h, v' = (1 - h)² v + (k + m) h."""
    K, h = 20_000, 0.02
    x = leap(
        immigration_death(2000.0),
        torch.full((K, 1), 1000),
        h * torch.arange(11, dtype=torch.float64),
    )
    m, v = 1000.0, 0.0
    means, variances = [m], [v]
    for _ in range(10):
        m, v = m + (2000 - m) * h, (1 - h) ** 2 * v + (2000 + m) * h
        means.append(m)
        variances.append(v)
    require_moments(x, torch.tensor(means)[:, None], torch.tensor(variances)[:, None, None])


def test_leaps_converge():
    """The mean of immigration and death on its way up: shorter leaps, smaller error."""
    K, t = 4000, torch.tensor([0.0, 1.0])
    exact = 1e4 * (1 - torch.exp(torch.tensor(-1.0, dtype=torch.float64)))

    def error(epsilon: float) -> float:
        return float(
            leap(immigration_death(1e4), torch.zeros(K, 1), t, epsilon)[:, 1].double().mean()
            - exact
        )

    noise = 5 * (float(exact) / K) ** 0.5
    long, short = error(0.2), error(0.02)
    assert long > 10 * noise  # the mean of long leaps is seen to be off
    assert abs(short) < 0.2 * long + noise


def test_leaps_never_go_below_zero():
    """Everything is used up; pairs keep the parity."""
    x = leap(
        dimerisation(1.0), torch.tensor([[10_001, 0]]).expand(200, 2), torch.linspace(0, 50, 30)
    )
    assert (x >= 0).all() and (x[..., 0] + 2 * x[..., 1] == 10_001).all()
    assert (x[:, -1, 0] == 1).all()


@pytest.mark.parametrize("draw", [simulate, leap])
def test_the_same_seed_gives_the_same_paths(draw, device):
    t = torch.linspace(0, 0.5, 5)
    start = torch.tensor([[15, 10], [1000, 10]])
    here, again, there = (
        draw(
            ReactionNetwork(*(f.to(where) for f in predator_prey())),
            start.to(where),
            t.to(where),
            generator=torch.Generator().manual_seed(3),
        )
        for where in ("cpu", "cpu", device)
    )
    assert torch.equal(here, again) and torch.equal(here, there.cpu())


@pytest.mark.parametrize("draw", [simulate, leap])
def test_rates_of_each_path(draw):
    """Deaths at three speeds, one of them zero."""
    K = 5000
    speed = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64).repeat(K)
    rates = torch.stack([torch.zeros_like(speed), speed], -1)
    x = draw(
        immigration_death()._replace(rates=rates),
        torch.full((3 * K, 1), 8),
        torch.tensor([0.0, 1.0]),
    )[:, 1, 0].reshape(K, 3)
    assert (x[:, 0] == 8).all()
    p = torch.exp(-speed[:3])
    assert ((x.double().mean(0) - 8 * p).abs() <= 5 * (8 * p * (1 - p) / K).sqrt()).all()
    for method in (linear_noise, normal_closure):
        found = method(
            immigration_death()._replace(rates=rates[:3]),
            torch.full((3, 1), 8),
            torch.tensor([0.0, 1.0]),
        )
        close(found.mean[:, 1, 0], 8 * p)


@pytest.mark.parametrize("draw", [simulate, leap])
def test_nothing_happens_where_nothing_can(draw):
    x = draw(predator_prey(), torch.zeros(3, 2), torch.tensor([0.0, 1.0, 10.0]))
    assert not x.any() and x.shape == (3, 3, 2)
    assert draw(predator_prey(), torch.ones(3, 2), torch.tensor([5.0])).tolist() == [[[1, 1]]] * 3


@pytest.mark.parametrize("method", [linear_noise, normal_closure])
def test_gradients_of_moments(method):
    t = torch.tensor([0.0, 0.2], dtype=torch.float64)
    rates = predator_prey().rates.requires_grad_()
    start = torch.tensor([[3, 2]])
    f = lambda k: method(predator_prey()._replace(rates=k), start, t)
    assert torch.autograd.gradcheck(f, (rates,), atol=1e-5)


def test_gradients_of_the_whole_law():
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    rates = predator_prey().rates.requires_grad_()
    start = torch.tensor([3, 2])
    space = reachable(predator_prey(), start, torch.tensor([6, 5]))

    def project(k):
        here = predator_prey()._replace(rates=k)
        return finite_state_projection(here, space, certain(len(space.states)), t)

    assert torch.autograd.gradcheck(project, (rates,))
    assert torch.autograd.gradcheck(
        lambda k: rate_matrix_within(predator_prey()._replace(rates=k), space), (rates,)
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (immigration_death()._replace(rates=torch.ones(3)), r"rates \(3,\)"),
        (immigration_death()._replace(rates=torch.tensor([1.0, -1.0])), "negative or not finite"),
        (
            immigration_death()._replace(change=torch.tensor([[1], [-2]])),
            "reaction 1 takes 2 of .* 1",
        ),
        (immigration_death()._replace(change=torch.tensor([[0.5], [-1]])), "not whole"),
    ],
)
def test_networks_that_cannot_be(wrong, message):
    with pytest.raises(DataError, match=f"(?i)TSD-D14.*{message}"):
        require_network(wrong)
    for good in (immigration_death(), dimerisation(), predator_prey(), expression()):
        require_network(good)


def test_what_is_refused(monkeypatch):
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(DataError, match=r"TSD-D14.*begins with 0.5 of species 0"):
        simulate(immigration_death(), torch.tensor([[0.5]]), t)
    with pytest.raises(DataError, match="TSD-D17"):
        simulate(immigration_death(), torch.zeros(1, 1), t.flip(0))
    with pytest.raises(DataError, match=r"TSD-D14.*4 reactants"):
        normal_closure(network([[4]], [[0]], [1.0]), torch.ones(1, 1), t)
    with pytest.raises(DataError, match=r"TSD-D14.*Ask for lower counts"):
        reachable(predator_prey(), torch.tensor([1, 1]), torch.tensor([10_000, 10_000]))
    space = reachable(immigration_death(), torch.tensor([0]), torch.tensor([9]))
    with pytest.raises(DataError, match="TSD-D16"):
        finite_state_projection(immigration_death(1e9), space, certain(10), t)
    monkeypatch.setattr(reactions, "MOST_STEPS", 100)
    growth = network([[2]], [[3]], [1.0])  # runs to infinity in finite time
    for draw in (simulate, leap):
        with pytest.raises(ModelError, match=r"(?i)TSD-M03.*path 0 took 100"):
            draw(growth, torch.full((2, 1), 20), t)
