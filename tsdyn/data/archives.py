"""Datasets of the UEA and UCR archives that travel inside the wheel of the package aeon.

One table of what they are, one loader, one script: `archive` reads any of their files.

Source: Bagnall et al. (2018), The UEA multivariate time series classification archive; Dau et al.
(2019), The UCR time series archive.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from ..batch import Clock, Paths
from .archive import concatenate, read_archive
from .files import Source, cache_folder, digest, find, obtain

WHEEL = "aeon==1.6.0"
FOLDER = "aeon/datasets/data"

Part = Literal["train", "test", "all"]


class Archive(NamedTuple):
    """A dataset of the archives: what it is, the digests of its files, and what they do not tell."""

    title: str  # by which the archives know it
    description: str
    train: str  # SHA256
    test: str  # SHA256
    channels: tuple[str, ...]
    step: float | None = None  # from row to row, in seconds; None: time is the row


ARCHIVES = {
    "arrow_head": Archive(
        "ArrowHead",
        "outlines of arrowheads, 211 series x 251 rows, 3 classes (part=)",
        "a83c470aaf611a5f5284377cce27a5fc9f6292bc3d110257b0fd4905ced5ee72",
        "5417dab42626d41df5e435bb22458c2df40dfad4bcd3b59559bbe72e20e84904",
        ("angle",),
    ),
    "basic_motions": Archive(
        "BasicMotions",
        "4 activities, 80 series x 100 rows x 6 (part=)",
        "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
        "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
        ("accel_x", "accel_y", "accel_z", "gyro_x", "gyro_y", "gyro_z"),
        step=0.1,
    ),
    "gun_point": Archive(
        "GunPoint",
        "a hand draws a gun or points, 200 series x 150 rows, 2 classes (part=)",
        "f842401779fd9800d247d8b33121a1a4643710a19b24917dbdd9a060ca8630d5",
        "79332750788a6227b325b96bd0d70130c8eb707b9731f8d7dec62b7a7d36017e",
        ("hand_x",),
    ),
    "japanese_vowels": Archive(
        "JapaneseVowels",
        "9 speakers, 640 series x 7 to 29 rows x 12 (part=)",
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
        tuple(f"cepstrum_{k}" for k in range(1, 13)),
    ),
}


def sources(name: str) -> dict[str, Source]:
    """The two files of a dataset of `ARCHIVES`, "train" and "test"."""
    archive = ARCHIVES[name]
    path = f"{name}/{archive.title}_"
    return {
        "train": Source(f"{path}TRAIN.ts", archive.train),
        "test": Source(f"{path}TEST.ts", archive.test),
    }


def read_parts(name: str, part: Part = "all") -> Paths:
    """A dataset of `ARCHIVES`; `labels` numbers the classes that are named in `names.classes`.

    Series keep their own lengths: a shorter one ends with rows that were not observed.

    Args:
        name: of the dataset.
        part: "train", "test", or "all": train first.
    """
    parts = ["train", "test"] if part == "all" else [part]
    paths = concatenate([read_archive(find(name, sources(name)[p])) for p in parts])
    archive = ARCHIVES[name]
    assert paths.names is not None
    paths = paths._replace(names=paths.names._replace(channels=archive.channels))
    if archive.step is None:
        return paths
    assert paths.names is not None
    return paths._replace(
        t=paths.t * archive.step, names=paths.names._replace(clock=Clock("float"))
    )


def fetch(folder: Path) -> Path:
    """The wheel, by pip. The package is neither installed nor imported."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*pip, "--dest", str(folder), WHEEL], check=True)
    return next(folder.glob("aeon-*.whl"))


def extract(wheel: Path, out: Path, files: dict[str, Source]) -> list[Path]:
    """The files of a dataset, checked, under the names by which they are looked for."""
    made = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as temporary:
        for public in files.values():
            file = Path(public.path).name  # JapaneseVowels_TRAIN.ts, in the folder JapaneseVowels
            inside = f"{FOLDER}/{file.rpartition('_')[0]}/{file}"
            made.append(obtain(public, out, Path(archive.extract(inside, temporary))))
    return made


def summary(path: Path) -> str:
    """What came out, in one line."""
    paths = read_archive(path)
    assert paths.names is not None
    return (
        f"{path}: {' x '.join(map(str, paths.x.shape))}, classes {', '.join(paths.names.classes)}, "
        f"SHA256 {digest(path)}"
    )


def prepare(name: str) -> None:
    """The script datasets/<name>/prepare.py: [--out DIR] [--wheel aeon-1.6.0-py3-none-any.whl]."""
    parser = argparse.ArgumentParser(description=f"{ARCHIVES[name].title} of the UEA/UCR archives.")
    parser.add_argument("--out", type=Path, default=cache_folder() / name)
    parser.add_argument("--wheel", type=Path, help="the wheel of aeon, if you have it already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for made in extract(args.wheel or fetch(Path(temporary)), args.out, sources(name)):
            print(summary(made))
