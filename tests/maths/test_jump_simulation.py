"""Oracles: the master equation, exponential holding times, and integrals over exact transitions.

Tolerances are standard errors: 5 of them for one number, where a run of the whole file draws hundreds.
"""

import pytest
import scipy.integrate
import scipy.stats
import torch

from tests.maths.jump_processes import birth_death, cycle, flashing_ratchet, random, two_states
from tsdyn.errors import DataError
from tsdyn.maths import jump_simulation
from tsdyn.maths.jump_simulation import (
    JumpPaths,
    bridge,
    gillespie,
    gillespie_grid,
    skeleton,
    states_at,
)
from tsdyn.maths.rate_matrix import from_rates, master, stationary, transition


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def require_shares(found: torch.Tensor, p: torch.Tensor, draws: torch.Tensor | int):
    """Shares of draws are within 5 standard errors of p."""
    error = (p * (1 - p) / draws).sqrt()
    assert ((found - p).abs() <= 5 * error + 1e-12).all(), ((found - p) / error).abs().max()


def shares(states: torch.Tensor, n: int) -> torch.Tensor:
    """(..., K, T) -> (..., T, n), the share of the K paths in each state."""
    return torch.nn.functional.one_hot(states.long(), n).double().mean(-3)


def law(*shape: int, n: int = 5) -> torch.Tensor:
    p = torch.rand(*shape, n, dtype=torch.float64)
    return p / p.sum(-1, keepdim=True)


def test_occupation_is_that_of_the_master_equation():
    Q, p0 = random(3), law(3)
    t = torch.tensor([0.0, 0.1, 0.1, 0.7, 2.0, 5.0], dtype=torch.float64)
    states = gillespie_grid(Q, p0, 20_000, t + 3.0)  # paths begin at the first time
    assert states.shape == (3, 20_000, 6) and states.dtype == torch.int8
    require_shares(shares(states, 5), master(Q[:, None], p0[:, None], t), 20_000)
    assert torch.equal(states[..., 1], states[..., 2])


def test_pairs_of_times_are_those_of_the_transitions():
    Q = flashing_ratchet(1.0)
    states = gillespie_grid(Q, stationary(Q), 200_000, torch.tensor([0.0, 2.0, 2.5])).long()
    counts = torch.zeros(6, 6).index_put_(
        (states[:, 1], states[:, 2]), torch.ones(1), accumulate=True
    )
    times = counts.sum(-1, keepdim=True).double()
    P = transition(Q, torch.tensor(0.5))
    require_shares(counts / times, P, times)
    row = torch.tensor([0.5037, 0.1239, 0.0563, 0.1843, 0.0715, 0.0602], dtype=torch.float64)
    torch.testing.assert_close(P[0], row, rtol=0, atol=1e-4)


def test_the_number_of_jumps():
    """In the stationary law: sum_i p_i |Q_ii| per unit of time."""
    Q = flashing_ratchet(1.0)
    p = stationary(Q)
    jumps = gillespie(Q, p, 100_000, 2.5).jumps.double()
    expected = -2.5 * (p * Q.diagonal()).sum()
    assert abs(float(expected) - 7.1833) < 1e-4
    assert (jumps.mean() - expected).abs() < 5 * jumps.std() / 100_000**0.5


def test_holding_times_are_exponential_and_targets_drawn_by_their_rates():
    Q = random(n=4)
    start = torch.tensor([0.0, 0.0, 1.0, 0.0])
    paths = gillespie(Q, start, 20_000, 100.0)
    assert (paths.jumps >= 2).all()
    first, second = paths.t[:, 1], paths.t[:, 2] - paths.t[:, 1]
    assert scipy.stats.kstest(first * -Q[2, 2], "expon").pvalue > 1e-4
    after = paths.state[:, 1]
    assert scipy.stats.kstest(second * -Q[after, after], "expon").pvalue > 1e-4
    found = torch.bincount(after, minlength=4) / 20_000
    require_shares(found, Q[2].clamp(min=0) / -Q[2, 2], 20_000)
    # the time held says nothing about where the path goes
    early = torch.bincount(after[first < first.median()], minlength=4) / 10_000
    require_shares(early, Q[2].clamp(min=0) / -Q[2, 2], 10_000)


def test_paths_on_a_grid_are_the_paths_read_there():
    """The same chance gives the same paths, whichever way they are kept."""
    Q, p0 = random(2, 3), law(2, 3)
    t = torch.tensor([0.0, 0.3, 0.5, 2.0, 7.0], dtype=torch.float64)
    grid = gillespie_grid(Q, p0, 40, t, seeded())
    paths = gillespie(Q, p0, 40, 7.0, seeded())
    assert torch.equal(states_at(paths, t.expand(2, 3, 40, 5)), grid.long())
    again = gillespie(Q, p0, 40, 7.0, seeded())
    assert all(torch.equal(a, b) for a, b in zip(paths, again))
    other = gillespie_grid(Q, p0, 40, t, seeded(1))
    assert not torch.equal(other, grid)


def require_paths(paths: JumpPaths, Q: torch.Tensor):
    """Times in order, jumps along positive rates only, and padding as it should be."""
    place = torch.arange(paths.t.shape[-1])
    real = (place <= paths.jumps[..., None])[..., 1:]
    assert (paths.t.diff() >= 0).all() and (paths.t[..., 0] == 0).all()
    assert (paths.t[..., 1:][real] < paths.end[..., None].expand_as(real)[real]).all()
    assert (paths.t[..., 1:][~real] == paths.end[..., None].expand_as(real)[~real]).all()
    before, after = paths.state[..., :-1], paths.state[..., 1:]
    assert (Q[before[real], after[real]] > 0).all()
    assert torch.equal(before[~real], after[~real])
    assert int(paths.jumps.amax()) + 1 == paths.t.shape[-1]


def test_only_positive_rates_are_followed_and_absorbing_states_kept():
    """0 -> 1 -> 2, and 3 on its own; the time of two steps has the law of a sum."""
    rates = torch.zeros(4, 4, dtype=torch.float64)
    rates[0, 1], rates[1, 2] = 0.8, 1.7
    Q = from_rates(rates)
    paths = gillespie(Q, torch.tensor([0.5, 0.0, 0.0, 0.5]), 10_000, 50.0)
    require_paths(paths, Q)
    on_its_own = paths.state[:, 0] == 3
    assert torch.equal(paths.jumps, torch.where(on_its_own, 0, 2))
    both = paths.t[~on_its_own, 2]
    sum_of_two = lambda t: 1 - (1.7 * torch.exp(-0.8 * t) - 0.8 * torch.exp(-1.7 * t)) / 0.9
    assert scipy.stats.kstest(both, lambda t: sum_of_two(torch.as_tensor(t)).numpy()).pvalue > 1e-4
    resting = gillespie(torch.zeros(2, 2), torch.tensor([0.0, 1.0]), 3, 5.0)
    assert resting.state.tolist() == [[1], [1], [1]] and resting.jumps.tolist() == [0, 0, 0]
    require_paths(gillespie(cycle(1.0, 0.0, 5), torch.ones(5) / 5, 500, 20.0), cycle(1.0, 0.0, 5))


def test_many_states_need_more_than_eight_bits():
    n = 300
    Q = birth_death(torch.full((n - 1,), 5.0), torch.full((n - 1,), 0.1))
    states = gillespie_grid(Q, torch.eye(n)[0], 50, torch.tensor([0.0, 200.0]))
    assert states.dtype == torch.int64
    assert (states[:, 1] > 250).all()


@pytest.mark.parametrize("gaps_at_once", [2**18, 50])
def test_skeletons_at_irregular_times(gaps_at_once, monkeypatch):
    """One clock for every path of a process, so that shares can be taken; parts do not change the law."""
    monkeypatch.setattr(jump_simulation, "MOST_GAPS", gaps_at_once)
    Q, p0 = random(2, n=3), law(2, n=3)
    t = torch.rand(2, 1, 4, dtype=torch.float64).cumsum(-1)
    t[1, :, 2:] = t[1, :, 1:2]  # padding
    K = 4000
    states = skeleton(Q, p0, t.expand(2, K, 4))
    require_shares(shares(states, 3), master(Q[:, None], p0[:, None], t[:, 0] - t[:, :1, 0]), K)
    assert (states[1, :, 2:] == states[1, :, 1:2]).all()
    pairs = shares(3 * states[..., 1:2] + states[..., 2:3], 9)[:, 0].reshape(2, 3, 3)
    joint = shares(states, 3)[:, 1, :, None] * transition(Q, (t[:, 0, 2] - t[:, 0, 1]))
    require_shares(pairs, joint, K)


def test_skeletons_with_a_clock_per_path():
    """Two states: the correlation over a gap is exp(-gap), whatever the gap of the path."""
    Q = two_states(0.5, 0.5)
    K = 50_000
    gap = torch.rand(K, dtype=torch.float64) * 3
    states = skeleton(Q, torch.tensor([0.5, 0.5]), torch.stack([torch.zeros(K), gap], -1))
    same = (states[:, 0] == states[:, 1]).double()
    expected = (1 + torch.exp(-gap)) / 2
    error = (expected * (1 - expected)).sum().sqrt() / K
    assert (same.mean() - expected.mean()).abs() < 5 * error
    weighed = ((same - expected) * gap).mean()
    assert weighed.abs() < 5 * (expected * (1 - expected) * gap**2).sum().sqrt() / K


def test_a_skeleton_has_the_law_of_the_events():
    Q, p0 = random(n=3), law(n=3)
    t = torch.linspace(0, 4, 5)
    K = 20_000
    code = 3 ** torch.arange(5)
    grid = torch.bincount((gillespie_grid(Q, p0, K, t).long() * code).sum(-1), minlength=3**5)
    jumps = torch.bincount((skeleton(Q, p0, t.expand(K, 5)) * code).sum(-1), minlength=3**5)
    table = torch.stack([grid, jumps])
    assert scipy.stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 1e-4


def integral(Q, gap, a, b, c, d):
    """∫ P_ac(s) P_db(gap - s) ds / P_ab(gap): time in c where c = d, jumps from c to d per rate."""

    def f(s):
        s = torch.tensor(s, dtype=torch.float64)
        return float(transition(Q, s)[a, c] * transition(Q, gap - s)[d, b])

    return scipy.integrate.quad(f, 0, gap)[0] / float(
        transition(Q, torch.tensor(gap).double())[a, b]
    )


@pytest.mark.parametrize("a, b, gap", [(0, 2, 1.5), (1, 1, 1.5), (2, 0, 0.05), (0, 1, 20.0)])
def test_bridges(a, b, gap):
    Q = random(n=3)
    K = 20_000
    full = lambda n: torch.full((K,), n)
    paths = bridge(Q, full(a), full(b), torch.full((K,), gap, dtype=torch.float64))
    require_paths(paths, Q)
    assert (paths.state[:, 0] == a).all() and (paths.state[:, -1] == b).all()
    # the state at a third of the way
    third = torch.tensor([gap / 3, 2 * gap / 3, gap], dtype=torch.float64)
    P = transition(Q, third)
    middle = states_at(paths, third[:1].expand(K, 1))
    require_shares(shares(middle, 3)[0], P[0, a] * P[1, :, b] / P[2, a, b], K)
    # time spent in each state, and jumps from 0 to 2
    length = torch.cat([paths.t, paths.end[:, None]], 1).diff()
    for c in range(3):
        held = (length * (paths.state == c)).sum(1)
        error = held.std() / K**0.5
        assert (held.mean() - integral(Q, gap, a, b, c, c)).abs() < 5 * error + 1e-9
    jumps = ((paths.state[:, :-1] == 0) & (paths.state[:, 1:] == 2)).sum(1).double()
    expected = float(Q[0, 2]) * integral(Q, gap, a, b, 0, 2)
    variance = jumps.var().clamp(min=expected)  # that of a rare count is its mean
    assert (jumps.mean() - expected).abs() < 5 * (variance / K).sqrt()


def test_a_bridge_is_a_path_that_happened_to_end_there():
    """By rejection: free paths that end in the right state, their number of jumps and first jump."""
    Q = random(n=3)
    gap, free = 2.0, 60_000
    tried = gillespie(Q, torch.eye(3)[0], free, gap)
    right = tried.state[:, -1] == 1
    K = int(right.sum())
    paths = bridge(
        Q,
        torch.zeros(K, dtype=torch.long),
        torch.ones(K, dtype=torch.long),
        torch.full((K,), gap),
    )
    assert scipy.stats.ks_2samp(tried.t[right, 1], paths.t[:, 1]).pvalue > 1e-4
    jumps = (tried.jumps[right], paths.jumps)
    table = torch.stack([torch.bincount(f, minlength=30) for f in jumps])
    assert scipy.stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 1e-4


def test_bridges_of_many_processes_and_lengths():
    """Each has its own: a slow process, a fast one, gaps apart by 1000; one never moves."""
    Q = torch.stack([0.01 * random(n=3), 10 * random(n=3), torch.zeros(3, 3, dtype=torch.float64)])
    K = 3000
    a, b = torch.randint(3, (2, 3, K))
    b[2] = a[2]
    gap = torch.logspace(-2, 1, K, dtype=torch.float64).expand(3, K)
    paths = bridge(Q, a, b, gap, seeded())
    for m in range(3):
        part = JumpPaths(*(f[m] for f in paths))
        width = int(part.jumps.amax()) + 1
        require_paths(part._replace(t=part.t[:, :width], state=part.state[:, :width]), Q[m])
    assert torch.equal(paths.state[..., 0], a) and torch.equal(paths.state[..., -1], b)
    assert torch.equal(paths.end, gap)
    assert not paths.jumps[2].any()
    again = bridge(Q, a, b, gap, seeded())
    assert all(torch.equal(f, g) for f, g in zip(paths, again))
    # the expected state halfway, summed over bridges of all lengths
    half = states_at(paths, gap[..., None] / 2)[1, :, 0]
    P = transition(Q[1], gap[1] / 2)
    k = torch.arange(K)
    exact = P[k, a[1]] * P[k, :, b[1]]
    exact = exact / exact.sum(-1, keepdim=True)
    found = torch.nn.functional.one_hot(half, 3).double()
    error = (exact * (1 - exact)).sum(0).sqrt()
    assert ((found - exact).sum(0).abs() < 5 * error).all()


def test_a_bridge_over_nothing():
    one = torch.ones(1, dtype=torch.long)
    paths = bridge(two_states(), one, one, torch.zeros(1))
    assert paths.jumps.tolist() == [0] and paths.state.tolist() == [[1]]
    with pytest.raises(DataError, match=r"TSD-D14: Path 0 cannot reach"):
        bridge(two_states(), one, 0 * one, torch.zeros(1))
    with pytest.raises(DataError, match="TSD-D14"):
        bridge(two_states(0.0, 1.0), 0 * one, one, torch.ones(1))


def test_a_rare_bridge_over_a_short_gap():
    """Three jumps in a time in which none is expected: they come, with evenly spread times."""
    Q = cycle(1.0, 0.0, 4)
    K = 5000
    a, b = torch.zeros(K, dtype=torch.long), torch.full((K,), 3)
    paths = bridge(Q, a, b, torch.full((K,), 1e-6, dtype=torch.float64))
    assert (paths.jumps == 3).all()
    for k in range(3):  # order statistics of three uniform times
        of_order = scipy.stats.beta(k + 1, 3 - k)
        assert scipy.stats.kstest(paths.t[:, k + 1] / 1e-6, of_order.cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    "t", [torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, torch.nan]), torch.zeros(0)]
)
def test_times_that_cannot_be(t):
    p0 = torch.tensor([1.0, 0.0])
    with pytest.raises(DataError, match="TSD-D17"):
        gillespie_grid(two_states(), p0, 3, t)
    if len(t):
        with pytest.raises(DataError, match="TSD-D17"):
            skeleton(two_states(), p0, t.expand(3, -1))


def test_too_many_jumps_are_refused():
    with pytest.raises(DataError, match=r"TSD-D16.*are 7e\+06 jumps"):
        gillespie(1e7 * two_states(), torch.tensor([1.0, 0.0]), 3, 1.0)
    one = torch.ones(1, dtype=torch.long)
    with pytest.raises(DataError, match="TSD-D16"):
        bridge(1e7 * two_states(), one, one, torch.ones(1))
    with pytest.raises(DataError, match=r"TSD-D17.*one clock"):
        gillespie_grid(two_states(), torch.tensor([1.0, 0.0]), 3, torch.zeros(3, 2))


def test_a_generator_of_the_cpu_gives_the_same_paths_everywhere(device):
    Q, p0 = random(2), law(2)
    t = torch.linspace(0, 3, 7)
    here = gillespie_grid(Q, p0, 10, t, seeded())
    there = gillespie_grid(Q.to(device), p0.to(device), 10, t.to(device), seeded())
    assert torch.equal(here, there.cpu())
