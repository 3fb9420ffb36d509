"""Tables as people keep them -> `Paths`: long, melted and wide.

Which column was taken as what is logged. The caller's table is never changed.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import pandas as pd

from ..batch import Clock, Paths
from ..errors import DataError, first
from .clock import Column, Place, spots
from .columns import (
    CHANNEL,
    TIME,
    VALUE,
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
from .table import How, Integers, Table, assemble, choice, no_rows, repeats
from .values import Floats, number

log = logging.getLogger("tsdyn")

Several = str | Sequence[str]


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
    rows = _rows(frame, series, time, how)
    if channels is None:
        roles = {rows.series, rows.time, *several(covariates), *several(static), label, weight}
        rows = rows._replace(frame=masked(rows.frame))
        channels = _numeric([c for c in rows.frame.columns if c not in roles], rows.frame)
    channels = several(channels)
    frame = rows.frame
    columns = {c: frame[there(frame, c)] for c in channels}
    facts = _facts(frame, covariates, static, label, weight)
    if not columns:
        raise DataError(
            "D02",
            "no column is left to be a channel",
            "At least one column of numbers besides series and time is needed",
            f"The columns are: {', '.join(frame.columns)}",
        )
    log.info(
        "%d series from %d rows: series=%s, time=%s (%s), channels=%s",
        *(len(rows.ids), len(frame), rows.series or "one", rows.time, rows.clock.kind),
        ", ".join(channels),
    )
    table = Table(
        codes=rows.codes,
        series=rows.ids,
        t=rows.t,
        clock=rows.clock,
        rows=frame.index,
        channels=columns,
        **facts,
    )
    return assemble(table, how)


def _numeric(names: Sequence[str], frame: pd.DataFrame) -> list[str]:
    """The columns that may hold numbers; the others are logged."""
    left = [name for name in names if is_text(frame[name])]
    if left:
        log.warning(
            "left out columns that hold no numbers: %s. If one tells the series apart, name it with "
            "series=... (--series in the command)",
            first(left),
        )
    return [name for name in names if name not in left]


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
    rows = _rows(frame, series, time, how)
    frame, codes, t = rows.frame, rows.codes, rows.t
    channel = there(frame, channel or find(frame, CHANNEL) or CHANNEL[0])
    value = there(frame, value or find(frame, VALUE) or VALUE[0])
    kind, kinds = pd.factorize(frame[channel])
    present(kind, channel, frame.index)
    numbers = number(value, frame[value], rows.place, "column")
    moment, moments = pd.factorize(t)
    row, _ = pd.factorize(codes * len(moments) + moment)  # one of the rows of the result
    keys = row * len(kinds) + kind
    numbers = _once(numbers, keys, rows.place, choice("on_duplicate", how))
    start = ~pd.Series(row).duplicated().to_numpy()
    x = np.full((int(start.sum()), len(kinds)), np.nan)
    x[row, kind] = numbers
    table = Table(
        codes=codes[start],
        series=rows.ids,
        t=t[start],
        clock=rows.clock,
        rows=frame.index[start],
        channels={str(name): pd.Series(x[:, i]) for i, name in enumerate(kinds)},
        **_facts(frame[start], covariates, static, label, weight),
    )
    log.info("%d series, melted: channels=%s", len(rows.ids), ", ".join(table.channels))
    return assemble(table, how)


class _Rows(NamedTuple):
    """The rows of a frame: which series each belongs to, and when."""

    frame: pd.DataFrame
    series: str | None  # name of the column
    time: str  # name of the column
    codes: Integers  # (N,)
    ids: tuple[str | int, ...]  # B
    place: Place
    t: Floats  # (N,)
    clock: Clock


def _rows(frame: pd.DataFrame, series: str | None, time: str | None, how: How) -> _Rows:
    frame = named(lift(frame, series, time))
    series = series_column(frame, series)
    time = time_column(frame, series, time)
    codes, ids, place = series_of(frame, series)
    t, clock = times_of(frame[time], place, how)
    return _Rows(frame, series, time, codes, ids, place, t, clock)


def _facts(
    frame: pd.DataFrame,
    covariates: Several,
    static: Several,
    label: str | None,
    weight: str | None,
) -> dict[str, Any]:
    """The columns that are no channels, as fields of a `Table`."""

    def column(name: str) -> Column:
        return frame[there(frame, name)]

    return {
        "covariates": {name: column(name) for name in several(covariates)},
        "static": {name: column(name) for name in several(static)},
        "label": column(label) if label else None,
        "weight": column(weight) if weight else None,
    }


def _once(values: Floats, keys: Integers, place: Place, on_duplicate: str) -> Floats:
    """Rows of equal keys get the same value: their mean, first or last."""
    twice = pd.Series(keys).duplicated().to_numpy()
    if not twice.any():
        return values
    if on_duplicate == "error":
        raise DataError(
            "D06",
            f"{repeats(twice)} a series, time and channel: {spots(twice, place)}",
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
