"""Oracles: closed forms, the gradient at what is called a summit, data without end, and the truth within
its standard errors."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.maths.jump_chains import complete, rate_matrix
from tests.maths.jump_processes import flashing_ratchet
from tsdyn.errors import DataError, ModelError
from tsdyn.maths.emissions import Categorical, Gaussian, Misread, log_densities
from tsdyn.maths.hidden_jump import clock, log_likelihood as hidden_log_likelihood
from tsdyn.maths.jump_counts import counts, crude_rates
from tsdyn.maths.jump_em import (
    Hidden,
    best,
    em,
    gaussian_start,
    hidden_em,
    misread_start,
    refined,
    started,
)
from tsdyn.maths.jump_likelihood import (
    GammaRates,
    log_likelihood,
    log_prior,
    mode,
    observed_information,
    standard_errors,
)
from tsdyn.maths.jump_simulation import skeleton
from tsdyn.maths.rate_matrix import from_rates, stationary

OFF3 = ~torch.eye(3, dtype=torch.bool)


def times(B: int, T: int, gap: float = 0.3) -> torch.Tensor:
    """Irregular times on a grid, the same number for every path."""
    return gap * torch.randint(1, 4, (B, T)).double().cumsum(1)


def seen(Q: torch.Tensor, B: int, T: int, gap: float = 0.3):
    """Times, states and a mask with holes."""
    t = times(B, T, gap)
    mask = torch.rand(B, T) < 0.8
    mask[:, 0] = True
    return t, skeleton(Q, stationary(Q), t), mask


def misread(state: torch.Tensor, n: int, error: float) -> torch.Tensor:
    """Labels, some of them wrong."""
    wrong = torch.rand(state.shape) < error
    return torch.where(wrong, (state + torch.randint(1, n, state.shape)) % n, state)


def rmse(found: torch.Tensor, Q: torch.Tensor) -> float:
    off = ~torch.eye(len(Q), dtype=torch.bool)
    return float((found - Q)[off].square().mean().sqrt())


def test_two_states_at_one_gap_in_closed_form():
    """q_01 + q_10 = -log(P_00 + P_11 - 1) / Δ, with P the shares that were counted."""
    gap = torch.tensor([0.8], dtype=torch.float64)
    C = torch.tensor([[[60.0, 25.0], [31.0, 44.0]]], dtype=torch.float64)
    P = C[0] / C[0].sum(1, keepdim=True)
    total = -(P[0, 0] + P[1, 1] - 1).log() / gap[0]
    gone = 1 - (P[0, 0] + P[1, 1] - 1)
    rates = torch.stack([P[0, 1], P[1, 0]]) * total / gone
    found = em(gap, C, tolerance=1e-14)
    torch.testing.assert_close(-found.Q.diagonal(), rates, rtol=0, atol=1e-6)
    assert found.converged


@pytest.mark.parametrize("links", [1.0, 0.4])
def test_data_without_end_give_the_truth(links):
    Q = rate_matrix(5, links)
    gaps = torch.tensor([0.2, 0.9], dtype=torch.float64)
    C = 1000 * stationary(Q)[:, None] * torch.linalg.matrix_exp(Q * gaps[:, None, None])
    start = started(gaps, C, Q > 0)
    torch.testing.assert_close(em(gaps, C, start, tolerance=1e-12).Q, Q, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("few", [True, False])
def test_no_step_lowers_the_likelihood(few):
    Q = rate_matrix(4)
    t = times(40, 12) if few else torch.rand(40, 12, dtype=torch.float64).cumsum(1)
    state = skeleton(Q, stationary(Q), t)
    found = em(*counts(t, state, torch.ones_like(state, dtype=torch.bool), 4))
    assert len(found.values) > 10
    assert bool((found.values.diff() > -1e-9 * found.values[0].abs()).all())


def test_the_end_is_the_summit_of_a_search_by_gradient():
    t, state, mask = seen(rate_matrix(4), 60, 15)
    gaps, C = counts(t, state, mask, 4)
    slow = em(gaps, C, tolerance=1e-9)
    quick, value = refined(em(gaps, C, steps=5).Q, lambda Q: log_likelihood(Q, gaps, C))
    assert value == pytest.approx(float(slow.values[-1]), abs=1e-6 * float(C.sum()))
    torch.testing.assert_close(quick, slow.Q, rtol=0, atol=2e-3)


def test_expected_jumps_balance_the_data():
    """At the summit E[N_ij] = q_ij E[R_i], and the times sum to that of the data."""
    t, state, mask = seen(rate_matrix(3), 60, 15)
    gaps, C = counts(t, state, mask, 3)
    found = em(gaps, C, tolerance=1e-11)
    spent = (found.jumps / found.Q)[OFF3].view(3, 2)  # of each state, from both of its rates
    torch.testing.assert_close(spent[:, 0], spent[:, 1], rtol=1e-4, atol=0)
    total = (gaps * C.sum((1, 2))).sum()
    torch.testing.assert_close(spent[:, 0].sum(), total, rtol=1e-4, atol=0)


def test_short_gaps_leave_jumps_over_times():
    Q, T = rate_matrix(3), 5.0
    _, N, R = complete(Q, torch.arange(300) % 3, T)
    N, R = N.sum(0), R.sum(0)
    gap = 1e-6  # a gap with a jump holds one
    C = N + torch.diag(R / gap - N.sum(1))
    found = em(torch.tensor([gap], dtype=torch.float64), C[None], tolerance=1e-9).Q
    torch.testing.assert_close(found[OFF3], (N / R[:, None])[OFF3], rtol=1e-5, atol=0)


def test_links_that_are_left_out_stay_out():
    Q = flashing_ratchet(1.0)
    t, state, mask = seen(Q, 100, 20)
    gaps, C = counts(t, state, mask, 6)
    found = em(gaps, C, started(gaps, C, Q > 0))
    assert not found.Q[(Q == 0)].any()
    prior = GammaRates(torch.full_like(Q, 2.0), torch.ones(6, dtype=torch.float64))
    assert not em(gaps, C, started(gaps, C, Q > 0), prior).Q[(Q == 0)].any()
    assert found.values[-1] <= em(gaps, C).values[-1] + 1e-3  # which has more freedom


def test_with_a_prior_it_climbs_the_posterior():
    t, state, mask = seen(rate_matrix(3), 5, 6)
    gaps, C = counts(t, state, mask, 3)
    prior = GammaRates(torch.full((3, 3), 3.0).double(), torch.full((3,), 4.0).double())
    found = em(gaps, C, prior=prior, tolerance=1e-12)
    assert bool((found.values.diff() > -1e-10 * found.values[0].abs()).all())
    theta = found.Q[OFF3].clone().requires_grad_()
    Q = from_rates(torch.zeros_like(found.Q).masked_scatter(OFF3, theta))
    (slope,) = torch.autograd.grad(log_likelihood(Q, gaps, C) + log_prior(prior, Q), theta)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-4)
    little = em(gaps, 1e-9 * C, prior=prior, tolerance=1e-14).Q
    torch.testing.assert_close(little, mode(prior), rtol=1e-5, atol=1e-5)


def test_a_search_without_data_or_from_the_impossible_says_so():
    gaps = torch.ones(1, dtype=torch.float64)
    with pytest.raises(DataError, match="D10"):
        em(gaps, torch.zeros(1, 2, 2, dtype=torch.float64))
    C = torch.ones(1, 2, 2, dtype=torch.float64)
    one_way = torch.tensor([[-1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(ModelError, match="M02"):
        em(gaps, C, one_way)


def test_a_search_that_was_cut_short_says_so():
    t, state, mask = seen(rate_matrix(4), 40, 12)
    gaps, C = counts(t, state, mask, 4)
    short = em(gaps, C, steps=3)
    assert not short.converged
    torch.testing.assert_close(short.values, em(gaps, C).values[:3])
    assert best([short, em(gaps, C)]).converged


def test_without_noise_hidden_rates_are_those_of_counts():
    t, state, mask = seen(rate_matrix(3), 50, 10)
    gaps, C = counts(t, state, mask, 3)
    sure = Hidden(
        started(gaps, C),
        torch.full((3,), 1 / 3, dtype=torch.float64),
        Categorical(torch.eye(3, dtype=torch.float64)),
    )
    found = hidden_em(sure, t, state, mask, tolerance=1e-9)
    expected = em(gaps, C, tolerance=1e-9)
    torch.testing.assert_close(found.chain.Q, expected.Q, rtol=1e-5, atol=1e-6)
    first = torch.bincount(state[:, 0], minlength=3) / len(t)
    torch.testing.assert_close(found.chain.first, first.double())
    share = float((first.xlogy(first)).sum() * len(t))  # of the first states
    assert float(found.values[-1]) == pytest.approx(float(expected.values[-1]) + share, abs=1e-4)


class Poisson(NamedTuple):
    """An emission of one's own: counts y (B, T)."""

    mean: torch.Tensor

    def log_density(self, y):
        return y[..., None] * self.mean.log() - self.mean - torch.lgamma(y[..., None] + 1)

    def fitted(self, y, weight):
        return Poisson((weight * y[..., None]).sum((0, 1)) / weight.sum((0, 1)))


def observations(kind: str, state: torch.Tensor):
    """What is seen of states 0, 1, 2, and an emission to start from."""
    if kind == "categorical":
        table = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.1, 0.2], [0.0, 0.1, 0.2, 0.7]])
        y = torch.multinomial(table[state].flatten(0, 1), 1).view(state.shape)
        return y, Categorical((table + 0.2).double() / 1.8)
    if kind == "misread":
        return misread(state, 3, 0.15), Misread(torch.tensor(0.05, dtype=torch.float64), 3)
    if kind == "gaussian":
        mean = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        y = mean[state] + 0.6 * torch.randn(*state.shape, 2, dtype=torch.float64)
        return y, Gaussian(mean + 0.3, torch.eye(2).double().expand(3, -1, -1))
    mean = torch.tensor([1.0, 4.0, 12.0], dtype=torch.float64)
    return torch.poisson(mean[state]), Poisson(mean.sqrt() + 1)


@pytest.mark.parametrize("kind", ["categorical", "misread", "gaussian", "poisson"])
def test_hidden_search_climbs_to_a_summit(kind):
    """No step lowers the likelihood, and at the end it has no slope in any parameter."""
    t, state, mask = seen(rate_matrix(3), 60, 15, gap=0.1)
    y, emission = observations(kind, state)
    holes = mask.view(*mask.shape, *(1,) * (y.ndim - 2))
    y = y.where(holes, torch.nan if y.is_floating_point() else -1)
    start = Hidden(rate_matrix(3), torch.full((3,), 1 / 3, dtype=torch.float64), emission)
    found = hidden_em(start, t, y, mask, tolerance=1e-6)
    assert found.converged
    assert bool((found.values.diff() > -1e-8).all())
    chain = found.chain
    Q = chain.Q.clone().requires_grad_()
    # numbers of the emission that are free to move; of the categorical one along the simplex
    moved = [f.clone().requires_grad_() for f in chain.emission if isinstance(f, torch.Tensor)]
    law = type(chain.emission)(*moved, *chain.emission[len(moved) :])
    log_density = log_densities(law, y, mask)
    value = hidden_log_likelihood(Q, chain.first, clock(t), log_density).sum()
    torch.testing.assert_close(value.detach(), found.values[-1])
    slope, *rest = torch.autograd.grad(value, [Q, *moved])
    along = (chain.Q * (slope - slope.diagonal()[:, None]))[OFF3]  # by log rates
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=0.02)
    for p, s in zip(moved, rest):
        flat = p * (s - (p * s).sum(-1, keepdim=True)) if kind == "categorical" else p * s
        flat = flat.where(p > 1e-12, 0.0) if kind == "categorical" else flat
        torch.testing.assert_close(flat, torch.zeros_like(flat), rtol=0, atol=0.02)


def test_misread_states_are_a_trap_for_those_who_count():
    """One reading of ten is wrong: counts give far too many jumps, the hidden chain the truth."""
    Q = rate_matrix(3)
    t, state, mask = seen(Q, 300, 40, gap=0.1)
    y = misread(state, 3, 0.1)
    naive = em(*counts(t, y, mask, 3)).Q
    assert rmse(naive, Q) > 0.5
    found = hidden_em(misread_start(t, y, mask, 3), t, y, mask).chain
    rows, log_density = clock(t), log_densities(found.emission, y, mask)

    def value(Q: torch.Tensor) -> torch.Tensor:
        return hidden_log_likelihood(Q, found.first, rows, log_density).sum()

    errors = standard_errors(found.Q, observed_information(value, found.Q, OFF3))
    assert float(((found.Q - Q) / errors)[OFF3].abs().max()) < 4
    assert rmse(found.Q, Q) < 0.15
    readings = int(mask.sum())
    # a reading whose neighbours agree tells almost surely whether it is wrong
    assert float(found.emission.error) == pytest.approx(0.1, abs=8 * (0.09 / readings) ** 0.5)


def test_gaps_that_are_nearly_alike_may_count_as_one():
    Q = rate_matrix(3)
    t = 0.2 * (0.2 + torch.rand(60, 15, dtype=torch.float64)).cumsum(1)
    y = misread(skeleton(Q, stationary(Q), t), 3, 0.1)
    mask = torch.ones_like(y, dtype=torch.bool)
    start = misread_start(t, y, mask, 3)
    exact, merged = (
        hidden_em(start, t, y, mask, steps=30, gap_tolerance=g).chain.Q for g in (1e-6, 1e-3)
    )
    torch.testing.assert_close(merged, exact, rtol=1e-3, atol=1e-3)
    assert not torch.equal(merged, exact)


def test_clusters_start_a_gaussian_search():
    Q = 0.5 * rate_matrix(3)
    t, state, mask = seen(Q, 100, 30)
    mean = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    y = mean[state] + 0.5 * torch.randn(*state.shape, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    starts = [gaussian_start(t, y, mask, 3, generator) for _ in range(3)]
    found = best(hidden_em(s, t, y, mask) for s in starts).chain
    order = torch.cdist(mean, found.emission.mean).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    visits = stationary(Q) * float(mask.sum())
    near = (found.emission.mean[order] - mean).abs()
    # twice the error that known states would leave
    assert bool((near < 4 * 2 * 0.5 / visits[:, None].sqrt()).all())
    expected = 0.25 * torch.eye(2, dtype=torch.float64).expand(3, -1, -1)
    torch.testing.assert_close(found.emission.covariance[order], expected, rtol=0, atol=0.06)
    assert rmse(found.Q[order][:, order], Q) < 0.15


def test_nothing_observed_is_named():
    start = Hidden(rate_matrix(2), torch.ones(2).double() / 2, Misread(torch.tensor(0.1), 2))
    with pytest.raises(DataError, match="D11"):
        hidden_em(start, times(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))


@pytest.fixture
def flashing(real_data):
    """The flashing ratchet of V = r = b = 1 as it was published: times, states and rates."""
    data = np.load(real_data / "jump" / "dfr_V1.npz")
    return [torch.tensor(data[k]) for k in ("times", "states", "rate_matrix")]


def test_the_published_ratchet(flashing):
    t, state, Q = flashing
    torch.testing.assert_close(flashing_ratchet(1.0), Q)
    everything = torch.ones_like(state, dtype=torch.bool)
    gaps, C = counts(t.expand(len(state), -1), state.long(), everything, 6)
    found = em(gaps, C).Q
    assert rmse(found, Q) < 0.015
    assert rmse(found, Q) < rmse(crude_rates(gaps, C), Q) / 4
    links = [(i, j) for i in range(3) for j in range(3) if i != j]
    V = sum(-2 * found[i, j].log() / (j - i) for i, j in links) / 6
    r = sum(found[i, (i + 3) % 6] for i in range(6)) / 6
    b = sum(found[i + 3, j + 3] for i, j in links) / 6
    for value in (V, r, b):
        assert float(value) == pytest.approx(1, abs=0.015)


def test_the_published_ratchet_misread(flashing):
    """Readings replaced at random, one of ten, among them one of six by itself."""
    t, state, Q = flashing
    generator = torch.Generator().manual_seed(1)
    k = torch.rand(1500, 100, generator=generator).argsort(1)[:, :50].sort(1).values
    y = state[:1500].long().gather(1, k)
    any_state = torch.randint(0, 6, y.shape, generator=generator)
    y = torch.where(torch.rand(y.shape, generator=generator) < 0.1, any_state, y)
    mask = torch.ones_like(y, dtype=torch.bool)
    assert rmse(em(*counts(t[k], y, mask, 6)).Q, Q) > 0.5
    found = hidden_em(misread_start(t[k], y, mask, 6), t[k], y, mask, tolerance=1e-2).chain
    assert rmse(found.Q, Q) < 0.06
    assert float(found.emission.error) == pytest.approx(0.1 * 5 / 6, abs=0.005)
