"""Systems whose cells are seen once each, simulated from their equations: the truth behind reconstructions.

    dX = f(X) dt + σ dW, Euler-Maruyama with a step of 0.0025, cells of different snapshots independent

[1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference refinement.
    AISTATS 2025: the predators and the repressilator.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Snapshots
from ..errors import DataError, first

STEP = 0.0025


class PopulationSystem(NamedTuple):
    """What a simulation needs, and the parameters that a fit should find."""

    drift: Callable[[Tensor], Tensor]  # (N, D) -> (N, D)
    start: Callable[[int, torch.Generator], Tensor]  # n -> (n, D)
    sigma: float
    times: tuple[float, ...]
    cells: int
    columns: tuple[str, ...]
    truth: dict[str, float | list[list[float]] | list[float]]


def simulate_population(
    system: PopulationSystem,
    cells: int | None = None,
    times: Sequence[float] | None = None,
    seed: int = 0,
) -> Snapshots:
    """Snapshots of `cells` cells at every time, none of them seen before: x (K, N, D) in double precision.

    Args:
        system: one of `POPULATION_SYSTEMS`, perhaps with another `_replace(sigma=...)`.
        cells: None is as many as the dataset of this system has.
        times: zero or later, increasing; None are those of the dataset.
        seed: of all that is drawn.

    Raises:
        DataError: D17 for other times.
    """
    n, at = cells or system.cells, system.times if times is None else times
    rising = all(a < b for a, b in pairwise(at))
    if not at or not rising or not 0 <= at[0] <= at[-1] < math.inf:
        raise DataError(
            "D17",
            f"a simulation is asked for at {first([f'{t:g}' for t in at], 8) or 'no time'}",
            "times that increase, from zero on",
            "",
        )
    g = torch.Generator().manual_seed(seed)
    x = system.start(n * len(at), g)  # all walk; the first n of them leave at each snapshot
    now, seen = 0.0, []
    for t in at:
        count = math.ceil((t - now) / STEP - 1e-9)
        h = (t - now) / max(count, 1)
        for _ in range(count):
            kick = torch.randn(x.shape, generator=g, dtype=x.dtype)
            x = x + h * system.drift(x) + system.sigma * math.sqrt(h) * kick
        seen.append(x[:n])
        x, now = x[n:], t
    found = torch.stack(seen)
    return Snapshots(
        torch.tensor(at, dtype=torch.float64), found, torch.ones(found.shape[:2], dtype=torch.bool)
    )


def _uniform(low: Sequence[float], width: float) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, g: (
        torch.tensor(low, dtype=torch.float64)
        + width * torch.rand(n, len(low), generator=g, dtype=torch.float64)
    )


def _normal(mean: Sequence[float], deviation: float) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, g: (
        torch.tensor(mean, dtype=torch.float64)
        + deviation * torch.randn(n, len(mean), generator=g, dtype=torch.float64)
    )


def _rotating(x: Tensor) -> Tensor:
    u, v = x.unbind(-1)
    return torch.stack([-0.5 * u - 1.5 * v + 0.5, 1.5 * u - 0.5 * v + 0.5], -1)


def _predators(x: Tensor) -> Tensor:
    u, v = x.unbind(-1)
    return torch.stack([u - 0.4 * u * v, 0.1 * u * v - 0.4 * v], -1)


def _repressilator(x: Tensor) -> Tensor:
    return 10 / (1 + x.roll(1, -1).clamp(min=0) ** 3) - x


def _double_well(x: Tensor) -> Tensor:
    u, v = x.unbind(-1)
    return 1.5 * torch.stack([u - u**3, -v], -1)


POPULATION_SYSTEMS = {
    "ou2d": PopulationSystem(
        _rotating,
        _normal([2.0, 0.0], 0.3),
        0.3,
        tuple(0.25 * k for k in range(9)),
        300,
        ("x1", "x2"),
        {"A": [[-0.5, -1.5], [1.5, -0.5]], "b": [0.5, 0.5]},
    ),
    "lotka_volterra": PopulationSystem(
        _predators,
        _uniform([5.0, 4.0], 0.1),
        0.1,
        tuple(float(k) for k in range(9)),
        100,
        ("prey", "predator"),
        {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1},
    ),
    "repressilator": PopulationSystem(
        _repressilator,
        _uniform([1.0, 1.0, 2.0], 0.1),
        0.1,
        tuple(0.75 * k for k in range(11)),
        100,
        ("m1", "m2", "m3"),
        {"beta": 10.0, "n": 3.0, "k": 1.0, "gamma": 1.0},
    ),
    "double_well": PopulationSystem(
        _double_well,
        _normal([0.0, 0.0], 0.15),
        0.35,
        tuple(0.4 * k for k in range(7)),
        300,
        ("x1", "x2"),
        {"rate": 1.5},
    ),
}
