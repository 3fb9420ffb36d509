"""The few networks that models share."""

from itertools import pairwise

from torch import nn


def mlp(dim_in: int, hidden: int, dim_out: int, depth: int = 2) -> nn.Sequential:
    """`depth` hidden layers of width `hidden` with SiLU, then a linear one: (..., dim_in) -> (..., dim_out)."""
    widths = [dim_in] + [hidden] * depth
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], dim_out))
