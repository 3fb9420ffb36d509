"""Cutting and joining against loops over rows: nothing is lost, nothing is there twice, order is kept."""

import pytest
import torch
from hypothesis import given as for_all, strategies as st
from ragged import make, ragged, values

from tsdyn.batch import (
    Names,
    Paths,
    Snapshots,
    compact,
    default_names,
    hide,
    merge,
    merge_snapshots,
    query,
    repeat,
    snapshots_of,
    split_after,
    stack,
    take,
    windows,
)
from tsdyn.errors import DataError


def full(B: int, T: int, D: int = 1, **fields) -> Paths:
    t = torch.arange(T, dtype=torch.float64).expand(B, -1)
    x = torch.arange(B * T * D, dtype=torch.float32).view(B, T, D)
    return Paths(t, x, torch.ones(B, T, D, dtype=torch.bool), **fields)


def rows_never_run_back(paths: Paths) -> bool:
    return bool((paths.t.diff(dim=1) >= 0).all())


@for_all(ragged())
def test_compact_keeps_every_observation_in_order(paths):
    short = compact(paths)
    assert [values(short, b) for b in range(len(paths.t))] == [
        values(paths, b) for b in range(len(paths.t))
    ]
    assert short.t.shape[1] == max(1, int(paths.mask.any(-1).sum(1).max()))
    assert rows_never_run_back(short)
    for b, n in enumerate(paths.mask.any(-1).sum(1).tolist()):
        assert short.mask[b].any(-1).tolist() == [True] * n + [False] * (short.t.shape[1] - n)
        assert (short.t[b, n:] == short.t[b, max(n - 1, 0)]).all()  # padding repeats the last


@for_all(ragged(), st.integers(0, 99))
def test_hide_parts_the_observations(paths, seed):
    hidden = torch.rand(paths.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    given, want = hide(paths, hidden)
    assert torch.equal(given.t, paths.t)
    for b in range(len(paths.t)):
        everything = values(paths, b)
        taken = [
            (float(paths.t[b, i]), d, float(paths.x[b, i, d]))
            for i, d in (hidden[b] & paths.mask[b]).nonzero().tolist()
        ]
        assert values(want, b) == taken
        assert sorted(values(given, b) + taken) == sorted(everything)


@for_all(ragged(), st.integers(-1, 15))
def test_split_after_parts_by_time(paths, quarter):
    cut = torch.full((len(paths.t),), quarter / 4, dtype=torch.float64)
    given, want = split_after(paths, cut)
    for b in range(len(paths.t)):
        assert values(given, b) == [v for v in values(paths, b) if v[0] <= quarter / 4]
        assert values(want, b) == [v for v in values(paths, b) if v[0] > quarter / 4]
    assert rows_never_run_back(given) and rows_never_run_back(want)


@for_all(ragged(covariates=True), st.integers(-1, 15))
def test_split_after_leaves_covariates_known_ahead(paths, quarter):
    given, want = split_after(paths, torch.full((len(paths.t),), quarter / 4))
    assert torch.equal(given.covariates, paths.covariates) and torch.equal(given.t, paths.t)
    assert not given.mask[paths.t > quarter / 4].any()
    for b, i in want.mask.any(-1).nonzero().tolist():  # want carries those of its own rows
        assert any(
            torch.equal(want.covariates[b, i], c)
            for c in paths.covariates[b, paths.t[b] == want.t[b, i]]
        )


@for_all(ragged(), st.data())
def test_take_gives_the_series_asked_for(paths, data):
    rows = data.draw(st.lists(st.integers(0, len(paths.t) - 1), min_size=1, max_size=5))
    taken = take(paths, rows)
    assert [values(taken, i) for i in range(len(rows))] == [values(paths, b) for b in rows]
    assert taken.names.series == tuple(f"s{b}" for b in rows)
    assert taken.labels.tolist() == rows
    torch.testing.assert_close(taken.static, paths.static[rows])
    last = taken.mask.any(-1).any(0)
    assert taken.t.shape[1] == 1 or last[-1]  # trimmed to the longest


def test_take_leaves_rows_where_covariates_are_known():
    paths = full(2, 5, covariates=torch.randn(2, 5, 1))
    paths = paths._replace(mask=paths.mask & (paths.t < 3)[..., None])
    assert take(paths, [0]).t.shape == (1, 5)


def test_take_of_no_series_is_empty():
    nothing = take(full(3, 4, names=Names(("a", "b", "c"), ("x",))), [])
    assert nothing.x.shape[0] == 0 and nothing.names.series == ()


@for_all(ragged(), st.integers(0, 99))
def test_merge_puts_both_in_order_of_time_and_says_where_the_second_went(paths, seed):
    hidden = torch.rand(paths.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    a, b = hide(paths, hidden)
    both, place = merge(a, b)
    assert rows_never_run_back(both)
    for s in range(len(paths.t)):
        assert sorted(values(both, s)) == sorted(values(a, s) + values(b, s))
    torch.testing.assert_close(both.t.gather(1, place), b.t)
    there = both.x.take_along_dim(place[..., None], 1)
    torch.testing.assert_close(there, b.x, equal_nan=True)


@for_all(ragged(), st.integers(1, 5), st.integers(1, 3))
def test_windows_are_all_stretches(paths, length, stride):
    if not paths.mask.any():
        return
    lengths = [
        max([i + 1 for i in range(paths.t.shape[1]) if paths.mask[b, i].any()], default=1)
        for b in range(len(paths.t))
    ]
    expected = []
    for b, n in enumerate(lengths):
        for s in range(0, max(n - length, 0) + 1, stride):
            piece = [
                (float(paths.t[b, i]), d, float(paths.x[b, i, d]))
                for i in range(s, min(s + length, n))
                for d in range(paths.x.shape[-1])
                if paths.mask[b, i, d]
            ]
            if piece:
                expected.append((f"s{b}", piece))
    cut = windows(paths, length, stride)
    found = [(cut.names.series[i], values(cut, i)) for i in range(len(cut.t))]
    assert found == expected
    assert [int(s[1:]) for s, _ in found] == cut.labels.tolist()


def test_windows_carry_their_covariates():
    paths = full(1, 4, covariates=torch.arange(4.0).view(1, 4, 1))
    assert windows(paths, 2).covariates[..., 0].tolist() == [[0, 1], [1, 2], [2, 3]]


@for_all(ragged(), ragged())
def test_stack_keeps_every_series(a, b):
    D = min(a.x.shape[-1], b.x.shape[-1])
    a, b = (p._replace(x=p.x[..., :D], mask=p.mask[..., :D]) for p in (a, b))
    both = stack([a, b])
    assert [values(both, i) for i in range(len(both.t))] == [
        values(p, i) for p in (a, b) for i in range(len(p.t))
    ]
    assert rows_never_run_back(both)
    assert both.names.series == a.names.series + b.names.series


def test_stack_of_unnamed_parts_has_no_names():
    named = full(2, 3, names=Names(("a", "b"), ("x",)))
    assert stack([named, full(3, 4)]).names is None


def test_repeat_puts_copies_side_by_side():
    many = repeat(full(2, 3), 2)
    assert many.x[:, 0, 0].tolist() == [0, 0, 3, 3]


def test_query_observes_nothing():
    asked = query(torch.tensor([[1.0, 2.0]]), full(1, 3, 2))
    assert asked.x.shape == (1, 2, 2) and not asked.mask.any()


def test_names_by_default():
    assert default_names(full(2, 3, 2)) == Names((0, 1), ("x0", "x1"))


def test_unobserved_values_stay_unread_through_every_cut():
    """NaN under a False mask never comes to stand under a True one."""
    paths = make([[[True, False], [False, True], [False, False], [True, True]]], 0)
    cut = torch.tensor([0.5])
    for cutting in (compact(paths), *split_after(paths, cut), windows(paths, 2), stack([paths])):
        assert cutting.x[cutting.mask].isfinite().all()


def populations(*sizes, D=2):
    x = torch.arange(len(sizes) * max(sizes) * D).double().view(len(sizes), max(sizes), D)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return Snapshots(torch.arange(len(sizes)).double(), x, mask, weights=x[..., 0] + 1)


def test_snapshots_are_chosen_and_put_together_again():
    whole = populations(3, 5, 2)
    middle = snapshots_of(whole, torch.tensor([False, True, False]))
    rest = snapshots_of(whole, torch.tensor([0, 2]))
    assert rest.x.shape == (2, 3, 2) and rest.mask.sum(1).tolist() == [3, 2]
    again = merge_snapshots(middle, rest)
    assert torch.equal(again.t, whole.t) and torch.equal(again.mask, whole.mask)
    assert torch.equal(again.x[again.mask], whole.x[whole.mask])
    assert torch.equal(again.weights[again.mask], whole.weights[whole.mask])
    assert merge_snapshots(middle, rest._replace(weights=None)).weights is None
    with pytest.raises(DataError, match=r"TSD-D13: Cells of 2 and of 3 dimensions"):
        merge_snapshots(middle, populations(2, 2, D=3))
