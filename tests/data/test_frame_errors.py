"""What every mistake in a table says, word for word, under its code."""

import datetime
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from tsdyn.batch import Clock, Names, Paths
from tsdyn.data import frames
from tsdyn.data.frames import read
from tsdyn.errors import TsdynError

NAN, INF = float("nan"), float("inf")

TABLE = pd.DataFrame(
    {
        "series_id": ["a", "a", "a", "b", "b"],
        "time": [0.0, 1.0, 2.0, 0.0, 4.0],
        "y": [1.0, 2.0, NAN, 4.0, 5.0],
        "z": [6.0, 7.0, 8.0, 9.0, 10.0],
    }
)


def table(**columns):
    return TABLE.assign(**columns)


def dated(*text):
    return pd.DataFrame({"time": list(text), "y": np.arange(float(len(text)))})


def paths(t, x, names=None):
    """One channel of series at times t (B, T), NaN where nothing is seen."""
    x = torch.tensor(x)[..., None]
    return Paths(torch.tensor(t, dtype=torch.float64), x.nan_to_num(), ~x.isnan(), names=names)


def new_year(zone):
    return datetime.datetime(2024, 1, 1, tzinfo=zone)


DATED = Names(("a",), ("y",), Clock("datetime", "Europe/Berlin"))
KNOWN = Names((), ("y", "w"), Clock())
NEAR = 1e9 + np.arange(5) * 1e-3

CASES = {
    # what is there
    "no rows": lambda: read(TABLE.iloc[:0]),
    "empty array": lambda: read(np.zeros((0, 3, 1))),
    "no file": lambda: read("nowhere/table.csv"),
    "no table": lambda: read(7),
    "a row without a series": lambda: read(table(series_id=["a", None, "a", "b", None])),
    "a step without a time": lambda: read(np.full((2, 1, 1), NAN), times=[[0.0], [NAN]]),
    "misspelt column": lambda: read(TABLE, channels=["y", "zz"]),
    "absent column": lambda: read(TABLE, label="diagnosis"),
    "no time": lambda: read(TABLE.rename(columns={"time": "hours"})),
    "two columns of dates": lambda: read(
        pd.DataFrame({"start": pd.to_datetime([0]), "end": pd.to_datetime([1]), "y": [1]})
    ),
    "no channel": lambda: read(TABLE[["series_id", "time"]]),
    "twice the same name": lambda: read(TABLE.set_axis(["series_id", "time", "y", "y"], axis=1)),
    "no array in a mapping": lambda: read({"values": np.zeros((1, 1, 1))}),
    "a file that holds no draws": lambda: frames.read_draws("table.parquet"),
    # values
    "text among numbers": lambda: read(table(y=["1", "2", "n/a?", "4", "low"])),
    "dates as a channel": lambda: read(table(y=pd.Timestamp("2024")), channels="y"),
    "missing time": lambda: read(table(time=[0, NAN, 2, NAN, 4])),
    "infinite time": lambda: read(table(time=[0, 1, INF, 0, 4])),
    "missing date": lambda: read(
        table(time=pd.to_datetime(["2024-01-01", None] + ["2024-01-02"] * 3))
    ),
    "infinite value": lambda: read(table(y=[1, INF, -INF, 4, 5])),
    "many infinite values": lambda: read(table(y=INF)),
    # order
    "same time twice": lambda: read(table(time=[0, 0, 0, 0, 4])),
    "same time twice in any order": lambda: read(table(time=[0, 5, 0, 4, 4]).iloc[[4, 2, 1, 0, 3]]),
    "same time and channel twice": lambda: read(
        pd.concat([TABLE, TABLE]).melt(["series_id", "time"], var_name="channel")
    ),
    "backwards": lambda: read(table(time=[0, 2, 1, 4, 0]), on_unsorted="error"),
    # calendars
    "naive and aware": lambda: read(dated("2024-01-01T00:00", "2024-01-01T10:00Z")),
    "naive and aware objects": lambda: read(dated(new_year(None), new_year(datetime.UTC))),
    "two zones": lambda: read(dated("2024-01-01T00:00+01:00", "2024-01-01T10:00+02:00")),
    "day or month first": lambda: read(dated("2024-01-01", "01/02/2024"), time="time"),
    "no such day": lambda: read(dated("31/02/2024"), day_first=True),
    "no time at all": lambda: read(dated("yesterday", "2024-01-01"), time="time"),
    "a mixture": lambda: read(dated("2024-01-01", 3), time="time"),
    "an hour that never was": lambda: read(dated("2024-03-31T02:30"), zone="Europe/Berlin"),
    # enough to learn from
    "too short": lambda: frames.require_trainable(read(TABLE.iloc[[0, 3]])),
    "nothing seen in a channel": lambda: frames.require_observed(read(table(y=NAN))),
    "constant": lambda: frames.require_varying(read(table(y=1.0, z=2.0))),
    # another table than the model knows
    "absent channel": lambda: frames.match_channels(read(TABLE), KNOWN),
    "misspelt channel": lambda: frames.match_channels(read(TABLE), ["yy"]),
    "too many channels": lambda: frames.match_channels(paths([[0.0]], [[1.0]]), KNOWN),
    "absent covariate": lambda: frames.match_channels(
        read(TABLE), Names((), ("y",), Clock(), ("dose",))
    ),
    "dates for numbers": lambda: frames.match_channels(
        read(dated("2024-01-01")), Names((), ("y",), Clock())
    ),
    "unknown class": lambda: read(table(kind=list("xxxww")), label="kind", classes=["x", "v"]),
    # types
    "large integers": lambda: read(table(y=2**53 + np.arange(5))),
    "large integer times": lambda: read(table(time=2**60 + np.arange(5))),
    "beyond float32": lambda: read(table(y=[1, 2, 3, 4e38, 5])),
    "two static values": lambda: read(TABLE, static="y"),
    "negative weight": lambda: read(table(m=[1, 1, 1, -1, -1]), weight="m"),
    "no weight": lambda: read(table(m=0), weight="m"),
    "two axes": lambda: read(np.zeros((3, 2))),
    "times of another length": lambda: read(np.zeros((2, 3, 1)), times=[0, 1]),
    "names of another number": lambda: read(np.zeros((2, 3, 1)), channels=["u", "v"]),
    "a fact of another shape": lambda: frames.from_arrays(
        np.zeros((2, 3, 1)), static={"age": [1, 2, 3]}
    ),
    "a cell with a hole": lambda: frames.to_snapshots(TABLE, time="time"),
    # scales
    "far from zero": lambda: read(table(y=NEAR)),
    "times in nanoseconds": lambda: read(
        pd.DataFrame({"time": pd.to_datetime([10**18, 10**18 + 1]), "y": [1, 2]})
    ),
    "fine and long": lambda: frames.require_time_resolution(
        paths([[0, 1, 1e9, 1e9 + 1, 1e9 + 2]], [[1.0, 2, 3, 4, 5]])
    ),
    "a long gap": lambda: frames.require_steps(
        paths([[0, 1, 2, 3], [0, 1, 2, 1e7]], [[1.0] * 4] * 2)
    ),
    # questions
    "no question": lambda: frames.query_times([], read(TABLE)),
    "question without time": lambda: frames.query_times([1, NAN], read(TABLE)),
    "questions backwards": lambda: frames.query_times([2, 1], read(TABLE)),
    "questions backwards for one": lambda: frames.query_times([[1, 2], [2, 1]], read(TABLE)),
    "questions backwards in a frame": lambda: frames.query_times(
        pd.DataFrame({"series_id": list("abb"), "time": [2, 2, 1]}), read(TABLE)
    ),
    "no question in a frame": lambda: frames.query_times(
        pd.DataFrame({"series_id": [], "time": []}), read(TABLE)
    ),
    "questions of another shape": lambda: frames.query_times([[1, 2]], read(TABLE)),
    "questions about another series": lambda: frames.query_times(
        pd.DataFrame({"series_id": ["a", "c"], "time": [1, 2]}), read(TABLE)
    ),
    "a series without questions": lambda: frames.query_times(
        pd.DataFrame({"series_id": ["a"], "time": [1]}), read(TABLE)
    ),
    "a date for numbers": lambda: frames.query_times("2024-01-01", read(TABLE)),
    "a number for dates": lambda: frames.query_times(3, paths([[0.0]], [[1.0]], DATED)),
    "a naive date": lambda: frames.query_times("2024-01-01", paths([[0.0]], [[1.0]], DATED)),
    "a zone too much": lambda: frames.query_times("2024-01-01T00:00Z", read(dated("2024-01-01"))),
    "a year": lambda: frames.duration("1y", Clock("datetime")),
    "hours of numbers": lambda: frames.duration("24h", Clock()),
    "backwards in time": lambda: frames.duration(-1, Clock()),
    # facts
    "missing covariate": lambda: read(TABLE, channels="z", covariates="y"),
    "missing static": lambda: read(table(age=[1, 1, 1, NAN, NAN]), static="age"),
    "missing label": lambda: read(table(kind=["x", "x", "x", None, None]), label="kind"),
    # options
    "unknown option": lambda: read(TABLE, on_duplicate="median"),
    "misspelt option": lambda: read(TABLE, on_unsorted="sorted"),
    "useless argument": lambda: read(np.zeros((1, 1, 1)), series="a"),
    "unknown suffix": lambda: frames.write_table(TABLE, "table.xlsx"),
    "unknown kind": lambda: frames.draws_to_frame(
        torch.zeros(1, 1), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1).bool(), KNOWN, "median"
    ),
}

MESSAGES = {
    "no rows": (
        "TSD-D01: The table has no rows. At least one row of one series is needed. Check the "
        "file, or the filter that made the table."
    ),
    "empty array": (
        "TSD-D01: The array is empty, (0, 3, 1). At least one row of one series is needed. "
        "Check the file, or the filter that made the table."
    ),
    "no file": ("TSD-D01: There is no file `nowhere/table.csv`. Correct the path."),
    "no table": (
        "TSD-D01: `int` is no table. A file, a frame, an array or a mapping of arrays is "
        "needed. Make it a pandas.DataFrame."
    ),
    "a row without a series": (
        "TSD-D01: Column `series_id` is missing in row 1, row 4. Every row belongs to one of "
        "its values. Fill it in, or drop these rows."
    ),
    "a step without a time": (
        "TSD-D01: A series of the array has no time at any step. At least one row of one "
        "series is needed. Check the file, or the filter that made the table."
    ),
    "misspelt column": (
        "TSD-D02: There is no column `zz`. The columns are: series_id, time, y, z. Did you "
        "mean `z`?"
    ),
    "absent column": (
        "TSD-D02: There is no column `diagnosis`. The columns are: series_id, time, y, z."
    ),
    "no time": (
        "TSD-D02: No column of times was found. The columns are: series_id, hours, y, z. "
        "Name the column of times with time=... (--time in the command), or use from_wide where the index holds them."
    ),
    "two columns of dates": (
        "TSD-D02: Several columns hold dates: start, end. The columns are: start, end, y. "
        "Name the column of times with time=... (--time in the command), or use from_wide where the index holds them."
    ),
    "no channel": (
        "TSD-D02: No column is left to be a channel. At least one column of numbers besides "
        "series and time is needed. The columns are: series_id, time."
    ),
    "twice the same name": ("TSD-D02: Two columns are called `y`. Names must differ. Rename one."),
    "no array in a mapping": (
        "TSD-D02: The mapping has no entry `X`. Its entries are: values. Give the array "
        "(series, steps, channels) under `X`."
    ),
    "a file that holds no draws": (
        "TSD-D02: `table.parquet` holds no draws. A file of draws is made by "
        "Forecast.to_parquet. A table of observations is read with tsdyn.read."
    ),
    "text among numbers": (
        "TSD-D03: Channel `y` holds 'n/a?' in row 2 of series `a`, row 4 of series `b`. It "
        "must hold numbers, NaN where they are missing. Convert it, or say which columns are "
        "channels with channels=[...]."
    ),
    "dates as a channel": (
        "TSD-D03: Channel `y` holds '2024-01-01 00:00:00' in row 0 of series `a`, row 1 of "
        "series `a`, row 2 of series `a` (3 of 5). It must hold numbers, NaN where they are "
        "missing. Convert it, or say which columns are channels with channels=[...]."
    ),
    "missing time": (
        "TSD-D04: Column `time` has no finite time in row 1 of series `a`, row 3 of series "
        "`b`. Every row needs one. Drop these rows or fill in their times."
    ),
    "infinite time": (
        "TSD-D04: Column `time` has no finite time in row 2 of series `a`. Every row needs "
        "one. Drop these rows or fill in their times."
    ),
    "missing date": (
        "TSD-D04: Column `time` has no finite time in row 1 of series `a`. Every row needs "
        "one. Drop these rows or fill in their times."
    ),
    "infinite value": (
        "TSD-D05: Channel `y` is infinite in row 1 of series `a`, row 2 of series `a`. A "
        "value is finite or missing. Replace it, or set it to NaN where it stands for a "
        "missing value."
    ),
    "many infinite values": (
        "TSD-D05: Channel `y` is infinite in row 0 of series `a`, row 1 of series `a`, row 2 "
        "of series `a` (3 of 5). A value is finite or missing. Replace it, or set it to NaN "
        "where it stands for a missing value."
    ),
    "same time twice": (
        "TSD-D06: 2 rows repeat a time of their series: row 1 of series `a`, row 2 of series "
        "`a`. A series has one row per time. Drop them, name the column that tells the "
        "series apart with series=..., or pass on_duplicate='mean', 'first' or 'last'."
    ),
    "same time twice in any order": (
        "TSD-D06: 2 rows repeat a time of their series: row 3 of series `b`, row 0 of "
        "series `a`. A series has one row per time. Drop them, name the column that tells "
        "the series apart with series=..., or pass on_duplicate='mean', 'first' or 'last'."
    ),
    "same time and channel twice": (
        "TSD-D06: 10 rows repeat a series, time and channel: row 5 of series `a`, row 6 of "
        "series `a`, row 7 of series `a` (3 of 10). A channel of a series has one value per "
        "time. Drop them, or pass on_duplicate='mean', 'first' or 'last'."
    ),
    "backwards": (
        "TSD-D07: Time runs backwards at row 2 of series `a`, row 4 of series `b`. Times "
        "increase within a series. Sort the rows, or pass on_unsorted='sort'."
    ),
    "naive and aware": (
        "TSD-D08: Column `time` has times with a zone, and without one in row 0. All times "
        "of a column have a zone, or none has. Add the zone where it is missing, for example "
        "with Series.dt.tz_localize."
    ),
    "naive and aware objects": (
        "TSD-D08: Column `time` has times with a zone, and without one in row 0. All times "
        "of a column have a zone, or none has. Add the zone where it is missing, for example "
        "with Series.dt.tz_localize."
    ),
    "two zones": (
        "TSD-D08: Column `time` mixes the time zones +01:00, +02:00. All times of a column "
        "are in one zone. Name the zone they are to be in, for example zone='UTC'."
    ),
    "day or month first": (
        "TSD-D09: Column `time` holds dates that can be read in two ways, such as "
        "'01/02/2024' in row 1. It must be known whether the day or the month comes first. "
        "Say day_first=True or day_first=False, or write 2024-03-01."
    ),
    "no such day": (
        "TSD-D09: Column `time` holds text that is no time, such as '31/02/2024' in row 0. "
        "Write times as 2024-03-01 or 2024-03-01T12:00:00, or as numbers."
    ),
    "no time at all": (
        "TSD-D09: Column `time` holds text that is no time, such as 'yesterday' in row 0. "
        "Write times as 2024-03-01 or 2024-03-01T12:00:00, or as numbers."
    ),
    "a mixture": (
        "TSD-D09: Column `time` holds values that are no times (mixed-integer), the first is "
        "2024-01-01. A time is an integer, a float, a timestamp, a date or text, the same "
        "throughout the column. Write times as 2024-03-01 or 2024-03-01T12:00:00, or as "
        "numbers."
    ),
    "an hour that never was": (
        "TSD-D09: Column `time` holds times that Europe/Berlin has twice or never, in row 0. "
        "Write them with their offset, as in 2024-10-27T02:30:00+01:00."
    ),
    "too short": (
        "TSD-D10: Observed rows of a series: at most 1, in 2 series. Training needs a series "
        "of at least 2. Add observations; series this short can still be forecast by a "
        "fitted model."
    ),
    "nothing seen in a channel": (
        "TSD-D11: Channels without an observation: y. Every channel is observed at least "
        "once. Leave them out with channels=[...]."
    ),
    "constant": (
        "TSD-D12: Channels of one value throughout: y, z. A channel varies. Leave them out "
        "with channels=[...]; a constant needs no model."
    ),
    "absent channel": (
        "TSD-D13: Channel `w` is absent. There are: y, z. Add it, or rename the one that holds it."
    ),
    "misspelt channel": ("TSD-D13: Channel `yy` is absent. There are: y, z. Did you mean `y`?"),
    "too many channels": (
        "TSD-D13: The number of channels is 1, and they have no names. The model knows 2: y, "
        "w. Give the paths names, or the channels of the model in its order."
    ),
    "absent covariate": (
        "TSD-D13: Covariate `dose` is absent. There are: none. Add it, or rename the one "
        "that holds it."
    ),
    "dates for numbers": (
        "TSD-D13: The times are of the kind date. The model was fitted to times of the kind "
        "float. Write times as they were written for training."
    ),
    "unknown class": (
        "TSD-D13: Label `w` is not one of the known classes. Known: x, v. Correct the "
        "labels, or give all of classes=[...]."
    ),
    "large integers": (
        "TSD-D14: Channel `y` holds integers beyond 2**53 in row 2 of series `a`, row 3 of "
        "series `b`, row 4 of series `b`. Values become floats, which hold every integer "
        "only up to there. Subtract an offset, or leave the column out if it is an "
        "identifier."
    ),
    "large integer times": (
        "TSD-D14: Column `time` holds integers beyond 2**53 in row 0 of series `a`, row 1 of "
        "series `a`, row 2 of series `a` (3 of 5). Only up to there does float64 hold every "
        "integer. Subtract an origin, or turn epochs into timestamps with "
        "pandas.to_datetime(..., unit=...)."
    ),
    "beyond float32": (
        "TSD-D14: Channel `y` is beyond 3.4e38 in row 3 of series `b`. Values become "
        "float32. Divide the column by its unit, or take its logarithm."
    ),
    "two static values": (
        "TSD-D14: Column `y` takes several values within series `a`, series `b`. It must "
        "hold one value per series. Make it a covariate, or settle on one value."
    ),
    "negative weight": (
        "TSD-D14: Weight `m` is negative for series `b`. Weights are not negative, and some "
        "are positive. Correct them, or leave the series out."
    ),
    "no weight": (
        "TSD-D14: Weight `m` is all zero. Weights are not negative, and some are positive. "
        "Correct them, or leave the series out."
    ),
    "two axes": (
        "TSD-D14: The array has 2 axes (3, 2). It has three: (series, steps, channels). For "
        "one series of several channels give x[None], for one channel x[..., None]."
    ),
    "times of another length": (
        "TSD-D14: Times have the shape (2,). The array has 2 series of 3 steps. Give times "
        "of the shape (3,) or (2, 3)."
    ),
    "names of another number": (
        "TSD-D14: 2 channels are named. The array has 1. Name each of them."
    ),
    "a fact of another shape": ("TSD-D14: `age` has the shape (3,). It must be (2,). Reshape it."),
    "a cell with a hole": (
        "TSD-D14: Channel `y` is missing in row 2. Every row has a value. Fill it in, or "
        "drop these rows."
    ),
    "far from zero": (
        "TSD-D15: Column `y` lies around 1e+09 with a spread of 0.00199997: as float32 its 5 "
        "distinct values become 1. Values lie within 1e6 times their spread. Subtract 1e+09 "
        "from the column and add it to the forecasts."
    ),
    "times in nanoseconds": (
        "TSD-D15: Column `time` holds times closer than a microsecond. Seconds since 1970 "
        "tell apart about 0.3 microseconds in float64. Give times as numbers counted from "
        "the start of the measurement."
    ),
    "fine and long": (
        "TSD-D15: The times span 1e+09, and 2 of 4 steps are too small beside it for float32. A "
        "model tells apart 8.4e6 steps. Round the times, merge rows that are nearly "
        "simultaneous, or split the span."
    ),
    "a long gap": (
        "TSD-D16: A gap of 1e+07 is 1e+07 times the median one, in series `1`. A solver of "
        "fixed steps crosses at most 1e+06. Split the series at the gap."
    ),
    "no question": ("TSD-D17: No times are asked for. At least one is needed."),
    "question without time": (
        "TSD-D17: The times asked for are not finite in place 1. Give numbers or dates."
    ),
    "questions backwards": (
        "TSD-D17: The times asked for run backwards in the list. They must increase. Sort them."
    ),
    "questions backwards for one": (
        "TSD-D17: The times asked for run backwards in series `b`. They must increase. Sort them."
    ),
    "questions backwards in a frame": (
        "TSD-D17: The times asked for run backwards in series `b`. They must increase. Sort them."
    ),
    "no question in a frame": ("TSD-D17: No times are asked for. At least one is needed."),
    "questions of another shape": (
        "TSD-D17: The times asked for have the shape (1, 2). There are 2 series. Give times "
        "of the shape (Q,) or (2, Q)."
    ),
    "questions about another series": (
        "TSD-D17: Times are asked for the unknown series `c`. Known: a, b."
    ),
    "a series without questions": (
        "TSD-D17: No times are asked for series `b`. Every series has at least one. Add "
        "rows, or select the series first."
    ),
    "a date for numbers": (
        "TSD-D17: The times asked for are dates. The times of the data are numbers. Ask for "
        "numbers."
    ),
    "a number for dates": (
        "TSD-D17: The times asked for are numbers. The times of the data are dates. Ask for dates."
    ),
    "a naive date": (
        "TSD-D08: The times asked for have no time zone. The data have times in "
        "Europe/Berlin. Localise them with tz_localize('Europe/Berlin')."
    ),
    "a zone too much": (
        "TSD-D08: The times asked for have the time zone UTC. The data have none. Drop "
        "theirs with tz_localize(None)."
    ),
    "a year": (
        "TSD-D17: '1y' is no length of time. Units are w, d, h, min, s, ms and us; months "
        "and years have no fixed length. Write for example '24h', '52w' or '365.25d'."
    ),
    "hours of numbers": (
        "TSD-D17: '24h' is a length of calendar time. The times of the data are numbers "
        "without a unit. Give a number in the unit of the time column."
    ),
    "backwards in time": ("TSD-D17: The length of time is -1. It must be positive and finite."),
    "missing covariate": (
        "TSD-D21: Covariate `y` is missing in row 2 of series `a`. A covariate is known at "
        "every row, also at rows without an observation. Fill it in, drop these rows, or "
        "make it a channel."
    ),
    "missing static": (
        "TSD-D21: Column `age` is missing for series `b`. It must hold one value per series. "
        "Fill it in, or leave these series out."
    ),
    "missing label": (
        "TSD-D21: Column `kind` is missing for series `b`. It must hold one value per "
        "series. Fill it in, or leave these series out."
    ),
    "unknown option": (
        "TSD-X01: `on_duplicate='median'` is unknown. It is one of error, mean, first, last. "
        "Did you mean `mean`?"
    ),
    "misspelt option": (
        "TSD-X01: `on_unsorted='sorted'` is unknown. It is one of sort, error. Did you mean `sort`?"
    ),
    "useless argument": (
        "TSD-X01: An array has no use for series=. Leave it out, or see from_arrays."
    ),
    "unknown suffix": (
        "TSD-X01: `table.xlsx` is of unknown kind. A .csv or .parquet file can be written."
    ),
    "unknown kind": (
        "TSD-X01: `kind='median'` is unknown. It is one of quantiles, samples, mean, states."
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames.write_table(TABLE, "table.parquet")
    with pytest.raises(TsdynError) as error:
        CASES[case]()
    assert str(error.value) == MESSAGES[case]


def test_every_code_has_a_case():
    codes = {message[4:7] for message in MESSAGES.values()}
    assert codes >= {f"D{i:02}" for i in range(1, 18)} | {"D21", "X01"}


def test_only_cases_have_messages():
    assert list(CASES) == list(MESSAGES)


@pytest.mark.parametrize("name, text", [("empty.csv", ""), ("broken.parquet", "no parquet")])
def test_files_that_cannot_be_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(TsdynError, match=r"TSD-D01: `.*` cannot be read as (csv|parquet) \(.+\)"):
        read(tmp_path / name)


def test_files_of_unknown_kind(tmp_path):
    (tmp_path / "table.xlsx").write_text("")
    with pytest.raises(TsdynError, match=r"TSD-D01: `.*xlsx` is of unknown kind"):
        read(tmp_path / "table.xlsx")


@pytest.mark.parametrize(
    "use",
    [
        lambda path: frames.write_table(TABLE, path),
        lambda path: frames.read_draws(path),
        lambda path: frames.write_draws(
            path, torch.zeros(1, 1), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1).bool(), DATED, ""
        ),
        lambda path: read(path),
    ],
)
def test_parquet_needs_a_package(tmp_path, monkeypatch, use):
    path = tmp_path / "table.parquet"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TsdynError, match=r"TSD-X03: .*pip install 'tsdyn\[parquet\]'"):
        use(path)


def test_checks_do_not_depend_on_assertions():
    """They hold under python -O, which takes assertions away."""
    code = "import numpy as np; from tsdyn.data.frames import read; read(np.zeros((0, 1, 1)))"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert "TSD-D01" in done.stderr


def test_duplicates_and_disorder_can_be_allowed():
    frame = table(time=[1, 0, 0, 0, 4])
    assert read(frame, on_duplicate="mean").t.tolist() == [[0, 1], [0, 4]]


def test_values_far_from_zero_that_stay_distinct_are_fine():
    whole = table(y=np.arange(5) + 1e7)
    assert read(whole).x[..., 0].tolist() == [[1e7, 1e7 + 1, 1e7 + 2], [1e7 + 3, 1e7 + 4, 0]]
    outlier = table(y=[0.0, 1.0, 2.0, 3.0, 1e30])
    assert float(read(outlier).x.max()) == float(np.float32(1e30))


def test_missing_values_are_no_large_integers():
    column = pd.array([1, None, 3, 4, 5], dtype="Int64")
    assert read(table(y=column)).mask[0, :, 0].tolist() == [True, False, True]


def test_one_row_is_singular():
    with pytest.raises(TsdynError, match="D06: 1 row repeats a time of their series: row 1"):
        read(table(time=[0.0, 0.0, 1.0, 0.0, 4.0]))


@pytest.mark.parametrize("layout", [frames.from_long, frames.from_melted])
def test_a_misspelt_argument_is_not_swallowed(layout):
    melted = TABLE.melt(["series_id", "time"], var_name="channel").dropna()
    source = TABLE if layout is frames.from_long else melted
    with pytest.raises(
        TsdynError, match=r"X01: There is no argument `on_duplicates`\. Did you mean"
    ):
        layout(source, on_duplicates="mean")
