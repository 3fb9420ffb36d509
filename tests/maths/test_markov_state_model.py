"""Oracles: deeptime, definitions pair by pair, and chains whose law is known."""

import itertools

import numpy as np
import pytest
import torch

from tests.maths.jump_processes import flashing_ratchet
from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.maths.jump_simulation import skeleton
from tsdyn.maths.markov_state_model import (
    chapman_kolmogorov,
    effective,
    implied_time_scales,
    largest_class,
    metastable,
    reversible_transition_matrix,
    sliding,
    time_scales,
    transition_matrix,
)
from tsdyn.maths.rate_matrix import stationary


def counted(n: int = 5) -> torch.Tensor:
    return torch.randint(0, 40, (n, n)).double() + torch.eye(n) * 50


def trajectories(Q: torch.Tensor, B: int = 200, T: int = 100, gap: float = 0.1) -> torch.Tensor:
    t = gap * torch.arange(T, dtype=torch.float64).expand(B, -1)
    return skeleton(Q, stationary(Q), t)


def wells(m: int, size: int, leak: float) -> torch.Tensor:
    """Sets of `size` states that mix at once, and exchange by a symmetric chance: reversible, (n, n)"""
    n = m * size
    T = torch.rand(n, n, dtype=torch.float64) * leak / n
    block = torch.arange(n) // size
    T = T + 0.5 * torch.rand(n, n, dtype=torch.float64) * (block[:, None] == block) / size
    T = (T + T.mT) / 2
    return T + torch.diag(1 - T.sum(1))


@pytest.mark.parametrize("lag", [1, 3])
def test_sliding_counts_pairs_of_rows_that_were_seen(lag):
    state, mask = torch.randint(0, 3, (4, 9)), torch.rand(4, 9) < 0.7
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for b, k in itertools.product(range(4), range(9 - lag)):
        if mask[b, k] and mask[b, k + lag]:
            expected[state[b, k], state[b, k + lag]] += 1
    found = sliding(state.where(mask, -1), mask, 3, lag)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(effective(state, mask, 3, lag) * lag, expected)


@pytest.mark.parametrize("lag", [1, 5])
def test_counts_and_estimates_are_those_of_deeptime(lag):
    from deeptime import markov
    from deeptime.markov import msm

    state = trajectories(flashing_ratchet(1.0))
    C = sliding(state, torch.ones_like(state, dtype=torch.bool), 6, lag)
    theirs = markov.TransitionCountEstimator(lag, "sliding").fit_fetch([s.numpy() for s in state])
    torch.testing.assert_close(C, torch.as_tensor(theirs.count_matrix, dtype=torch.float64))
    estimators = {True: reversible_transition_matrix, False: transition_matrix}
    for reversible, ours in estimators.items():
        model = msm.MaximumLikelihoodMSM(reversible=reversible, maxerr=1e-13).fit_fetch(theirs)
        T = ours(C)
        expected = torch.as_tensor(model.transition_matrix)
        torch.testing.assert_close(T, expected, rtol=0, atol=1e-8)
        if reversible:
            found = time_scales(T, lag)
            torch.testing.assert_close(
                found, torch.as_tensor(model.timescales()), rtol=1e-6, atol=0
            )


def test_reversible_flows_balance_and_no_reversible_matrix_is_more_likely():
    C = counted()
    T = reversible_transition_matrix(C)
    p = stationary(T - torch.eye(5))
    flow = p[:, None] * T
    torch.testing.assert_close(flow, flow.mT, rtol=0, atol=1e-10)
    torch.testing.assert_close(T.sum(1), torch.ones(5, dtype=torch.float64))
    best = (C * T.log()).sum()
    for _ in range(50):
        shaken = flow * (1 + 0.01 * torch.randn(5, 5, dtype=torch.float64))
        shaken = shaken + shaken.mT
        assert (C * (shaken / shaken.sum(1, keepdim=True)).log()).sum() < best


def test_symmetric_counts_need_no_steps():
    C = counted() + counted().mT
    C = C + C.mT
    torch.testing.assert_close(reversible_transition_matrix(C), transition_matrix(C))


def test_time_scales_of_expected_counts_are_those_of_the_rates():
    Q = flashing_ratchet(1.0)
    values = torch.linalg.eigvals(Q).real.sort(descending=True).values
    T = torch.linalg.matrix_exp(0.3 * Q)
    torch.testing.assert_close(time_scales(T, 0.3), -1 / values[1:])


def misread(state: torch.Tensor, n: int) -> torch.Tensor:
    """One label of ten replaced at random."""
    return torch.where(torch.rand(state.shape) < 0.1, torch.randint(0, n, state.shape), state)


def test_time_scales_level_off_for_a_chain_and_grow_with_the_lag_for_misread_states():
    state = trajectories(flashing_ratchet(1.0), B=1000)
    mask = torch.ones_like(state, dtype=torch.bool)
    slowest = 0.1 * implied_time_scales(state, mask, 6, [1, 2, 4])[:, 0]
    # e^{-2 lag} from pairs of rows, of which those of one lag apart are independent
    error = 0.5**2 / 0.1 * (1 / mask.sum()) ** 0.5 * torch.tensor([1.0, 2.0, 4.0]).sqrt()
    torch.testing.assert_close(
        slowest, torch.full((3,), 0.5, dtype=torch.float64), rtol=0, atol=4 * float(error.max())
    )
    wrong = 0.1 * implied_time_scales(misread(state, 6), mask, 6, [1, 2, 4])[:, 0]
    assert bool((wrong.diff() > 0.02).all())
    assert wrong[-1] < 0.5


def test_chapman_and_kolmogorov_hold_for_a_chain_and_fail_for_misread_states():
    state = trajectories(flashing_ratchet(2.0), B=2000)
    mask = torch.ones_like(state, dtype=torch.bool)
    right = chapman_kolmogorov(state, mask, 6, 2, [1, 3, 6])
    assert right.lags.tolist() == [2, 6, 12]
    torch.testing.assert_close(right.foretold[0], right.found[0])
    assert float(((right.foretold - right.found) / right.error).abs().max()) < 4
    wrong = chapman_kolmogorov(misread(state, 6), mask, 6, 2, [3])
    assert float(((wrong.foretold - wrong.found) / wrong.error).abs().max()) > 8


def test_the_largest_class_is_connected_both_ways():
    C = torch.zeros(6, 6, dtype=torch.float64)
    for i, j in [(0, 2), (2, 4), (4, 0), (1, 3), (3, 1), (5, 0)]:
        C[i, j] = 3
    assert largest_class(C).tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="D10"):
        reversible_transition_matrix(C)
    kept = largest_class(C)
    torch.testing.assert_close(
        reversible_transition_matrix(C[kept][:, kept] + C[kept][:, kept].mT).sum(1),
        torch.ones(3, dtype=torch.float64),
    )


def test_uncoupled_sets_are_found_exactly():
    T = torch.linalg.matrix_power(wells(3, 4, leak=1e-9), 50)
    found = metastable(T, 3)
    block = torch.arange(12) // 4
    order = found.membership[[0, 4, 8]].argmax(1)
    expected = torch.nn.functional.one_hot(block, 3).double()
    torch.testing.assert_close(found.membership[:, order], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.stationary, torch.full((3,), 1 / 3, dtype=torch.float64))


def crispness(membership: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Σ_j <χ_j, χ_j> / <χ_j, 1>, weighted by p: m for sets without overlap."""
    return ((p @ membership.square()) / (p @ membership)).sum()


@pytest.mark.parametrize("m", [2, 3, 4])
def test_sets_are_those_of_deeptime_or_crisper(m):
    from deeptime import markov

    T = wells(m, 5, leak=0.05)
    found = metastable(T, m)
    theirs = torch.as_tensor(markov.pcca(T.numpy(), m).memberships)
    order = (found.membership.mT @ theirs).argmax(0)
    assert sorted(order.tolist()) == list(range(m))
    # their search ends a little earlier
    torch.testing.assert_close(found.membership[:, order], theirs, rtol=0, atol=0.02)
    p = stationary(T - torch.eye(len(T)))
    assert crispness(found.membership, p) > crispness(theirs, p) - 1e-7


def test_the_chain_between_sets_keeps_the_slow_time_scales():
    T = wells(3, 5, leak=0.05)
    found = metastable(T, 3)
    torch.testing.assert_close(time_scales(found.T), time_scales(T)[:2])
    torch.testing.assert_close(found.T.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found.stationary @ found.T, found.stationary)
    assert bool((found.membership >= 0).all())
    torch.testing.assert_close(found.membership.sum(1), torch.ones(15, dtype=torch.float64))


def test_what_cannot_be_done_is_named():
    state, mask = torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ConfigError, match="X01"):
        sliding(state, mask, 2, 0)
    with pytest.raises(DataError, match="D10"):
        sliding(state, mask, 2, 4)
    with pytest.raises(DataError, match="D14"):
        sliding(state + 2, mask, 2, 1)
    with pytest.raises(DataError, match=r"D10.*state 1"):
        transition_matrix(sliding(state, mask, 2, 1))
    with pytest.raises(ConfigError, match="X01"):
        metastable(wells(2, 2, 0.1), 5)
    with pytest.raises(DataError, match="D14"):
        metastable(torch.linalg.matrix_exp(flashing_ratchet(1.0)), 2)
    with pytest.raises(ModelError, match="M06"):
        reversible_transition_matrix(counted(), steps=2)


def test_the_published_ratchet_shows_the_price_of_reversibility(real_data):
    """Its slowest time is 0.5; an estimate in detailed balance, which it breaks, is about a twelfth too slow."""
    state = torch.tensor(np.load(real_data / "jump" / "dfr_V1.npz")["states"])
    mask, gap = torch.ones_like(state, dtype=torch.bool), 2.5 / 99
    free, reversible = (
        float(gap * implied_time_scales(state, mask, 6, [1], estimator)[0, 0])
        for estimator in (transition_matrix, reversible_transition_matrix)
    )
    assert free == pytest.approx(0.5, abs=0.01)
    assert reversible == pytest.approx(0.541, abs=0.001)


def test_the_published_folding_has_one_slow_time(real_data):
    """Two wells in the radius: the time at short lags is far too short, since one number is not a state."""
    data = np.load(real_data / "jump" / "pfold_euler.npz")
    state = torch.tensor(data["radius"] > 2.5).long()
    mask = torch.ones_like(state, dtype=torch.bool)
    lags = [1, 20, 40]
    found = float(data["dt"]) * implied_time_scales(state, mask, 2, lags)[:, 0]
    assert float(found[0]) < 7
    assert bool(((found[1:] - 13.7).abs() < 1.5).all())
