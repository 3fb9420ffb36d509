"""The main job on real data: weekly CO2 at Mauna Loa, forecast, filled and scored."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

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

    coming = forecast(sde, past, times=future.t, samples=500, seed=seed)
    filled = impute(sde, co2, samples=500, seed=seed)
    write(folder, coming, filled, co2, {"forecast": ahead, "imputation": holes}, sde)
    draw(folder / "co2.png", coming, filled, co2, past, future)
    say(
        f"wrote {folder}/co2.png, forecast.csv, filled.csv, scores_*.csv, model.pt in {time.monotonic() - started:.0f} s"
    )


def train_sde(known: Paths, seed: int) -> Model:
    """One model for both questions: each batch asks for the end of its windows or for hidden rows."""
    model = Harmonic(
        Scaled(StableSDE(1, hidden=32, neighbours=6, draws=4), 1), 1, (YEAR,), degree=2
    )
    task = Mixture([Forecasting(steps=AHEAD), Imputation(0.2, "row")])
    pieces = windows(known, 2 * AHEAD, stride=6)
    return fit(model, pieces, task, epochs=20, lr=3e-3, seed=seed, max_seconds=75)


def scores(models: Mapping[str, Model], given: Paths, want: Paths, seed: int) -> Report:
    """The models and the baselines on one question."""
    return evaluate(models, given, want, samples=500, seed=seed, period=YEAR)


def write(
    folder: Path,
    coming: Forecast,
    filled: Forecast,
    co2: Paths,
    reports: Mapping[str, Report],
    model: Model,
) -> None:
    """Tables that a spreadsheet opens, and the model for `tsdyn forecast --model`."""
    write_table(coming.to_pandas("quantiles"), folder / "forecast.csv")
    write_table(to_frame(fill(co2, filled)), folder / "filled.csv")
    for name, each in reports.items():
        write_table(each.to_pandas(), folder / f"scores_{name}.csv")
    save(model, folder / "model.pt")


def draw(
    file: Path, coming: Forecast, filled: Forecast, co2: Paths, past: Paths, future: Paths
) -> None:
    """Two panels: the forecast over what came, and the first years with their holes filled."""
    made, axes = figure(2, 1, (9.5, 7.0))
    above, below = axes[:, 0]
    plot_forecast(
        coming,
        past,
        truth=future,
        last=260,
        ax=above,
        title=f"CO2 at Mauna Loa (ppm): the last {AHEAD} weeks",
    )
    early, _ = split_after(co2, co2.t[:, 0] + 7.2 * YEAR)
    shown = filled.t[0] <= early.t[0, -1]
    holes = Forecast(
        filled.t[:, shown],
        filled.samples[:, :, shown],
        filled.mask[:, shown],
        filled.names,
        "imputation",
    )
    plot_forecast(holes, early, ax=below, title="Missing weeks of the first years, imputed")
    below.legend(frameon=False, fontsize=8, loc="best")
    made.savefig(file, dpi=130)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
