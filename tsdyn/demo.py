"""The main job on real data: weekly CO2 at Mauna Loa, forecast, filled and scored."""

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import chance
from .batch import Paths, split_after, windows
from .data.frames import to_frame, write_table
from .data.load import load_dataset
from .data.tasks import Forecasting, Imputation, Mixture
from .evaluation import Report, evaluate
from .forecasts import Forecast
from .io import save
from .lit.fit import fit
from .models.base import Model
from .models.harmonic import Harmonic
from .models.linear import Linear
from .models.scaled import Scaled
from .models.stable_sde import StableSDE
from .plot import figure, plot_forecast
from .predict import fill, forecast, impute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

YEAR = 365.25 * 86400.0  # seconds, the unit of t for dated data
AHEAD = 104  # weeks
BACK = 208


def run(folder: Path, seed: int = 0) -> None:
    """Train on all but the last two years, forecast those, fill the holes, score both, draw both."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    co2 = load_dataset("co2")
    say(f"co2: {int(co2.mask.sum())} weekly values in ppm, {int((~co2.mask).sum())} weeks missing")
    past, future = Forecasting(steps=AHEAD)(co2)
    hidden = Imputation(0.2, "row")
    known, held = hidden(past, torch.Generator().manual_seed(seed))

    say("training a Langevin SDE on what trend and season leave over ...")
    sde = train_sde(known, seed)
    ridge_ahead = fit(
        Linear(1, periods=(YEAR,)), windows(known, BACK + AHEAD), Forecasting(steps=AHEAD)
    )
    ridge_holes = fit(Linear(1, periods=(YEAR,)), windows(known, BACK), Imputation(0.2, "row"))

    ahead = scores({"StableSDE": sde, "Linear": ridge_ahead}, past, future, seed)
    holes = scores({"StableSDE": sde, "Linear": ridge_holes}, known, held, seed)
    print(f"\nForecast of the last {AHEAD} weeks, none of which was seen (ppm)\n{ahead}")
    print(f"\nImputation of every fifth week before, hidden from training (ppm)\n{holes}\n")

    models = {"StableSDE": sde, "Linear": ridge_ahead}
    coming = {
        name: forecast(model, past, times=future.t, samples=500, seed=seed)
        for name, model in models.items()
    }
    filled = impute(sde, co2, samples=500, seed=seed)
    for name, answer in coming.items():
        write_table(answer.to_pandas("quantiles"), folder / f"forecast_{name}.csv")
        save(models[name], folder / f"{name}.pt")
    write_table(to_frame(fill(co2, filled)), folder / "filled.csv")
    write_table(ahead.to_pandas(), folder / "scores_forecast.csv")
    write_table(holes.to_pandas(), folder / "scores_imputation.csv")
    draw(coming, ahead, filled, co2, past, future).savefig(folder / "co2.png", dpi=120)
    written = ", ".join(sorted(p.name for p in folder.iterdir()))
    say(f"{folder}: {written}; {time.monotonic() - started:.0f} s")


def train_sde(known: Paths, seed: int) -> Model:
    """One model for both questions: each batch asks for the end of its windows or for hidden rows."""
    with chance.seed(seed):
        sde = StableSDE(1, hidden=32, neighbours=6, draws=4)
    model = Harmonic(Scaled(sde, 1), 1, (YEAR,), degree=2)
    task = Mixture([Forecasting(steps=AHEAD), Imputation(0.2, "row")])
    pieces = windows(known, 2 * AHEAD, stride=6)
    return fit(model, pieces, task, epochs=20, lr=3e-3, seed=seed, max_seconds=75)


def scores(models: Mapping[str, Model], given: Paths, want: Paths, seed: int) -> Report:
    """The models and the baselines on one question."""
    return evaluate(models, given, want, samples=500, seed=seed, period=YEAR)


def draw(
    coming: Mapping[str, Forecast],
    ahead: Report,
    filled: Forecast,
    co2: Paths,
    past: Paths,
    future: Paths,
) -> "Figure":
    """A panel for each model's forecast over what came, and the first years with their holes filled."""
    made, axes = figure(len(coming) + 1, 1, (9.5, 3.3 * (len(coming) + 1)))
    *above, below = axes[:, 0]
    for (name, answer), place in zip(coming.items(), above, strict=True):
        row = ahead[name]
        title = (
            f"CO2 at Mauna Loa (ppm), the last {AHEAD} weeks by {name}: CRPS {row['crps']:.2f}, "
            f"the 80 % interval covers {row['cover80']:.0%}"
        )
        plot_forecast(answer, past, truth=future, last=260, ax=place, title=title)
    early, _ = split_after(co2, co2.t[:, 0] + 7.2 * YEAR)
    shown = filled.t[0] <= early.t[0, -1]
    holes = dataclasses.replace(
        filled,
        t=filled.t[:, shown],
        samples=filled.samples[:, :, shown],
        mask=filled.mask[:, shown],
    )
    title = "Missing weeks of the first years, imputed by StableSDE"
    plot_forecast(holes, early, ax=below, title=title)
    return made


def say(text: str) -> None:
    """To the person, on standard error; tables go to standard output."""
    print(text, file=sys.stderr, flush=True)
