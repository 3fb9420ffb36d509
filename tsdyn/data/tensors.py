"""Tensors whose modes are indexed by real numbers, as `Entries`, with the folds on which they were published.

Source: Fang et al. Functional Bayesian Tucker decomposition for continuous-indexed tensor data. ICLR 2024.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..batch import Entries
from ..errors import ConfigError
from .files import BEIJING_AIR, SYNTHETIC_R1, US_TEMPERATURE, find
from .split import Cut, Parts, parted

Pollutant = Literal["pm25", "pm10", "so2"]


def beijing_air(pollutant: Pollutant = "pm25", station: bool = False) -> Entries:
    """Daily mean of a pollutant at 12 stations in Beijing, 2013 to 2017: 16,965 entries.

    Modes: temperature (°C) and pressure (hPa), daily means of the station rounded to 0.1, and the day
    since 1970. Values have mean 0 and variance 1, as published; for PM2.5 one is 69.57 ug / m^3 about
    79.69.

    Args:
        pollutant: "pm25", "pm10" or "so2".
        station: the number of the station as a fourth mode, of categories.
    """
    with _arrays(_air(pollutant)) as arrays:
        index = arrays["raw_index"][:, :3]
        if station:
            index = np.concatenate([index, arrays["station"][:, None]], 1)
        return _entries(index, arrays["y"])


def us_temperature(distinct: bool = False) -> Entries:
    """Annual mean temperature of 248 cities of the USA, 1743 to 2013, in °F: 55,944 entries.

    Modes: latitude (° north), longitude (° west), year. Cities of one cell of the grid that the data were made
    on have the same values: of 55,944 entries, 22,257 are distinct.

    Args:
        distinct: the first entry of each index only, so that no test repeats what was trained on.
    """
    with _arrays(find("us_temperature", US_TEMPERATURE)) as arrays:
        entries = _entries(arrays["raw_index"][:, :3], arrays["y"])
    return first_of_each(entries) if distinct else entries


def synthetic_r1() -> Entries:
    """sin^2(2 pi s) cos(2 pi s) e^(-2 t) sin(3 pi t / 2) without noise, at 1350 points (s, t) of a 90 x 90 grid.

    The first 675 are the published training set, the others the test set.
    """
    x, y, z = np.loadtxt(find("synthetic_r1", SYNTHETIC_R1), delimiter=",", skiprows=1, unpack=True)
    return _entries(np.stack([x, y], 1), z)


def first_of_each(entries: Entries) -> Entries:
    """The first entry of every index, in the order in which they came."""
    _, of = entries.index.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    place = torch.arange(len(of), device=of.device)
    first = torch.full_like(place, len(of)).scatter_reduce(0, of, place, "amin")
    rows = first[first < len(of)].sort().values
    return Entries(*(None if f is None else f[rows] for f in entries))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class All:
    """Given entries, want the same: for models that learn from all of them together.

    What is wanted in validation and test is kept by the split, and was not given.
    """

    def __call__(self, entries: Entries, generator: Any = None) -> tuple[Entries, Entries]:
        return entries, entries


@dataclasses.dataclass(frozen=True)
class Fold:
    """One of the five published folds: a fifth of the entries, drawn at random, is the test.

    Days of Beijing have 12 entries each and most US entries have equals, so that a test at random is
    answered by looking up: `ByLevel` and `us_temperature(distinct=True)` ask for more.

    Args:
        name: "pm25", "pm10", "so2" or "us_temperature".
        fold: 0 to 4.
    """

    name: str
    fold: int = 0

    def __call__(self, entries: Entries, cut: Cut) -> Parts:
        test = published_fold(self.name, self.fold)
        if len(test) != len(entries.y):
            raise ConfigError(
                "X01",
                f"fold {self.fold} of {self.name}, which has {len(test)} entries, for {len(entries.y)}",
                "all entries of the dataset that the fold is of",
                "Leave out distinct=True, or use ByEntry",
            )
        return parted(entries, torch.zeros_like(test), test)


def published_fold(name: str, fold: int) -> Tensor:
    """Which entries are the test: (N,)"""
    known = {p: BEIJING_AIR[p] for p in BEIJING_AIR} | {"us_temperature": US_TEMPERATURE}
    if name not in known or not 0 <= fold < 5:
        raise ConfigError(
            "X01", f"fold {fold} of {name!r}", f"folds 0 to 4 of {', '.join(known)}", ""
        )
    folder = "us_temperature" if name == "us_temperature" else "beijing_air"
    with _arrays(find(folder, known[name])) as arrays:
        return torch.from_numpy(arrays["test_mask"][fold])


def _air(pollutant: str) -> Path:
    if pollutant not in BEIJING_AIR:
        raise ConfigError("X01", f"pollutant {pollutant!r}", f"one of {', '.join(BEIJING_AIR)}", "")
    return find("beijing_air", BEIJING_AIR[pollutant])


def _arrays(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _entries(index: Any, y: Any) -> Entries:
    """Indices keep double precision: equal indices must stay equal, and days since 1970 are large."""
    return Entries(
        torch.from_numpy(np.ascontiguousarray(index, dtype=np.float64)),
        torch.from_numpy(np.asarray(y, dtype=np.float32)),
    )
