"""float64 -> time as the user writes it; times and lengths of time that the user asks for -> float64."""

import logging
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Clock
from ..errors import DataError
from .clock import Column, parse_times, spots

log = logging.getLogger("tsdyn")

UNITS = {
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("s", "second", "seconds"), 1.0),
    "ms": 1e-3,
    "us": 1e-6,
}


def times_to_user(t: Tensor | NDArray[Any], clock: Clock) -> "pd.Index[Any]":
    """Times (N,) in the type the user wrote them in.

    Dated times are rounded to microseconds, which float64 keeps apart until 2242. Where whole
    numbers or days cannot hold a time, floats or timestamps come back in their place.
    """
    if isinstance(t, Tensor):
        t = t.detach().cpu().numpy()
    t = np.asarray(t, dtype=np.float64)
    back: pd.Index[Any]
    if clock.kind in ("integer", "float"):
        whole = clock.kind == "integer" and (t == np.rint(t)).all()
        back = pd.Index(t.astype(np.int64) if whole else t)
        return back
    if clock.kind == "date" and (t % 86400 == 0).all():
        days = (t // 86400).astype(np.int64).astype("datetime64[D]")
        back = pd.Index(days.astype(object), dtype=object)
        return back
    whole = np.floor(t)  # t * 1e6 would round a second time
    micro = whole.astype(np.int64) * 10**6 + np.rint((t - whole) * 1e6).astype(np.int64)
    stamps = pd.DatetimeIndex(micro.astype("datetime64[us]"))
    return stamps if clock.zone is None else stamps.tz_localize("UTC").tz_convert(clock.zone)


def times_from_user(values: Any, clock: Clock) -> NDArray[np.float64]:
    """Times (N,) given by the user, on the clock of the data.

    Raises:
        DataError: D17 numbers for dated data, dates for counted data, or a time that is not finite;
            D08 a zone where the data have none, or none where they have one.
    """
    known = isinstance(values, pd.Series | pd.Index)  # numpy would take their zone away
    column = pd.Series(values if known else np.ravel(np.asarray(values))).reset_index(drop=True)
    if not len(column):
        return np.zeros(0)
    if not _finite(column).all():
        where = spots(~_finite(column), lambda i: f"place {i}")
        raise DataError(
            "D17", f"the times asked for are not finite in {where}", "", "Give numbers or dates"
        )
    t, own = parse_times(column, name="times")
    counted = {"integer", "float"}
    if (own.kind in counted) != (clock.kind in counted):
        asked, kept = ("dates", "numbers") if clock.kind in counted else ("numbers", "dates")
        raise DataError(
            "D17",
            f"the times asked for are {asked}",
            f"The times of the data are {kept}",
            f"Ask for {kept}",
        )
    if own.kind not in counted and (own.zone is None) != (clock.zone is None):
        asked = "no time zone" if own.zone is None else f"the time zone {own.zone}"
        kept = "none" if clock.zone is None else f"times in {clock.zone}"
        fix = (
            f"Localise them with tz_localize({clock.zone!r})"
            if own.zone is None
            else "Drop theirs with tz_localize(None)"
        )
        raise DataError("D08", f"the times asked for have {asked}", f"The data have {kept}", fix)
    return t


def _finite(column: Column) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = column.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype):
        present = present & np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return present


def duration(length: Any, clock: Clock) -> float:
    """A length of time in the unit of t, which is the second for dated data.

    Args:
        length: a number in the unit of t, or, for dated data, text such as "24h", "52w", "365.25d",
            or a timedelta.

    Raises:
        DataError: D17 if it is no length of time, not positive, or not for this clock.
    """
    if isinstance(length, np.timedelta64):  # which numpy counts among the integers
        length = pd.Timedelta(length)
    if isinstance(length, int | float | np.integer | np.floating):
        value = float(length)
        if clock.kind not in ("integer", "float"):
            log.info("a length of %g is taken as %g seconds", value, value)
    elif isinstance(length, str) and re.fullmatch(r"\s*[+-]?[\d.]+(e[+-]?\d+)?\s*", length, re.I):
        return duration(float(length), clock)
    elif clock.kind in ("integer", "float"):
        raise DataError(
            "D17",
            f"{str(length)!r} is a length of calendar time",
            "The times of the data are numbers without a unit",
            "Give a number in the unit of the time column",
        )
    else:
        value = _seconds_of(length)
    if not 0 < value < np.inf:
        raise DataError(
            "D17", f"the length of time is {length}", "It must be positive and finite", ""
        )
    return value


def _seconds_of(length: Any) -> float:
    if not isinstance(length, str):
        return float(pd.Timedelta(length).total_seconds())
    parts = re.findall(r"([\d.]+)\s*([a-z]+)", length.lower())
    if re.fullmatch(r"(\s*\d+(\.\d*)?\s*[a-z]+)+\s*", length.lower()) and all(
        unit in UNITS for _, unit in parts
    ):
        return sum(float(number) * UNITS[unit] for number, unit in parts)
    raise DataError(
        "D17",
        f"{length!r} is no length of time",
        "Units are w, d, h, min, s, ms and us; months and years have no fixed length",
        "Write for example '24h', '52w' or '365.25d'",
    )
