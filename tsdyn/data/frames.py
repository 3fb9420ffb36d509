"""`Paths`, draws, snapshots and entries <-> frames that people read and write.

What comes out is long: `series_id, time`, then what was asked for, with times in the user's own type.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Clock, Entries, Names, Paths, Snapshots, default_names, take
from ..errors import DataError, did_you_mean
from .arrays import from_arrays
from .checks import (
    constant_channels,
    match_channels,
    require_observed,
    require_steps,
    require_time_resolution,
    require_trainable,
    require_varying,
)
from .clock import Place, parse_times, spots
from .columns import SERIES, as_frame, find, lift, named, several, there, time_column
from .draws import draws_to_frame, index_columns, read_draws, write_draws, write_table
from .layouts import from_long, from_melted, from_wide
from .reading import read
from .report import Report, report
from .snapshots import columns_of
from .times import duration, times_from_user, times_to_user
from .values import narrow, number

__all__ = [
    "Report",
    "constant_channels",
    "draws_to_frame",
    "duration",
    "entries_to_frame",
    "from_arrays",
    "from_long",
    "from_melted",
    "from_wide",
    "match_channels",
    "parse_times",
    "query_times",
    "read",
    "read_draws",
    "report",
    "require_observed",
    "require_steps",
    "require_time_resolution",
    "require_trainable",
    "require_varying",
    "rows_to_frame",
    "series_asked",
    "snapshots_to_frame",
    "times_from_user",
    "times_to_user",
    "to_entries",
    "to_frame",
    "to_snapshots",
    "write_draws",
    "write_table",
]


def names_of(paths: Paths) -> Names:
    """The names of the paths, and numbered ones for covariates that have none."""
    names = default_names(paths)
    covariates = _numbered("covariate", names.covariates, paths.covariates)
    return names._replace(
        covariates=covariates, static=_numbered("static", names.static, paths.static)
    )


def _numbered(what: str, names: tuple[str, ...], part: Tensor | None) -> tuple[str, ...]:
    size = 0 if part is None else part.shape[-1]
    return names if len(names) == size else tuple(f"{what}{i}" for i in range(size))


def to_frame(paths: Paths) -> pd.DataFrame:
    """`series_id, time, <channels>, <covariates>, <static>, label, weight`, NaN where nothing was seen.

    Padding is left out: rows without an observation in which time stands still.
    """
    names = names_of(paths)
    padding = torch.zeros_like(paths.t, dtype=torch.bool)
    padding[:, 1:] = (paths.t[:, 1:] == paths.t[:, :-1]) & ~paths.mask[:, 1:].any(-1)
    kept = ~padding
    which = kept.nonzero()[:, 0].cpu().numpy()  # (N,) series of each row
    frame = index_columns(paths.t[kept], which, names)
    x = paths.x.where(paths.mask, torch.nan)[kept].cpu().numpy()
    columns = dict(zip(names.channels, x.T))
    if paths.covariates is not None:
        columns |= zip(names.covariates, paths.covariates[kept].cpu().numpy().T)
    if paths.static is not None:
        columns |= zip(names.static, paths.static.cpu().numpy()[which].T)
    if paths.labels is not None:
        labels = paths.labels.cpu().numpy()
        classes = np.asarray(names.classes, dtype=object)
        columns["label"] = (classes[labels] if len(classes) else labels)[which]
    if paths.weights is not None:
        columns["weight"] = paths.weights.cpu().numpy()[which]
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)


def query_times(times: Any, paths: Paths) -> Tensor:
    """Times (B, Q) in float64 at which the user asks about the B series of `paths`.

    Args:
        times: one time, or Q of them for all series, or (B, Q), or a frame with the columns
            `series_id, time`, whose rows are padded by repeating the last time of the series.

    Raises:
        DataError: D17 for times that are empty, not finite, run backwards or fit neither the clock
            nor the series; D08 for a time zone on one side only.
    """
    names = names_of(paths)
    size = len(names.series)
    if isinstance(times, pd.DataFrame):
        return _query_frame(times, names)
    array = times.detach().cpu().numpy() if isinstance(times, Tensor) else times
    shape = np.shape(array)
    t = times_from_user(array, names.clock)
    if not len(t):
        raise _no_question()
    if len(shape) > 2 or (len(shape) == 2 and shape[0] != size):
        raise DataError(
            "D17",
            f"the times asked for have the shape {shape}",
            f"There are {size} series",
            f"Give times of the shape (Q,) or ({size}, Q)",
        )
    at = t.reshape(shape if len(shape) == 2 else (1, -1))
    bad: NDArray[np.bool_] = np.any(np.diff(at) < 0, axis=1)
    if bad.any():
        place: Place = (
            (lambda b: f"series `{names.series[b]}`") if len(shape) == 2 else lambda b: "the list"
        )
        raise _backwards(spots(bad, place))
    return torch.from_numpy(np.array(np.broadcast_to(at, (size, at.shape[1]))))


def series_asked(times: Any, paths: Paths) -> Paths:
    """The series that a frame of `series_id, time` asks about, in the order of `paths`; else all.

    An id that does not occur is left to `query_times`, which names it.
    """
    if not isinstance(times, pd.DataFrame):
        return paths
    column = find(named(lift(times, None, None)), SERIES)
    if column is None:
        return paths
    asked = set(named(lift(times, None, None))[column].map(str))
    known = names_of(paths).series
    rows = [b for b, name in enumerate(known) if str(name) in asked]
    return take(paths, rows) if 0 < len(rows) < len(known) else paths


def _no_question() -> DataError:
    return DataError("D17", "no times are asked for", "At least one is needed", "")


def _backwards(where: str) -> DataError:
    return DataError(
        "D17", f"the times asked for run backwards in {where}", "They must increase", "Sort them"
    )


def _query_frame(frame: pd.DataFrame, names: Names) -> Tensor:
    if not len(frame):
        raise _no_question()
    frame = named(lift(frame, None, None))
    column = find(frame, SERIES)
    known = [str(key) for key in names.series]
    if column is None and len(known) == 1:
        keys = pd.Series(known * len(frame))
    else:
        keys = frame[there(frame, column or SERIES[0])].map(str)
    codes = pd.Categorical(keys, categories=known).codes.astype(np.intp)
    if (codes < 0).any():
        name = str(keys.iloc[int((codes < 0).argmax())])
        raise DataError(
            "D17", f"times are asked for the unknown series `{name}`", did_you_mean(name, known), ""
        )
    t = times_from_user(frame[time_column(frame, column, None)], names.clock)
    count = np.bincount(codes, minlength=len(known))  # (B,)
    if (count == 0).any():
        raise DataError(
            "D17",
            f"no times are asked for {spots(count == 0, lambda b: f'series `{known[b]}`')}",
            "Every series has at least one",
            "Add rows, or select the series first",
        )
    order = np.argsort(codes, kind="stable")
    codes, t = codes[order], t[order]
    back = np.zeros(len(t), dtype=bool)
    back[1:] = (codes[1:] == codes[:-1]) & (np.diff(t) < 0)
    if back.any():
        raise _backwards(spots(back, lambda i: f"series `{known[codes[i]]}`"))
    step = np.minimum(np.arange(count.max()), count[:, None] - 1)  # (B, Q)
    return torch.from_numpy(t[(count.cumsum() - count)[:, None] + step])


def to_snapshots(
    frame: Any,
    *,
    time: str | None = None,
    channels: str | Sequence[str] | None = None,
    weight: str | None = None,
    growth: str | None = None,
) -> Snapshots:
    """Rows are cells, (N, D), each seen once -> the population at K times, (K, N, D) and a mask.

    `channels` None takes every other column of numbers. A cell has a value in every channel.

    Args:
        frame: a table, or what makes one.
        time: column; None looks for a usual name.
        channels: columns of coordinates.
        weight: column with how much a cell counts.
        growth: column with the factor per unit of time by which it multiplies.

    Raises:
        DataError: D01 to D05, D09, D14, D15.
    """
    frame = named(as_frame(frame))
    time = time_column(frame, None, time)
    row: Place = lambda i: f"row {frame.index[i]}"
    t, _ = parse_times(frame[time], name=time, place=row)
    if channels is None:
        channels = [
            c
            for c in frame.columns
            if c not in (time, weight, growth) and frame[c].dtype.kind in "iufb"
        ]
    x = torch.from_numpy(_complete(frame, several(channels), "channel", row))  # (N, D)
    times, codes = np.unique(t, return_inverse=True)
    at = columns_of(torch.from_numpy(codes), len(times))  # (K, N)
    mask = at >= 0
    held = at.clamp(min=0)

    def fact(name: str | None, role: str) -> Tensor | None:
        if name is None:
            return None
        values = torch.from_numpy(_complete(frame, (name,), role, row)[:, 0].copy())
        return values[held].where(mask, 0.0)

    return Snapshots(
        torch.from_numpy(times),
        x[held].where(mask[..., None], 0.0),
        mask,
        fact(weight, "weight"),
        fact(growth, "growth"),
    )


def to_entries(
    frame: Any, *, index: str | Sequence[str], value: str, weight: str | None = None
) -> Entries:
    """Rows are entries of a tensor: columns of real indices (N, M) and of values (N,), in float32.

    Raises:
        DataError: D01, D02, D03, D05, D14, D15; indices of dates are too large for float32 and are
            to be given as numbers.
    """
    frame = named(as_frame(frame))
    row: Place = lambda i: f"row {frame.index[i]}"
    weights = None if weight is None else _complete(frame, (weight,), "weight", row)[:, 0]
    return Entries(
        torch.from_numpy(_complete(frame, several(index), "index", row)),
        torch.from_numpy(_complete(frame, (value,), "column", row)[:, 0].copy()),
        None if weights is None else torch.from_numpy(weights.copy()),
    )


def _complete(
    frame: pd.DataFrame, names: Sequence[str], role: str, place: Place
) -> NDArray[np.float32]:
    """Columns (N, len(names)) as float32, none of them with a hole."""
    columns = []
    for name in names:
        values = number(name, frame[there(frame, name)], place, role)
        if (bad := np.isnan(values)).any():
            raise DataError(
                "D14",
                f"{role} `{name}` is missing in {spots(bad, place)}",
                "Every row has a value",
                "Fill it in, or drop these rows",
            )
        columns.append(values)
    if not columns:
        raise DataError(
            "D02",
            "no column is left to be a channel",
            "At least one column of numbers is needed",
            f"The columns are: {', '.join(frame.columns)}",
        )
    return narrow(np.stack(columns, 1), names)


def snapshots_to_frame(
    snapshots: Snapshots, channels: Sequence[str] | None = None, clock: Clock | None = None
) -> pd.DataFrame:
    """`time, <channels>` and, where there are any, `weight` and `growth`: a row per cell."""
    names = list(channels or (f"x{i}" for i in range(snapshots.x.shape[-1])))
    mask = snapshots.mask
    t = snapshots.t[:, None].expand(mask.shape)[mask]
    frame = pd.DataFrame(snapshots.x[mask].detach().cpu().numpy(), columns=names)
    frame.insert(0, "time", times_to_user(t, clock or Clock()))
    for name, fact in {"weight": snapshots.weights, "growth": snapshots.growth}.items():
        if fact is not None:
            frame[name] = fact[mask].cpu().numpy()
    return frame


def entries_to_frame(
    entries: Entries, index: Sequence[str] | None = None, value: str = "value"
) -> pd.DataFrame:
    """`<index>, value` and, where there are any, `weight`: a row per entry."""
    names = list(index or (f"index{i}" for i in range(entries.index.shape[-1])))
    frame = pd.DataFrame(entries.index.detach().cpu().numpy(), columns=names)
    frame[value] = entries.y.detach().cpu().numpy()
    if entries.weights is not None:
        frame["weight"] = entries.weights.cpu().numpy()
    return frame


def rows_to_frame(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per outer key, a column per inner one."""
    return pd.DataFrame.from_dict({key: dict(row) for key, row in rows.items()}, orient="index")
