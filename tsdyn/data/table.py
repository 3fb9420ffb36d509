"""Rows of a table -> `Paths`, with every check that a table can fail.

A table is sorted by series and time, its repeated times are settled, its numbers become float32
once it is known that nothing is lost, and the rows are laid out as (B, T).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..batch import Clock, Names, Paths
from ..errors import ConfigError, DataError, did_you_mean
from .checks import warn_of_empty
from .clock import Column, Place, spots
from .values import Floats, narrow, number

log = logging.getLogger("tsdyn")

Integers = NDArray[np.intp]


class Table(NamedTuple):
    """N rows of B series, in any order."""

    codes: Integers  # (N,)    which series a row belongs to
    series: tuple[str | int, ...]  # B
    t: Floats  # (N,)
    clock: Clock
    rows: Any  # N values          what the user calls a row
    channels: Mapping[str, Column]  # D columns of N
    covariates: Mapping[str, Column] = {}
    static: Mapping[str, Column] = {}  # one value per series, repeated or missing
    label: Column | None = None
    weight: Column | None = None


class How(TypedDict, total=False):
    """What to do where a table leaves a choice.

    on_duplicate: rows of one series at one time are an error, or become their mean, the first or
        the last value of each channel that is not missing.
    on_unsorted: rows out of order are sorted, or are an error.
    day_first: whether 01/02/2024 is the first of February; None refuses such text.
    zone: time zone of text with several offsets, or with none.
    classes: what the labels may be, in the order of their numbers; None takes those that occur.
    """

    on_duplicate: Literal["error", "mean", "first", "last"]
    on_unsorted: Literal["sort", "error"]
    day_first: bool | None
    zone: str | None
    classes: Sequence[str] | None


def assemble(table: Table, how: How) -> Paths:
    """Sorted, checked and padded: N rows -> (B, T).

    Raises:
        DataError: D01, D03, D05, D06, D07, D13, D14, D15, D21.
        ConfigError: X01 for an option that `How` does not have.
    """
    _require_known(how)
    on_duplicate = choice("on_duplicate", how)
    on_unsorted = choice("on_unsorted", how)
    codes, t = table.codes, table.t
    if not len(t):
        raise no_rows("the table has no rows")

    def place(i: int) -> str:
        return f"row {table.rows[i]} of series `{table.series[table.codes[i]]}`"

    x = _stack(table.channels, len(t), place, "channel")  # (N, D)
    covariates = _stack(table.covariates, len(t), place, "covariate")  # (N, C)
    for name, column in zip(table.covariates, covariates.T):
        _present(name, column, place)
    size = len(table.series)
    classes, labels = _labels(table.label, codes, table.series, how.get("classes"))
    static = [
        per_series(name, number(name, column, place, "static column"), codes, table.series)
        for name, column in table.static.items()
    ]
    weights = _weights(table.weight, codes, table.series, place)

    order = _order(codes, t, place, on_unsorted)
    codes, t, x, covariates = codes[order], t[order], x[order], covariates[order]
    twice = np.zeros(len(t), dtype=bool)
    twice[1:] = (codes[1:] == codes[:-1]) & (t[1:] == t[:-1])
    if twice.any():
        if on_duplicate == "error":
            raise _repeated(twice, lambda i: place(order[i]))
        log.info("%s a time of their series: took their %s", repeats(twice), on_duplicate)
        codes, t, x, covariates = _merged(codes, t, x, covariates, on_duplicate)

    count = np.bincount(codes, minlength=size)  # (B,)
    step = np.arange(count.max())
    real = step < count[:, None]  # (B, T)
    at = (count.cumsum() - count)[:, None] + np.minimum(step, count[:, None] - 1)
    mask = ~np.isnan(x)[at] & real[..., None]
    short = narrow(x, tuple(table.channels))
    paths = Paths(
        t=torch.from_numpy(t[at]),
        x=torch.from_numpy(np.where(mask, short[at], np.float32(0))),
        mask=torch.from_numpy(mask),
        covariates=torch.from_numpy(narrow(covariates, tuple(table.covariates))[at])
        if table.covariates
        else None,
        static=torch.from_numpy(narrow(np.stack(static, 1), tuple(table.static)))
        if static
        else None,
        labels=None if labels is None else torch.from_numpy(labels),
        weights=None if weights is None else torch.from_numpy(weights.astype(np.float32)),
        names=Names(
            table.series,
            tuple(table.channels),
            table.clock,
            tuple(table.covariates),
            tuple(table.static),
            classes,
        ),
    )
    warn_of_empty(paths)
    return paths


def no_rows(came: str) -> DataError:
    """D01: nothing to read; `came` says what was empty."""
    return DataError(
        "D01",
        came,
        "At least one row of one series is needed",
        "Check the file, or the filter that made the table",
    )


def _require_known(how: How) -> None:
    unknown = [name for name in how if name not in How.__annotations__]
    if unknown:
        hint = did_you_mean(unknown[0], How.__annotations__)
        raise ConfigError("X01", f"there is no argument `{unknown[0]}`", "", hint)


CHOICES = {
    "on_duplicate": ("error", "mean", "first", "last"),
    "on_unsorted": ("sort", "error"),
}


def choice(name: str, how: How) -> str:
    """What `how` says under this name, else the default; X01 for a word it does not know."""
    known = CHOICES[name]
    chosen = str(how.get(name, known[0]))
    if chosen not in known:
        raise ConfigError(
            "X01",
            f"`{name}={chosen!r}` is unknown",
            f"It is one of {', '.join(known)}",
            hint if (hint := did_you_mean(chosen, known)).startswith("Did") else "",
        )
    return chosen


def _stack(columns: Mapping[str, Column], length: int, place: Place, role: str) -> Floats:
    read = [number(name, column, place, role) for name, column in columns.items()]
    return np.stack(read, 1) if read else np.zeros((length, 0))


def _present(name: str, values: Floats, place: Place) -> None:
    if (bad := np.isnan(values)).any():
        raise DataError(
            "D21",
            f"covariate `{name}` is missing in {spots(bad, place)}",
            "A covariate is known at every row, also at rows without an observation",
            "Fill it in, drop these rows, or make it a channel",
        )


def per_series(name: str, values: Floats, codes: Integers, series: Sequence[str | int]) -> Floats:
    """The one value (B,) that each series has in a column (N,) of repeated values.

    Raises:
        DataError: D14 where a series has several, D21 where it has none.
    """
    groups = pd.Series(values).groupby(codes)
    low, high = groups.min().to_numpy(), groups.max().to_numpy()
    if (bad := low < high).any():
        raise DataError(
            "D14",
            f"column `{name}` takes several values within {spots(bad, lambda b: f'series `{series[b]}`')}",
            "It must hold one value per series",
            "Make it a covariate, or settle on one value",
        )
    if (bad := np.isnan(low)).any():
        raise DataError(
            "D21",
            f"column `{name}` is missing for {spots(bad, lambda b: f'series `{series[b]}`')}",
            "It must hold one value per series",
            "Fill it in, or leave these series out",
        )
    return np.array(low)


def _labels(
    label: Column | None,
    codes: Integers,
    series: Sequence[str | int],
    known: Sequence[str] | None,
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """The classes, and the number (B,) of the class of each series."""
    if label is None:
        return tuple(known or ()), None
    numbers, found = pd.factorize(np.asarray(label, dtype=object))
    if pd.api.types.is_numeric_dtype(label.dtype):  # 10 after 9, and 1.0 is 1
        rank = {c: str(int(c)) if c == int(c) else str(c) for c in sorted(found)}
    else:
        rank = {c: str(c) for c in sorted(found, key=str)}
    classes = tuple(dict.fromkeys(rank.values())) if known is None else tuple(map(str, known))
    unknown = [name for name in rank.values() if name not in classes]
    if unknown:
        raise DataError(
            "D13",
            f"label `{unknown[0]}` is not one of the known classes",
            f"Known: {', '.join(classes)}",
            "Correct the labels, or give all of classes=[...]",
        )
    values = np.array([classes.index(rank[c]) for c in found] + [np.nan])
    return classes, per_series(str(label.name), values[numbers], codes, series).astype(np.int64)


def _weights(
    weight: Column | None, codes: Integers, series: Sequence[str | int], place: Place
) -> Floats | None:
    if weight is None:
        return None
    name = str(weight.name)
    weights = per_series(name, number(name, weight, place, "weight"), codes, series)
    if (bad := weights < 0).any() or not weights.any():
        where = spots(bad, lambda b: f"series `{series[b]}`")
        raise DataError(
            "D14",
            f"weight `{name}` is negative for {where}" if where else f"weight `{name}` is all zero",
            "Weights are not negative, and some are positive",
            "Correct them, or leave the series out",
        )
    return weights


def _order(codes: Integers, t: Floats, place: Place, on_unsorted: str) -> Integers:
    """Rows by series, then by time; rows of equal time stay in their order."""
    order: Integers = np.argsort(codes, kind="stable")
    after = np.zeros(len(t), dtype=bool)
    after[1:] = (np.diff(codes[order]) == 0) & (np.diff(t[order]) < 0)
    if not after.any():
        return order
    late = np.zeros(len(t), dtype=bool)
    late[order[after]] = True
    if on_unsorted == "error":
        raise DataError(
            "D07",
            f"time runs backwards at {spots(late, place)}",
            "Times increase within a series",
            "Sort the rows, or pass on_unsorted='sort'",
        )
    log.info("sorted by time: it runs backwards at %s", spots(late, place))
    by_time: Integers = np.lexsort((t, codes))
    return by_time


def repeats(twice: NDArray[np.bool_]) -> str:
    """`1 row repeats`, `2 rows repeat`: how many are marked."""
    count = int(twice.sum())
    return "1 row repeats" if count == 1 else f"{count} rows repeat"


def _repeated(twice: NDArray[np.bool_], place: Place) -> DataError:
    return DataError(
        "D06",
        f"{repeats(twice)} a time of their series: {spots(twice, place)}",
        "A series has one row per time",
        "Drop them, name the column that tells the series apart with series=..., or pass "
        "on_duplicate='mean', 'first' or 'last'",
    )


def _merged(
    codes: Integers, t: Floats, x: Floats, covariates: Floats, how: str
) -> tuple[Integers, Floats, Floats, Floats]:
    """One row per series and time: the mean, first or last present value of every column."""
    width = x.shape[1]
    both = pd.DataFrame(np.concatenate([x, covariates], 1))
    groups = both.groupby([codes, t], sort=True)
    merged = groups.agg(how)
    values = merged.to_numpy()
    index = merged.index
    return (
        index.get_level_values(0).to_numpy(),
        index.get_level_values(1).to_numpy(),
        values[:, :width],
        values[:, width:],
    )
