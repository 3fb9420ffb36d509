"""Data by name: `load("co2")`. A file is looked for, and only then downloaded, checked and kept.

The places, in order:

1. the folder that the environment variable TSDYN_DATA names;
2. the tables that come with tsdyn: `datasets/<name>/` of a checkout, `tsdyn/data/tables/` when installed;
3. the cache: the folder that TSDYN_CACHE names, else the user's cache folder of this system;
4. the public source, into the cache, if its SHA256 is right.

Nothing is written anywhere but in the cache.
"""

import csv
import dataclasses
import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..batch import Clock, Names, Paths, take
from ..errors import ConfigError, DataError, did_you_mean
from .archive import concatenate, read_archive, stack

PACKAGE = Path(__file__).parents[1]


class Source(NamedTuple):
    """A file of a dataset: where it lies in a folder of data, and where the public one is."""

    path: str
    sha256: str
    url: str | None = None  # None: made by datasets/<name>/prepare.py only


HOPPER = Source(
    "hopper/hopper_100x100x14.npy",
    "609d962361a431236d018ecc61af6fa718e764545f69f9c459130a908c62f00c",
    "https://raw.githubusercontent.com/yongkyung-oh/Stable-Neural-SDEs/"
    "0ab61393e22fc847c1e45f1a787175a609fd50be/benchmark_forecasting/datasets/mujoco.npy",
)
EXCHANGE_RATE = Source(
    "series/exchange_rate.csv",
    "f790284d51ac8c3918d4c9754a4779744c5de287b492e9267ed6a2aa60fb70c5",
    "https://raw.githubusercontent.com/unit8co/darts/"
    "04e9936ba760e117e71c0216d05438723cc8d9e5/datasets/exchange_rate.csv",
)
M4_TRAIN = Source(
    "series/m4_hourly_train.csv",
    "ea59b7783573c49077a835ab6465c7d66f1474783360f310988a9a737fbca62f",
    "https://raw.githubusercontent.com/Mcompetitions/M4-methods/"
    "d44ad827907d46b2050a47b529cb826be9561163/Dataset/Train/Hourly-train.csv",
)
M4_TEST = Source(
    "series/m4_hourly_test.csv",
    "71a57fccb15e534d973626ada4fb87febf789e9317715b7cc6dd3b5f90db6f42",
    "https://raw.githubusercontent.com/Mcompetitions/M4-methods/"
    "fdeb3b173f0305901c073dcc9a36b0d9f9ab537c/Dataset/Test/Hourly-test.csv",
)
BASIC_MOTIONS = {
    "train": Source(
        "basic_motions/BasicMotions_TRAIN.ts",
        "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
    ),
    "test": Source(
        "basic_motions/BasicMotions_TEST.ts",
        "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
    ),
}
CO2 = Source(
    "co2/co2.csv",
    "2a09c02d19d60ad796de4955db0fb530dfd9b3ed79f4e5fde146861c02f1c5ea",
)


def cache_folder() -> Path:
    """Where downloads are kept: TSDYN_CACHE, else the cache folder of this system."""
    if folder := os.environ.get("TSDYN_CACHE"):
        return Path(folder)
    import pooch

    return Path(pooch.os_cache("tsdyn"))


def locate(name: str, path: str, url: str | None, sha256: str) -> Path:
    """The file `path` of the dataset `name` on this machine, downloaded if it must be.

    Args:
        name: of the dataset.
        path: of the file, relative to a folder of data: "hopper/hopper_100x100x14.npy".
        url: of the public file; None if there is none to fetch as it is.
        sha256: of the right file. Files under TSDYN_DATA are the user's own and are not checked.

    Raises:
        DataError: D01 if it is in none of the places; the message lists them all.
    """
    file = Path(path).name
    own = os.environ.get("TSDYN_DATA")
    cached = cache_folder() / path
    near = [PACKAGE.parent / "datasets" / name / file, PACKAGE / "data" / "tables" / file]
    for place in ([Path(own) / path] if own else []) + near:
        if place.is_file():
            return place
    if cached.is_file() and digest(cached) == sha256:
        return cached
    try:
        return download(url, cached, sha256)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise DataError(
        "D01",
        f"dataset `{name}` needs the file `{path}`, which is not under TSDYN_DATA "
        f"({own or 'not set'}), not in the cache ({cached.parent}), and could not be downloaded "
        f"({reason})",
        "the file in one of these three places",
        f"Set TSDYN_DATA to a folder that holds `{path}`, or run "
        f"`python datasets/{name}/prepare.py` of the source tree where there is a network",
    ) from None


def digest(path: Path) -> str:
    """The SHA256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download(url: str | None, to: Path, sha256: str) -> Path:
    """The public file, checked, at `to`. OSError without a network, ValueError for another file."""
    if url is None:
        raise ValueError("it is not published as a single file")
    import pooch

    got: str = pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=to.name, path=to.parent)
    return Path(got)


def _find(name: str, source: Source) -> Path:
    return locate(name, source.path, source.url, source.sha256)


def co2() -> Paths:
    """Weekly CO2 at Mauna Loa in ppm, 1958 to 2001: 2284 weeks, 59 of them without a value."""
    from .frames import read

    paths: Paths = read(_find("co2", CO2))
    return paths


def hopper(missing: float = 0.0) -> Paths:
    """Windows of 60 states of a falling hopper: rows 0 to 49 to be given, rows 50 to 59 wanted.

    4000 windows, stride 1, 40 of each of 100 simulated falls, in order of fall; the 14 channels are
    7 positions and 7 velocities, shifted and scaled into [0, 3]. Time is the row, 0 to 59. The
    published split is by position, 2800 / 600 / 600: `BySeries(shuffle=False)`; 40 windows of a
    fall never part.

    Args:
        missing: part of the first 50 rows that is not observed, the same rows in all channels;
            which ones is fixed (generator seed 56789, as published).
    """
    states = torch.from_numpy(
        np.load(_find("hopper", HOPPER), allow_pickle=False)
    )  # (100, 100, 14)
    given, wanted, channels = 50, 10, states.shape[2]
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
        tuple(f"q{i}" for i in range(channels // 2)) + tuple(f"v{i}" for i in range(channels // 2)),
        Clock("integer"),
    )
    t = torch.arange(given + wanted, dtype=torch.float64).repeat(len(x), 1)
    return Paths(t, x.where(mask, 0.0), mask, names=names)


def exchange_rate() -> Paths:
    """Daily exchange rates of 8 currencies: one series of 7588 days, time in days from 0."""
    path = _find("exchange_rate", EXCHANGE_RATE)
    # some copies carry a first line 0,1,2,3,4,5,6,7; a rate of 0 does not exist
    with path.open() as file:
        header = file.readline().startswith("0,1,")
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
    train = _read_wide(_find("m4_hourly", M4_TRAIN))
    test = _read_wide(_find("m4_hourly", M4_TEST))
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


def basic_motions(part: Literal["train", "test", "all"] = "all") -> Paths:
    """Smart-watch accelerometer and gyroscope, 100 rows of 6 channels in 10 s, 4 activities.

    40 series to learn from and 40 to test; `labels` numbers the activities named in `names.classes`.

    Args:
        part: "train", "test", or "all": train first.
    """
    parts = ["train", "test"] if part == "all" else [part]
    paths = concatenate([read_archive(_find("basic_motions", BASIC_MOTIONS[p])) for p in parts])
    assert paths.names is not None
    channels = ("accel_x", "accel_y", "accel_z", "gyro_x", "gyro_y", "gyro_z")
    return paths._replace(
        t=paths.t * 0.1, names=paths.names._replace(channels=channels, clock=Clock("float"))
    )


class Entry(NamedTuple):
    """What a name of `DATASETS` stands for."""

    description: str
    read: Callable[..., Paths]


DATASETS = {
    "co2": Entry("weekly CO2 at Mauna Loa, 1 series x 2284 weeks, 59 missing", co2),
    "hopper": Entry("MuJoCo hopper, 4000 windows x 60 rows x 14 channels (missing=0.3)", hopper),
    "exchange_rate": Entry("daily exchange rates, 1 series x 7588 days x 8", exchange_rate),
    "m4_hourly": Entry("M4 competition, 414 hourly series, 48 h to forecast (part=)", m4_hourly),
    "basic_motions": Entry("4 activities, 80 series x 100 rows x 6 (part=)", basic_motions),
}


def load(name: str, **options: Any) -> Paths:
    """The dataset of this name. `DATASETS` lists them; each may have options of its own.

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
        options: what `load` is given besides, for example {"missing": 0.3}.
        series: only the first so many series.
    """

    name: str
    options: dict[str, Any] | None = None
    series: int | None = None

    def __call__(self) -> Paths:
        paths = load(self.name, **(self.options or {}))
        rows = range(len(paths.t))[: self.series]
        return paths if self.series is None else take(paths, list(rows))
