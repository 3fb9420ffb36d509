"""Which column of a frame is what: names that other libraries use, indices that hold times, files."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..batch import Clock
from ..errors import DataError, did_you_mean, first, missing_package
from .clock import Column, Place, parse_times
from .table import How, Integers, no_rows

log = logging.getLogger("tsdyn")

# the first name found wins, in upper or lower case
SERIES = ("series_id", "series", "unique_id", "item_id", "id")
TIME = ("time", "timestamp", "ds", "datetime", "date", "t")
CHANNEL = ("channel", "variable")
VALUE = ("value",)


class Series(NamedTuple):
    """Which series every row belongs to, in order of first appearance."""

    codes: Integers  # (N,)
    ids: tuple[str | int, ...]  # B
    place: Place  # what a row is called in a message


def as_frame(source: Any) -> pd.DataFrame:
    """A frame, the frame in a file, or what `to_pandas()` makes."""
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, str | Path):
        return _file(Path(source))
    convert = getattr(source, "to_pandas", None)
    if convert is None:
        raise DataError(
            "D01",
            f"`{type(source).__name__}` is no table",
            "A file, a frame, an array or a mapping of arrays is needed",
            "Make it a pandas.DataFrame",
        )
    frame: pd.DataFrame = convert()
    return frame


def _file(path: Path) -> pd.DataFrame:
    kind = next((s for s in path.suffixes[:-3:-1] if s in (".csv", ".parquet")), None)
    if not path.is_file():
        raise DataError("D01", f"there is no file `{path}`", "", "Correct the path")
    if kind is None:
        raise DataError(
            "D01", f"`{path}` is of unknown kind", "A .csv or .parquet file is needed", "Convert it"
        )
    try:
        return _without_row_numbers(pd.read_csv(path)) if kind == ".csv" else pd.read_parquet(path)
    except ImportError as error:
        raise missing_package("pyarrow", "parquet", "reading parquet") from error
    except (ValueError, OSError) as error:  # what parsers raise, UnicodeDecodeError among them
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "D01", f"`{path}` cannot be read as {kind[1:]} ({cause})", "", "Check the file"
        ) from error


def _without_row_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the nameless first column that pandas writes when it is not told index=False."""
    if not len(frame) or frame.columns[0] != "Unnamed: 0":
        return frame
    if not np.array_equal(frame.iloc[:, 0], np.arange(len(frame))):
        return frame
    log.info("left out the column of row numbers")
    return frame.iloc[:, 1:]


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The same columns under their names as text; not one of them, if there are no rows."""
    if not len(frame):
        raise no_rows("the table has no rows")
    frame = frame.copy(deep=False)
    frame.columns = pd.Index([str(c) for c in frame.columns])
    twice = list(frame.columns[frame.columns.duplicated()])
    if twice:
        raise DataError(
            "D02", f"two columns are called `{twice[0]}`", "Names must differ", "Rename one"
        )
    return frame


def lift(frame: pd.DataFrame, series: str | None, time: str | None) -> pd.DataFrame:
    """The index as columns, where it holds series or times.

    Times are taken from an index that is asked for by name, has a usual name, or holds dates, floats
    or integers under a name, if no column has a usual name. Plain row numbers stay where they are.
    """
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        usual = [SERIES[0], TIME[0]] if index.nlevels == 2 else []
        names = [
            name or (usual[i] if usual else f"level {i}") for i, name in enumerate(index.names)
        ]
        return frame.reset_index(names=names)
    name = index.name
    if name is not None and name in (series, time):
        return frame.reset_index()
    if str(name).lower() in SERIES:
        return frame.reset_index() if series is None and not find(frame, SERIES) else frame
    dated = index.dtype.kind in "mMf" or isinstance(index, pd.PeriodIndex)
    known = str(name).lower() in TIME or (name is not None and index.dtype.kind in "iu")
    if (dated or known) and time is None and not find(frame, TIME):
        return frame.reset_index(names=TIME[0] if name is None else name)
    return frame


def find(frame: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The column that has one of these names."""
    columns = {str(c).lower(): str(c) for c in reversed(frame.columns)}
    return next((columns[name] for name in names if name in columns), None)


def there(frame: pd.DataFrame, name: str) -> str:
    """`name`, if it is a column."""
    if name in frame.columns:
        return name
    hint = did_you_mean(name, frame.columns)
    raise DataError(
        "D02",
        f"there is no column `{name}`",
        f"The columns are: {', '.join(map(str, frame.columns))}",
        hint if hint.startswith("Did") else "",
    )


def series_column(frame: pd.DataFrame, series: str | None) -> str | None:
    """The column asked for (D02 if there is none), or the first of a usual name, or None."""
    return find(frame, SERIES) if series is None else there(frame, series)


def time_column(frame: pd.DataFrame, series: str | None, time: str | None) -> str:
    """The column asked for, of a usual name, or the only one of dates, as stamps or as text."""
    if time is not None:
        return there(frame, time)
    if found := find(frame, TIME):
        return found
    rest = [c for c in frame.columns if c != series]
    dated = [c for c in rest if frame[c].dtype.kind == "M"]
    dated = dated or [c for c in rest if _reads_as_dates(frame[c])]
    if len(dated) == 1:
        return str(dated[0])
    raise DataError(
        "D02",
        f"several columns hold dates: {first(dated)}" if dated else "no column of times was found",
        f"The columns are: {', '.join(frame.columns)}",
        "Name the column of times with time=... (--time in the command), or use from_wide where the "
        "index holds them",
    )


def _reads_as_dates(column: Column) -> bool:
    if not is_text(column):
        return False
    try:
        return parse_times(column.iloc[:100])[1].kind in ("date", "datetime")
    except DataError:
        return False


def is_text(column: Column) -> bool:
    """No value is a number, and some are there: dates are text too."""
    dtype = column.dtype
    if dtype.kind != "O" and not isinstance(dtype, pd.CategoricalDtype | pd.StringDtype):
        return dtype.kind in "mM"
    some = column.dropna().iloc[:1000].astype(object)  # most columns of text tell at once
    if not len(some) or pd.to_numeric(some, errors="coerce").notna().any():
        return False
    distinct = pd.Series(column.dropna().unique()).astype(object)
    return bool(pd.to_numeric(distinct, errors="coerce").isna().all())


def masked(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns Value_1, Mask_1, ...: a value counts where its mask is not 0."""
    names = {c.lower(): c for c in frame.columns}
    pairs = {
        c: names["value" + low[4:]]
        for low, c in names.items()
        if re.match(r"mask(_|\d|$)", low) and "value" + low[4:] in names
    }
    if not pairs:
        return frame
    log.info("columns %s tell where values were observed", first(list(pairs)))
    seen = {value: frame[value].where(frame[mask] != 0) for mask, value in pairs.items()}
    return frame.assign(**seen).drop(columns=list(pairs))


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or many, as a tuple of text."""
    return (names,) if isinstance(names, str) else tuple(str(name) for name in names)


def series_of(frame: pd.DataFrame, series: str | None) -> Series:
    """Without a column, all rows are one series, 0."""
    rows = frame.index
    if series is None:
        codes, ids = np.zeros(len(frame), dtype=np.intp), (0,)
        return Series(codes, ids, lambda i: f"row {rows[i]}")
    codes, found = pd.factorize(frame[series])
    present(codes, series, rows)
    names = tuple(identifier(key) for key in found)
    return Series(codes, names, lambda i: f"row {rows[i]} of series `{names[codes[i]]}`")


def present(codes: NDArray[Any], name: str, rows: Any) -> None:
    """D01 where a row does not say which series, or which channel, it belongs to."""
    if (codes < 0).any():
        raise DataError(
            "D01",
            f"column `{name}` is missing in {first([f'row {rows[i]}' for i in (codes < 0).nonzero()[0]])}",
            "Every row belongs to one of its values",
            "Fill it in, or drop these rows",
        )


def identifier(key: Any) -> str | int:
    """Integers stay, also where a gap once made them floats; all else is text."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool | np.bool_):
        return int(key)
    if isinstance(key, float | np.floating) and float(key).is_integer():
        return int(key)
    return str(key)


def times_of(column: Column, place: Place, how: How) -> tuple[NDArray[np.float64], Clock]:
    """Times (N,) in float64 and how they were written; `parse_times` with the choices of `how`."""
    return parse_times(
        column,
        name=str(column.name or TIME[0]),
        day_first=how.get("day_first"),
        zone=how.get("zone"),
        place=place,
    )
