"""Files of the UEA and UCR archives of time series classification (`.ts`).

A header of `@name value` lines, then `@data` and one series per line: dimensions separated by `:`,
values by `,`, the class last. `?` is a value that was not observed. With `@timeStamps true` a value
is a pair `(time,value)`, and the dimensions of a series may be seen at different times.

Source: Bagnall et al. (2018), The UEA multivariate time series classification archive.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..batch import Clock, Names, Paths
from ..errors import ConfigError, DataError, did_you_mean

_TAGS = (
    "problemname timestamps missing univariate dimensions dimension equallength serieslength "
    "classlabel targetlabel data"
).split()
_PAIR = re.compile(r"\(([^(),]*),([^(),]*)\)")
_OUTSIDE = re.compile(r":(?![^(]*\))")  # a colon that is not inside a pair, as in (12:30,1.5)

Series = tuple[Tensor, Tensor]  # t (T,), x (T, D) with NaN where not observed


class _Header(NamedTuple):
    """What stands above `@data`, and the number of the line after it."""

    timestamps: bool
    dimensions: int | None
    equal: bool
    last: Literal["class", "target", "nothing"]  # what the last field of a line is
    classes: tuple[str, ...]
    start: int


class _Line(NamedTuple):
    """One series, and what stood in its last field."""

    t: Tensor  # (T,)
    x: Tensor  # (T, D)
    last: str
    dated: bool
    where: str  # file and line, for messages


def read_archive(path: str | Path) -> Paths:
    """The series of a `.ts` file, with their classes.

    `labels` (B,) numbers the classes in the order of the header, which `names.classes` repeats; in a
    file for regression it holds the targets. Without time stamps t is the row: 0, 1, ...; dates
    become seconds since 1970 UTC.

    Raises:
        ConfigError: X02 for a header that cannot be read.
        DataError: D01, D03, D04, D05, D06, D07, D13 or D14, with the number of the line.
    """
    rows = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    header = _read_header(rows, path)
    lines = [
        _read_line(row.strip(), header, f"{path}, line {number}")
        for number, row in enumerate(rows[header.start :], header.start + 1)
        if row.strip() and not row.startswith(("#", "%"))
    ]
    if not lines:
        raise DataError("D01", f"{path} holds no series", "one per line after `@data`", "")
    _check_alike(lines, header)
    labels, classes = _number(lines, header)
    dated = any(line.dated for line in lines)
    clock = Clock("datetime" if dated else "float" if header.timestamps else "integer")
    channels = tuple(f"x{d}" for d in range(lines[0].x.shape[1]))
    names = Names(tuple(range(len(lines))), channels, clock, classes=classes)
    return stack([(line.t, line.x) for line in lines])._replace(labels=labels, names=names)


def stack(series: Sequence[Series]) -> Paths:
    """Series of different lengths as one: NaN is not observed, padding repeats the last time."""
    length = max(len(t) for t, _ in series)
    t = torch.stack([torch.cat([t, t[-1:].expand(length - len(t))]) for t, _ in series])
    x = torch.stack(
        [torch.cat([x, x.new_full((length - len(x), x.shape[1]), torch.nan)]) for _, x in series]
    )
    return Paths(t, x.nan_to_num(0.0), ~x.isnan())


def concatenate(parts: Sequence[Paths]) -> Paths:
    """Datasets of the same channels and classes, one after the other; series are numbered anew."""
    names = parts[0].names
    whole = stack([row for part in parts for row in _series(part)])
    labels = [part.labels for part in parts if part.labels is not None]
    return whole._replace(
        labels=torch.cat(labels) if labels else None,
        names=names and names._replace(series=tuple(range(len(whole.t)))),
    )


def _series(paths: Paths) -> list[Series]:
    x = paths.x.where(paths.mask, torch.nan)
    return list(zip(paths.t, x))


def _read_header(rows: Sequence[str], path: str | Path) -> _Header:
    tags: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        words = row.strip().split()
        if not words or words[0].startswith(("#", "%")):
            continue
        tag = words[0].removeprefix("@").lower()
        if not words[0].startswith("@") or tag not in _TAGS:
            raise ConfigError(
                "X02",
                f"{path}, line {number}: `{row.strip()[:40]}` stands before `@data`",
                "a header of `@name value` lines",
                did_you_mean(tag, _TAGS),
            )
        if tag == "data":
            return _understand(tags, number)
        tags[tag] = words[1:]
    raise ConfigError(
        "X02", f"{path} has no line `@data`", "a header, `@data`, then series", "Is it a .ts file?"
    )


def _understand(tags: dict[str, list[str]], start: int) -> _Header:
    def true(tag: str) -> bool:
        return tags.get(tag, ["false"])[:1] in (["true"], ["True"], ["TRUE"])

    count = next((tags[t][0] for t in ("dimensions", "dimension") if tags.get(t)), None)
    one = 1 if true("univariate") else None
    return _Header(
        timestamps=true("timestamps"),
        dimensions=int(count) if count is not None and count.isdigit() else one,
        equal=true("equallength"),
        last="class" if true("classlabel") else "target" if true("targetlabel") else "nothing",
        classes=tuple(tags.get("classlabel", [])[1:]),
        start=start,
    )


def _read_line(row: str, header: _Header, where: str) -> _Line:
    fields = _OUTSIDE.split(row) if header.timestamps else row.split(":")
    last = fields.pop().strip() if header.last != "nothing" else ""
    if not fields or (header.dimensions is not None and len(fields) != header.dimensions):
        raise DataError(
            "D13",
            f"{where}: {len(fields)} dimensions before the {header.last} `{last[:20]}`",
            f"{header.dimensions or 'at least one'}, as the header says",
            "Dimensions are separated by `:`",
        )
    if header.timestamps:
        t, x, dated = _read_pairs(fields, where)
    else:
        t, x, dated = *_read_values(fields, where), False
    if x.isinf().any():
        raise DataError("D05", f"{where}: an infinite value", "finite values", "Write `?` for none")
    if len(t) == 0:
        raise DataError("D01", f"{where}: no value", "at least one", "Write `?` for an unseen one")
    return _Line(t, x, last, dated, where)


def _read_values(fields: Sequence[str], where: str) -> tuple[Tensor, Tensor]:
    """Values at rows 0, 1, ...: t (T,), x (T, D). A shorter dimension ends with unobserved rows."""
    columns = [
        [_number_or_nan(v, where) for v in f.split(",")] if f.strip() else [] for f in fields
    ]
    x = np.full((max(map(len, columns)), len(columns)), np.nan, dtype=np.float32)
    for d, column in enumerate(columns):
        x[: len(column), d] = column
    return torch.arange(len(x), dtype=torch.float64), torch.from_numpy(x)


def _read_pairs(fields: Sequence[str], where: str) -> tuple[Tensor, Tensor, bool]:
    """Values at their own times: t (T,), x (T, D) at all times of any dimension, and if it is dates."""
    cells: dict[tuple[float, int], float] = {}
    dated = False
    for d, field in enumerate(fields):
        if _PAIR.sub("", field).strip(", "):
            raise _not_a_number(_PAIR.sub("", field).strip(", "), where, "pairs `(time,value)`")
        before = -np.inf
        for stamp, value in _PAIR.findall(field):
            time, is_date = _time(stamp.strip(), where)
            _check_later(before, time, stamp, where)
            cells[time, d], before, dated = _number_or_nan(value, where), time, dated or is_date
    t = sorted({time for time, _ in cells})
    x = [[cells.get((time, d), np.nan) for d in range(len(fields))] for time in t]
    return torch.tensor(t, dtype=torch.float64), torch.tensor(x, dtype=torch.float32), dated


def _check_later(before: float, time: float, stamp: str, where: str) -> None:
    if time == before:
        raise DataError("D06", f"{where}: time `{stamp}` comes twice", "one value per time", "")
    if time < before:
        raise DataError(
            "D07", f"{where}: time `{stamp}` comes late", "increasing times", "Sort them"
        )


def _check_alike(lines: Sequence[_Line], header: _Header) -> None:
    """All series have as many dimensions, and rows where the header promises it."""
    for line in lines:
        if line.x.shape[1] != lines[0].x.shape[1]:
            raise DataError(
                "D13",
                f"{line.where}: {line.x.shape[1]} dimensions after {lines[0].x.shape[1]} so far",
                "the same number in every series",
                "Dimensions are separated by `:`",
            )
        if header.equal and not header.timestamps and len(line.t) != len(lines[0].t):
            raise DataError(
                "D14",
                f"{line.where}: {len(line.t)} rows after {len(lines[0].t)} so far",
                "the same length, as `@equalLength true` says",
                "Write `@equalLength false` if lengths differ",
            )


def _number(lines: Sequence[_Line], header: _Header) -> tuple[Tensor | None, tuple[str, ...]]:
    """The last fields as labels (B,), and the classes they number."""
    if header.last == "nothing":
        return None, ()
    if header.last == "target":
        return torch.tensor([_number_or_nan(line.last, line.where) for line in lines]), ()
    classes = header.classes or tuple(sorted({line.last for line in lines}))
    for line in lines:
        if line.last not in classes:
            raise DataError(
                "D14",
                f"{line.where}: class `{line.last[:40]}` is not in the header",
                "a class of `@classLabel`",
                did_you_mean(line.last, classes),
            )
    return torch.tensor([classes.index(line.last) for line in lines]), classes


def _number_or_nan(text: str, where: str) -> float:
    text = text.strip()
    if text == "?":
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise _not_a_number(text, where, "numbers, and `?` for none") from None


def _not_a_number(text: str, where: str, wanted: str) -> DataError:
    return DataError("D03", f"{where}: `{text[:40]}` is no value", wanted, "Correct that line")


def _utc(stamp: datetime) -> datetime:
    return stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)


def _time(text: str, where: str) -> tuple[float, bool]:
    """A time as a number, and if it was a date. Dates without a zone are read as UTC."""
    readings: tuple[Callable[[str], tuple[float, bool]], ...] = (
        lambda s: (float(s), False),
        lambda s: (_utc(datetime.fromisoformat(s)).timestamp(), True),
    )
    for read in readings:
        try:
            time, dated = read(text)
        except ValueError:
            continue
        if np.isfinite(time):
            return time, dated
    raise DataError(
        "D04", f"{where}: `{text[:40]}` is no time", "a number or YYYY-MM-DD HH:MM:SS", ""
    )
