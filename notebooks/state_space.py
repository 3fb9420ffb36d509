# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Gaussian processes in linear time
#
# A Gaussian process whose kernel has a finite state needs no N x N matrix: a Kalman filter gives its likelihood, its
# gradient, its forecasts and its draws at a cost that grows with N. We build a kernel for forty years of weekly CO2 out of
# parts, let the marginal likelihood choose between kernels, forecast two years that no model has seen, fill the holes,
# and take in new weeks one by one.

# %%
import os
import time
from datetime import date
from pathlib import Path

import torch

import tsdyn
from tsdyn import plot
from tsdyn.batch import Entries, Paths, merge, trim, windows
from tsdyn.data.tasks import Forecasting
from tsdyn.data.tensors import All, beijing_air
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import (
    Constant,
    IntegratedWiener,
    Linear as Line,
    Matern,
    Periodic,
    Product,
    QuasiPeriodic,
    Sum,
)
from tsdyn.models.likelihoods import GaussianNoise
from tsdyn.models.linear import Linear
from tsdyn.models.streaming import StreamingGP
from tsdyn.models.tucker import FunctionalTucker, Levels

FAST = bool(os.environ.get("TSDYN_FAST"))  # a short run, for the test of this notebook
FIGURES = Path(os.environ.get("TSDYN_FIGURES", "runs/state_space"))
FIGURES.mkdir(parents=True, exist_ok=True)
YEAR = 365.25 * 86400.0  # seconds: the unit of time for dated data
AHEAD = 104  # weeks
STEPS = 2 if FAST else 100

co2 = tsdyn.load_dataset("co2")
past, future = Forecasting(steps=AHEAD)(co2)

# %% [markdown]
# ## A kernel from parts
# The concentration rises ever faster: an integrated Wiener process, whose slope is a random walk, or a quadratic with
# random coefficients. The season may drift, or not. El Niño moves the level for a year or two, the weather for weeks.
# Parameters are those of largest marginal likelihood, found by L-BFGS, and it decides between kernels, too: every trend
# has the same law of level and slope at the start, so that none is paid for in one kernel and free in another. Nothing
# after the cut is looked at.

# %%
START = float(past.t[0, 0]) - YEAR
LEVEL, SLOPE, CURVATURE = 20.0, 2 / YEAR, 0.05 / YEAR**2  # ppm, ppm per second, ...


def walk() -> IntegratedWiener:
    return IntegratedWiener(0.01 / YEAR**3, LEVEL**2, SLOPE**2, START)


def quadratic() -> Sum:
    def line(variance: float) -> Line:
        return Line(variance, START, fixed=["variance"])

    square = Product([line(CURVATURE), line(CURVATURE)])
    return Sum([Constant(LEVEL**2, fixed=["variance"]), line(SLOPE**2), square])


def season() -> QuasiPeriodic:
    return QuasiPeriodic(1.0, YEAR, 100 * YEAR, variance=5.0, nu=0.5, harmonics=4)


def fixed_season() -> Periodic:
    return Periodic(1.0, YEAR, variance=5.0, harmonics=4)


def years() -> Matern:
    return Matern(1.5, 2 * YEAR, variance=0.5)


def weeks() -> Matern:
    return Matern(0.5, 0.1 * YEAR, variance=0.1)


candidates = {
    "walking slope, season, years, weeks": [walk(), season(), years(), weeks()],
    "quadratic, season, years, weeks": [quadratic(), season(), years(), weeks()],
    "walking slope, fixed season, years, weeks": [walk(), fixed_season(), years(), weeks()],
    "walking slope, season, weeks": [walk(), season(), weeks()],
}
fitted, evidence = {}, {}
for name, kernels in candidates.items():
    began = time.process_time()
    fitted[name] = StateSpaceGP(1, Sum(kernels), GaussianNoise(1, 0.3)).fit(past, steps=STEPS)
    evidence[name] = fitted[name].evidence(past).item()
    print(f"{name}: log p = {evidence[name]:.1f}, {time.process_time() - began:.0f} CPU s")
best = max(evidence, key=evidence.get)
gp = fitted[best]
print("chosen:", best)

# %% [markdown]
# ## Two years that nobody has seen

# %%
stretches = windows(past, 208 + AHEAD, stride=40 if FAST else 1)
ridge = tsdyn.fit(Linear(1, periods=(YEAR,)), stretches, Forecasting(steps=AHEAD))
scores = tsdyn.evaluate({"GP": gp, "ridge": ridge}, past, future, period=YEAR, samples=500)
print(scores)

coming = tsdyn.forecast(gp, past, times=future.t, samples=500, seed=0)
picture = coming.plot(past, truth=future, last=260)
picture.axes[0].set_title(
    f"CO2 at Mauna Loa (ppm), two years ahead: CRPS {scores['GP']['crps']:.2f}, "
    f"a ridge {scores['ridge']['crps']:.2f}, a season back {scores['seasonal naive']['crps']:.2f}"
)
picture.savefig(FIGURES / "forecast.png", dpi=110)

# %% [markdown]
# ## Any time, any of the holes
# `model.at(given)` works through the data once; asking for a time then costs the same wherever it lies: between
# observations, in a hole, before the first. `latent` leaves the noise out.

# %%
known = gp.at(past)
day = torch.arange(float(past.t[0, 0]), float(past.t[0, 0]) + 7 * YEAR, 86400.0).double()
with torch.inference_mode():
    answer = known(day, latent=True)
    print(
        f"{len(day)} days; standard deviation {answer.variance.sqrt().min():.2f} to {answer.variance.sqrt().max():.2f} ppm"
    )
holes = tsdyn.impute(gp, co2, samples=500, seed=0)
picture = holes.plot(co2)
picture.axes[0].set(xlim=(date(1958, 1, 1), date(1965, 6, 1)), ylim=(311, 324))
picture.axes[0].set_title("Weeks that nobody measured (ppm)")
picture.savefig(FIGURES / "holes.png", dpi=110)

# %% [markdown]
# ## Week by week
# A filter needs only the law of the state at the last time. Each new week costs the same, and the answer is that of all
# weeks at once.

# %%
stream = StreamingGP(gp)
with torch.inference_mode():
    state = stream.update(None, past)
    for k in range(10):
        week = Paths(future.t[:, k : k + 1], future.x[:, k : k + 1], future.mask[:, k : k + 1])
        state = stream.update(state, week)
    ahead = future.t[:, 10:20]
    at_once = gp.posterior(merge(past, trim(future, 10))[0], ahead)
    by_week = stream.forecast(state, ahead)
difference = (by_week.mean - at_once.mean).abs().max().item()
print(f"largest difference: {difference:.1e} ppm, in values kept in single precision")

# %% [markdown]
# ## Functions of more than time
# Fine dust in Beijing depends on the temperature, the pressure, the day and the station. A sum of products of functions,
# one for each, has a posterior of the same filters: two terms, whose sizes and lengthscales are learned. The bands tell
# where there are few data. Which factor of a term carries its size is arbitrary; what is read off is the shape.


# %%
def surface(n: int = 300) -> Entries:
    """A made-up product of a wave, a slope, a decay and a number of each of three places."""
    index = torch.rand(n, 4, dtype=torch.float64)
    index[:, 3] = torch.arange(n) % 3
    a, b, c, place = index.unbind(1)
    return Entries(index, torch.sin(6 * a) * (1 + b) * torch.exp(-c) * (1 + place))


dust = surface() if FAST else beijing_air(station=True)
if not FAST:
    dust.index[:, 2] = 1970 + dust.index[:, 2] / 365.25
smooth = [Matern(2.5, 0.3), Matern(2.5, 0.3)]
effort = {"rounds": 5, "growth": 2} if FAST else {"rounds": 30, "growth": 10}
product = FunctionalTucker([*smooth, Matern(0.5, 0.01), Levels()], 2, starts=1, **effort)
product = tsdyn.fit(product, dust, All(), epochs=1, batch_size=len(dust.y))
picture = plot.factors(product, ["temperature (°C)", "pressure (hPa)", "year", "station"])
picture.suptitle("PM2.5 in Beijing: the functions whose products add up to it", fontsize=10)
picture.savefig(FIGURES / "factors.png", dpi=110)

# %% [markdown]
# ## How much is too much?
# A hundred thousand irregular times, with the gradient; a dense Gaussian process stops a hundred times earlier.

# %%
model = StateSpaceGP(1, Matern(1.5, 0.7), GaussianNoise(1, 0.3), "zero")
for n in (1_000, 10_000, 100_000):
    t = torch.empty(1, n, dtype=torch.float64).exponential_().cumsum(1) / 10
    x = torch.sin(t)[..., None] + 0.3 * torch.randn(1, n, 1).double()
    began = time.process_time()
    model.evidence(Paths(t, x, torch.ones_like(x, dtype=torch.bool))).sum().backward()
    print(f"{n} times: {time.process_time() - began:.2f} CPU s")

# %% [markdown]
# The marginal likelihood chose the kernel and its parameters from the past alone, and the two years ahead came out nearer
# than those of every baseline.
