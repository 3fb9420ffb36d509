"""Oracles: three ways that share nothing but their formula, sums that are known, and paths drawn jump by jump."""

import pytest
import torch

from tests.maths.jump_chains import complete, rate_matrix
from tsdyn.maths.jump_statistics import (
    between,
    by_eigenvectors,
    summed,
    transitions,
    uniformised,
    uniformised_transition,
    van_loan,
)

GAPS = torch.tensor([0.0, 1e-6, 0.03, 0.7, 4.0, 60.0], dtype=torch.float64)


@pytest.mark.parametrize("links", [1.0, 0.3])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_three_ways_to_the_integrals_agree(n, links):
    Q = rate_matrix(n, links)
    W = torch.rand(len(GAPS), n, n, dtype=torch.float64)
    expected = uniformised(Q, GAPS, W)
    for way in (van_loan, by_eigenvectors):
        torch.testing.assert_close(way(Q, GAPS, W), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        uniformised_transition(Q, GAPS),
        torch.linalg.matrix_exp(Q * GAPS[:, None, None]),
        rtol=0,
        atol=1e-12,
    )


def alike() -> torch.Tensor:
    """From every state to every other at rate one: three equal eigenvalues, but all eigenvectors."""
    return torch.ones(4, 4, dtype=torch.float64) - 4 * torch.eye(4)


def rings() -> torch.Tensor:
    """Four states in a ring, of complex eigenvalues."""
    Q = torch.diag(torch.ones(3), 1).double()
    Q[3, 0] = 1
    return Q - torch.eye(4)


def one_way() -> torch.Tensor:
    """0 -> 1 -> 2 -> 3, each at rate one: of four states two eigenvectors."""
    Q = torch.diag(torch.ones(3), 1).double()
    return Q - torch.diag(Q.sum(1))


@pytest.mark.parametrize("gaps", [7, 200])
@pytest.mark.parametrize("chain", [lambda: rate_matrix(4, 0.5), alike, rings, one_way])
def test_sums_over_gaps_are_sums(chain, gaps):
    """Few and many gaps, real and complex eigenvalues, and too few eigenvectors."""
    Q = chain()
    gaps = torch.rand(gaps, dtype=torch.float64) * 3
    W = torch.rand(len(gaps), 4, 4, dtype=torch.float64)
    expected = uniformised(Q, gaps, W).sum(0)
    torch.testing.assert_close(summed(Q, gaps, W), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        transitions(Q, gaps), uniformised_transition(Q, gaps), rtol=0, atol=1e-12
    )


def test_integrals_are_the_gradient_of_transition_probabilities():
    """d/dq_cd Σ W_ab [exp(Q Δ)]_ab = G_cd, each entry of Q for itself."""
    Q = rate_matrix(4).requires_grad_()
    W = torch.rand(4, 4, dtype=torch.float64)
    value = (W * torch.linalg.matrix_exp(1.3 * Q)).sum()
    (expected,) = torch.autograd.grad(value, Q)
    gap = torch.tensor(1.3, dtype=torch.float64)
    torch.testing.assert_close(van_loan(Q.detach(), gap, W), expected)


@pytest.mark.parametrize("integrals", [van_loan, by_eigenvectors, uniformised])
def test_times_sum_to_the_gap(integrals):
    gaps = GAPS[2:]
    time = between(rate_matrix(4), gaps, integrals).time
    expected = gaps[:, None, None].expand(-1, 4, 4)
    torch.testing.assert_close(time.sum(-1), expected, rtol=0, atol=1e-9)


def test_jumps_balance_given_both_ends():
    """As many jumps into c as out of it, but for the ends."""
    jumps = between(rate_matrix(4, 0.4), GAPS[2:]).jumps
    eye = torch.eye(4, dtype=torch.float64)
    expected = eye[:, None] - eye  # a, b, c: one more out of a, one more into b
    net = (jumps.sum(-1) - jumps.sum(-2)).broadcast_to(4, 4, 4, 4)
    torch.testing.assert_close(net, expected.expand_as(net), rtol=0, atol=1e-9)


def test_two_states_in_closed_form():
    """q_01 = q_10 = r, X_0 = X_Δ = 0: the mean time in 0 is Δ / 2 + tanh(r Δ) / 2 r."""
    r, gap = 0.8, 1.7
    Q = torch.tensor([[-r, r], [r, -r]], dtype=torch.float64)
    time = between(Q, torch.tensor(gap, dtype=torch.float64)).time
    z = torch.tensor(r * gap, dtype=torch.float64)
    # ∫ P_00(s) P_00(Δ - s) ds = (Δ (1 + e^{-2 r Δ}) + (1 - e^{-2 r Δ}) / r) / 4
    expected = gap / 2 + z.tanh() / (2 * r)
    torch.testing.assert_close(time[0, 0, 0], expected)
    assert time[0, 1, 0].item() == pytest.approx(gap / 2)


def test_short_gaps_leave_the_shortest_way():
    """From 0 to 2 along 0 -> 1 -> 2 in a moment: each jump once, a third of the time in each state."""
    Q = torch.tensor([[0, 0.4, 0], [0, 0, 0.9], [0.7, 0, 0]], dtype=torch.float64)
    Q = Q - torch.diag(Q.sum(-1))
    expected = between(Q, torch.tensor(1e-7, dtype=torch.float64))
    torch.testing.assert_close(
        expected.time[0, 2] * 1e7, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert expected.jumps[0, 2, 0, 1].item() == pytest.approx(1, abs=1e-6)
    assert expected.jumps[0, 2, 1, 2].item() == pytest.approx(1, abs=1e-6)


def test_ends_that_cannot_be_reached_have_no_expectation():
    found = between(one_way(), torch.tensor([1e-6, 1.0], dtype=torch.float64))
    never = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    torch.testing.assert_close(found.time.isnan().all(-1), never.expand(2, -1, -1))
    assert bool(found.jumps[:, ~never].isfinite().all())


def test_expectations_are_means_of_paths():
    Q, gap, B = rate_matrix(3, 0.5), 1.2, 60_000
    expected = between(Q, torch.tensor(gap, dtype=torch.float64))
    start = torch.arange(B) % 3
    end, N, R = complete(Q, start, gap)
    for a in range(3):
        for b in range(3):
            here = (start == a) & (end == b)
            time, jumps = R[here].mean(0), N[here].mean(0)
            error = (R[here].var(0) / here.sum()).sqrt()
            assert bool(((time - expected.time[a, b]).abs() <= 4.5 * error + 1e-12).all())
            # rare jumps have the variance of their mean, which the sample may not show
            error = (torch.maximum(N[here].var(0), expected.jumps[a, b]) / here.sum()).sqrt()
            assert bool(((jumps - expected.jumps[a, b]).abs() <= 4.5 * error + 1e-12).all())
