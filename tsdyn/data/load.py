"""Data by name: `load_dataset("co2")`.

Where their files come from is said in `files`; what is in them, in datasets/<name>/README.md.
"""

import csv
import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..batch import Clock, Names, Paths, take
from ..errors import ConfigError, did_you_mean
from .archive import stack
from .archives import ARCHIVES, read_parts
from .audio import speech_commands
from .files import CO2, EXCHANGE_RATE, HOPPER, M4_TEST, M4_TRAIN, find
from .motion import cmu_motion
from .physionet import physionet_2012, physionet_2019
from .populations import (
    embryoid_body,
    gaussian_growth,
    mouse_hematopoiesis,
    reprogramming,
    synthetic_snapshots,
    toggle_switch,
)
from .tensors import beijing_air, synthetic_r1, us_temperature

JOINTS = ("root_x", "root_z", "root_angle", "waist", "hip", "knee", "ankle")  # of the hopper


def co2() -> Paths:
    """Weekly CO2 at Mauna Loa in ppm, 1958 to 2001: 2284 weeks, 59 of them without a value."""
    from .frames import read

    paths: Paths = read(find("co2", CO2))
    return paths


def hopper(missing: float = 0.0) -> Paths:
    """Windows of 60 states of a falling hopper: rows 0 to 49 to be given, rows 50 to 59 wanted.

    4000 windows, stride 1, 40 of each of 100 simulated falls, in order of fall; the 14 channels are
    7 positions and 7 velocities, shifted and scaled into [0, 3]. Time is the row, of 5 ms: 0 to 59. The
    published split is by position, 2800 / 600 / 600: `BySeries(shuffle=False)`; 40 windows of a
    fall never part.

    Args:
        missing: part of the first 50 rows that is not observed, the same rows in all channels;
            which ones is fixed (generator seed 56789, as published).
    """
    states = torch.from_numpy(np.load(find("hopper", HOPPER), allow_pickle=False))  # (100, 100, 14)
    given, wanted = 50, 10
    per_fall = states.shape[1] - given - wanted
    rows = torch.arange(per_fall)[:, None] + torch.arange(given + wanted)
    x = states[:, rows].flatten(0, 1)  # (4000, 60, 14)
    seen = torch.ones(x.shape[:2], dtype=torch.bool)
    generator = torch.Generator().manual_seed(56789)
    for window in seen:
        window[torch.randperm(given, generator=generator)[: int(given * missing)]] = False
    mask = seen[..., None].expand_as(x).contiguous()
    names = Names(
        tuple(f"{i:03d}-{j:02d}" for i in range(len(states)) for j in range(per_fall)),
        (*JOINTS, *(f"v_{joint}" for joint in JOINTS)),
        Clock("integer"),
    )
    t = torch.arange(given + wanted, dtype=torch.float64).repeat(len(x), 1)
    return Paths(t, x.where(mask, 0.0), mask, names=names)


def exchange_rate() -> Paths:
    """Daily exchange rates of 8 currencies: one series of 7588 days, time in days from 0."""
    path = find("exchange_rate", EXCHANGE_RATE)
    # some copies carry a first line 0,1,2,3,4,5,6,7; a rate of 0 does not exist
    with path.open() as file:
        header = file.readline().startswith("0,1")
    x = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=int(header), dtype=np.float32))
    t = torch.arange(len(x), dtype=torch.float64)
    currencies = ("AUD", "GBP", "CAD", "CHF", "CNY", "JPY", "NZD", "SGD")
    names = Names(("exchange_rate",), currencies, Clock("integer"))
    return Paths(t[None], x[None], torch.ones_like(x[None], dtype=torch.bool), names=names)


def m4_hourly(part: Literal["train", "test", "all"] = "all") -> Paths:
    """The 414 hourly series of the M4 competition: 700 to 960 hours, and the 48 to be forecast.

    Time is in hours from the start of each series; the test part goes on where the train part ends.

    Args:
        part: "train", "test" (the last 48 hours of each), or "all" of them in one.
    """
    train = _read_wide(find("m4_hourly", M4_TRAIN))
    test = _read_wide(find("m4_hourly", M4_TEST))
    series = []
    for name, past in train.items():
        future = test[name]
        x = {"train": past, "test": future, "all": np.concatenate([past, future])}[part]
        start = len(past) if part == "test" else 0
        series.append((torch.arange(start, start + len(x)).double(), torch.from_numpy(x)[:, None]))
    names = Names(tuple(train), ("value",), Clock("integer"))
    return stack(series)._replace(names=names)


def _read_wide(path: Path) -> dict[str, Any]:
    """One row per series: its name, then its values; short rows are filled up with empty cells."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {row[0]: np.array([v for v in row[1:] if v], dtype=np.float32) for row in rows}


class Entry(NamedTuple):
    """What a name of `DATASETS` stands for."""

    description: str
    read: Callable[..., Any]  # Paths, Entries, Snapshots or AnnData


DATASETS = {
    "co2": Entry("weekly CO2 at Mauna Loa, 1 series x 2284 weeks, 59 missing", co2),
    "hopper": Entry("MuJoCo hopper, 4000 windows x 60 rows x 14 channels (missing=0.3)", hopper),
    "exchange_rate": Entry("daily exchange rates, 1 series x 7588 days x 8", exchange_rate),
    "m4_hourly": Entry("M4 competition, 414 hourly series, 48 h to forecast (part=)", m4_hourly),
    "cmu_motion": Entry("walks or runs, 23 x 300 or 10 x 120 frames x 46 (subject=)", cmu_motion),
    "physionet_2012": Entry("48 h in intensive care, 8000 stays x 37 (part=)", physionet_2012),
    "physionet_2019": Entry(
        "sepsis in intensive care, 40336 stays x 72 h x 34 (intensity=True)", physionet_2019
    ),
    "speech_commands": Entry("ten spoken words, 34975 clips x 161 x 20 MFCC", speech_commands),
    "beijing_air": Entry(
        "air pollution by temperature, pressure and day, 16965 entries (pollutant=)", beijing_air
    ),
    "us_temperature": Entry(
        "annual means by latitude, longitude and year, 55944 entries (distinct=True)",
        us_temperature,
    ),
    "synthetic_r1": Entry("a product of two functions, 1350 entries", synthetic_r1),
    "embryoid_body": Entry(
        "embryoid bodies, 5 snapshots x 550 cells, components (dims=5)", embryoid_body
    ),
    "mouse_hematopoiesis": Entry(
        "blood cells that divide, 3 snapshots, 10998 cells x 2", mouse_hematopoiesis
    ),
    "reprogramming": Entry(
        "towards stem cells, AnnData of 250 cells x 1479 genes, 3 days", reprogramming
    ),
    "toggle_switch": Entry(
        "two genes with growth, simulated, 5 snapshots, 3031 cells x 2", toggle_switch
    ),
    "gaussian_growth": Entry(
        "a mixture of which a part grows, 2 snapshots, 1900 cells x 10", gaussian_growth
    ),
    "synthetic_snapshots": Entry(
        "known equations, snapshots (system=lotka_volterra)", synthetic_snapshots
    ),
    **{n: Entry(a.description, functools.partial(read_parts, n)) for n, a in ARCHIVES.items()},
}


def load_dataset(name: str, **options: Any) -> Any:
    """The dataset of this name: `Paths`, `Entries`, `Snapshots`, or AnnData. `DATASETS` lists them; each may have options of its own.

    Raises:
        ConfigError: X01 for a name or an option that does not exist.
        DataError: D01 if its files are nowhere to be had.
    """
    if name not in DATASETS:
        raise ConfigError("X01", f"no dataset is called `{name}`", "", did_you_mean(name, DATASETS))
    read = DATASETS[name].read
    known = inspect.signature(read).parameters
    for option in options:
        if option not in known:
            raise ConfigError(
                "X01",
                f"dataset `{name}` has no option `{option}`",
                "one of its own options" if known else "no option",
                did_you_mean(option, known),
            )
    return read(**options)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset by name, as a source for a configuration.

    Args:
        name: one of `DATASETS`.
        options: what `load_dataset` is given besides, for example {"missing": 0.3}.
        series: only the first so many series.
    """

    name: str
    options: dict[str, Any] | None = None
    series: int | None = None

    def __call__(self) -> Any:
        data = load_dataset(self.name, **(self.options or {}))
        return data if self.series is None else take(data, list(range(len(data.t))[: self.series]))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of your own, as a source for a configuration.

    Args:
        path: a .csv or .parquet file; one row per series and time, one column per channel.
        series: column that tells the series apart; None looks for a usual name.
        time: column of times; None looks for a usual name.
        channels: columns that are observed; None takes every other column of numbers.
        covariates: columns known at every row, also ahead of time.
        static: columns with one value per series.
        label: column with the class of each series.
        weight: column with how much each series counts.
        classes: what the labels may be, in the order of their numbers; None takes those that occur.
        on_duplicate: what to do with rows of one series at one time.
        on_unsorted: what to do with rows out of order.
        day_first: whether 01/02/2024 is the first of February; None refuses such text.
        zone: time zone of text without one.
    """

    path: str
    series: str | None = None
    time: str | None = None
    channels: list[str] | None = None
    covariates: list[str] = dataclasses.field(default_factory=list)
    static: list[str] = dataclasses.field(default_factory=list)
    label: str | None = None
    weight: str | None = None
    classes: list[str] | None = None
    on_duplicate: Literal["error", "mean", "first", "last"] = "error"
    on_unsorted: Literal["sort", "error"] = "sort"
    day_first: bool | None = None
    zone: str | None = None

    def __call__(self) -> Paths:
        from .frames import read

        columns = dataclasses.asdict(self)
        paths: Paths = read(columns.pop("path"), **columns)
        return paths
