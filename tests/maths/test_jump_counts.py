"""Oracle: the definition, observation by observation."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, strategies as st

from tests.ragged import ragged
from tsdyn.errors import DataError
from tsdyn.maths.jump_counts import counts, crude_rates, merged


@given(ragged(), st.integers(0, 99))
def test_counts_are_those_of_consecutive_observations(paths, seed):
    mask = paths.mask[..., 0]
    generator = torch.Generator().manual_seed(seed)
    state = torch.randint(0, 3, mask.shape, generator=generator)
    # rows may share their time here; one state per time
    state = torch.where(
        torch.cat([mask[:, :1] & False, paths.t.diff() == 0], 1), state[:, :1], state
    )
    t = paths.t + 0.01 * torch.arange(mask.shape[1])
    expected: Counter = Counter()
    for times, states, seen in zip(t.tolist(), state.tolist(), mask.tolist()):
        rows = [(a, s) for a, s, here in zip(times, states, seen) if here]
        for (a, i), (b, j) in itertools.pairwise(rows):
            expected[round(b - a, 6), i, j] += 1
    gaps, C = counts(t, state.where(mask, -7), mask, 3)
    found = {(round(float(gaps[g]), 6), i, j): int(C[g, i, j]) for g, i, j in C.nonzero().tolist()}
    assert found == dict(expected)
    assert bool((gaps.diff() > 0).all())


def test_rounding_makes_no_new_gaps():
    t = torch.linspace(0, 2.5, 100, dtype=torch.float64).expand(4, -1)
    state = torch.zeros(4, 100, dtype=torch.long)
    gaps, C = counts(t, state, torch.ones_like(state, dtype=torch.bool), 2)
    torch.testing.assert_close(gaps, torch.tensor([2.5 / 99], dtype=torch.float64))
    assert C.tolist() == [[[4 * 99, 0], [0, 0]]]


def test_groups_span_less_than_the_tolerance_though_gaps_lie_densely():
    gap = 1 + torch.rand(200, 500, dtype=torch.float64)
    gaps, group = merged(gap, tolerance=1e-3)
    assert float(((gap - gaps[group]).abs() / gap).max()) < 1e-3
    assert len(gaps) < 1.1 * 1000 * torch.tensor(2.0).log() + 1  # 1e5 gaps without merging
    assert bool((gaps.diff() > 0).all())


def test_no_gap_at_all():
    gaps, C = counts(
        torch.zeros(3, 1, dtype=torch.float64),
        torch.zeros(3, 1, dtype=torch.long),
        torch.ones(3, 1, dtype=torch.bool),
        4,
    )
    assert gaps.shape == (0,)
    assert C.shape == (0, 4, 4)


def test_crude_rates_divide_jumps_by_time():
    gaps = torch.tensor([0.5, 2.0], dtype=torch.float64)
    C = torch.tensor([[[4.0, 1.0], [0.0, 2.0]], [[1.0, 3.0], [1.0, 1.0]]], dtype=torch.float64)
    Q = crude_rates(gaps, C)
    expected = torch.tensor([4.1 / (2.5 + 8 + 0.1), 1.1 / (1 + 4 + 0.1)], dtype=torch.float64)
    torch.testing.assert_close(Q, torch.stack([-expected, expected], 1) * torch.tensor([[1], [-1]]))


@pytest.mark.parametrize(
    ("t", "state", "code"),
    [
        ([0.0, 1.0, 2.0], [0, 3, 1], "D14"),
        ([0.0, 1.0, 2.0], [0, -1, 1], "D14"),
        ([0.0, 1.0, 0.5], [0, 1, 1], "D07"),
        ([0.0, 1.0, 1.0], [0, 1, 2], "D06"),
    ],
)
def test_what_cannot_be_counted_is_named(t, state, code):
    t, state = torch.tensor([t], dtype=torch.float64), torch.tensor([state])
    with pytest.raises(DataError, match=code):
        counts(t, state, torch.ones_like(state, dtype=torch.bool), 3)


def test_a_state_that_is_seen_twice_at_a_time_counts_once():
    t = torch.tensor([[0.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    gaps, C = counts(t, torch.tensor([[0, 1, 1, 0]]), torch.ones_like(t, dtype=torch.bool), 2)
    assert gaps.tolist() == [1.0]
    assert C.tolist() == [[[0, 1], [1, 0]]]
