"""How near is a reconstructed population to the one that was seen? Always beside copies, midpoint and floor.

Distances between clouds of as many cells on both sides, in the units of x; lower is better. The same law
does not score zero: the floor is the distance of two random halves of what was seen, which is a little
too high, since halves are smaller.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from . import chance
from .batch import Snapshots
from .maths.distances import (
    energy_distance,
    median_distance,
    mmd,
    sliced_wasserstein,
    wasserstein,
)
from .models.base import Model
from .models.snapshot_baselines import CopyNext, CopyPrevious, TransportMidpoint
from .predict import reproducible

MOST = 2000  # cells of each side: exact transport takes seconds for as many
FLOOR = "half against half"

Cloud = tuple[Tensor, Tensor | None]  # cells (N, D) and their weights (N,)


def score_cloud(drawn: Cloud, seen: Cloud) -> dict[str, float]:
    """w1, w2 (exact), mmd (width: median distance of what was seen), energy and swd of two clouds."""
    (x, a), (y, b) = ((cells.detach(), weights) for cells, weights in (drawn, seen))
    width = float(median_distance(y))
    generator = torch.Generator(device=y.device).manual_seed(0)  # the same directions for all
    return {
        "w1": float(wasserstein(x, y, a, b)),
        "w2": float(wasserstein(x, y, a, b, order=2.0)),
        "mmd": float(mmd(x, y, a, b, width=width)),
        "energy": float(energy_distance(x, y, a, b)),
        "swd": float(sliced_wasserstein(x, y, a, b, generator=generator)),
    }


def score_populations(draws: Tensor, want: Snapshots) -> dict[str, float]:
    """Means over the wanted snapshots, and w1 of each, of draws (n, K, D): as many of them as cells were seen."""
    rows = []
    for k, cloud in enumerate(clouds(want)):
        rows.append(score_cloud((draws[: len(cloud[0]), k].double(), None), cloud))
    return _summary(rows, want.t)


def floor(want: Snapshots, seed: int = 0) -> dict[str, float]:
    """The same scores of one random half of each snapshot against the other."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for x, weights in clouds(want):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        halves = order[: len(x) // 2 * 2].chunk(2)
        rows.append(score_cloud(*((x[h], None if weights is None else weights[h]) for h in halves)))
    return _summary(rows, want.t)


def population_rows(
    models: Mapping[str, Model],
    given: Snapshots,
    want: Snapshots,
    samples: int | None = None,
    seed: int = 0,
    baselines: bool = True,
) -> dict[str, dict[str, float]]:
    """Scores by name of the model; with the baselines, and the floor in the last row.

    Args:
        samples: cells drawn at each time; None draws as many as the largest wanted snapshot has.
    """
    every = dict(models)
    if baselines:
        every |= {
            "copy previous": CopyPrevious(),
            "copy next": CopyNext(),
            "transport midpoint": TransportMidpoint(),
        }
    count = min(int(want.mask.sum(1).max()), MOST) if samples is None else samples
    rows = {}
    for name, model in every.items():
        with reproducible(model, seed):
            rows[name] = score_populations(model.sample(given, want.t, count), want)
    if baselines:
        rows[FLOOR] = floor(want, seed)
    return rows


def clouds(want: Snapshots) -> list[Cloud]:
    """The cells of each snapshot with their weights, in double precision; a fair draw of `MOST` where there are more."""
    found = []
    for k, mask in enumerate(want.mask):
        x = want.x[k][mask].double()
        weights = None if want.weights is None else want.weights[k][mask].double()
        if len(x) > MOST:
            with chance.seed(k):
                rows = torch.randperm(len(x))[:MOST].to(x.device)
            x, weights = x[rows], None if weights is None else weights[rows]
        found.append((x, weights))
    return found


def _summary(rows: list[dict[str, float]], t: Tensor) -> dict[str, float]:
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    if len(rows) == 1:
        return means
    return means | {f"w1 at {float(at):g}": row["w1"] for at, row in zip(t, rows, strict=True)}
