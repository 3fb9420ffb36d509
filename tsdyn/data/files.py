"""Files of datasets: looked for, and only then downloaded, checked and kept.

The places, in order:

1. the folder that the environment variable TSDYN_DATA names;
2. the tables that come with tsdyn: `datasets/<name>/` of a checkout, `tsdyn/data/tables/` when installed;
3. the cache: the folder that TSDYN_CACHE names, else the user's cache folder of this system;
4. the public source, into the cache, if its SHA256 is right.

Nothing is written anywhere but in the cache.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

PACKAGE = Path(__file__).parents[1]


class Source(NamedTuple):
    """A file of a dataset: where it lies in a folder of data, and where the public one is."""

    path: str
    sha256: str | None  # None: made on this machine, and counted where it is made
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
CMU_MOTION = {
    subject: Source(f"snapshots/cmu_mocap{subject}.npz", None) for subject in ("09", "35")
}
PHYSIONET_2012 = {part: Source(f"physionet_2012/set-{part}.npz", None) for part in ("a", "b")}
PHYSIONET_2019 = {part: Source(f"physionet_2019/set-{part}.npz", None) for part in ("a", "b")}
BEIJING_AIR = {
    p: Source(f"tensors/beijing_{p}_428x501x1461.npz", None) for p in ("pm25", "pm10", "so2")
}
US_TEMPERATURE = Source("tensors/us_temp_15x95x267.npz", None)
SYNTHETIC_R1 = Source("tensors/synthetic_r1.csv", None)
EMBRYOID_BODY = Source(
    "snapshots/eb_pc100_2750.npz",
    "08a59a95163bcdc1248185ae7c5629ac12bcbd3d3e872e62ea36a2d9be1a5bc0",
)
HEMATOPOIESIS = Source("snapshots/mouse_hematopoiesis_2d.npz", None)
TOGGLE_SWITCH = Source("snapshots/simulation_gene_2d.npz", None)
GAUSSIAN_GROWTH = Source("snapshots/gaussian_unbalanced_10d.npz", None)
REPROGRAMMING = Source(
    "snapshots/moscot_temporal_tests.h5ad",
    "746a098fbf84e941e67e494bb4b61b741eff8945850e0056e6857cccd07f5885",
)
SYNTHETIC_SNAPSHOTS = {
    system: Source(f"snapshots/synthetic_{system}.npz", None)
    for system in ("ou2d", "lotka_volterra", "repressilator", "double_well")
}
SPEECH_COMMANDS = Source("speech_commands/ten_words.npz", None)
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


def find(name: str, source: Source) -> Path:
    """The file of the dataset `name` on this machine, downloaded if it must be."""
    return locate(name, source.path, source.url, source.sha256)


def locate(name: str, path: str, url: str | None, sha256: str | None) -> Path:
    """The file `path` of the dataset `name` on this machine, downloaded if it must be.

    Args:
        name: of the dataset.
        path: of the file, relative to a folder of data: "hopper/hopper_100x100x14.npy".
        url: of the public file; None if there is none to fetch as it is.
        sha256: of the right file; None where it was made on this machine. Files under TSDYN_DATA are
            the user's own and are not checked.

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
    if cached.is_file() and sha256 in (None, digest(cached)):
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


def adopt(raw: Path, source: Source, out: Path | None = None) -> Path:
    """A file at hand, checked and copied to where loaders look.

    Raises:
        DataError: D14 for another file.
    """
    found = digest(raw)
    if found != source.sha256:
        raise DataError(
            "D14",
            f"{raw} has the SHA256 {found}",
            f"the file with {source.sha256}",
            "Get another file",
        )
    target = (out or cache_folder() / Path(source.path).parent) / Path(source.path).name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(raw, target)
    return target


def digest(path: Path) -> str:
    """The SHA256 of a file, which may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str | None, to: Path, sha256: str | None) -> Path:
    """The public file at `to`, checked where its SHA256 is known.

    OSError without a network, ValueError for another file.
    """
    if url is None:
        raise ValueError("it is not published as a single file")
    import pooch

    known = sha256 and f"sha256:{sha256}"
    got: str = pooch.retrieve(url, known_hash=known, fname=to.name, path=to.parent)
    return Path(got)


def obtain(source: Source, folder: Path, copy: Path | None = None) -> Path:
    """The public file in a folder, from a copy at hand or downloaded, checked in both cases.

    Raises:
        DataError: D14 for a copy of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(source.path).name
    if copy is None:
        return download(source.url, target, source.sha256)
    if source.sha256 not in (None, digest(copy)):
        raise DataError(
            "D14",
            f"{copy} is not the public file, its SHA256 is {digest(copy)}",
            f"SHA256 {source.sha256}",
            "Get the file again",
        )
    target.write_bytes(copy.read_bytes())
    return target
