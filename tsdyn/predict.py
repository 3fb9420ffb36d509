"""Asking a trained model: what next, what was missing, what could be.

Every call takes `seed=`; the same seed gives the same draws. The global generator and the model's
train/eval mode are as before afterwards. Without a seed one number is drawn from torch's generator.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import chance
from .batch import Paths, default_names, each, take
from .data.tasks import at_times, holes
from .errors import DataError
from .forecasts import Forecast
from .models.base import Model


@contextmanager
def reproducible(model: Model, seed: int | None) -> Iterator[None]:
    """Inference mode, eval mode, and a generator of its own; everything is put back on leaving."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    modes = [(m, m.training) for m in model.modules()]
    with chance.seed(seed), torch.inference_mode():
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def forecast(
    model: Model,
    paths: Paths,
    horizon: int | float | str | None = None,
    *,
    times: Any = None,
    samples: int = 100,
    seed: int | None = None,
    batch_size: int = 256,
) -> Forecast:
    """Draws of p(x(times) | paths), jointly over times and channels.

    Args:
        model: a trained model.
        paths: what is known; NaN or an absent row is unobserved.
        horizon: a whole number: so many steps of the median gap of each series after its last
            observation; text such as "24h" or "52w": that span in such steps; a float: that span in
            the units of t.
        times: instead of `horizon`: a sequence of times for all series, or a table with series_id and
            time, of those series only; timestamps, dates or numbers as in the data. Times between observations are
            interpolated by the model, later ones forecast.
        samples: draws per value, S.
        seed: for the same draws every time.
        batch_size: series at a time.

    Raises:
        DataError: D10 nothing to stand on, D13 channels, D17 unusable times.
    """
    paths = _of_asked(_known_channels(model, paths), times)
    at = _asked(paths, horizon, times)
    return _answer(model, paths, at_times(at, paths), samples, seed, batch_size, "forecast")


def impute(
    model: Model,
    paths: Paths,
    *,
    times: Any = None,
    samples: int = 100,
    seed: int | None = None,
    batch_size: int = 256,
) -> Forecast:
    """Draws of p(x at the holes | paths), jointly: every unobserved value of every row in the table.

    Args:
        times: instead of the holes: all channels at these times, as in `forecast`.

    Raises:
        DataError: D17 where there is no hole to fill.
    """
    paths = _of_asked(_known_channels(model, paths), times)
    want = holes(paths) if times is None else at_times(_asked(paths, None, times), paths)
    if not want.mask.any():
        raise DataError(
            "D17",
            "no value is missing",
            "rows whose value is empty or NaN, or times=...",
            "Add the rows that you want filled, with empty values",
        )
    return _answer(model, paths, want, samples, seed, batch_size, "imputation")


def fill(paths: Paths, imputed: Forecast) -> Paths:
    """The same paths with the means of `imputed` where a value was missing.

    Times of `imputed` that are no row of `paths` are left out.
    """
    at = imputed.t.to(paths.t.dtype).contiguous()
    rows = torch.searchsorted(paths.t.contiguous(), at).clamp(max=paths.t.shape[1] - 1)
    here = imputed.mask & (paths.t.gather(1, rows) == at)[..., None]
    rows = rows[..., None].expand(here.shape)
    mean = imputed.mean().where(here, 0.0).to(paths.x.dtype)
    total = torch.zeros_like(paths.x).scatter_add(1, rows, mean)
    count = torch.zeros_like(paths.x).scatter_add(1, rows, here.to(mean.dtype))
    x = paths.x.where(paths.mask, total / count.clamp(min=1))
    return paths._replace(x=x, mask=paths.mask | (count > 0))


def simulate(
    model: Model,
    start: Sequence[float] | Tensor | Paths,
    times: Sequence[float] | Tensor,
    *,
    samples: int = 100,
    seed: int | None = None,
) -> Forecast:
    """Draws of whole paths from a start: p(x(times) | x(times[0]) = start).

    Args:
        start: one value per channel at the first time; or `Paths`, a history to go on from.
        times: (T,) increasing, in the units of t.
    """
    at = torch.as_tensor(times, dtype=torch.float64)
    if at.ndim != 1 or len(at) == 0 or (at.diff() < 0).any() or not at.isfinite().all():
        raise DataError("D17", f"times {at.tolist()[:5]}", "one increasing row of finite times", "")
    if isinstance(start, Paths):
        history = start
    else:
        x = torch.as_tensor(start, dtype=torch.float32).view(1, 1, -1)
        history = Paths(at[:1].view(1, 1), x, torch.ones_like(x, dtype=torch.bool))
    history = _known_channels(model, history)
    asked = at.expand(len(history.t), -1)
    return _answer(model, history, at_times(asked, history), samples, seed, 256, "simulation")


def draw(model: Model, given: Paths, at: Tensor, n: int, batch_size: int = 256) -> Tensor:
    """n draws at times (B, T), some series at a time, on the device of the model: (n, B, T, D) on the CPU."""
    device = next((p.device for p in (*model.parameters(), *model.buffers())), at.device)
    parts = []
    for rows in torch.split(torch.arange(len(at)), batch_size):
        part = each(take(given, rows), lambda f: f.to(device))
        parts.append(model.sample(part, at[rows].to(device), n).cpu())
    return torch.cat(parts, 1)


def _answer(
    model: Model, paths: Paths, want: Paths, samples: int, seed: int | None, batch: int, kind: Any
) -> Forecast:
    if not paths.mask.any():
        raise DataError("D10", "no value is observed", "at least one observation to stand on", "")
    with reproducible(model, seed):
        draws = draw(model, paths, want.t, samples, batch)
    return Forecast(want.t, draws, want.mask, default_names(paths), kind)


def _known_channels(model: Model, paths: Paths) -> Paths:
    """The channels of the paths in the order the model knows; D13 where they cannot be matched."""
    if model.channels and paths.names is not None and paths.names.channels != model.channels:
        from .data.frames import match_channels

        return match_channels(paths, model.channels)
    dim = model.arguments.get("dim")
    if dim is not None and dim != paths.x.shape[-1]:
        raise DataError(
            "D13",
            f"the number of channels is {paths.x.shape[-1]}",
            f"the {dim} that the model was made for",
            "Select the channels when reading the table",
        )
    return paths


def _of_asked(paths: Paths, times: Any) -> Paths:
    """The series that a table of times asks about; all of them for other questions."""
    if times is None or isinstance(times, Tensor):
        return paths
    from .data.frames import series_asked

    return series_asked(times, paths)


def _asked(paths: Paths, horizon: int | float | str | None, times: Any) -> Tensor:
    if (horizon is None) == (times is None):
        raise DataError(
            "D17",
            "both horizon and times" if times is not None else "neither horizon nor times",
            "exactly one of them",
            "For example horizon=24 or times=[...]",
        )
    if isinstance(times, Tensor):
        return _increasing(times).expand(len(paths.t), -1).to(paths.t.dtype)
    if times is not None:
        from .data.frames import query_times

        return query_times(times, paths)
    return ahead(paths, horizon)


def _increasing(times: Tensor) -> Tensor:
    """The times (Q,) or (B, Q); D17 where they are none, not finite or run backwards."""
    if times.numel() == 0 or not times.isfinite().all() or (times.diff(dim=-1) < 0).any():
        raise DataError(
            "D17",
            f"times {times.flatten()[:5].tolist()}",
            "finite times, increasing along the last axis",
            "Sort them and leave out what is missing",
        )
    return times


def ahead(paths: Paths, horizon: int | float | str | None) -> Tensor:
    """Times after the last observation of each series, a median gap apart: (B, Q).

    A span holds more steps of a short gap than of a long one; the rest repeats the last time.
    """
    seen = paths.mask.any(-1)
    last = paths.t.where(seen, -torch.inf).amax(1)  # (B,)
    last = last.where(last.isfinite(), paths.t[:, -1])
    gap = median_gap(paths)
    if isinstance(horizon, int):
        steps = torch.full_like(gap, horizon)
    else:
        span = horizon
        if isinstance(span, str):
            from .data.frames import duration

            span = duration(span, default_names(paths).clock)
        # gaps are differences of rounded times: a thousandth of a step is still that step
        steps = (float(span or 0.0) / gap + 1e-3).floor()
    if steps.min() < 1:
        raise DataError(
            "D17",
            f"horizon {horizon} reaches no time (the median gap is {readable(float(gap.max()), paths)})",
            "at least one step",
            "Use a longer horizon, or times=...",
        )
    step = torch.arange(1, int(steps.max()) + 1, device=gap.device)
    return last[:, None] + gap[:, None] * torch.minimum(step, steps[:, None])


def readable(length: float, paths: Paths) -> str:
    """A length of time in the unit of t as people say it: days for dated data."""
    if default_names(paths).clock.kind in ("date", "datetime"):
        return f"{length / 86400:g} days"
    return f"{length:g}"


def median_gap(paths: Paths) -> Tensor:
    """Median positive gap between the rows of each series; of all series where one has none: (B,)."""
    gaps = paths.t.diff(dim=1)
    gaps = gaps.where(gaps > 0, torch.nan)
    everywhere = gaps[gaps > 0]
    common = everywhere.median() if len(everywhere) else paths.t.new_ones(())
    own = gaps.nanmedian(1).values if gaps.shape[1] else common.expand(len(paths.t))
    return own.where(own.isfinite(), common)
