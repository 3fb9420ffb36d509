"""Oracles: closed forms of small and of birth-death processes, scipy, simulation, detailed balance."""

import math

import pytest
import scipy.linalg
import torch

from tests.maths.jump_processes import (
    birth_death,
    cycle,
    flashing_ratchet,
    random,
    two_states,
)
from tsdyn.errors import DataError
from tsdyn.maths.jump_simulation import gillespie
from tsdyn.maths.rate_matrix import (
    committor,
    currents,
    entropy_production,
    flows,
    from_rates,
    is_reversible,
    kemeny,
    master,
    mean_first_passage,
    mean_first_passage_matrix,
    relaxation,
    require_rate_matrix,
    stationary,
    transition,
    unique_transitions,
)

TWO = two_states()


def close(found, expected, atol=1e-10):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)


def test_two_states():
    t = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    e = torch.exp(-t)
    P = transition(TWO, t)
    close(P[:, 0, 1], 0.3 * (1 - e))
    close(P[:, 1, 0], 0.7 * (1 - e))
    close(stationary(TWO), [0.7, 0.3])
    close(mean_first_passage_matrix(TWO), [[0, 1 / 0.3], [1 / 0.7, 0]])
    close(relaxation(TWO).time, [1.0])
    assert not relaxation(TWO).oscillates.any()
    close(entropy_production(TWO), 0.0)
    close(kemeny(TWO), 1.0)
    close(currents(TWO), torch.zeros(2, 2))
    # away from the stationary law: (J01 - J10) ln(J01 / J10)
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    close(entropy_production(TWO, p), -0.2 * math.log(0.15 / 0.35))


def test_a_driven_cycle():
    Q = cycle(2.0, 1.0)
    close(stationary(Q), [1 / 3] * 3)
    close(entropy_production(Q), torch.tensor(2.0, dtype=torch.float64).log())
    close(currents(Q)[0, 1], 1 / 3)
    slow = relaxation(Q)
    close(slow.time, [1 / 4.5, 1 / 4.5])
    assert slow.oscillates.all()
    assert not is_reversible(Q) and is_reversible(cycle(1.5, 1.5))
    # eigenvalues -4.5 +- i sqrt(3) / 2: their inverses, not their sizes, add up
    close(kemeny(Q), 2 * 4.5 / (4.5**2 + 0.75))


@pytest.mark.parametrize(
    "V, p, times, entropy",
    [
        (0.0, [1 / 6] * 6, [0.5, 0.3333, 0.3333, 0.2, 0.2], 0.0),
        (
            1.0,
            [0.3012, 0.1365, 0.0623, 0.2003, 0.1591, 0.1406],
            [0.5, 0.3496, 0.2806, 0.2050, 0.1589],
            0.179194,
        ),
        (
            2.0,
            [0.3964, 0.0843, 0.0193, 0.2241, 0.1461, 0.1298],
            [0.5, 0.3155, 0.2587, 0.1921, 0.0873],
            0.565647,
        ),
        (
            3.0,
            [0.4474, 0.0463, 0.0062, 0.2369, 0.1366, 0.1266],
            [0.5, 0.2802, 0.2529, 0.1582, 0.0389],
            0.992735,
        ),
    ],
)
def test_the_flashing_ratchet(V, p, times, entropy):
    """Numbers computed with numpy; the slowest mode, on against off, decays at twice the switching."""
    Q = flashing_ratchet(V)
    close(stationary(Q), p, 1e-4)
    close(relaxation(Q).time, times, 1e-4)
    close(relaxation(Q).time[0], 0.5)
    close(entropy_production(Q), entropy, 1e-6)


def test_mean_first_passage_of_the_flashing_ratchet():
    m = mean_first_passage_matrix(flashing_ratchet(1.0))
    close(m[[0, 1, 3, 4, 5], 2], [2.9653, 2.7693, 3.1750, 3.1260, 2.4337], 1e-4)
    close(m[1:, 0], [0.9714, 0.7899, 1.4403, 1.6832, 1.6378], 1e-4)


def test_birth_death():
    up, down = torch.rand(2, 7, dtype=torch.float64) + 0.2
    Q = birth_death(up, down)
    weight = torch.cat([torch.ones(1), (up / down).cumprod(0)])
    p = weight / weight.sum()
    close(stationary(Q), p)
    assert is_reversible(Q)
    close(entropy_production(Q), 0.0)
    assert not relaxation(Q).oscillates.any()
    # from k to k + 1 it takes the mass below over the flow; from 0 to n - 1 the sum of these
    step = p.cumsum(0)[:-1] / (up * p[:-1])
    top = torch.arange(8) == 7
    close(mean_first_passage(Q, top), torch.cat([step.flip(0).cumsum(0).flip(0), torch.zeros(1)]))
    # the committor falls over each edge by its resistance 1 / (p q)
    resistance = torch.cat([torch.zeros(1), (1 / (up * p[:-1])).cumsum(0)])
    close(committor(Q, torch.arange(8) == 0, top), resistance / resistance[-1])


def test_the_stationary_law_is_exact_entry_by_entry():
    """Probabilities down to 1e-70: a linear solve would return the rounding of the largest."""
    up = torch.logspace(-6, 2, 12, dtype=torch.float64)
    down = torch.logspace(4, 7, 12, dtype=torch.float64)
    expected = torch.cat([torch.ones(1), (up / down).cumprod(0)])
    found = stationary(birth_death(up, down))
    assert found.min() < 1e-60
    torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-12, atol=0)


def test_transition_is_that_of_scipy():
    Q = random(3)
    gap = torch.tensor([[0.1, 2.0, 0.1, 0.0], [2.0, 5.0, 0.3, 2.0]], dtype=torch.float64)
    P = transition(Q[:, None, None], gap)
    assert P.shape == (3, 2, 4, 5, 5)
    for m in range(3):
        for i in range(2):
            for j in range(4):
                close(P[m, i, j], scipy.linalg.expm((Q[m] * gap[i, j]).numpy()), 1e-12)
    process = torch.tensor([[0, 1, 0, 2], [0, 0, 2, 2]])
    table, where = unique_transitions(Q, process, gap)
    assert len(table) == 7  # process 0 has the gap 0.1 twice
    close(table[where], P[process, [[0], [1]], [[0, 1, 2, 3]]], 1e-14)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e3, 1e6, 1e12])
def test_transitions_are_stochastic_and_forget(scale):
    Q = random(4, n=6)
    P = transition(scale * Q, torch.tensor(1.0))
    assert (P >= 0).all()
    close(P.sum(-1), torch.ones(4, 6), 1e-12)
    if scale >= 1e3:
        close(P, stationary(Q)[:, None].expand(4, 6, 6), 1e-9)


def test_transitions_compose_and_solve_the_master_equation():
    Q = random(2)
    close(
        transition(Q, torch.tensor(0.3)) @ transition(Q, torch.tensor(0.4)),
        transition(Q, torch.tensor(0.7)),
        1e-7,  # 0.3 + 0.4 in single precision
    )
    p0 = torch.tensor([0.5, 0.2, 0.1, 0.2, 0.0], dtype=torch.float64)
    h = 1e-4
    t = torch.tensor([1 - h, 1.0, 1 + h], dtype=torch.float64)
    p = master(Q[:, None], p0, t)
    assert p.shape == (2, 3, 5)
    close((p[:, 2] - p[:, 0]) / (2 * h), (p[:, 1, None] @ Q)[:, 0], 1e-6)
    close(master(Q, p0, torch.tensor(0.0)), p0.expand(2, 5))
    close(master(Q, stationary(Q), torch.tensor(3.0)), stationary(Q))


def test_stationary_with_states_left_for_good():
    """0 and 3 are transient; 1, 2 and 4 go round."""
    rates = torch.zeros(5, 5, dtype=torch.float64)
    rates[0, 1] = rates[3, 0] = rates[3, 4] = 0.5
    rates[1, 2], rates[2, 4], rates[4, 1] = 1.0, 2.0, 4.0
    Q = from_rates(rates)
    close(stationary(Q), torch.tensor([0.0, 4, 2, 0, 1], dtype=torch.float64) / 7)
    assert entropy_production(Q) == torch.inf
    absorbing = from_rates(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    close(stationary(absorbing), [0.0, 1.0])
    close(stationary(torch.zeros(1, 1)), [1.0])
    # in a batch each process has its own order
    both = torch.stack([Q, random()])
    close(stationary(both), torch.stack([stationary(Q), stationary(both[1])]))


def test_several_stationary_laws_are_refused():
    apart = torch.block_diag(TWO, TWO, torch.zeros(1, 1))
    with pytest.raises(DataError, match=r"TSD-D14.*Matrix 1 .*0, 1.*2, 3") as raised:
        stationary(torch.stack([random(), apart]))
    assert "add the rates" in str(raised.value)


def test_first_passage_and_committor_by_simulation():
    """5 z of the mean of 20,000 walks from state 0 to states 3 and 4."""
    Q = random(n=5)
    target = torch.arange(5) >= 3
    walks = 20_000
    stopped = Q.masked_fill(target[:, None], 0.0)
    start = torch.eye(5, dtype=torch.float64)[0]
    paths = gillespie(stopped, start, walks, 200.0)
    last = paths.jumps[:, None]
    time = paths.t.gather(1, last)[:, 0]
    end = paths.state.gather(1, last)[:, 0]
    assert target[end].all()
    exact = mean_first_passage(Q, target)[0]
    assert (time.mean() - exact).abs() < 5 * time.std() / walks**0.5
    u = committor(Q, torch.arange(5) == 3, torch.arange(5) == 4)[0]
    assert ((end == 4).double().mean() - u).abs() < 5 * (u * (1 - u) / walks).sqrt()


def test_states_that_may_never_come():
    """1 <- 0 -> 2: from 0 either end may be missed, and the committor is the share of the rates."""
    Q = from_rates(torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    at = torch.eye(3, dtype=torch.bool)
    inf = torch.inf
    close(mean_first_passage_matrix(Q), [[0, inf, inf], [inf, 0, inf], [inf, inf, 0]])
    close(mean_first_passage(Q, at[1] | at[2]), [0.25, 0, 0])
    close(committor(Q, at[1], at[2]), [0.75, 0, 1])
    close(committor(Q, at[0], at[2]), [0, 0, 1])  # from 1 neither is reached


def test_kemeny_is_the_mean_passage_to_where_it_is():
    Q = random(4)
    mean = (mean_first_passage_matrix(Q) * stationary(Q)[:, None]).sum(-1)  # (4, n)
    close(mean, kemeny(Q)[:, None].expand(4, 5))
    values = torch.linalg.eigvals(Q)
    values = values.gather(-1, values.real.argsort(-1))[:, :-1]
    close(kemeny(Q), -values.reciprocal().sum(-1).real)


def test_slow_processes_and_fast_ones_are_one():
    """In another unit of time, rates and what is per time scale; laws stay."""
    Q = random(3)
    for c in (1e-8, 1e8):
        torch.testing.assert_close(kemeny(c * Q), kemeny(Q) / c)
        torch.testing.assert_close(relaxation(c * Q).time, relaxation(Q).time / c)
        assert torch.equal(relaxation(c * Q).oscillates, relaxation(Q).oscillates)
        torch.testing.assert_close(stationary(c * Q), stationary(Q))
        torch.testing.assert_close(entropy_production(c * Q), c * entropy_production(Q))


def test_detailed_balance():
    p = torch.rand(3, 6, dtype=torch.float64)
    p = p / p.sum(-1, keepdim=True)
    J = torch.rand(3, 6, 6, dtype=torch.float64)
    Q = from_rates((J + J.mT) / p[..., None])
    close(stationary(Q), p)
    assert is_reversible(Q).all()
    close(entropy_production(Q), torch.zeros(3))
    close(currents(Q), torch.zeros(3, 6, 6))
    Q[1, 0, 1] += 1e-3
    assert is_reversible(from_rates(Q)).tolist() == [True, False, True]


def test_currents_are_conserved_in_the_stationary_law():
    J = currents(random(3))
    close(J.sum(-1), torch.zeros(3, 5))
    close(J, -J.mT)


@pytest.mark.parametrize(
    "f",
    [
        stationary,
        relaxation,
        mean_first_passage_matrix,
        flows,
        currents,
        entropy_production,
        kemeny,
        is_reversible,
        lambda Q: transition(Q, torch.tensor(0.7)),
    ],
)
def test_new_labels_move_the_answer(f):
    Q = random(3)
    new = torch.randperm(5)
    found, before = f(Q[:, new][:, :, new]), f(Q)
    if isinstance(before, tuple):
        for a, b in zip(found, before):
            torch.testing.assert_close(a, b)
        return
    for axis in range(1, before.ndim):
        before = before.index_select(axis, new)
    torch.testing.assert_close(found, before)


@pytest.mark.parametrize(
    "f",
    [
        stationary,
        lambda Q: relaxation(Q).time[..., 0],
        lambda Q: mean_first_passage(Q, torch.arange(4) == 1),
        lambda Q: committor(Q, torch.arange(4) == 1, torch.arange(4) == 2),
        entropy_production,
        currents,
        kemeny,
        lambda Q: transition(Q[:, None], torch.tensor([0.3, 0.9, 0.3])),
    ],
)
def test_gradients(f):
    rates = torch.rand(2, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: f(from_rates(r)), (rates,))


@pytest.mark.parametrize(
    "Q, message",
    [
        (torch.zeros(2, 3), r"shape \(2, 3\)"),
        (torch.tensor([[-1.0, 1.0], [torch.nan, 0.0]]), r"Q\[1, 0\] is nan in matrix 0"),
        (
            torch.stack([TWO, from_rates(torch.tensor([[0, -0.5], [1, 0]]))]),
            r"Q\[0, 1\] is -0.5 in matrix 1",
        ),
        (TWO + 0.01 * torch.eye(2), "Row 0 of matrix 0 sums to 0.01"),
        (TWO.mT, r"Row 0 of matrix 0 sums to 0\.4, column 0 to 0\. .*from state i to state j"),
    ],
)
def test_what_is_no_rate_matrix(Q, message):
    with pytest.raises(DataError, match=f"TSD-D14.*{message}"):
        require_rate_matrix(Q)


def test_rate_matrices_are_accepted():
    for Q in (TWO, TWO.float(), random(2, 3).float() * 1e7, torch.zeros(1, 1), cycle(1.0, 0.0)):
        require_rate_matrix(Q)


def test_sets_that_cannot_be():
    some, none = torch.tensor([True, False]), torch.tensor([False, False])
    with pytest.raises(DataError, match="`target` is empty"):
        mean_first_passage(TWO, none)
    with pytest.raises(DataError, match="`b` is empty"):
        committor(TWO, some, none)
    with pytest.raises(DataError, match="State 0 is both"):
        committor(TWO, some, some)


def test_single_precision_comes_back_in_double(device):
    Q = flashing_ratchet(1.0).float().to(device)
    close(stationary(Q).cpu(), stationary(flashing_ratchet(1.0)), 1e-6)
    assert transition(Q, torch.ones(2, device=device)).dtype == torch.float64
