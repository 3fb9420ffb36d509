"""Nothing that validation or test want is learned from, and together they are everything."""

import math

import pytest
import torch
from ragged import values

from tsdyn.batch import Names, Paths
from tsdyn.data.split import BySeries, ByTime, ByTimePoint
from tsdyn.data.tasks import Classification, Forecasting
from tsdyn.errors import DataError, TsdynError


def cut(paths: Paths):
    return Forecasting(steps=2)(paths)


def table(B: int = 20, T: int = 12) -> Paths:
    g = torch.Generator().manual_seed(1)
    t = 1.7e9 + 3600 * torch.rand(B, T, generator=g, dtype=torch.float64).sort(1).values
    mask = torch.rand(B, T, 2, generator=g) < 0.8
    mask[:, 0] = True
    x = torch.randn(B, T, 2, generator=g).where(mask, torch.nan)
    return Paths(t, x, mask, names=Names(tuple(range(B)), ("x", "y")))


def everything(*parts: Paths) -> list[tuple]:
    """All observations with the name of their series, sorted."""
    return sorted(
        (s, *v) for p in parts for i, s in enumerate(p.names.series) for v in values(p, i)
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_series_are_kept_whole(shuffle):
    paths = table()
    train, val, test = BySeries(0.2, 0.3, shuffle)(paths, cut)
    names = [train.names.series, val[0].names.series, test[0].names.series]
    assert [len(n) for n in names] == [10, 4, 6]
    assert everything(train, *val, *test) == everything(paths)
    assert (sorted(sum(names, ())) == list(sum(names, ()))) == (not shuffle)


def test_the_seed_draws_the_series():
    paths = table()
    a, b, c = (BySeries(seed=s)(paths, cut).train.names.series for s in (0, 0, 1))
    assert a == b != c


def test_too_few_series_to_split():
    with pytest.raises(TsdynError, match=r"TSD-D10.*ByTime"):
        BySeries(0.5, 0.5)(table(2), cut)


def test_parts_of_no_size_are_absent():
    assert BySeries(0.0, 0.0)(table(), cut)[1:] == (None, None)
    assert ByTime(0.0, 0.0)(table(), cut)[1:] == (None, None)
    assert ByTimePoint(0.0, 0.0)(table(), cut)[1:] == (None, None)


def test_time_goes_from_training_to_validation_to_test():
    paths = table()
    train, (val_given, val_want), (test_given, test_want) = ByTime(0.25, 0.25)(paths, cut)
    start, end = (float(f(paths.t[paths.mask.any(-1)])) for f in (min, max))
    first, second = start + 0.5 * (end - start), start + 0.75 * (end - start)

    def within(low, high, names):
        return [v for v in everything(paths) if low < v[1] <= high and v[0] in names]

    series = range(20)
    assert everything(train) == within(0, first, series)
    kept = val_want.names.series
    assert kept == val_given.names.series
    assert everything(val_given) == within(0, first, kept)
    assert everything(val_want) == within(first, second, series)
    assert everything(test_given) == within(0, second, test_given.names.series)
    assert everything(test_want) == within(second, end, series)


def test_time_points_are_parted_and_judged_between_what_was_learned():
    paths = table(40, 30)
    train, (val_given, val_want), (test_given, test_want) = ByTimePoint(0.2, 0.1)(paths, cut)
    assert everything(train, val_want, test_want) == everything(paths)
    assert everything(val_given) == everything(train)
    assert everything(test_given) == everything(train, val_want)
    rows = int(paths.mask.any(-1).sum())
    part = int(val_want.mask.any(-1).sum()) / rows
    assert abs(part - 0.2) < 4 * math.sqrt(0.2 * 0.8 / rows)  # binomial


def test_no_row_before_the_validation_stretch():
    with pytest.raises(TsdynError, match="TSD-D10"):
        ByTime(0.8, 0.8)(table(), cut)


def test_stratified_parts_have_their_share_of_every_class():
    """30 + 20 + 10 series at .2 and .2: every part within one of 60, 20 and 20 %."""
    y = torch.arange(3).repeat_interleave(torch.tensor([30, 20, 10]))
    t = torch.arange(4.0).repeat(60, 1)
    paths = Paths(t, torch.zeros(60, 4, 1), torch.ones(60, 4, 1, dtype=torch.bool), labels=y)
    seen = []
    for seed in (0, 1):
        split = BySeries(0.2, 0.2, seed=seed, stratify=True)
        parts = split(paths, Classification())
        for rows, share in (
            (parts.train.labels, 0.6),
            (parts.val[1].y, 0.2),
            (parts.test[1].y, 0.2),
        ):
            count = torch.bincount(rows, minlength=3)
            assert (count - share * torch.tensor([30, 20, 10])).abs().max() <= 1
        seen.append(parts.test[1].y)
    assert not torch.equal(*seen)


def test_stratifying_needs_labels():
    paths = Paths(torch.zeros(3, 1), torch.zeros(3, 1, 1), torch.ones(3, 1, 1, dtype=torch.bool))
    with pytest.raises(DataError, match="TSD-D02"):
        BySeries(stratify=True)(paths, Classification())
