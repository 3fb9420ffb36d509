"""What a dataset looks like before anything is fitted to it."""

import dataclasses

import numpy as np
import pandas as pd
import torch

from ..batch import Paths, default_names
from ..errors import DataError
from .checks import (
    constant_channels,
    empty_channels,
    empty_series,
    gaps,
    require_steps,
    require_time_resolution,
    require_trainable,
)
from .clock import spots
from .times import times_to_user

LONG = 100.0  # a gap of so many median gaps is worth a word


@dataclasses.dataclass(frozen=True)
class Report:
    """Numbers about a dataset; `str` is what `tsdyn inspect` prints.

    Args:
        channels: a row per channel: count, missing (share of the rows), mean, std, min, max.
        series: a row per series: rows, first, last, median_step, largest_gap; times in the user's
            own type, steps as timedeltas where times are dates.
        warnings: what may go wrong in training, in words.
    """

    channels: pd.DataFrame
    series: pd.DataFrame
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"{len(self.series)} series, {int(self.series['rows'].sum())} rows",
            self.channels.to_string(float_format="{:.6g}".format),
            self.series.to_string(max_rows=20),
            *(f"warning: {text}" for text in self.warnings),
        ]
        return "\n\n".join(parts)


def report(paths: Paths) -> Report:
    """Counts, moments, steps and warnings, series by series and channel by channel."""
    return Report(_channels(paths), _series(paths), tuple(_warnings(paths)))


def _real(paths: Paths) -> torch.Tensor:
    """Rows (B, T) that are no padding."""
    real = paths.mask.any(-1)
    real[:, :1] = True
    real[:, 1:] |= paths.t[:, 1:] > paths.t[:, :-1]
    return real


def _channels(paths: Paths) -> pd.DataFrame:
    x, mask = paths.x.double().flatten(0, 1), paths.mask.flatten(0, 1)
    count = mask.sum(0)
    mean = x.where(mask, 0.0).sum(0) / count
    std = ((x - mean).square().where(mask, 0.0).sum(0) / (count - 1).clamp(min=0)).sqrt()
    nothing = count == 0
    table = {
        "count": count,
        "missing": 1 - count / _real(paths).sum(),
        "mean": mean,
        "std": std,
        "min": x.where(mask, torch.inf).amin(0).where(~nothing, torch.nan),
        "max": x.where(mask, -torch.inf).amax(0).where(~nothing, torch.nan),
    }
    return pd.DataFrame(
        {name: column.cpu().numpy() for name, column in table.items()},
        index=pd.Index(default_names(paths).channels, name="channel"),
    )


def _series(paths: Paths) -> pd.DataFrame:
    clock = default_names(paths).clock
    steps = gaps(paths)  # (B, T - 1)
    wide = steps.nan_to_num(-torch.inf)
    size = len(paths.t)
    nothing = np.full(size, np.nan)
    median = steps.nanmedian(1).values.cpu().numpy() if steps.shape[1] else nothing
    largest = wide.amax(1).cpu().numpy() if steps.shape[1] else nothing
    largest = np.where(np.isinf(largest), np.nan, largest)
    dated = clock.kind in ("date", "datetime")
    return pd.DataFrame(
        {
            "rows": _real(paths).sum(1).cpu().numpy(),
            "first": times_to_user(paths.t[:, 0], clock),
            "last": times_to_user(paths.t[:, -1], clock),
            "median_step": pd.to_timedelta(median, unit="s") if dated else median,
            "largest_gap": pd.to_timedelta(largest, unit="s") if dated else largest,
        },
        index=pd.Index(list(default_names(paths).series), name="series_id"),
    )


def _warnings(paths: Paths) -> list[str]:
    names = default_names(paths).series
    found = [f"no observation in channel `{name}`" for name in empty_channels(paths)]
    found += [f"channel `{name}` is constant" for name in constant_channels(paths)]
    empty = empty_series(paths).cpu().numpy()
    if empty.any():
        found.append(f"no observation in {spots(empty, lambda b: f'series `{names[b]}`')}")
    steps = gaps(paths)
    if (steps > 0).any():
        typical = float(steps[steps > 0].median())
        wide = (steps > LONG * typical).any(1).cpu().numpy()
        if wide.any():
            where = spots(wide, lambda b: f"series `{names[b]}`")
            found.append(f"a gap of more than {LONG:g} median gaps in {where}")
    for check in (require_trainable, require_time_resolution, require_steps):
        try:
            check(paths)
        except DataError as error:
            found.append(str(error))
    return found
