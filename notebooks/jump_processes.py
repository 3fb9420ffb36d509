# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Switching between states
#
# A Markov jump process sits in one of a few states and leaves state i for j at the rate q_ij. Only glimpses are seen, at
# irregular times, now and then the wrong state, or a noisy current in its place. Three questions are answered here: what
# are the rates and how sure are we, what does a single misread label in ten do to them, and which of two states that look
# alike is a channel in? All data are simulated, so that the answers are known.

# %%
import os
from pathlib import Path

import torch

from tsdyn.data.jump_systems import FlashingRatchet, IonChannel, flashing_ratchet
from tsdyn.maths.jump_counts import counts, crude_rates
from tsdyn.maths.rate_matrix import (
    entropy_production,
    mean_first_passage_matrix,
    relaxation,
    stationary,
)
from tsdyn.models.jump import MarkovJump
from tsdyn.plot import figure

FAST = bool(os.environ.get("TSDYN_FAST"))  # a short run, for the test of this notebook
FIGURES = Path(os.environ.get("TSDYN_FIGURES", "runs/jump_processes"))
FIGURES.mkdir(parents=True, exist_ok=True)
BLUE, RED, GREY = "#1f5a8a", "#c0392b", "#b8b8b8"
torch.manual_seed(0)

# %% [markdown]
# ## Rates, and what follows from them
# The flashing ratchet has six states: three in a potential that is on, three where it is off. It is driven, so that it
# turns in circles and produces entropy. Each of 300 series is seen 50 times at random; exact expectation maximisation
# needs no grid in time. Counting jumps, as if nothing happened between two looks, is the baseline.

# %%
truth = flashing_ratchet()
data = FlashingRatchet(n=100 if FAST else 300, rows=50, irregular=not FAST, seed=1)()
model = MarkovJump(6).fit(data)
deviation = model.errors(data)
seen = counts(data.t, data.x[..., 0], data.mask[..., 0], 6)
crude = crude_rates(seen.gaps, seen.C)
off = ~torch.eye(6, dtype=torch.bool)


def rmse(Q: torch.Tensor) -> float:
    return float((Q - truth)[off].square().mean().sqrt())


print(f"error of the 30 rates: exact {rmse(model.Q):.3f}, crude {rmse(crude):.3f}")
# what hangs on rates that are nearly zero needs to be told which are: entropy is produced by every way that has no way back
known = MarkovJump(6, links=(truth > 0).double().tolist()).fit(data)
for name, quantity in {
    "slowest time": lambda Q: relaxation(Q).time[0],
    "entropy production": entropy_production,
    "share of time in state 0": lambda Q: stationary(Q)[0],
    "time from 0 until 2 is reached": lambda Q: mean_first_passage_matrix(Q)[0, 2],
}.items():
    values = [float(quantity(Q)) for Q in (model.Q, known.Q, truth)]
    print("{:31s} {:.3f}, with links known {:.3f}, true {:.3f}".format(name, *values))

# %%
made, grid = figure(1, 2, (10, 4.2))
real = off & (truth > 0)
# a rate at its bound of zero has no standard error
bars = 1.645 * deviation[real].nan_to_num(0.0)
grid[0, 0].axline((0, 0), slope=1, color=GREY, lw=1)
grid[0, 0].errorbar(
    truth[real], model.Q[real], bars, fmt="o", color=BLUE, ms=4, lw=1, label="exact, 90 %"
)
grid[0, 0].plot(truth[real], crude[real], "x", color=RED, ms=5, label="crude counts")
grid[0, 0].set(xlabel="true rate", ylabel="rate found", title="rates of the ratchet")
grid[0, 0].legend(frameon=False)
k = int((data.x[:, 1:12] != data.x[:, :11]).sum((1, 2)).argmax())  # a lively one
first = slice(k, k + 1)
one = data._replace(t=data.t[first, :12], x=data.x[first, :12], mask=data.mask[first, :12])
at = torch.linspace(0, float(one.t[0, -1]) + 0.8, 200, dtype=torch.float64)[None]
law = model.state_law(one, at)[0]
grid[0, 1].stackplot(at[0], law.mT, lw=0, colors=[f"C{k}" for k in range(6)], alpha=0.75)
grid[0, 1].plot(one.t[0], torch.full((12,), 1.03), "k|", ms=6)
for t, x in zip(one.t[0].tolist(), one.x[0, :, 0].tolist(), strict=True):
    grid[0, 1].text(t, 1.06, f"{int(x)}", ha="center", fontsize=7)
grid[0, 1].set(
    xlabel="time", ylabel="probability of each state", title="one series, and its forecast"
)
grid[0, 1].spines[["top", "right"]].set_visible(False)
grid[0, 0].spines[["top", "right"]].set_visible(False)
made.savefig(FIGURES / "ratchet.png", dpi=110)

# %% [markdown]
# ## One label in ten is wrong
# A misread label looks like two fast jumps, there and back. Who takes labels at their word finds rates that are far too
# high; a chain whose labels may be misread, with one more number to find, does not.

# %%
noisy = FlashingRatchet(n=100 if FAST else 300, rows=50, noise=0.1, seed=2)()
naive = MarkovJump(6, steps=100).fit(noisy)
careful = MarkovJump(6, "misread", steps=20 if FAST else 100).fit(noisy)
print(
    f"error of the rates: labels taken at their word {rmse(naive.Q):.3f}, maybe misread {rmse(careful.Q):.3f}"
)
print(f"share of misread labels found {float(careful.error):.4f}, true {0.1 * 5 / 6:.4f}")

# %% [markdown]
# ## Two closed states that look alike
# An ion channel is open, closed for short or closed for long; the current tells open from closed, and only time tells the two
# closed ones apart. `links` says that the way from one closed state to open leads through the other.

# %%
records = IonChannel(n=60 if FAST else 200, rows=60, span=0.15, seed=3)()
links = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
channel = MarkovJump(
    3, "gaussian", links=links, starts=1 if FAST else 3, steps=20 if FAST else 80
).fit(records)
print("current in each state, pA:", [round(float(m), 2) for m in channel.mean[:, 0]])
print("rates per second:\n", channel.Q.round())
print("true, for long, for short, open:\n", IonChannel().truth().Q)

made, grid = figure(2, 1, (9, 4.2))
t, y = records.t[0], records.x[0, :, 0]
law = channel.state_law(
    records._replace(t=records.t[:1], x=records.x[:1], mask=records.mask[:1]), records.t[:1]
)[0]
grid[0, 0].plot(1000 * t, y, ".", color=GREY, ms=4)
grid[0, 0].plot(1000 * t, law @ channel.mean[:, 0], color=BLUE, lw=1.2)
grid[0, 0].set(ylabel="current (pA)", title="a record, and the mean of what is believed")
for k in range(3):
    grid[1, 0].plot(1000 * t, law[:, k], lw=1.2, label=f"{float(channel.mean[k, 0]):.1f} pA")
grid[1, 0].set(xlabel="time (ms)", ylabel="probability")
grid[1, 0].legend(frameon=False, ncols=3, fontsize=8)
for ax in grid[:, 0]:
    ax.spines[["top", "right"]].set_visible(False)
made.savefig(FIGURES / "channel.png", dpi=110)

# %% [markdown]
# ## What to choose
# `MarkovJump(n)` for labels that are right, `"misread"` as soon as they may not be: it costs seconds and is safe. `"gaussian"`
# for currents and other continuous records; start it several times, for its likelihood has several tops. More than some
# dozens of states, or states cut out of a continuous motion, are for Markov state models
# (`maths.markov_state_model`), whose answer depends on the lag. Where rates differ by many orders of magnitude, or gaps are
# much longer than the time in a state, the data say little: the standard errors say so, look at them first.
