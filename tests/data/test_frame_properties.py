"""What must hold for every table: order, units and layout change nothing but themselves."""

import datetime

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings, strategies as st

from tsdyn.batch import Clock, compact
from tsdyn.data import frames
from tsdyn.data.frames import read

exact = settings(deadline=None, derandomize=True, max_examples=60)

SERIES = st.sampled_from(["a", "b", "c", 7, -1])
VALUES = st.one_of(st.just(np.nan), st.integers(-8000, 8000).map(lambda n: n / 8))
ROWS = st.tuples(SERIES, st.integers(-1000, 1000), VALUES, VALUES)


def tables(rows=ROWS, unique=True, **size):
    """Long frames of up to three dozen rows in any order."""
    keys = (lambda row: (str(row[0]), row[1])) if unique else None
    many = st.lists(rows, min_size=1, max_size=36, unique_by=keys, **size)
    return many.map(lambda r: pd.DataFrame(r, columns=["series_id", "time", "u", "v"]))


def ordered(frame):
    """Rows by series in order of first appearance, then by time."""
    codes, _ = pd.factorize(frame["series_id"])
    return frame.iloc[np.lexsort((frame["time"], codes))].reset_index(drop=True)


def content(paths):
    """Everything that was observed: (series, time, channel) -> value."""
    b, i, d = paths.mask.nonzero().unbind(1)
    series = [paths.names.series[k] for k in b]
    channels = [paths.names.channels[k] for k in d]
    return dict(zip(zip(series, paths.t[b, i].tolist(), channels), paths.x[b, i, d].tolist()))


@exact
@given(tables())
def test_what_is_read_is_written_back(frame):
    back = frames.to_frame(read(frame))
    pd.testing.assert_frame_equal(back, ordered(frame), check_dtype=False)


@exact
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_is_only_the_order_of_series(frame, random):
    order = random.sample(range(len(frame)), len(frame))
    paths, other = read(frame), read(frame.iloc[order])
    where = [paths.names.series.index(name) for name in other.names.series]
    assert torch.equal(other.t, paths.t[where]) and torch.equal(other.mask, paths.mask[where])
    assert torch.equal(other.x, paths.x[where])


@exact
@given(tables())
def test_the_order_of_columns_is_the_order_of_channels(frame):
    paths, other = read(frame), read(frame[["v", "time", "u", "series_id"]])
    assert other.names.channels == ("v", "u")
    assert torch.equal(other.x, paths.x.flip(-1)) and torch.equal(other.mask, paths.mask.flip(-1))


@exact
@given(tables(), st.integers(-(10**9), 10**9), st.integers(1, 10**4))
def test_time_shifts_and_scales(frame, shift, scale):
    paths, moved = read(frame), read(frame.assign(time=frame["time"] * scale + shift))
    assert torch.equal(moved.t, paths.t * scale + shift)
    assert torch.equal(moved.x, paths.x) and torch.equal(moved.mask, paths.mask)


@exact
@given(tables(), st.sampled_from([None, "UTC", "Europe/Berlin", "Australia/Lord_Howe"]))
def test_timestamps_are_seconds(frame, zone):
    stamps = pd.to_datetime(frame["time"], unit="s")
    if zone is not None:
        stamps = stamps.dt.tz_localize("UTC").dt.tz_convert(zone)
    paths, dated = read(frame), read(frame.assign(time=stamps))
    assert torch.equal(dated.t, paths.t) and dated.names.clock == Clock("datetime", zone)


@exact
@given(tables(), SERIES, st.integers(1001, 2000))
def test_a_row_without_values_changes_nothing_that_was_seen(frame, series, time):
    empty = pd.DataFrame([(series, time, np.nan, np.nan)], columns=frame.columns)
    more = read(pd.concat([frame, empty], ignore_index=True))
    paths = read(frame)
    assert content(more) == content(paths)
    rows = [more.names.series.index(name) for name in paths.names.series]
    seen = paths.mask.any(-1).any(-1)
    a, b = compact(paths), compact(more)
    width = a.t.shape[1]
    assert torch.equal(a.x[a.mask], b.x[rows, :width][a.mask])
    assert torch.equal(a.t[seen], b.t[rows, :width][seen])


@exact
@given(tables(unique=False), st.sampled_from(["mean", "first", "last"]))
def test_duplicates_are_settled_as_pandas_does(frame, how):
    frame = frame.astype({"series_id": str})  # pandas sorts no mixture
    want = frame.groupby(["series_id", "time"])[["u", "v"]].agg(how)
    got = frames.to_frame(read(frame, on_duplicate=how))
    got = got.set_index(["series_id", "time"]).sort_index()
    pd.testing.assert_frame_equal(got, want.sort_index(), check_dtype=False, rtol=1e-6)


@exact
@given(tables(), st.sampled_from(["error", "mean", "first", "last"]))
def test_every_layout_holds_the_same(frame, how):
    frame = frame.dropna(subset=["u", "v"], how="all").astype({"series_id": str})
    if not len(frame):
        return
    want = content(read(frame, on_duplicate=how))
    melted = frame.melt(["series_id", "time"], var_name="channel")
    assert content(read(melted, on_duplicate=how)) == want
    assert content(read(melted.dropna(), on_duplicate=how)) == want
    wide = frame.pivot(index="time", columns="series_id").swaplevel(axis=1)
    assert content(read(wide, on_duplicate=how)) == want
    paths = read(frame)
    x = paths.x.where(paths.mask, torch.nan)
    same = frames.from_arrays(
        x, paths.t, series=paths.names.series, channels=["u", "v"], on_duplicate="first"
    )
    assert content(same) == want


@exact
@given(
    st.lists(
        st.datetimes(datetime.datetime(1930, 1, 1), datetime.datetime(2200, 1, 1)), min_size=1
    ),
    st.sampled_from([None, "UTC", "America/New_York", "Asia/Kathmandu", "UTC+03:30"]),
)
def test_every_microsecond_comes_back(moments, zone):
    stamps = pd.Series(pd.DatetimeIndex(np.array(moments, "datetime64[us]")))
    if zone is not None:
        stamps = stamps.dt.tz_localize("UTC").dt.tz_convert(zone)
    t, clock = frames.parse_times(stamps)
    back = frames.times_to_user(t, clock)
    assert list(back) == list(stamps) and str(back.tz) == str(zone)
    assert (frames.times_from_user(back, clock) == t).all()
    text = stamps.map(lambda stamp: stamp.isoformat())
    again, _ = frames.parse_times(text, zone=zone)
    assert (again == t).all()


@exact
@given(tables(), st.integers(1, 5))
def test_the_mean_of_equal_draws_is_the_table(frame, n):
    paths = read(frame)
    samples = paths.x.expand(n, *paths.x.shape)
    mean = frames.draws_to_frame(paths.t, samples, paths.mask, paths.names, "mean")
    want = ordered(frame).dropna(subset=["u", "v"], how="all").reset_index(drop=True)
    pd.testing.assert_frame_equal(mean, want, check_dtype=False, check_index_type=False)
    levels = frames.draws_to_frame(paths.t, samples, paths.mask, paths.names)
    for name in ("mean", "q0.05", "q0.95"):
        assert dict(
            zip(zip(levels["series_id"], levels["time"], levels["channel"]), levels[name])
        ) == content(paths)


@exact
@given(tables())
def test_the_report_counts_what_pandas_counts(frame):
    about = frames.report(read(frame))
    assert about.channels["count"].tolist() == frame[["u", "v"]].count().tolist()
    np.testing.assert_allclose(
        about.channels[["mean", "std", "min", "max"]].to_numpy(dtype=float),
        frame[["u", "v"]].agg(["mean", "std", "min", "max"]).T.to_numpy(),
        rtol=1e-9,
        atol=1e-9,
    )
    assert about.series["rows"].sum() == len(frame)
