"""Every layout gives the same paths, and what is read is written back in the user's own types."""

import datetime
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from tsdyn.batch import Clock, Names, Paths
from tsdyn.data import frames
from tsdyn.data.frames import read
from tsdyn.errors import TsdynError

NAN = float("nan")
UTC = datetime.UTC

LONG = pd.DataFrame(
    {
        "series_id": ["b", "b", "b", "a"],
        "time": [0, 2, 5, 1],
        "u": [1.0, NAN, 3.0, 4.0],
        "v": [NAN, 6.0, 7.0, 8.0],
    }
)


def expected(**other):
    """The paths that LONG holds: series b with three rows, a with one and two of padding."""
    want = Paths(
        t=torch.tensor([[0.0, 2.0, 5.0], [1.0, 1.0, 1.0]], dtype=torch.float64),
        x=torch.tensor(
            [[[1.0, 0.0], [0.0, 6.0], [3.0, 7.0]], [[4.0, 8.0], [0.0, 0.0], [0.0, 0.0]]]
        ),
        mask=torch.tensor(
            [[[True, False], [False, True], [True, True]], [[True, True], [False] * 2, [False] * 2]]
        ),
        names=Names(("b", "a"), ("u", "v"), Clock("integer")),
    )
    return want._replace(**other)


def same(got, want):
    for name, a, b in zip(Paths._fields, got, want, strict=True):
        if isinstance(b, torch.Tensor):
            assert_close(a, b, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert a == b, name


# layouts


def test_long():
    same(read(LONG), expected())


@pytest.mark.parametrize(
    "names",
    [
        ("unique_id", "ds"),
        ("item_id", "timestamp"),
        ("ID", "Time"),
        ("id", "date"),
        ("series", "datetime"),
        ("Series_ID", "T"),
    ],
)
def test_names_of_other_libraries(names):
    frame = LONG.set_axis([*names, "u", "v"], axis=1)
    same(read(frame), expected())


def test_any_names_when_told():
    frame = LONG.set_axis(["patient", "hours", "u", "v"], axis=1)
    same(read(frame, series="patient", time="hours"), expected())
    one = read(frame, series="patient", time="hours", channels="v")
    assert one.names.channels == ("v",) and one.x.shape == (2, 3, 1)


def test_index_of_series_and_time():
    same(read(LONG.set_index(["series_id", "time"])), expected())
    same(read(LONG.set_index("time")), expected())
    same(read(LONG.set_index("series_id")), expected())


def test_melted():
    melted = LONG.melt(["series_id", "time"], var_name="channel")
    same(read(melted), expected())
    same(read(melted.dropna()), expected())


def test_melted_with_facts():
    melted = LONG.assign(age=[3, 3, 3, 4], dose=[0, 1, 2, 3], kind=["x", "x", "x", "y"])
    melted = melted.melt(["series_id", "time", "age", "dose", "kind"], var_name="channel")
    paths = read(melted, covariates="dose", static="age", label="kind")
    assert paths.covariates.squeeze(-1).tolist() == [[0, 1, 2], [3, 3, 3]]
    assert paths.static.tolist() == [[3], [4]] and paths.labels.tolist() == [0, 1]


def test_wide_with_pairs_of_series_and_channel():
    wide = LONG.pivot(index="time", columns="series_id").swaplevel(axis=1)
    wide = wide[[("b", "u"), ("b", "v"), ("a", "u"), ("a", "v")]]
    same(read(wide), expected())


def test_wide_with_one_series():
    times = pd.date_range("2024-01-01", periods=3, freq="D")
    paths = read(pd.DataFrame({"u": [1.0, NAN, 3.0], "v": [4, 5, 6]}, index=times))
    assert paths.names == Names((0,), ("u", "v"), Clock("datetime"))
    assert paths.mask.tolist() == [[[True, True], [False, True], [True, True]]]
    counted = pd.DataFrame({"u": [1, 2]}, index=pd.Index([0.5, 1.5]))
    assert read(counted).t.tolist() == [[0.5, 1.5]]
    rows = pd.DataFrame({"u": [1, 2]}, index=pd.Index([3, 9]))
    assert frames.from_wide(rows).t.tolist() == [[3.0, 9.0]]


def test_arrays():
    x = np.full((2, 3, 2), NAN)
    x[0] = [[1, NAN], [NAN, 6], [3, 7]]
    x[1, 0] = [4, 8]
    times = [[0, 2, 5], [1, NAN, NAN]]
    want = expected(names=Names((0, 1), ("x0", "x1"), Clock("float")))
    same(read(x, times=times), want)
    same(read(torch.tensor(x), times=torch.tensor(times)), want)
    same(read({"X": x, "times": times}), want)
    named = frames.from_arrays(x, times, series=["b", "a"], channels=["u", "v"])
    assert named.names == Names(("b", "a"), ("u", "v"), Clock("float"))
    counted = read(x)
    assert counted.t.tolist() == [[0, 1, 2]] * 2 and counted.names.clock == Clock("integer")
    dated = read(x, times=pd.date_range("2024-01-01", periods=3))
    assert dated.t[0].diff().tolist() == [86400.0, 86400.0]


def test_arrays_with_facts():
    paths = frames.from_arrays(
        np.zeros((2, 3, 1)),
        covariates={"dose": np.arange(6).reshape(2, 3)},
        static={"age": [3, 4]},
        label=["y", "x"],
        weight=[1, 0.5],
    )
    assert paths.covariates.squeeze(-1).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert paths.static.tolist() == [[3], [4]]
    assert paths.labels.tolist() == [1, 0] and paths.names.classes == ("x", "y")
    assert paths.weights.tolist() == [1, 0.5]


def test_masks_beside_values():
    frame = pd.DataFrame(
        {"ID": [1, 1], "Time": [0, 1], "Value_1": [3.0, 4.0], "Mask_1": [1, 0], "Value_2": [5, 6.0]}
    )
    paths = read(frame)
    assert paths.names.channels == ("Value_1", "Value_2")
    assert paths.mask.tolist() == [[[True, True], [False, True]]]


class Table:
    """What a frame of another library offers."""

    def to_pandas(self):
        return LONG.copy()


def test_whatever_turns_into_a_frame():
    same(read(Table()), expected())


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    frames.write_table(LONG, path)
    same(read(path), expected())
    same(read(str(path)), expected())


def test_row_numbers_in_a_file_are_no_channel(tmp_path):
    LONG.to_csv(tmp_path / "numbered.csv.gz")
    same(read(tmp_path / "numbered.csv.gz"), expected())
    dated = pd.DataFrame({"y": [1.0, 2.0]}, index=pd.date_range("2024-01-01", periods=2))
    dated.to_csv(tmp_path / "dated.csv")
    paths = read(tmp_path / "dated.csv")
    assert paths.names.channels == ("y",) and paths.names.clock == Clock("date")


def test_extension_types():
    same(read(LONG.convert_dtypes()), expected())
    same(read(LONG.convert_dtypes(dtype_backend="pyarrow")), expected())
    same(read(LONG.astype({"series_id": "category"})), expected())


def test_a_column_of_dates_is_the_time():
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=2), "y": [1, 2]})
    assert read(frame).names.channels == ("y",)
    text = pd.DataFrame({"Day": ["2024-01-01", "2024-01-03"], "y": [1, 2]})
    assert read(text).t.diff().tolist() == [[172800.0]]


def test_facts():
    frame = LONG.assign(
        dose=[0, 1, 2, 3], age=[3, NAN, NAN, 4], kind=["x", None, "x", "w"], mass=[2.0, 2, 2, 1]
    )
    paths = read(frame, covariates=["dose"], static="age", label="kind", weight="mass")
    same(
        paths,
        expected(
            covariates=torch.tensor([[[0.0], [1], [2]], [[3], [3], [3]]]),
            static=torch.tensor([[3.0], [4.0]]),
            labels=torch.tensor([1, 0]),
            weights=torch.tensor([2.0, 1.0]),
            names=Names(("b", "a"), ("u", "v"), Clock("integer"), ("dose",), ("age",), ("w", "x")),
        ),
    )
    back = frames.to_frame(paths)
    assert list(back) == ["series_id", "time", "u", "v", "dose", "age", "label", "weight"]
    again = read(back, covariates="dose", static="age", label="label", weight="weight")
    same(again, paths)


def test_known_classes_fix_the_numbers():
    frame = LONG.assign(kind=[10, 10, 10, 9])
    assert read(frame, label="kind").names.classes == ("9", "10")
    paths = read(frame, label="kind", classes=["8", "9", "10"])
    assert paths.labels.tolist() == [2, 1] and paths.names.classes == ("8", "9", "10")


def test_booleans_and_small_integers_are_numbers():
    frame = LONG.assign(u=[True, False, True, True], v=np.array([0, 255, 1, 2], dtype=np.uint8))
    assert read(frame).x[0].tolist() == [[1, 0], [0, 255], [1, 1]]


def test_numbers_as_text():
    same(read(LONG.assign(u=["1", None, "3.0", " 4"])), expected())


def test_rows_without_observation_stay():
    frame = pd.DataFrame({"series_id": ["a"] * 4, "time": [0, 1, 2, 3], "y": [NAN, 1, NAN, NAN]})
    paths = read(frame)
    assert paths.t.tolist() == [[0, 1, 2, 3]]
    assert paths.mask.squeeze(-1).tolist() == [[False, True, False, False]]
    pd.testing.assert_frame_equal(frames.to_frame(paths), frame, check_dtype=False)


def test_the_frame_of_the_caller_stays_as_it_was():
    frame = LONG.sample(frac=1, random_state=1).set_axis(["ID", "Time", 3, 4], axis=1)
    frame["when"] = "2024-01-01"
    frame["Mask_1"], frame["Value_1"] = 0, 1.0
    before = frame.copy(deep=True)
    paths = read(frame)
    paths.x.fill_(99)
    paths.t.fill_(99)
    frames.to_frame(paths)
    pd.testing.assert_frame_equal(frame, before)


def test_the_log_says_which_column_is_what(caplog):
    caplog.set_level(logging.INFO, "tsdyn")
    read(LONG.iloc[::-1].assign(note="x"))
    assert (
        "2 series from 4 rows: series=series_id, time=time (integer), channels=u, v" in caplog.text
    )
    assert "left out columns that hold no numbers: note" in caplog.text
    assert "sorted by time: it runs backwards at row 1 of series `b`" in caplog.text


def test_emptiness_is_logged(caplog):
    read(LONG.assign(v=NAN, u=[NAN, NAN, NAN, 1]))
    assert "no observation in series `b`" in caplog.text
    assert "no observation in channel `v`" in caplog.text


# time


BERLIN = pd.date_range("2024-10-26 22:00", periods=8, freq="h", tz="Europe/Berlin")
TIMES = {
    "integers": (pd.Index([3, 5, 2**53]), Clock("integer")),
    "floats": (pd.Index([0.1, 1e-9, 3e300]), Clock("float")),
    "naive": (
        pd.DatetimeIndex(["1969-12-31 23:59:59.999999", "2024-02-29 12:00"]),
        Clock("datetime"),
    ),
    "utc": (pd.date_range("2024", periods=3, freq="7min", tz="UTC"), Clock("datetime", "UTC")),
    "daylight saving": (BERLIN, Clock("datetime", "Europe/Berlin")),
    "offset": (
        pd.DatetimeIndex(["2024-01-01T00:00+05:30"]),
        Clock("datetime", "UTC+05:30"),
    ),
    "far away": (
        pd.Index(np.array(["0900-01-01", "2900-01-01"], "datetime64[s]")),
        Clock("datetime"),
    ),
    "dates": (
        pd.Index([datetime.date(1960, 2, 29), datetime.date(2024, 1, 1)], dtype=object),
        Clock("date"),
    ),
    "datetimes": (
        pd.Index([datetime.datetime(2024, 1, 1, tzinfo=UTC)], dtype=object),
        Clock("datetime", "UTC"),
    ),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_come_back_as_they_were(kind):
    times, clock = TIMES[kind]
    t, own = frames.parse_times(times.to_series())
    assert own == clock and t.dtype == np.float64
    back = frames.times_to_user(t, own)
    assert list(back) == list(times)
    assert type(back[0]) is type(times[0]) or kind == "datetimes"
    if len(set(t)) == len(t):
        frame = pd.DataFrame({"time": times, "y": np.arange(float(len(times)))})
        out = frames.to_frame(read(frame)).sort_values("y", ignore_index=True)
        assert list(out["time"]) == list(times)


def test_seconds_since_1970_whatever_the_unit():
    for unit in ("s", "ms", "us", "ns"):
        stamps = pd.Series(np.array(["2001-09-09T01:46:40"], f"datetime64[{unit}]"))
        assert frames.parse_times(stamps)[0].tolist() == [1e9]
        zoned = stamps.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
        assert frames.parse_times(zoned)[0].tolist() == [1e9]


@pytest.mark.parametrize(
    "text, clock, seconds",
    [
        ("2024-01-01", Clock("date"), 0),
        ("2024-01", Clock("date"), 0),
        ("2024/01/02", Clock("date"), 86400),
        ("2024-01-01 06:00", Clock("datetime"), 21600),
        ("2024-01-01T06:00:00.5", Clock("datetime"), 21600.5),
        ("2024-01-01T06:00Z", Clock("datetime", "UTC"), 21600),
        ("2024-01-01T06:00:00+02:00", Clock("datetime", "UTC+02:00"), 14400),
    ],
)
def test_text_in_the_manner_of_iso(text, clock, seconds):
    t, own = frames.parse_times(pd.Series([text]))
    assert own == clock and t.tolist() == [1704067200.0 + seconds]


def test_text_with_a_day_or_month_first():
    text = pd.Series(["01/02/2024 10:00", "3.4.2024 11:30"])
    first, _ = frames.parse_times(text, day_first=True)
    assert list(frames.times_to_user(first, Clock("datetime"))) == [
        pd.Timestamp("2024-02-01 10:00"),
        pd.Timestamp("2024-04-03 11:30"),
    ]
    second, _ = frames.parse_times(text, day_first=False)
    assert frames.times_to_user(second, Clock("datetime"))[0] == pd.Timestamp("2024-01-02 10:00")


def test_a_named_zone_unites_offsets():
    text = pd.Series(["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"])
    t, clock = frames.parse_times(text, zone="Europe/Berlin")
    assert clock.zone == "Europe/Berlin" and np.diff(t).tolist() == [3600.0]
    naive, clock = frames.parse_times(pd.Series(["2024-07-01 12:00"]), zone="Europe/Berlin")
    assert list(frames.times_to_user(naive, clock)) == [pd.Timestamp("2024-07-01 10:00", tz="UTC")]


def test_durations_are_seconds(caplog):
    caplog.set_level(logging.INFO, "tsdyn")
    t, clock = frames.parse_times(pd.Series(pd.to_timedelta(["90min", "2h"])))
    assert t.tolist() == [5400, 7200] and clock == Clock("float")
    assert "taken as seconds" in caplog.text


def test_numbers_that_look_like_dates_are_pointed_out(caplog):
    frames.parse_times(pd.Series([20240101, 20241231]))
    assert "YYYYMMDD" in caplog.text


def test_days_that_are_not_whole_become_timestamps():
    back = frames.times_to_user(torch.tensor([0.0, 43200.0]), Clock("date"))
    assert list(back) == [pd.Timestamp("1970-01-01"), pd.Timestamp("1970-01-01 12:00")]
    assert frames.times_to_user(np.array([1, 1.5]), Clock("integer")).tolist() == [1.0, 1.5]


@pytest.mark.parametrize(
    "length, seconds",
    [
        ("24h", 86400),
        ("52w", 52 * 7 * 86400),
        ("365.25d", 365.25 * 86400),
        ("365.25D", 365.25 * 86400),
        ("1 day 2 hours", 93600),
        ("250ms", 0.25),
        (90.0, 90),
        ("90", 90),
        (pd.Timedelta("1min"), 60),
        (datetime.timedelta(hours=1), 3600),
        (np.timedelta64(2, "h"), 7200),
        ("20000w", 20000 * 7 * 86400),
    ],
)
def test_duration(length, seconds):
    assert frames.duration(length, Clock("datetime")) == seconds


def test_duration_of_numbers():
    assert frames.duration("2.5", Clock("integer")) == frames.duration(2.5, Clock()) == 2.5


# questions


def test_query_times():
    paths = read(LONG)
    assert frames.query_times(7, paths).tolist() == [[7], [7]]
    assert frames.query_times([7, 8], paths).tolist() == [[7, 8], [7, 8]]
    assert frames.query_times(torch.tensor([[7, 8], [1, 2]]), paths).tolist() == [[7, 8], [1, 2]]
    asked = pd.DataFrame({"unique_id": ["a", "b", "a"], "ds": [2, 6, 9]})
    got = frames.query_times(asked, paths)
    assert got.dtype == torch.float64 and got.tolist() == [[6, 6], [2, 9]]


def test_query_times_of_one_series():
    one = read(LONG.iloc[:3].drop(columns="series_id"))
    assert frames.query_times(pd.DataFrame({"time": [7, 8]}), one).tolist() == [[7, 8]]
    both = pd.DataFrame({"x": 1}, index=pd.MultiIndex.from_tuples([("a", 7), ("b", 8)]))
    assert frames.query_times(both, read(LONG)).tolist() == [[8], [7]]


def test_query_times_as_dates():
    paths = read(LONG.assign(time=pd.to_datetime([0, 2, 5, 1], unit="D").tz_localize("Asia/Tokyo")))
    asked = pd.DatetimeIndex(["1970-01-10", "1970-01-11"], tz="Asia/Tokyo")
    want = [[9 * 86400 - 32400, 10 * 86400 - 32400]] * 2
    for times in (
        asked,
        asked.tz_convert("UTC"),
        list(asked),
        ["1970-01-10T00:00+09:00", "1970-01-11T00:00+09:00"],
    ):
        assert frames.query_times(times, paths).tolist() == want


# draws


def draws(seed=0):
    generator = torch.Generator().manual_seed(seed)
    paths = read(LONG)
    return paths, torch.randn(7, 2, 3, 2, generator=generator)


def test_draws_as_quantiles_mean_and_samples():
    paths, samples = draws()
    kept = samples[:, paths.mask].numpy()
    table = frames.draws_to_frame(paths.t, samples, paths.mask, paths.names, quantiles=(0.05, 0.5))
    assert list(table) == ["series_id", "time", "channel", "mean", "q0.05", "q0.5"]
    assert list(table["series_id"]) == list("bbbbaa") and list(table["time"]) == [0, 2, 5, 5, 1, 1]
    assert list(table["channel"]) == list("uvuvuv")
    np.testing.assert_allclose(table["mean"], kept.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(table["q0.05"], np.quantile(kept, 0.05, axis=0), rtol=1e-6)

    table = frames.draws_to_frame(paths.t, samples, paths.mask, paths.names, kind="samples")
    assert list(table) == ["series_id", "time", "channel", "sample", "value"]
    np.testing.assert_array_equal(table["value"].to_numpy().reshape(-1, 7), kept.T)
    assert list(table["sample"][:8]) == [0, 1, 2, 3, 4, 5, 6, 0]
    assert list(table["channel"][5:9]) == ["u", "u", "v", "v"]

    table = frames.draws_to_frame(paths.t, samples, paths.mask, paths.names, kind="mean")
    assert list(table) == ["series_id", "time", "u", "v"]
    same(read(table)._replace(x=paths.x), expected())


def test_draws_in_parts_are_the_same(monkeypatch):
    paths, samples = draws()
    args = (paths.t, samples, paths.mask, paths.names)
    whole = [frames.draws_to_frame(*args, kind=kind) for kind in ("quantiles", "samples")]
    monkeypatch.setattr("tsdyn.data.draws.CHUNK", 14)
    for kind, table in zip(("quantiles", "samples"), whole):
        pd.testing.assert_frame_equal(frames.draws_to_frame(*args, kind=kind), table)


@pytest.mark.parametrize("kind", TIMES)
def test_draws_of_any_time_are_kept(tmp_path, kind):
    times, clock = TIMES[kind]
    t = torch.tensor(frames.parse_times(times.to_series())[0])[None].repeat(3, 1)
    names = Names(("a", 7, "c"), ("u",), clock)
    samples = torch.randn(4, *t.shape, 1)
    path = tmp_path / "draws.parquet"
    frames.write_draws(path, t, samples, torch.ones(*t.shape, 1, dtype=torch.bool), names, "k")
    got = frames.read_draws(path)
    assert torch.equal(got[0], t) and torch.equal(got[1], samples) and got[3] == names
    assert list(pd.read_parquet(path)["time"][: len(times)]) == list(times)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 2**22])
def test_draws_survive_a_file(tmp_path, monkeypatch, dtype, chunk):
    monkeypatch.setattr("tsdyn.data.draws.CHUNK", chunk)
    paths, samples = draws()
    samples = samples.to(dtype)
    path = tmp_path / "draws.parquet"
    frames.write_draws(path, paths.t, samples, paths.mask, paths.names, "forecast")
    t, again, mask, names, kind = frames.read_draws(path)
    assert torch.equal(t, paths.t) and torch.equal(mask, paths.mask) and names == paths.names
    assert again.dtype == dtype and torch.equal(again[:, mask], samples[:, mask])
    assert kind == "forecast"
    table = pd.read_parquet(path)
    assert list(table) == ["series_id", "time", "t", "channel", "samples"]
    assert len(table.dropna()) == int(paths.mask.sum())


# populations and entries


def test_snapshots():
    frame = pd.DataFrame(
        {
            "day": [2, 0, 2, 2],
            "u": [1, 2, 3, 4.0],
            "v": [5, 6, 7, 8],
            "mass": [1, 1, 2, 3],
            "type": "T",
        }
    )
    cells = frames.to_snapshots(frame, time="day", weight="mass")
    assert cells.t.tolist() == [0, 2]
    assert cells.mask.tolist() == [[True, False, False], [True, True, True]]
    assert cells.x[1].tolist() == [[1, 5], [3, 7], [4, 8]] and cells.x[0, 0].tolist() == [2, 6]
    assert cells.weights.tolist() == [[1, 0, 0], [1, 2, 3]]
    back = frames.snapshots_to_frame(cells, ["u", "v"], Clock("integer"))
    assert list(back.columns) == ["time", "u", "v", "weight"]
    assert back.to_numpy().tolist() == [[0, 2, 6, 1], [2, 1, 5, 1], [2, 3, 7, 2], [2, 4, 8, 3]]
    categorical = frame.assign(day=frame["day"].astype("category"))
    assert frames.to_snapshots(categorical, time="day", weight="mass").t.tolist() == [0, 2]


def test_entries():
    frame = pd.DataFrame({"i": [0.5, 1], "j": [3, 4], "k": [7, 8.0], "y": [1, 2], "w": [1, 3]})
    entries = frames.to_entries(frame, index=["i", "j", "k"], value="y", weight="w")
    assert entries.index.tolist() == [[0.5, 3, 7], [1, 4, 8]] and entries.index.is_contiguous()
    assert entries.y.tolist() == [1, 2] and entries.weights.tolist() == [1, 3]
    back = frames.entries_to_frame(entries, ["i", "j", "k"], "y")
    assert back.to_numpy().tolist() == [[0.5, 3, 7, 1, 1], [1, 4, 8, 2, 3]]


# reports and channels


def test_report():
    frame = LONG.assign(w=2.0, time=pd.to_datetime([0, 2, 5, 1], unit="h"))
    about = frames.report(read(frame))
    u = about.channels.loc["u"]
    assert u["count"] == 3 and u["missing"] == 0.25
    np.testing.assert_allclose(
        u[["mean", "std", "min", "max"]].astype(float), [8 / 3, np.std([1, 3, 4], ddof=1), 1, 4]
    )
    b = about.series.loc["b"]
    assert (
        b["rows"] == 3
        and b["first"] == pd.Timestamp(0)
        and b["last"] == pd.Timestamp(5 * 3600, unit="s")
    )
    assert b["median_step"] == pd.Timedelta("2h") and b["largest_gap"] == pd.Timedelta("3h")
    assert pd.isna(about.series.loc["a", "largest_gap"])
    assert about.warnings == ("channel `w` is constant",)
    assert "2 series, 4 rows" in str(about) and "warning: channel `w` is constant" in str(about)


def test_report_warns():
    t = np.concatenate([np.arange(1000.0), [1e10, 1e10 + 1, 1e10 + 2]])
    frame = pd.DataFrame({"time": t, "y": np.sin(t), "z": NAN})
    codes = [w.split(":")[0] for w in frames.report(read(frame)).warnings]
    assert codes == [
        "no observation in channel `z`",
        "a gap of more than 100 median gaps in series `0`",
        "TSD-D15",
        "TSD-D16",
    ]


def test_channels_are_matched_by_name(caplog):
    paths = read(LONG.assign(w=1.0))
    got = frames.match_channels(paths, ["v", "u"])
    assert got.names.channels == ("v", "u")
    assert torch.equal(got.x, expected().x.flip(-1)) and torch.equal(
        got.mask, expected().mask.flip(-1)
    )
    assert "the model does not know channel `w`: dropped" in caplog.text


def test_facts_are_matched_by_name():
    frame = LONG.assign(d=[0, 1, 2, 3], e=[4, 5, 6, 7], age=1, size=2, kind=list("xxxw"))
    paths = read(frame, covariates=["d", "e"], static=["age", "size"], label="kind")
    known = Names((), ("u", "v"), Clock(), ("e", "d"), ("size",), ("a", "w", "x"))
    got = frames.match_channels(paths, known)
    assert got.covariates[0, 0].tolist() == [4, 0] and got.static.tolist() == [[2], [2]]
    assert got.labels.tolist() == [2, 1] and got.names.classes == ("a", "w", "x")


def test_constant_channels():
    paths = read(LONG.assign(w=5.0, z=NAN))
    assert frames.constant_channels(paths) == ("w",)


def test_data_in_order_pass_every_check():
    paths = read(LONG)
    for check in (
        frames.require_trainable,
        frames.require_observed,
        frames.require_varying,
        frames.require_steps,
        frames.require_time_resolution,
    ):
        check(paths)
    frames.require_trainable(paths, rows=3)


def test_one_row_can_be_conditioned_on():
    one = read(pd.DataFrame({"time": [0], "y": [1.0]}))
    assert one.x.tolist() == [[[1.0]]]
    frames.require_steps(one)
    frames.require_time_resolution(one)
    with pytest.raises(TsdynError):
        frames.require_trainable(one)


def test_names_are_numbered_where_there_are_none():
    paths = expected(names=None, covariates=torch.zeros(2, 3, 1), static=torch.ones(2, 1))
    table = frames.to_frame(paths)
    assert list(table) == ["series_id", "time", "x0", "x1", "covariate0", "static0"]
    assert list(table["series_id"]) == [0, 0, 0, 1]


def test_the_only_column_of_dates_is_the_time_wherever_it_stands():
    frame = pd.DataFrame(
        {
            "patient": ["a", "a", "b"],
            "visit": ["2024-01-01", "2024-01-03", "2024-01-02"],
            "y": [1, 2, 3],
        }
    )
    paths = read(frame, series="patient")
    assert paths.names.series == ("a", "b") and paths.names.channels == ("y",)
    assert paths.t[0].diff().tolist() == [2 * 86400.0]
