"""Populations that were sequenced or simulated at a few times, as `Snapshots`.

What is in the files, and under which licence, is said in datasets/<name>/README.md.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..batch import Snapshots
from ..errors import ConfigError, DataError
from .cells import read_cells
from .files import (
    EMBRYOID_BODY,
    GAUSSIAN_GROWTH,
    HEMATOPOIESIS,
    REPROGRAMMING,
    SYNTHETIC_SNAPSHOTS,
    TOGGLE_SWITCH,
    Source,
    cache_folder,
    find,
)
from .snapshots import from_arrays

System = Literal["ou2d", "lotka_volterra", "repressilator", "double_well"]
WHITENED = 5  # components whose published mean and deviation are known


def embryoid_body(dims: int = 5, whiten: bool = True) -> Snapshots:
    """Human embryoid bodies, 5 x 550 cells of days 0-3, 6-9, 12-15, 18-21 and 24-27, at times 0 to 4.

    Principal components. Up to five of them are whitened by the constants of all 16,819 cells, and are then the
    coordinates of the published tables. Of more, up to 100, these constants are not known: all are centred and divided
    by the deviation of the first, as the 2,750 cells have them, so that they keep their proportions.

    Args:
        dims: how many components.
        whiten: False leaves them as they were computed.
    """
    if not 1 <= dims <= 100:
        raise ConfigError("X01", f"embryoid_body got dims={dims}", "1 to 100", "")
    with np.load(find("embryoid_body", EMBRYOID_BODY), allow_pickle=False) as arrays:
        pcs = arrays["pcs"].astype(np.float64)[:, :dims]
        if not whiten:
            return from_arrays(pcs, arrays["time"])
        if dims > WHITENED:
            return from_arrays((pcs - pcs.mean(0)) / pcs[:, 0].std(), arrays["time"])
        mean, scale = (arrays[f"whiten_{k}_pc1_5"][:dims] for k in ("mean", "scale"))
        return from_arrays((pcs - mean) / scale, arrays["time"])


def mouse_hematopoiesis() -> Snapshots:
    """Blood of mice, 1429, 3781 and 5788 cells at times 0, 1 and 2, in two dimensions; cells divide."""
    return _read("mouse_hematopoiesis", HEMATOPOIESIS)


def toggle_switch() -> Snapshots:
    """A simulated switch of two genes with growth: 400, 442, 530, 690 and 969 cells at times 0 to 4."""
    return _read("toggle_switch", TOGGLE_SWITCH)


def gaussian_growth() -> Snapshots:
    """A mixture of Gaussians in ten dimensions, of which one part multiplies: 500, then 1400 cells."""
    return _read("gaussian_growth", GAUSSIAN_GROWTH)


def reprogramming() -> Any:
    """Mouse cells on the way to stem cells, days 10, 10.5 and 11: an AnnData of 250 cells and 1479 genes.

    It also holds the maps that Waddington-OT finds between them.
    """
    return read_cells(find("reprogramming", REPROGRAMMING))


def synthetic_snapshots(system: System = "lotka_volterra", cells: int | None = None) -> Snapshots:
    """Cells of a system whose equation is known (`population_systems`), each seen once.

    Args:
        system: "ou2d" (9 x 300 cells), "lotka_volterra" (9 x 100), "repressilator" (11 x 100) or "double_well" (7 x 300).
        cells: only the first so many of each snapshot.
    """
    if system not in SYNTHETIC_SNAPSHOTS:
        raise ConfigError(
            "X01",
            f"synthetic_snapshots got system={system!r}",
            f"one of {', '.join(SYNTHETIC_SNAPSHOTS)}",
            "",
        )
    found = _read("synthetic_snapshots", SYNTHETIC_SNAPSHOTS[system])
    return (
        found if cells is None else found._replace(x=found.x[:, :cells], mask=found.mask[:, :cells])
    )


def convert(table: Path, source: Source, sha256: str, out: Path | None = None) -> Path:
    """The file that loaders read, from a public table whose columns are `samples` (the time) and coordinates.

    Args:
        table: a .csv file with one line of names.
        source: of the file to be made.
        sha256: of the numbers, as rows of little-endian doubles.
        out: its folder; None is the cache.

    Raises:
        DataError: D14 for other numbers.
    """
    try:
        numbers = np.loadtxt(table, delimiter=",", skiprows=1, dtype="<f8", ndmin=2)
    except ValueError as error:
        raise DataError(
            "D14", f"{table}: {error}", "numbers and commas", "Get the table that README.md names"
        ) from None
    found = hashlib.sha256(numbers.tobytes()).hexdigest()
    if found != sha256:
        raise DataError(
            "D14",
            f"{table} holds {numbers.shape[0]} x {numbers.shape[1]} numbers of SHA256 {found}",
            f"those with {sha256}",
            "Get the table that README.md names",
        )
    target = (out or cache_folder() / Path(source.path).parent) / Path(source.path).name
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, time=numbers[:, 0], x=numbers[:, 1:])
    return target


def _read(name: str, source: Source) -> Snapshots:
    with np.load(find(name, source), allow_pickle=False) as arrays:
        return from_arrays(torch.from_numpy(arrays["x"]), arrays["time"])
