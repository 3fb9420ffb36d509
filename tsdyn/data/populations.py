"""Populations that were sequenced or simulated at a few times, as `Snapshots`.

What is in the files, and under which licence, is said in datasets/<name>/README.md.
"""

from typing import Any, Literal

import numpy as np
import torch

from ..batch import Snapshots
from ..errors import ConfigError
from .cells import read_cells
from .files import (
    EMBRYOID_BODY,
    GAUSSIAN_GROWTH,
    HEMATOPOIESIS,
    REPROGRAMMING,
    SYNTHETIC_SNAPSHOTS,
    TOGGLE_SWITCH,
    Source,
    find,
)
from .snapshots import from_arrays

System = Literal["ou2d", "lotka_volterra", "repressilator", "double_well"]
WHITENED = 5  # components whose published mean and deviation are known


def embryoid_body(dims: int = 5) -> Snapshots:
    """Human embryoid bodies, 5 x 550 cells of days 0-3, 6-9, 12-15, 18-21 and 24-27, at times 0 to 4.

    Principal components. Up to five of them are whitened by the constants of all 16,819 cells, and are then the
    coordinates of the published tables; more of them, up to 100, are divided by the deviation of the first,
    so that they keep their proportions.
    """
    if not 1 <= dims <= 100:
        raise ConfigError("X01", f"embryoid_body got dims={dims}", "1 to 100", "")
    with np.load(find("embryoid_body", EMBRYOID_BODY), allow_pickle=False) as arrays:
        pcs = arrays["pcs"].astype(np.float64)[:, :dims]
        mean, scale = arrays["whiten_mean_pc1_5"], arrays["whiten_scale_pc1_5"]
        if dims <= WHITENED:
            x = (pcs - mean[:dims]) / scale[:dims]
        else:
            x = (pcs - pcs.mean(0)) / pcs[:, 0].std()
        return from_arrays(x, arrays["time"])


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
    found = _read("synthetic_snapshots", SYNTHETIC_SNAPSHOTS[system])
    return (
        found if cells is None else found._replace(x=found.x[:, :cells], mask=found.mask[:, :cells])
    )


def _read(name: str, source: Source) -> Snapshots:
    with np.load(find(name, source), allow_pickle=False) as arrays:
        return from_arrays(torch.from_numpy(arrays["x"]), arrays["time"])
