"""Arrays (series, steps, channels) with NaN where nothing was observed -> `Paths`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..batch import Clock, Paths
from ..errors import DataError
from .clock import Column
from .columns import TIME, identifier, several, times_of
from .table import How, Table, assemble, no_rows


def from_arrays(
    x: Tensor | NDArray[Any],
    times: Any = None,
    *,
    series: Sequence[str | int] | None = None,
    channels: str | Sequence[str] | None = None,
    covariates: Mapping[str, ArrayLike] | None = None,
    static: Mapping[str, ArrayLike] | None = None,
    label: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    **how: Unpack[How],
) -> Paths:
    """An array (n, steps, channels), NaN where nothing was observed.

    Args:
        x: values.
        times: (steps,) or (n, steps), numbers or dates; None counts 0, 1, ... A row without a time
            and without values is padding.
        series: n names; None counts.
        channels: names of the last axis; None calls them x0, x1, ...
        covariates: arrays (n, steps) by name.
        static: arrays (n,) by name.
        label: (n,), the class of each series.
        weight: (n,), how much each series counts.
        how: as in `read`.
    """
    values = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if values.ndim != 3:
        raise DataError(
            "D14",
            f"the array has {values.ndim} axes {values.shape}",
            "It has three: (series, steps, channels)",
            "For one series of several channels give x[None], for one channel x[..., None]",
        )
    if not values.size:
        raise no_rows(f"the array is empty, {values.shape}")
    n, steps, width = values.shape
    names = _fit("channels", [f"x{i}" for i in range(width)], channels, width)
    ids = _fit("series", range(n), series, n)
    t, clock, kept = _array_times(times, n, steps, np.isnan(_floats(values)).all(-1), how)

    def column(name: str, part: Any) -> Column:
        part = _shaped(name, part, (n, steps))
        return pd.Series(part.ravel()[kept], name=name)

    def along(name: str, part: ArrayLike) -> Column:
        return pd.Series(np.repeat(_shaped(name, part, (n,)), steps)[kept], name=name)

    table = Table(
        codes=np.repeat(np.arange(n), steps)[kept],
        series=tuple(identifier(key) for key in ids),
        t=t[kept],
        clock=clock,
        rows=np.tile(np.arange(steps), n)[kept],
        channels={name: column(name, values[..., i]) for i, name in enumerate(names)},
        covariates={k: column(k, v) for k, v in (covariates or {}).items()},
        static={k: along(k, v) for k, v in (static or {}).items()},
        label=None if label is None else along("label", label),
        weight=None if weight is None else along("weight", weight),
    )
    return assemble(table, how)


def _array_times(
    times: Any, n: int, steps: int, empty: NDArray[np.bool_], how: How
) -> tuple[NDArray[np.float64], Clock, NDArray[np.bool_]]:
    """Times (n steps,), their clock, and which rows are no padding."""
    if times is None:
        return (
            np.tile(np.arange(steps, dtype=np.float64), n),
            Clock("integer"),
            np.full(n * steps, True),
        )
    if isinstance(times, Tensor):
        times = times.detach().cpu().numpy()
    flat = pd.Series(
        times if isinstance(times, pd.Index | pd.Series) else np.ravel(np.asarray(times))
    )
    if len(flat) not in (steps, n * steps):
        raise DataError(
            "D14",
            f"times have the shape {np.shape(times)}",
            f"The array has {n} series of {steps} steps",
            f"Give times of the shape ({steps},) or ({n}, {steps})",
        )
    if len(flat) == steps and np.ndim(times) == 1:
        t, clock = times_of(flat, lambda i: f"step {i}", how)
        return np.tile(t, n), clock, np.full(n * steps, True)
    kept = ~(flat.isna().to_numpy() & empty.ravel())
    rows = kept.nonzero()[0]
    t = np.zeros(n * steps)
    if len(rows):
        place = lambda i: f"step {rows[i] % steps} of series `{rows[i] // steps}`"
        t[kept], clock = times_of(flat[kept], place, how)
    if len(np.unique(rows // steps)) < n:
        raise no_rows("a series of the array has no time at any step")
    return t, clock, kept


def _shaped(name: str, part: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.asarray(part)
    if array.shape != shape:
        raise DataError(
            "D14", f"`{name}` has the shape {array.shape}", f"It must be {shape}", "Reshape it"
        )
    return array


def _fit(what: str, usual: Iterable[Any], given: Any, size: int) -> list[Any]:
    chosen = list(usual) if given is None else list(several(given))
    if len(chosen) != size:
        raise DataError(
            "D14", f"{len(chosen)} {what} are named", f"The array has {size}", "Name each of them"
        )
    return chosen


def _floats(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.kind == "f" else np.zeros(values.shape)


def unpack(arrays: Mapping[str, Any], times: Any) -> tuple[Any, Any]:
    """The array and the times of {"X": ..., "times": ...}."""
    keys = {str(key).lower(): key for key in arrays}
    if "x" not in keys:
        raise DataError(
            "D02",
            "the mapping has no entry `X`",
            f"Its entries are: {', '.join(map(str, arrays))}",
            "Give the array (series, steps, channels) under `X`",
        )
    if times is None:
        times = next((arrays[keys[k]] for k in ("times", *TIME) if k in keys), None)
    x = arrays[keys["x"]]
    return (x if isinstance(x, Tensor) else np.asarray(x)), times
