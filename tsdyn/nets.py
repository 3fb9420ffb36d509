"""The few networks that models share."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .maths.near import Near


def mlp(dim_in: int, hidden: int, dim_out: int, depth: int = 2) -> nn.Sequential:
    """`depth` hidden layers of width `hidden` with SiLU, then a linear one: (..., dim_in) -> (..., dim_out)."""
    widths = [dim_in] + [hidden] * depth
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], dim_out))


def local_features(found: Near) -> Tensor:
    """What lies around each query, in numbers of moderate size: (B, Q, (6 k + 1) D).

    The interpolated level of each channel; and for each of the k nearest values on either side: value
    less that level, log(1 + distance in time), and whether it exists.
    """
    level = found.level[..., None]
    parts = [
        (found.before - level).where(found.has_before, 0.0),
        (found.after - level).where(found.has_after, 0.0),
        torch.log1p(found.age),
        torch.log1p(found.ahead),
        found.has_before.to(level.dtype),
        found.has_after.to(level.dtype),
    ]
    return torch.cat([found.level, torch.cat(parts, -1).flatten(2)], -1)
