"""Many series of different lengths in one file: what the scripts of large datasets write.

A `.npz` file of the rows of all series, one series after the other, without padding:

    t (R,), x (R, D)     times, and values with NaN where nothing was observed
    length (N,)          rows of each series; they sum to R
    series (N,), channels (D,), clock
    static (N, C), static_names (C,), labels (N,), classes    where there are any
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Clock, Names, Paths
from ..errors import DataError
from .archive import Series, stack


def write_records(path: Path, series: Sequence[Series], names: Names, **facts: Tensor) -> Path:
    """The file of these series (t (T,), x (T, D)); facts are `static` (N, C) and `labels` (N,)."""
    arrays: dict[str, Any] = {name: fact.numpy() for name, fact in facts.items()}
    arrays |= {
        "t": torch.cat([t for t, _ in series]).double().numpy(),
        "x": torch.cat([x for _, x in series]).float().numpy(),
        "length": np.array([len(t) for t, _ in series]),
        "series": np.array(names.series),
        "channels": np.array(names.channels),
        "static_names": np.array(names.static, dtype=str),
        "classes": np.array(names.classes, dtype=str),
        "clock": np.array(names.clock.kind),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def read_records(path: Path, rows: int | None = None) -> Paths:
    """The series of such a file, padded to the longest; of each only the first `rows`, if given.

    Raises:
        DataError: D14 for a file of another form.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if missing := {"t", "x", "length", "series", "channels", "clock"} - arrays.keys():
        raise DataError(
            "D14",
            f"{path} has no array {', '.join(sorted(missing))}",
            "a file written by the script of its dataset",
            "Run that script again",
        )
    starts = arrays["length"].cumsum()[:-1]
    series = zip(np.split(arrays["t"], starts), np.split(arrays["x"], starts))
    facts = {k: torch.from_numpy(arrays[k]) for k in ("static", "labels") if k in arrays}
    paths = stack([(torch.from_numpy(t[:rows]), torch.from_numpy(x[:rows])) for t, x in series])
    return paths._replace(**facts, names=_names(arrays))


def _names(arrays: dict[str, Any]) -> Names:
    def texts(key: str) -> tuple[str, ...]:
        return tuple(arrays[key].tolist()) if key in arrays else ()

    return Names(
        texts("series"),
        texts("channels"),
        Clock(arrays["clock"].item()),
        static=texts("static_names"),
        classes=texts("classes"),
    )


def at_multiples(paths: Paths, step: float) -> Paths:
    """t rounded to multiples of `step`; where rows fall together, the mean of what they observed."""
    x = paths.x.where(paths.mask, torch.nan)
    merged = stack([_merge(*pair, step) for pair in zip(paths.t, x)])
    return paths._replace(t=merged.t, x=merged.x, mask=merged.mask)


def _merge(t: Tensor, x: Tensor, step: float) -> Series:
    steps, place = torch.unique((t / step).round(), return_inverse=True)
    zeros = x.new_zeros(len(steps), x.shape[1])
    seen = zeros.index_add(0, place, (~x.isnan()).to(x))
    total = zeros.index_add(0, place, x.nan_to_num(0.0))
    return steps * step, total / seen  # 0 / 0 is NaN: not observed
