"""A sensible model for a table when the user names none, and how to train it."""

import logging
from typing import Any, Literal, NamedTuple

from . import chance
from .batch import Paths, default_names, windows
from .data.tasks import Forecasting, Imputation, Mixture, Task
from .errors import DataError
from .lit.fit import fit
from .maths.season import find_period
from .models.base import Model
from .models.baselines import LastValue
from .models.linear import Linear
from .models.scaled import Scaled
from .models.stable_sde import StableSDE
from .predict import median_gap

log = logging.getLogger("tsdyn")

FEW_ROWS = 12  # below this, nothing can be learned from a series that the last value does not say
MANY_VALUES, MANY_SERIES = 50_000, 100  # from here on a network has enough to learn from
MOST_WINDOWS = 2_000
DAY = 86_400.0
CALENDAR = (DAY, 7 * DAY, 365.25 * DAY)  # seconds
STEPS = (4, 7, 12, 24, 52, 168, 365)  # usual seasons of counted times, in median gaps

Want = Literal["forecast", "imputation"]


class Choice(NamedTuple):
    """A model and why it was taken."""

    model: Model
    reason: str


def choose(paths: Paths, period: float | None, seed: int = 0) -> Choice:
    """LastValue for very short series, StableSDE for many long ones, Linear for all between.

    By the number of observed values and of series alone; nothing is tried out. On many real series
    the ridge is hard to beat, so a network is taken only where it has much to learn from.
    """
    values, series = int(paths.mask.sum()), len(paths.t)
    longest, dim = int(paths.mask.any(-1).sum(1).max()), paths.x.shape[-1]
    covariates = 0 if paths.covariates is None else paths.covariates.shape[-1]
    if longest < FEW_ROWS:
        return Choice(
            LastValue(), f"no series has {FEW_ROWS} rows; there is nothing to learn a model from"
        )
    if values >= MANY_VALUES and series >= MANY_SERIES and period is None:
        with chance.seed(seed):
            inner = StableSDE(dim, hidden=64, neighbours=6, covariates=covariates, draws=4)
        return Choice(
            Scaled(inner, dim, covariates),
            f"{series} series with {values} values are enough for a network",
        )
    periods = () if period is None else (period,)
    neighbours = max(1, min(6, longest // 8))
    return Choice(
        Linear(dim, neighbours, periods, covariates=covariates),
        f"{series} series with {values} values; a ridge on nearby values is hard to beat at this size",
    )


def season_of(paths: Paths) -> float | None:
    """The length of a season in the units of t, or None: a day, a week or a year for dates, usual
    numbers of steps otherwise."""
    gap = float(median_gap(paths).median())
    dated = default_names(paths).clock.kind in ("datetime", "date")
    candidates = CALENDAR if dated else tuple(k * gap for k in STEPS)
    usable = [p for p in candidates if p >= 3.5 * gap]
    return find_period(paths.t, paths.x, paths.mask, usable)


def train(
    model: Model, paths: Paths, want: Want, steps: int, period: float | None, seed: int = 0
) -> Model:
    """The model fitted to questions like the one to come: `steps` rows ahead, or hidden rows.

    Long series are cut into windows that reach three seasons (or 64 rows) and `steps` back.
    """
    rows = int(paths.mask.any(-1).sum(1).max())
    if isinstance(model, LastValue):
        return model
    gap = float(median_gap(paths).median())
    back = 64 if period is None else max(64, int(3.2 * period / gap))
    task: Task
    if want == "forecast":
        steps = min(steps, rows // 2)
        length = min(rows, back + steps)
        task = Forecasting(steps=steps)
    else:
        length = min(rows, 2 * back)
        task = Mixture([Imputation(0.2, "row"), Imputation(0.2, "value"), Imputation(0.1, "block")])
        if isinstance(model, Linear):  # fitted to one cut of all windows: a batch of one task
            task = Imputation(0.2, "row")
    stride = max(1, -(-int(paths.mask.any(-1).sum()) // MOST_WINDOWS))
    pieces = windows(paths, length, stride)
    if not pieces.mask.any():
        raise DataError("D10", "no value is observed", "observations to learn from", "")
    return fit(model, pieces, task, **_recipe(model, seed))


def _recipe(model: Model, seed: int) -> dict[str, Any]:
    if isinstance(model, Scaled):
        return {
            "val": 0.1,
            "epochs": 60,
            "lr": 3e-3,
            "patience": 10,
            "max_seconds": 120.0,
            "seed": seed,
        }
    return {"seed": seed}
