"""What latent models train on: bounds of the evidence, with the posterior seeing all, and what it will see."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..batch import Paths, merge, stack
from ..maths.fractional_walk import Walk

Bound = Literal["elbo", "landing", "iwae"]


def weights(density: Tensor, walk: Walk, bound: Bound) -> Tensor:
    """log p(y | x) - cost of every path: (n, B), the cost log q/p itself, its mean step by step, or that of `landing`."""
    cost = {"elbo": walk.divergence, "landing": walk.landing, "iwae": walk.log_ratio}
    return density - cost[bound]


def bounded(log_weights: Tensor, bound: Bound) -> Tensor:
    """A bound of log p(y) from the weights (n, B) of n paths: (B,)"""
    if bound == "iwae":
        return log_weights.logsumexp(0) - math.log(len(log_weights))
    return log_weights.mean(0)


def normal_density(x: Tensor, mask: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Σ log N(x; mean, std²) over the values (B, T, D) that are seen, for means (n, B, T, D): (n, B)"""
    u = (x.where(mask, 0.0) - mean) / std
    density = -0.5 * u.square() - std.log() - 0.5 * math.log(2 * math.pi)
    return density.where(mask, 0.0).sum((-2, -1))


def two_bounds(evidence: Callable[[Paths], Tensor], given: Paths, want: Paths) -> Tensor:
    """-(E[given, want] + E[given]) / 2 in nats per value, each divided by its own number of values.

    The first asks for the law; the second for a posterior that is good with what it sees when it is asked. A series counts as
    many times as it has wanted values.

    Args:
        evidence: a bound of log p of all that is seen of each series, (B,) in nats.
    """
    given, want = (Paths(p.t, p.x, p.mask) for p in (given, want))
    both, _ = merge(given, want)
    alone, _ = merge(given, want._replace(mask=torch.zeros_like(want.mask)))
    two = stack([both, alone])
    each = evidence(two) / two.mask.sum((1, 2)).clamp(min=1)
    count = want.mask.sum((1, 2))
    return -(count * each.view(2, -1).mean(0)).sum() / count.sum().clamp(min=1)
