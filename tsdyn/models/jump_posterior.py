"""What is believed of the rates of one Markov jump process, and of everything that follows from them.

Rates are independent Gaussians, folded at zero, so that none is zero by chance alone; a quantity f(Q) has the quantiles of f over draws of Q.

    several beliefs from different paths:  m = Σ m_c / s_c² / Σ 1 / s_c²,   s² = max(1, χ² / (C - 1)) / Σ 1 / s_c²

with χ² = Σ (m_c - m)² / s_c²: where C parts disagree more than they admit, the deviation grows.

[1] Berghaus et al. Foundation inference models for Markov jump processes. NeurIPS 2024: parts of 300 paths, there
    with equal weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..maths.rate_matrix import from_rates


class JumpPosterior(NamedTuple):
    """Of n states; per unit of time."""

    mean: Tensor  # (n, n)  zero on the diagonal
    deviation: Tensor  # (n, n)
    link: Tensor  # (n, n)  probability that there is such a jump at all
    initial: Tensor  # (n,)


class Interval(NamedTuple):
    """A quantity that follows from the rates."""

    mean: Tensor
    low: Tensor
    high: Tensor


def rate_matrix(found: JumpPosterior) -> Tensor:
    """Q of the mean rates: (n, n)."""
    return from_rates(found.mean)


def draws(found: JumpPosterior, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws of Q: (n, states, states)."""
    z = torch.randn((n, *found.mean.shape), generator=generator, dtype=torch.float64)
    return from_rates((found.mean.double() + found.deviation.double() * z).abs())


def derived(
    found: JumpPosterior,
    quantity: Callable[[Tensor], Tensor],
    *,
    level: float = 0.9,
    n: int = 400,
    generator: torch.Generator | None = None,
) -> Interval:
    """quantity(Q), for example `rate_matrix.stationary`, with its central interval.

    Args:
        quantity: (m, states, states) -> (m, ...), of many rate matrices at once.
        n: draws.
    """
    return interval(quantity(draws(found, n, generator)), level)


def interval(values: Tensor, level: float) -> Interval:
    """Mean and central interval of draws (S, ...)."""
    low, high = (values.quantile(q, 0) for q in ((1 - level) / 2, (1 + level) / 2))
    return Interval(values.mean(0), low, high)


def combined(parts: Sequence[JumpPosterior]) -> JumpPosterior:
    """One belief from several of the same process, from different paths.

    Raises:
        DataError: D01 for none, D14 for different numbers of states.
    """
    if not parts:
        raise DataError("D01", "no belief came", "at least one", "")
    sizes = {len(p.mean) for p in parts}
    if len(sizes) > 1:
        raise DataError("D14", f"beliefs are of {sorted(sizes)} states", "the same process", "")
    mean, deviation = (torch.stack([p[k] for p in parts]) for k in (0, 1))
    weight = deviation.clamp(min=1e-12).square().reciprocal()
    total = weight.sum(0)
    m = (weight * mean).sum(0) / total
    scatter = (weight * (mean - m) ** 2).sum(0) / max(len(parts) - 1, 1)
    off = 1 - torch.eye(len(m), dtype=m.dtype, device=m.device)
    return JumpPosterior(
        m * off,
        (scatter.clamp(min=1) / total).sqrt() * off,
        torch.stack([p.link for p in parts]).mean(0),
        torch.stack([p.initial for p in parts]).mean(0),
    )


def hellinger(p: Tensor, q: Tensor) -> Tensor:
    """√(1 - Σ √(p q)) of laws (..., n): (...), zero for equal ones and one for disjoint ones."""
    overlap = (p.clamp(min=0) * q.clamp(min=0)).sqrt().sum(-1)
    return (1 - overlap).clamp(min=0).sqrt()


def histogram_distance(state: Tensor, mask: Tensor, law: Tensor) -> Tensor:
    """Mean over times of the Hellinger distance between the shares of states seen and their law.

    Args:
        state, mask: (K, L) labels of K paths at L times; law: (L, n) of the state at each.
    """
    n = law.shape[-1]
    one = torch.nn.functional.one_hot(state.long().where(mask, 0), n).double() * mask[..., None]
    seen = one.sum(0)
    there = seen.sum(-1) > 0
    share = seen[there] / seen[there].sum(-1, keepdim=True)
    return (
        hellinger(share, law[there].double()).mean()
        if bool(there.any())
        else torch.tensor(math.nan)
    )
