"""Oracle: all sequences of states, one by one."""

import itertools

import pytest
import torch

from tests.maths.jump_chains import rate_matrix
from tsdyn.errors import DataError
from tsdyn.maths.hidden_jump import clock, filtered, log_likelihood, smoothed, viterbi
from tsdyn.maths.jump_statistics import van_loan


def problem(n: int = 3, B: int = 4, T: int = 5):
    """Irregular times with a repeated gap, a gap of zero, and rows without observation."""
    Q = rate_matrix(n, 0.6)
    first = torch.rand(n, dtype=torch.float64)
    gap = torch.rand(B, T - 1, dtype=torch.float64)
    gap[:, 1] = 0.4
    gap[0, -1] = 0.0
    t = torch.cat([torch.zeros(B, 1, dtype=torch.float64), gap.cumsum(1)], 1)
    log_density = 3 * torch.randn(B, T, n, dtype=torch.float64) - 4
    log_density[1, 2] = log_density[3, 0] = log_density[0, -1] = 0.0
    return Q, first / first.sum(), t, log_density


def by_hand(Q, first, t, log_density):
    """Log density of every sequence and all that is seen: sequences (S, T) and (B, S)."""
    n, T = len(Q), t.shape[1]
    sequences = torch.tensor(list(itertools.product(range(n), repeat=T)))
    P = torch.linalg.matrix_exp(Q * t.diff()[..., None, None])  # (B, T - 1, n, n)
    value = first.log()[sequences[:, 0]].expand(len(t), -1).clone()
    for k in range(T):
        value += log_density[:, k, sequences[:, k]]
        if k:
            value += P[:, k - 1, sequences[:, k - 1], sequences[:, k]].clamp(min=0).log()
    return sequences, value


def test_likelihood_and_laws_are_sums_over_all_sequences():
    Q, first, t, log_density = problem()
    sequences, value = by_hand(Q, first, t, log_density)
    found = smoothed(Q, first, clock(t), log_density)
    torch.testing.assert_close(found.log_likelihood, value.logsumexp(1))
    weight = value.softmax(1)
    for k in range(t.shape[1]):
        for i in range(3):
            torch.testing.assert_close(found.law[:, k, i], weight[:, sequences[:, k] == i].sum(1))
    torch.testing.assert_close(
        log_likelihood(Q, first, clock(t), log_density), found.log_likelihood
    )


def test_filtered_laws_know_nothing_of_later_rows():
    Q, first, t, log_density = problem()
    found = filtered(Q, first, clock(t), log_density)
    for k in range(1, t.shape[1] + 1):
        part = smoothed(Q, first, clock(t[:, :k]), log_density[:, :k])
        torch.testing.assert_close(found.law[:, k - 1], part.law[:, -1])
        torch.testing.assert_close(found.log_scale[:, :k].sum(1), part.log_likelihood)


def test_expected_transitions_are_sums_over_all_sequences():
    Q, first, t, log_density = problem()
    rows = clock(t)
    sequences, value = by_hand(Q, first, t, log_density)
    weight = value.softmax(1)
    expected = torch.zeros(len(rows.gaps), 3, 3, dtype=torch.float64)
    for b, k, s in itertools.product(range(len(t)), range(t.shape[1] - 1), range(len(sequences))):
        i, j = sequences[s, k], sequences[s, k + 1]
        expected[rows.group[b, k], i, j] += weight[b, s]
    P = torch.linalg.matrix_exp(Q * rows.gaps[:, None, None])
    found = smoothed(Q, first, rows, log_density).transitions(P)
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_that_of_expected_jumps():
    """Fisher's identity: dℓ / dQ is the gradient of transitions that are held at their expectation."""
    Q, first, t, log_density = problem()
    rows = clock(t)
    moved = Q.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_likelihood(moved, first, rows, log_density).sum(), moved)
    G = van_loan(Q, rows.gaps, smoothed(Q, first, rows, log_density).W).sum(0)
    # along changes that keep rows of zero sum
    torch.testing.assert_close(slope - slope.diagonal()[:, None], G - G.diagonal()[:, None])


def test_gradients_are_derivatives():
    Q, first, t, log_density = (f[:2] if f.ndim == 3 else f for f in problem())
    t = t[:2]
    rows = clock(t)
    free = Q > 0

    def value(theta, first, log_density):
        rates = torch.zeros_like(Q).masked_scatter(free, theta.exp())
        moved = rates - torch.diag(rates.sum(1))
        return log_likelihood(moved, first.softmax(0), rows, log_density)

    inputs = [f.clone().requires_grad_() for f in (Q[free].log(), first.log(), log_density)]
    assert torch.autograd.gradcheck(value, inputs)


def test_viterbi_finds_the_best_sequence():
    Q, first, t, log_density = problem(B=6)
    sequences, value = by_hand(Q, first, t, log_density)
    found = viterbi(Q, first, clock(t), log_density)
    best = value.max(1)
    torch.testing.assert_close(found.log_density, best.values)
    torch.testing.assert_close(found.states, sequences[best.indices])


@pytest.mark.parametrize("T", [1, 2])
def test_short_paths(T):
    Q, first, t, log_density = problem(T=5)
    t, log_density = t[:, :T], log_density[:, :T]
    sequences, value = by_hand(Q, first, t, log_density)
    found = smoothed(Q, first, clock(t), log_density)
    torch.testing.assert_close(found.log_likelihood, value.logsumexp(1))
    states = viterbi(Q, first, clock(t), log_density).states
    torch.testing.assert_close(states, sequences[value.argmax(1)])


def test_rows_without_observation_change_nothing():
    """Rows in between, and padding behind that repeats the last time."""
    Q, first, t, log_density = problem()
    expected = smoothed(Q, first, clock(t), log_density)
    middle = (t[:, 2:3] + t[:, 3:4]) / 2
    longer = torch.cat([t[:, :3], middle, t[:, 3:], t[:, -1:], t[:, -1:]], 1)
    blank = torch.zeros_like(log_density[:, :1])
    rows = torch.cat([log_density[:, :3], blank, log_density[:, 3:], blank, blank], 1)
    found = smoothed(Q, first, clock(longer), rows)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood)
    kept = torch.tensor([0, 1, 2, 4, 5])
    torch.testing.assert_close(found.law[:, kept], expected.law)
    torch.testing.assert_close(found.law[:, 6], expected.law[:, -1])


def test_extreme_densities_are_scaled():
    Q, first, t, log_density = problem()
    shift = 2000 * torch.randn(4, 5, 1, dtype=torch.float64)
    expected = smoothed(Q, first, clock(t), log_density)
    found = smoothed(Q, first, clock(t), log_density + shift)
    torch.testing.assert_close(found.law, expected.law)
    torch.testing.assert_close(
        found.log_likelihood, expected.log_likelihood + shift.sum((1, 2)), rtol=1e-12, atol=0
    )


def test_a_state_that_cannot_be_does_not_drown_the_others():
    """0 and 1 never meet; what is seen looks like 1 by a factor e^3000, but the path began in 0."""
    Q = torch.zeros(2, 2, dtype=torch.float64)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    t = torch.arange(3, dtype=torch.float64)[None]
    log_density = torch.tensor([[[-1.0, 3.0], [-3000.0, 0.0], [-2.0, 5.0]]], dtype=torch.float64)
    found = smoothed(Q, first, clock(t), log_density)
    assert found.log_likelihood.item() == -3003.0
    torch.testing.assert_close(found.law[0], first.expand(3, -1))
    expected = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    P = torch.eye(2, dtype=torch.float64)[None]
    torch.testing.assert_close(found.transitions(P), expected)


def test_what_no_sequence_explains_has_likelihood_zero():
    Q, first, t, log_density = problem()
    log_density[2, 3] = -torch.inf
    found = log_likelihood(Q, first, clock(t), log_density)
    torch.testing.assert_close(found.isfinite(), torch.arange(4) != 2)
    assert found[2] == -torch.inf


def test_times_that_decrease_are_named():
    with pytest.raises(DataError, match="D07"):
        clock(torch.tensor([[0.0, 1.0, 0.5]]))
