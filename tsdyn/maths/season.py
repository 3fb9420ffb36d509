"""Finding the length of a season in irregular series."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .near import near


def seasonality(t: Tensor, x: Tensor, mask: Tensor, period: float) -> float:
    """mean (x(t) - x(t - p))^2 / mean (x(t) - x(t - p/2))^2: near 0 for a season of length p.

    2 for a random walk, 4 for a straight line, 1 for independent values: a value well below 1 means
    that a whole period back lies nearer than half of one. Both means run over the same observations;
    values in between by linear interpolation. The median over channels with both, else infinity.

    Args:
        t: (B, T); x, mask: (B, T, D); period: in the units of t.
    """
    full, half = (near(t, x, mask, t - share * period) for share in (1.0, 0.5))
    both = mask & full.has_before[..., 0]
    # Interpolation across a gap as long as a quarter of the season would invent the season.
    gap = full.age[..., 0] + full.ahead[..., 0]
    other = half.age[..., 0] + half.ahead[..., 0]
    both &= (gap < period / 4) & (other < period / 4)
    count = both.sum((0, 1))
    square = [(x - f.level).square().where(both, 0.0).sum((0, 1)) for f in (full, half)]
    usable = (count >= 8) & (square[1] > 0)
    if not bool(usable.any()):
        return float("inf")
    return float((square[0][usable] / square[1][usable]).median())


def find_period(
    t: Tensor, x: Tensor, mask: Tensor, candidates: Sequence[float], below: float = 0.7
) -> float | None:
    """The candidate with the least `seasonality`, if it lies below the bound; None without a season.

    A series must hold two and a half periods for one to be believed.
    """
    seen = mask.any(-1)
    span = (t.where(seen, -torch.inf).amax(1) - t.where(seen, torch.inf).amin(1)).nan_to_num(0.0)
    found = [(seasonality(t, x, mask, p), p) for p in candidates if 2.5 * p <= float(span.max())]
    score, period = min(found, default=(float("inf"), 0.0))
    return period if score < below else None
