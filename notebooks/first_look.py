# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A first look: forty years of CO2, with holes
#
# Weekly CO2 at Mauna Loa has 2284 weeks, of which 59 were never measured. We look at the table, hold the last two years
# out, fit two models, forecast the two years, fill the holes, and ask how honest the answers are.

# %%
import os
from datetime import date
from pathlib import Path

import torch

import tsdyn
from tsdyn.batch import windows
from tsdyn.data.frames import report
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.models.harmonic import Harmonic
from tsdyn.models.linear import Linear
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE
from tsdyn.plot import plot_pit

FAST = bool(os.environ.get("TSDYN_FAST"))  # a short run, for the test of this notebook
FIGURES = Path(os.environ.get("TSDYN_FIGURES", "runs/first_look"))
FIGURES.mkdir(parents=True, exist_ok=True)
YEAR = 365.25 * 86400.0  # seconds: the unit of time for dated data
AHEAD = 104  # weeks

# %% [markdown]
# ## The data
# `tsdyn.read("my.csv")` reads a table of your own; this one comes with the package. Nothing is resampled and nothing is
# filled in: a missing week stays missing.

# %%
co2 = tsdyn.load_dataset("co2")
print(report(co2))

# %% [markdown]
# ## Hold out, then fit
# A task cuts a series into what is *given* and what is *wanted*. The ridge regression is fitted in closed form; the
# Langevin SDE works on what a quadratic trend and three harmonics of the year leave over.

# %%
past, future = Forecasting(steps=AHEAD)(co2)
stretches = windows(past, 208 + AHEAD, stride=40 if FAST else 4)

ridge = tsdyn.fit(Linear(1, periods=(YEAR,)), stretches, Forecasting(steps=AHEAD))
with tsdyn.seed(0):  # the first weights are drawn, too
    inner = StableSDE(1, hidden=32, neighbours=6, draws=4)
sde = Harmonic(Scaled(inner, 1), 1, (YEAR,), degree=2)
sde = tsdyn.fit(sde, stretches, Forecasting(steps=AHEAD), epochs=1 if FAST else 15, lr=3e-3, seed=0)

# %% [markdown]
# ## Forecast
# A `Forecast` holds joint draws; means, quantiles, intervals, tables and plots come from them. Times come back as dates.

# %%
coming = tsdyn.forecast(ridge, past, times=future.t, samples=500, seed=0)
print(coming.to_pandas("quantiles").head())
coming.plot(past, truth=future, last=260).savefig(FIGURES / "forecast.png", dpi=110)

# %% [markdown]
# ## How honest is it?
# The continuous ranked probability score (CRPS, in ppm) rewards draws that are near and not too wide; coverage says how
# often the truth lay inside the interval. Baselines stand in every table: a model that does not beat them is not worth
# its trouble.

# %%
scores = tsdyn.evaluate({"ridge": ridge, "SDE": sde}, past, future, period=YEAR, samples=500)
print(scores)
plot_pit(scores.pit).savefig(FIGURES / "pit.png", dpi=110)

# %% [markdown]
# ## Fill the holes
# The same question with other times. Here the ridge is fitted to rows that were hidden on purpose, judged on rows that
# it never saw, and then asked for the weeks that nobody measured.

# %%
seen, hidden = Imputation(0.2, "row")(co2, torch.Generator().manual_seed(0))
pieces = windows(seen, 208, stride=10 if FAST else 1)
filler = tsdyn.fit(Linear(1, periods=(YEAR,)), pieces, Imputation(0.2, "row"))
print(tsdyn.evaluate({"ridge": filler}, seen, hidden, period=YEAR, samples=500))

holes = tsdyn.impute(filler, co2, samples=500, seed=0)
complete = tsdyn.fill(co2, holes)
print(f"{int(holes.mask.sum())} holes filled; {int((~complete.mask).sum())} left")
picture = holes.plot(co2)
picture.axes[0].set(
    xlim=(date(1958, 1, 1), date(1965, 6, 1)), ylim=(311, 324)
)  # where the holes are
picture.savefig(FIGURES / "imputation.png", dpi=110)

# %% [markdown]
# ## Keep it
# A file holds the name of the class, its arguments and tensors; loading it runs no code from the file.

# %%
tsdyn.save(ridge, FIGURES / "ridge.pt")
again = tsdyn.forecast(tsdyn.load(FIGURES / "ridge.pt"), past, times=future.t, samples=500, seed=0)
assert torch.equal(again.samples, coming.samples)

# %% [markdown]
# The ridge forecasts two years of CO2 to within half a part per million, and its intervals hold; on this smooth, strongly
# seasonal series the neural SDE does not beat it. Networks want more series, or stranger dynamics.
