"""The hourly series of the M4 competition: both public tables, checked.

    python datasets/m4_hourly/prepare.py [--out DIR] [--source DIR]

A source is a folder with Hourly-train.csv and Hourly-test.csv; without one they are downloaded.
"""

import argparse
import csv
from pathlib import Path

from tsdyn.data.files import M4_TEST, M4_TRAIN, Source, cache_folder, digest, obtain

FILES = {"Hourly-train.csv": M4_TRAIN, "Hourly-test.csv": M4_TEST}


def prepare(source: Path | None, out: Path, files: dict[str, Source] = FILES) -> list[Path]:
    """The tables under the names by which they are looked for."""
    return [obtain(public, out, source and source / name) for name, public in files.items()]


def summary(path: Path) -> str:
    """What came out, in one line."""
    with path.open(newline="") as file:
        lengths = [sum(v != "" for v in row[1:]) for row in list(csv.reader(file))[1:]]
    return (
        f"{path}: {len(lengths)} series of {min(lengths)} to {max(lengths)} hours, "
        f"SHA256 {digest(path)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The hourly series of the M4 competition.")
    parser.add_argument("--out", type=Path, default=cache_folder() / Path(M4_TRAIN.path).parent)
    parser.add_argument("--source", type=Path, help="a folder with both files")
    args = parser.parse_args()
    for made in prepare(args.source, args.out):
        print(summary(made))
