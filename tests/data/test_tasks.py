"""Every task parts the observations; each cuts where it says."""

import math

import pytest
import torch
from hypothesis import given as for_all, strategies as st
from ragged import make, ragged, values

from tsdyn.batch import Names, Paths
from tsdyn.data.tasks import (
    Classification,
    Forecasting,
    Imputation,
    Interpolation,
    LeaveOutTimes,
    Mixture,
    Thinned,
    at_times,
    holes,
)
from tsdyn.errors import TsdynError

PARTING = [
    Forecasting(fraction=0.6),
    Forecasting(steps=2),
    Forecasting(horizon=0.75),
    *(Imputation(0.4, by) for by in ("value", "row", "channel", "block")),
    Interpolation(0.5),
    LeaveOutTimes((0.25, 1.0)),
    Mixture([Forecasting(steps=1), Imputation(0.5)]),
]


def regular(B: int, T: int, D: int = 1) -> Paths:
    t = torch.arange(T, dtype=torch.float64).expand(B, -1)
    return Paths(t, torch.randn(B, T, D), torch.ones(B, T, D, dtype=torch.bool))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("task", PARTING, ids=str)
@for_all(paths=ragged(), seed=st.integers(0, 20))
def test_nothing_is_lost_and_nothing_is_on_both_sides(task, paths, seed):
    given, want = task(paths, generator(seed))
    for b in range(len(paths.t)):
        assert sorted(values(given, b) + values(want, b)) == sorted(values(paths, b))
        assert values(want, b) == [v for v in values(paths, b) if v in values(want, b)]


@pytest.mark.parametrize("task", PARTING, ids=str)
def test_the_generator_decides_the_cut(task):
    paths, before = regular(6, 30, 2), torch.get_rng_state()
    cuts = [task(paths, generator(5)) for _ in range(2)]
    for a, b in zip(*cuts):
        assert torch.equal(a.mask, b.mask) and torch.equal(a.t, b.t)
    assert torch.equal(torch.get_rng_state(), before)  # and nobody else does


@for_all(ragged(), st.integers(1, 4))
def test_steps_are_the_last_observed_rows(paths, steps):
    given, want = Forecasting(steps=steps)(paths)
    for b in range(len(paths.t)):
        times = [t for t in paths.t[b, paths.mask[b].any(-1)].tolist()]
        if len(times) > steps:
            cut = times[-steps - 1]  # rows at one time stay together
            assert {v[0] for v in values(given, b)} == {t for t in times if t <= cut}
        else:
            assert not values(given, b)
        assert len(values(want, b)) == len(values(paths, b)) - len(values(given, b))


@for_all(ragged(), st.sampled_from([0.25, 0.5, 0.8]))
def test_fraction_is_of_the_observed_rows(paths, fraction):
    given, _ = Forecasting(fraction=fraction)(paths)
    for b in range(len(paths.t)):
        times = [t for t in paths.t[b, paths.mask[b].any(-1)].tolist()]
        kept = int(torch.tensor(fraction * len(times)).round())
        expected = {t for t in times if kept and t <= times[kept - 1]}
        assert {v[0] for v in values(given, b)} == expected


def test_horizon_counts_back_from_the_end_of_each_series():
    paths = make([[[True]] * 7, [[True]] * 3 + [[False]] * 4], 3)
    _, want = Forecasting(horizon=0.5)(paths)
    for b in range(2):
        last = max(v[0] for v in values(paths, b))
        assert {v[0] for v in values(want, b)} == {
            v[0] for v in values(paths, b) if v[0] > last - 0.5
        }


def test_absolute_seconds_are_cut_to_the_row():
    """Hourly times of today, in seconds: float32 would put 128 of them in one place."""
    paths = regular(1, 48)._replace(t=1.7e9 + 3600 * torch.arange(48, dtype=torch.float64)[None])
    for task in (Forecasting(steps=5), Forecasting(horizon=5 * 3600.0)):
        assert task(paths)[1].mask.sum() == 5


@pytest.mark.parametrize("chosen", [{}, {"steps": 1, "fraction": 0.5}])
def test_forecasting_wants_exactly_one_way_of_cutting(chosen):
    with pytest.raises(TsdynError, match="TSD-X01"):
        Forecasting(**chosen)


@pytest.mark.parametrize("by", ["value", "row", "channel"])
def test_the_hidden_part_is_the_rate(by):
    """The number of hidden units is binomial."""
    mask = torch.ones(60, 50, 4, dtype=torch.bool)
    hidden = Imputation(0.3, by).hidden(mask, generator()).float()
    units = {"value": 60 * 50 * 4, "row": 60 * 50, "channel": 60 * 4}[by]
    assert abs(float(hidden.mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / units)
    if by == "row":
        assert torch.equal(hidden.amax(-1), hidden.amin(-1))
    if by == "channel":
        assert torch.equal(hidden.amax(1), hidden.amin(1))


def test_a_block_is_one_run_of_observed_rows_at_any_place():
    paths = regular(400, 20)
    mask = paths.mask.clone()
    mask[:, 7] = False  # a hole does not count
    hidden = Imputation(0.25, "block").hidden(mask, generator())[..., 0]
    hidden = hidden[:, [i for i in range(20) if i != 7]]
    assert (hidden.sum(1) == round(0.25 * 19)).all()
    starts = hidden.to(torch.int8).argmax(1)
    for row, start in zip(hidden, starts):
        assert row[start : start + int(row.sum())].all()
    assert sorted(set(starts.tolist())) == list(range(19 - 5 + 1))  # every place occurs


def test_interpolation_keeps_both_ends():
    given, want = Interpolation(1.0)(regular(3, 10))
    assert compacted_times(given) == [[0.0, 9.0]] * 3
    assert want.mask.sum() == 3 * 8


def test_left_out_times_are_the_same_for_every_series():
    _, want = LeaveOutTimes((2.0, 5.0))(regular(3, 10))
    assert want.t.tolist() == [[2.0, 5.0]] * 3


def test_a_mixture_draws_its_tasks_evenly():
    """600 draws of two: binomial with standard deviation sqrt(150)."""
    task = Mixture([Forecasting(steps=1), Forecasting(steps=2)])
    g, paths = generator(), regular(1, 4)
    count = sum(int(task(paths, g)[1].mask.sum()) == 1 for _ in range(600))
    assert abs(count - 300) < 4 * math.sqrt(150)


@pytest.mark.parametrize("by", ["row", "value"])
def test_thinning_takes_from_the_given_alone(by):
    paths = regular(20, 40, 2)
    whole_given, whole_want = Forecasting(steps=10)(paths)
    given, want = Thinned(Forecasting(steps=10), 0.4, by)(paths, generator())
    assert torch.equal(want.x, whole_want.x) and torch.equal(want.mask, whole_want.mask)
    assert not (given.mask & ~whole_given.mask).any()
    part = 1 - given.mask.sum() / whole_given.mask.sum()
    units = 20 * 30 * (2 if by == "value" else 1)
    assert abs(float(part) - 0.4) < 4 * math.sqrt(0.24 / units)


def test_classification_takes_the_labels_away():
    paths = regular(3, 4)._replace(labels=torch.tensor([2, 0, 1]))
    given, want = Classification()(paths)
    assert given.labels is None and want.y.tolist() == [2, 0, 1]
    with pytest.raises(TsdynError, match="TSD-D02"):
        Classification()(regular(3, 4))


@for_all(ragged())
def test_holes_are_the_unobserved_values_of_rows_in_the_table(paths):
    paths = paths._replace(t=paths.t + torch.arange(paths.t.shape[1]))  # no time twice
    T, D = paths.x.shape[1:]
    asked = holes(paths)
    assert not (asked.mask & asked.x.isfinite()).any()  # all of them are unknown
    for b in range(len(paths.t)):
        expected = [
            (float(paths.t[b, i]), d) for i in range(T) for d in range(D) if not paths.mask[b, i, d]
        ]
        assert [v[:2] for v in values(asked, b)] == expected


def test_rows_without_a_value_at_the_end_are_holes_and_padding_is_none():
    t = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]]).bool()[..., None]
    asked = holes(Paths(t, torch.zeros(2, 4, 1), mask))
    assert [v[0] for v in values(asked, 0)] == [2.0, 3.0] and not values(asked, 1)


def test_a_question_repeats_its_last_time_as_padding():
    like = regular(2, 3, 2)._replace(names=Names(("a", "b"), ("x", "y")))
    asked = at_times(torch.tensor([[4.0, 5.0], [4.0, 4.0]]), like)
    assert asked.mask[..., 0].tolist() == [[True, True], [True, False]]
    assert asked.names == like.names


def compacted_times(paths: Paths) -> list[list[float]]:
    return [t[m.any(-1)].tolist() for t, m in zip(paths.t, paths.mask)]
