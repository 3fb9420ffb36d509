"""A scale for σ in dX = f dt + σ dW, from snapshots alone.

    σ² ≈ median over cells of |x - nearest cell of the next snapshot|² / (D Δt)

Brownian motion moves a cell by D σ² Δt in mean square, and cells move at least as far as to the nearest
one seen next.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..batch import Snapshots
from ..errors import DataError
from ..maths.cost import ENTRIES
from .snapshots import require_snapshots


def suggest_sigma(snapshots: Snapshots) -> float:
    """σ to start from, in the units of x per root of the unit of time.

    Snapshots do not determine σ: the divergence of a bridge from its reference cannot compare references of
    two different σ, and a drift can do what noise does. This is a scale and no estimate. It falls as more
    cells are seen, since the nearest one is then nearer, and it takes for noise what is drift: for simulated
    systems it came out between a tenth of σ and seven times σ. Compare several values by a held-out snapshot.

    Raises:
        DataError: D14 or D20 for snapshots that cannot be used; D20 where most cells are seen again, at the
            same place, in the next snapshot.
    """
    require_snapshots(snapshots)
    square = torch.cat([_nearest(x, y) / (x.shape[1] * span) for x, y, span in _pairs(snapshots)])
    sigma = float(square.median().sqrt())
    if sigma == 0:
        raise DataError(
            "D20",
            f"{float((square == 0).double().mean()):.0%} of the cells have a copy in the next snapshot",
            "cells that are seen once",
            "Remove the copies, or choose sigma yourself",
        )
    return sigma


def _pairs(snapshots: Snapshots) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The cells (N, D) of each snapshot, those (M, D) of the next, and the time between."""
    clouds = [x[mask].double() for x, mask in zip(snapshots.x, snapshots.mask, strict=True)]
    spans = snapshots.t.double().diff().tolist()
    return zip(clouds, clouds[1:], spans, strict=False)


def _nearest(x: Tensor, y: Tensor, entries: int = ENTRIES) -> Tensor:
    """min_j |x_i - y_j|²: (N, D), (M, D) -> (N,), about `entries` distances at a time."""
    square, rows = x.new_empty(len(x)), max(1, entries // len(y))
    for start in range(0, len(x), rows):
        own = slice(start, start + rows)
        # by differences: |x|² - 2 x·y + |y|² would lose what is small beside the norms
        gap = torch.cdist(x[own], y, compute_mode="donot_use_mm_for_euclid_dist")
        square[own] = gap.amin(1).square()
    return square
