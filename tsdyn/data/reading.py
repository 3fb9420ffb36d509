"""Observations of any layout -> `Paths`: `read`, which tells the layouts apart."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from ..batch import Paths
from ..errors import ConfigError
from .arrays import from_arrays, unpack
from .columns import CHANNEL, TIME, VALUE, as_frame, find, is_text
from .layouts import Several, from_long, from_melted, from_wide
from .table import How


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
        ConfigError: X01 for an argument that this layout has no use for; X03 where parquet needs a
            package.
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


def _is_melted(frame: pd.DataFrame, time: str | None) -> bool:
    channel, value = find(frame, CHANNEL), find(frame, VALUE)
    timed = time or find(frame, TIME) or any(str(n).lower() in TIME for n in frame.index.names)
    return bool(channel and value and timed) and is_text(frame[channel])
