"""Tables as people keep them -> `Paths`: long, melted, wide, arrays, and `read`, which tells them apart.

Which column was taken as what is logged. The caller's table is never changed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from torch import Tensor

from ..batch import Paths
from ..errors import ConfigError, DataError, first
from .arrays import from_arrays, unpack
from .clock import Column, Place, spots
from .columns import (
    CHANNEL,
    TIME,
    VALUE,
    as_frame,
    find,
    identifier,
    is_text,
    lift,
    masked,
    named,
    present,
    series_column,
    series_of,
    several,
    there,
    time_column,
    times_of,
)
from .table import How, Integers, Table, assemble, choice, no_rows
from .values import Floats, number

log = logging.getLogger("tsdyn")

Several = str | Sequence[str]


def read(
    source: Any,
    *,
    series: str | None = None,
    time: str | None = None,
    channels: Several | None = None,
    covariates: Several = (),
    static: Several = (),
    label: str | None = None,
    weight: str | None = None,
    times: Any = None,
    classes: Sequence[str] | None = None,
    on_duplicate: Literal["error", "mean", "first", "last"] = "error",
    on_unsorted: Literal["sort", "error"] = "sort",
    day_first: bool | None = None,
    zone: str | None = None,
) -> Paths:
    """Observations of any layout -> `Paths`; rows without an observation are kept.

    Series come in order of first appearance, t is float64 in the user's own unit (seconds since 1970
    for dates), x is float32.

    Args:
        source: a .csv or .parquet file; a long frame (`series_id, time, <channels>`), a melted one
            (`series_id, time, channel, value`), a wide one (times in the index; columns are channels,
            or pairs of series and channel); anything with `to_pandas()`; an array
            (series, steps, channels) with NaN where nothing was observed; or a mapping with the
            arrays "X" and perhaps "times".
        series: column that tells the series apart; None looks for a usual name, or takes all rows as
            one series.
        time: column of times; None looks for a usual name, then for the only column of dates.
        channels: columns that are observed; None takes every other column of numbers.
        covariates: columns known at every row, also ahead of time.
        static: columns with one value per series.
        label: column with the class of each series.
        weight: column with how much each series counts.
        times: for arrays, (steps,) or (series, steps); None counts the steps.
        classes: what the labels may be, in the order of their numbers; None takes those that occur.
        on_duplicate: rows of one series at one time are an error, or become their mean, or the first
            or last value of each channel that is not missing.
        on_unsorted: rows out of order are sorted, or are an error.
        day_first: whether 01/02/2024 is the first of February; None refuses such text.
        zone: time zone of text with several offsets, or with none.

    Raises:
        DataError: with one of the codes D01 to D09, D13, D14, D15, D21.
    """
    how = How(
        on_duplicate=on_duplicate,
        on_unsorted=on_unsorted,
        day_first=day_first,
        zone=zone,
        classes=classes,
    )
    columns: dict[str, Any] = {
        "series": series,
        "time": time,
        "covariates": covariates,
        "static": static,
        "label": label,
        "weight": weight,
    }
    if isinstance(source, Mapping):
        source, times = unpack(source, times)
    if isinstance(source, Tensor | np.ndarray):
        _unused("an array", "from_arrays", columns)
        return from_arrays(source, times, channels=channels, **how)
    frame = as_frame(source)
    _unused("a table", "from_arrays", {"times": times})
    if frame.columns.nlevels > 1:
        _unused("a table with two rows of headers", "from_long", columns)
        return from_wide(frame, channels=channels, **how)
    if channels is None and _is_melted(frame, time):
        return from_melted(frame, **columns, **how)
    return from_long(frame, channels=channels, **columns, **how)


def _unused(source: str, instead: str, given: Mapping[str, Any]) -> None:
    """X01 for an argument that this layout has no use for."""
    named = [name for name, value in given.items() if value is not None and not value == ()]
    if named:
        raise ConfigError(
            "X01", f"{source} has no use for {named[0]}=", "", f"Leave it out, or see {instead}"
        )


def from_long(
    frame: pd.DataFrame,
    *,
    series: str | None = None,
    time: str | None = None,
    channels: Several | None = None,
    covariates: Several = (),
    static: Several = (),
    label: str | None = None,
    weight: str | None = None,
    **how: Unpack[How],
) -> Paths:
    """One row per series and time, one column per channel; arguments as in `read`."""
    frame = named(lift(frame, series, time))
    covariates, static = several(covariates), several(static)
    series = series_column(frame, series)
    time = time_column(frame, series, time)
    codes, ids, place = series_of(frame, series)
    t, clock = times_of(frame[time], place, how)
    facts = {time, *covariates, *static, *filter(None, (series, label, weight))}
    if channels is None:
        frame = masked(frame)
        rest = [c for c in frame.columns if c not in facts]
        left = [c for c in rest if is_text(frame[c])]
        channels = [c for c in rest if c not in left]
        if left:
            log.warning("left out columns that hold no numbers: %s", first(left))
    channels = several(channels)
    for name in (*channels, *covariates, *static, *filter(None, (label, weight))):
        there(frame, name)
    if not channels:
        raise DataError(
            "D02",
            "no column is left to be a channel",
            "At least one column of numbers besides series and time is needed",
            f"The columns are: {', '.join(frame.columns)}",
        )
    log.info(
        "%d series from %d rows: series=%s, time=%s (%s), channels=%s",
        *(len(ids), len(frame), series or "one", time, clock.kind, ", ".join(channels)),
    )
    table = Table(
        codes=codes,
        series=ids,
        t=t,
        clock=clock,
        rows=frame.index,
        channels={c: frame[c] for c in channels},
        covariates={c: frame[c] for c in covariates},
        static={c: frame[c] for c in static},
        label=frame[label] if label else None,
        weight=frame[weight] if weight else None,
    )
    return assemble(table, how)


def from_melted(
    frame: pd.DataFrame,
    *,
    series: str | None = None,
    time: str | None = None,
    channel: str | None = None,
    value: str | None = None,
    covariates: Several = (),
    static: Several = (),
    label: str | None = None,
    weight: str | None = None,
    **how: Unpack[How],
) -> Paths:
    """One row per series, time and channel: columns `series_id, time, channel, value`.

    Channels come in order of first appearance. A covariate stands in the first of the rows of a
    series and time, or in all of them.
    """
    frame = named(lift(frame, series, time))
    codes, ids, place = series_of(frame, series_column(frame, series))
    t, clock = times_of(frame[time_column(frame, series, time)], place, how)
    channel = there(frame, channel or find(frame, CHANNEL) or CHANNEL[0])
    value = there(frame, value or find(frame, VALUE) or VALUE[0])
    kind, kinds = pd.factorize(frame[channel])
    present(kind, channel, frame.index)
    numbers = number(value, frame[value], place, "column")
    moment, moments = pd.factorize(t)
    row, _ = pd.factorize(codes * len(moments) + moment)  # one of the rows of the result
    numbers = _once(numbers, row * len(kinds) + kind, place, choice("on_duplicate", how))
    start = ~pd.Series(row).duplicated().to_numpy()
    x = np.full((int(start.sum()), len(kinds)), np.nan)
    x[row, kind] = numbers

    def column(name: str) -> Column:
        return frame[there(frame, name)][start]

    table = Table(
        codes=codes[start],
        series=ids,
        t=t[start],
        clock=clock,
        rows=frame.index[start],
        channels={str(name): pd.Series(x[:, i]) for i, name in enumerate(kinds)},
        covariates={name: column(name) for name in several(covariates)},
        static={name: column(name) for name in several(static)},
        label=column(label) if label else None,
        weight=column(weight) if weight else None,
    )
    log.info("%d series, melted: channels=%s", len(ids), ", ".join(table.channels))
    return assemble(table, how)


def _once(values: Floats, keys: Integers, place: Place, on_duplicate: str) -> Floats:
    """Rows of equal keys get the same value: their mean, first or last."""
    twice = pd.Series(keys).duplicated().to_numpy()
    if not twice.any():
        return values
    if on_duplicate == "error":
        raise DataError(
            "D06",
            f"{twice.sum()} rows repeat a series, time and channel: {spots(twice, place)}",
            "A channel of a series has one value per time",
            "Drop them, or pass on_duplicate='mean', 'first' or 'last'",
        )
    groups = pd.Series(values).groupby(keys)
    merged = groups.transform(on_duplicate)  # type: ignore[call-overload]  # one of its names
    return np.asarray(merged, dtype=np.float64)


def from_wide(frame: pd.DataFrame, *, channels: Several | None = None, **how: Unpack[How]) -> Paths:
    """Times in the index; a column per channel (one series), or per pair (series, channel).

    With several series, times at which a series has no value at all are no rows of that series.
    """
    if frame.columns.nlevels == 1:
        if TIME[0] in frame.columns and frame.index.name != TIME[0]:
            raise DataError(
                "D02",
                f"there is a column `{TIME[0]}` besides the index",
                "The index of a wide table holds the times",
                "Use from_long, or rename the column",
            )
        lifted = named(frame.rename_axis(index=TIME[0]).reset_index())
        return from_long(lifted, time=TIME[0], channels=channels, **how)
    if not frame.size:
        raise no_rows("the table has no rows")
    pairs = [(str(c[1]), c[0]) for c in frame.columns]
    present_names = tuple(dict.fromkeys(name for name, _ in pairs))
    names = present_names if channels is None else several(channels)
    for name in names:
        there(pd.DataFrame(columns=list(present_names)), name)
    ids = list(dict.fromkeys(key for _, key in pairs))
    where = {pair: i for i, pair in enumerate(pairs)}
    steps, size = frame.shape[0], len(ids)
    columns = {}
    for name in names:
        parts = [
            frame.iloc[:, where[name, key]].reset_index(drop=True)
            if (name, key) in where
            else pd.Series(np.full(steps, np.nan))
            for key in ids
        ]
        columns[name] = pd.concat(parts, ignore_index=True)
    codes = np.repeat(np.arange(size), steps)
    seen = np.logical_or.reduce([c.notna().to_numpy() for c in columns.values()])
    kept = seen | (np.bincount(codes, seen)[codes] == 0)
    labels = frame.index.to_numpy()
    t, clock = times_of(frame.index.to_series(), lambda i: f"row {labels[i]}", how)
    table = Table(
        codes=codes[kept],
        series=tuple(identifier(key) for key in ids),
        t=np.tile(t, size)[kept],
        clock=clock,
        rows=np.tile(labels, size)[kept],
        channels={name: column[kept] for name, column in columns.items()},
    )
    log.info("%d series from a wide table: channels=%s", size, ", ".join(names))
    return assemble(table, how)


def _is_melted(frame: pd.DataFrame, time: str | None) -> bool:
    channel, value = find(frame, CHANNEL), find(frame, VALUE)
    timed = time or find(frame, TIME) or any(str(n).lower() in TIME for n in frame.index.names)
    return bool(channel and value and timed) and is_text(frame[channel])
