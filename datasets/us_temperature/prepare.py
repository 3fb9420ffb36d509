"""Annual temperatures of the USA: a file at hand, checked and put where the loader looks.

    python datasets/us_temperature/prepare.py FILE [--out DIR]

The data may not be used commercially and are not downloaded; README.md says what the file holds.
"""

import argparse
from pathlib import Path

import numpy as np

from tsdyn.data.files import US_TEMPERATURE, cache_folder
from tsdyn.errors import DataError

COUNT = 55_944
LEVELS = (15, 95, 267)  # distinct latitudes, longitudes and years
SHAPES = {"y": (COUNT,), "raw_index": (COUNT, 3), "test_mask": (5, COUNT)}


def prepare(raw: Path, out: Path) -> Path:
    """The arrays that the loader reads, from a file that holds them.

    Raises:
        DataError: D14 for other shapes or other indices.
    """
    with np.load(raw, allow_pickle=False) as arrays:
        kept = {name: arrays[name] for name in SHAPES}
    shapes = {name: array.shape for name, array in kept.items()}
    levels = tuple(len(np.unique(column)) for column in kept["raw_index"].T)
    if shapes != SHAPES or levels != LEVELS:
        raise DataError(
            "D14",
            f"{raw} holds arrays {shapes} with {levels} distinct indices",
            f"{SHAPES} with {LEVELS}",
            "Get another file",
        )
    out.mkdir(parents=True, exist_ok=True)
    target = out / Path(US_TEMPERATURE.path).name
    np.savez_compressed(target, **kept)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--out", type=Path, default=cache_folder() / Path(US_TEMPERATURE.path).parent
    )
    args = parser.parse_args()
    print(prepare(args.file, args.out))
