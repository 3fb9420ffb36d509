"""Time as the user writes it -> float64: numbers stay, dates are seconds since 1970 UTC.

The `Clock` remembers how it was written, so that `times` can write it back.
"""

import datetime
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..batch import Clock
from ..errors import DataError

if TYPE_CHECKING:
    Column: TypeAlias = pd.Series[Any]
else:  # pandas knows no Series[...] when it runs
    Column = pd.Series
Place = Callable[[int], str]  # what a position in a column is called in a message

log = logging.getLogger("tsdyn")

EXACT = 2**53  # beyond it float64 skips integers
SECOND = np.timedelta64(1, "s")
OFFSET = r"(Z|[+-]\d{2}(?::?\d{2})?)"
ISO = rf"\d{{4}}-\d{{2}}(?:-\d{{2}}(?:[T ]\d{{2}}:\d{{2}}(?::\d{{2}}(?:\.\d+)?)?\s?{OFFSET}?)?)?"
SLASHED = r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})(.*)"  # 01/02/2024: a day or a month first
WRITE_ISO = "Write times as 2024-03-01 or 2024-03-01T12:00:00, or as numbers"


def _row(i: int) -> str:
    return f"row {i}"


def spots(bad: NDArray[np.bool_], place: Place) -> str:
    """Where the first three of the marked positions are, and how many there are."""
    found = bad.nonzero()[0]
    text = ", ".join(place(int(i)) for i in found[:3])
    return text if len(found) <= 3 else f"{text} (3 of {len(found)})"


def parse_times(
    values: Column,
    *,
    name: str = "time",
    day_first: bool | None = None,
    zone: str | None = None,
    place: Place = _row,
) -> tuple[NDArray[np.float64], Clock]:
    """A column of times (N,) as float64, and how it was written.

    Args:
        values: integers, floats, timestamps, dates or text in the manner of ISO 8601.
        name: what the column is called in messages.
        day_first: whether 01/02/2024 is the first of February; None refuses such text.
        zone: time zone that text with several offsets, or with none, is in.
        place: what position i is called in messages.

    Raises:
        DataError: D04 missing or infinite, D08 mixed zones, D09 text that cannot be read without a
            guess, D14 integers beyond 2**53, D15 times that float64 cannot tell apart.
    """
    values = pd.Series(values).reset_index(drop=True)
    missing = values.isna().to_numpy()
    if missing.any():
        raise _not_finite(name, spots(missing, place))
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        values = values.astype(dtype.categories.dtype)
    elif isinstance(dtype, pd.ArrowDtype):
        values = values.astype(object)
    kind = pd.api.types.infer_dtype(values)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return _numbers(values, name, place)
    if kind == "datetime64":
        return _stamps(values, name)
    if kind == "datetime":
        return _objects(values, name, zone, place)
    if kind == "date":
        return _seconds(pd.to_datetime(values), name), Clock("date")
    if kind == "period":
        return _stamps(pd.Series(values.dt.to_timestamp()), name)
    if kind in ("timedelta64", "timedelta"):
        log.info("column `%s` holds durations: taken as seconds", name)
        lengths = pd.to_timedelta(values).dt.total_seconds()
        return np.asarray(lengths, dtype=np.float64), Clock("float")
    if kind == "string":
        return _text(values, name, day_first, zone, place)
    raise DataError(
        "D09",
        f"column `{name}` holds values that are no times ({kind}), the first is {values.iloc[0]}",
        "A time is an integer, a float, a timestamp, a date or text, the same throughout the column",
        WRITE_ISO,
    )


def _not_finite(name: str, where: str) -> DataError:
    return DataError(
        "D04",
        f"column `{name}` has no finite time in {where}",
        "Every row needs one",
        "Drop these rows or fill in their times",
    )


def _numbers(values: Column, name: str, place: Place) -> tuple[NDArray[np.float64], Clock]:
    numbers = pd.to_numeric(values)
    whole = pd.api.types.is_integer_dtype(numbers.dtype)
    t = numbers.to_numpy(dtype=np.float64)
    if not np.isfinite(t).all():
        raise _not_finite(name, spots(~np.isfinite(t), place))
    if whole and (abs(t) > EXACT).any():
        raise DataError(
            "D14",
            f"column `{name}` holds integers beyond 2**53 in {spots(abs(t) > EXACT, place)}",
            "Only up to there does float64 hold every integer",
            "Subtract an origin, or turn epochs into timestamps with pandas.to_datetime(..., unit=...)",
        )
    if whole and _calendar(t):
        log.warning("column `%s` looks like dates written as YYYYMMDD: taken as numbers", name)
    return t, Clock("integer" if whole else "float")


def _calendar(t: NDArray[np.float64]) -> bool:
    """Whether every number reads as year, month, day of 1900 to 2100."""
    if not len(t) or t.min() < 19000101 or t.max() > 21001231:
        return False
    month, day = t // 100 % 100, t % 100
    return bool(((1 <= month) & (month <= 12) & (1 <= day) & (day <= 31)).all())


def _stamps(values: Column, name: str) -> tuple[NDArray[np.float64], Clock]:
    zone = zone_name(values.dt.tz)
    if zone is not None:
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    return _seconds(values, name), Clock("datetime", zone)


def _seconds(values: Column, name: str) -> NDArray[np.float64]:
    """Seconds since 1970; whole seconds and the rest apart, so that neither is rounded before the sum."""
    stamps = values.to_numpy()
    past = stamps - np.datetime64(0, "s")
    whole = past // SECOND
    rest = (past - whole.astype("timedelta64[s]")) / SECOND
    t: NDArray[np.float64] = whole.astype(np.float64) + rest
    finer = np.datetime_data(stamps.dtype)[0] == "ns" and (rest * 1e6 % 1 > 1e-4).any()
    if finer and len(np.unique(t)) < len(np.unique(stamps)):
        raise DataError(
            "D15",
            f"column `{name}` holds times closer than a microsecond",
            "Seconds since 1970 tell apart about 0.3 microseconds in float64",
            "Give times as numbers counted from the start of the measurement",
        )
    return t


def _objects(
    values: Column, name: str, zone: str | None, place: Place
) -> tuple[NDArray[np.float64], Clock]:
    """A column of Python datetimes: all naive, or all of one zone (any, if `zone` is given)."""
    zones = values.map(lambda stamp: str(zone_name(stamp.tzinfo)))
    aware = (zones != "None").to_numpy()
    _one_zone(aware, zones, name, zone, place)
    if not aware.any():
        return _stamps(pd.to_datetime(values), name)
    stamps = pd.to_datetime(values, utc=True)
    return _stamps(stamps.dt.tz_convert(zone or zones.iloc[0]), name)


def _one_zone(
    aware: NDArray[np.bool_], zones: Column, name: str, zone: str | None, place: Place
) -> None:
    if aware.any() and not aware.all():
        raise DataError(
            "D08",
            f"column `{name}` has times with a zone, and without one in {spots(~aware, place)}",
            "All times of a column have a zone, or none has",
            "Add the zone where it is missing, for example with Series.dt.tz_localize",
        )
    found = list(pd.unique(zones[aware]))
    if len(found) > 1 and zone is None:
        raise DataError(
            "D08",
            f"column `{name}` mixes the time zones {', '.join(map(str, found[:3]))}",
            "All times of a column are in one zone",
            "Name the zone they are to be in, for example zone='UTC'",
        )


def _text(
    values: Column, name: str, day_first: bool | None, zone: str | None, place: Place
) -> tuple[NDArray[np.float64], Clock]:
    """Each distinct text is read once."""
    codes, distinct = pd.factorize(values.str.strip())
    text = pd.Series(np.asarray(distinct, dtype=object))

    def where(bad: Column) -> str:
        return spots(bad.to_numpy(dtype=bool)[codes], place)

    numbers = pd.to_numeric(text.iloc[:1], errors="coerce")
    if numbers.notna().all() and pd.to_numeric(text, errors="coerce").notna().all():
        numbers = pd.to_numeric(text)
        t, clock = _numbers(numbers, name, lambda i: place(int((codes == i).argmax())))
        return t[codes], clock
    if not text.str.fullmatch(ISO).all():
        text = _year_first(text, name, day_first, where)
        text = text.where(text.str.fullmatch(ISO))
    stamps = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    if stamps.isna().any():
        bad = stamps.isna()
        raise DataError(
            "D09",
            f"column `{name}` holds text that is no time, such as {distinct[bad.to_numpy()][0]!r} in {where(bad)}",
            "",
            WRITE_ISO,
        )
    tails = text.str[len("2024-03-01T12:00") :]
    if tails.str.contains("[Z+-]").any():
        offsets = tails.str.extract(rf"{OFFSET}$")[0].replace("Z", "+00:00")
        aware = offsets.notna().to_numpy()
        _one_zone(aware[codes], offsets.iloc[codes].reset_index(drop=True), name, zone, place)
        own = "UTC" if offsets[0] in ("+00:00", "+0000", "+00") else f"UTC{offsets[0]}"
        t, clock = _stamps(stamps.dt.tz_convert(zone or own), name)
    elif zone is None:
        t, clock = _stamps(stamps.dt.tz_localize(None), name)
        clock = clock if text.str.len().max() > 10 else Clock("date")
    else:
        t, clock = _stamps(_localised(stamps.dt.tz_localize(None), name, zone, where), name)
    return t[codes], clock


def _year_first(
    text: Column, name: str, day_first: bool | None, where: Callable[[Column], str]
) -> Column:
    """01/02/2024 10:00 -> 2024-02-01 10:00 (day first), or 2024-01-02 10:00."""
    text = text.str.replace(r"^(\d{4})/(\d{2})/(\d{2})", r"\1-\2-\3", regex=True)
    slashed = text.str.fullmatch(SLASHED)
    if not slashed.any():
        return text
    if day_first is None:
        raise DataError(
            "D09",
            f"column `{name}` holds dates that can be read in two ways, such as {text[slashed].iloc[0]!r} in {where(slashed)}",
            "It must be known whether the day or the month comes first",
            "Say day_first=True or day_first=False, or write 2024-03-01",
        )
    parts = text[slashed].str.extract(SLASHED)
    day, month = (parts[0], parts[1]) if day_first else (parts[1], parts[0])
    text = text.copy()
    text[slashed] = parts[2] + "-" + month.str.zfill(2) + "-" + day.str.zfill(2) + parts[3]
    return text


def _localised(stamps: Column, name: str, zone: str, where: Callable[[Column], str]) -> Column:
    local = stamps.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    if local.isna().any():
        raise DataError(
            "D09",
            f"column `{name}` holds times that {zone} has twice or never, in {where(local.isna())}",
            "",
            "Write them with their offset, as in 2024-10-27T02:30:00+01:00",
        )
    return local


def zone_name(zone: datetime.tzinfo | None) -> str | None:
    """A name under which pandas finds the zone again; UTC where there is none."""
    if zone is None:
        return None
    offset = zone.utcoffset(None)
    if offset is not None and str(zone).startswith(("pytz.FixedOffset", "tzoffset")):
        return str(datetime.timezone(offset))
    try:
        pd.Timestamp(0, tz="UTC").tz_convert(str(zone))
    except (ValueError, TypeError, LookupError):
        log.warning("time zone %s has no name that can be stored: UTC is used in its place", zone)
        return "UTC"
    return str(zone)
