"""What is asked of a plan P_ij = a_i b_j exp((f_i + g_j - C_ij) / ε), a few of its rows at a time.

`transposed(coupling)` is the plan of going back: the same functions then read columns.

[1] Schiebinger et al. Optimal-transport analysis of single-cell gene expression identifies
    developmental trajectories in reprogramming. Cell 176, 2019: descendants and ancestors.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import cost as costs
from .transport import Coupling


class Sparse(NamedTuple):
    """The largest entries of every row."""

    target: Tensor  # (..., N, k)  numbers of targets, the largest mass first
    mass: Tensor  # (..., N, k)
    kept: Tensor  # (..., N)  share of the mass of the row that they hold


def transposed(p: Coupling) -> Coupling:
    """The same plan, from targets to sources."""
    back = costs.transposed(p.cost)
    return p._replace(cost=back, a=p.b, b=p.a, f=p.g, g=p.f, tau=(p.tau[1], p.tau[0]))


def blocks(p: Coupling, entries: int = costs.ENTRIES) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, P of these rows (..., stop - start, M)) in turn, about `entries` numbers each."""
    there = (p.g / p.epsilon + p.b.log())[..., None, :]
    for start, stop in costs.stretches(p.cost, entries):
        own = (p.f[..., start:stop] / p.epsilon + p.a[..., start:stop].log())[..., None]
        part = costs.matrix(costs.rows(p.cost, start, stop))
        yield start, stop, torch.add(own, there).sub_(part / p.epsilon).exp_()


def dense(p: Coupling) -> Tensor:
    """All of P: (..., N, M)."""
    plan = p.a.new_empty((*p.a.shape, p.b.shape[-1]))
    for start, stop, part in blocks(p):
        plan[..., start:stop, :] = part
    return plan


def apply(p: Coupling, values: Tensor) -> Tensor:
    """P v: (..., M, Q) -> (..., N, Q)."""
    return torch.cat([part @ values.to(part) for _, _, part in blocks(p)], -2)


def row_mass(p: Coupling) -> Tensor:
    """P 1: (..., N), what leaves every source."""
    return apply(p, torch.ones_like(p.b)[..., None])[..., 0]


def push(p: Coupling, mass: Tensor) -> Tensor:
    """Σ_i mass_i P_ij / Σ_j P_ij: where mass (..., N) on the sources goes, (..., M); its sum is kept  [1]

    Sources that nothing leaves give nothing.
    """
    left = row_mass(p)
    share = (mass.to(left) / left).where(left > 0, 0.0)
    return apply(transposed(p), share[..., None])[..., 0]


def pull(p: Coupling, mass: Tensor) -> Tensor:
    """Σ_j P_ij mass_j / Σ_i P_ij: where mass (..., M) on the targets came from, (..., N)."""
    return push(transposed(p), mass)


def barycentric(p: Coupling, y: Tensor) -> Tensor:
    """Σ_j P_ij y_j / Σ_j P_ij: the mean target of every source, (..., M, D) -> (..., N, D).

    A source of weight zero has none: NaN.
    """
    held = y.where((p.b > 0)[..., None], 0.0).to(p.b)
    with_one = torch.cat([held, torch.ones_like(held[..., :1])], -1)
    sums = apply(p, with_one)
    return sums[..., :-1] / sums[..., -1:]


def top(p: Coupling, k: int) -> Sparse:
    """The k largest entries of every row; `k` is at most M."""
    found = []
    for _, _, part in blocks(p):
        mass, index = part.topk(k, -1)
        found.append(Sparse(index, mass, mass.sum(-1) / part.sum(-1)))
    return Sparse(
        torch.cat([s.target for s in found], -2),
        torch.cat([s.mass for s in found], -2),
        torch.cat([s.kept for s in found], -1),
    )


def pairs(p: Coupling, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """n independent pairs (i, j) drawn with probability P_ij / Σ P: numbers (..., n) each, i in order."""
    i = _draw(row_mass(p), n, generator).sort(-1).values
    return i, partners(p, i, generator)


def partners(p: Coupling, i: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """j drawn with probability P_ij / Σ_j P_ij for sources i (..., S): (..., S).

    Drawn along a chain of plans, these are the cells of one path after another.
    """
    there = (p.g / p.epsilon + p.b.log())[..., None, :]
    chosen = costs.take(p.cost, i)
    drawn = []
    for start, stop in costs.stretches(chosen):
        scores = there - costs.matrix(costs.rows(chosen, start, stop)) / p.epsilon
        drawn.append(_draw(scores.softmax(-1), 1, generator)[..., 0])
    return torch.cat(drawn, -1)


def _draw(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """n numbers drawn with probability in proportion to weights (..., N): (..., n); of weight zero never.

    By the inverse of the distribution function: `torch.multinomial` stops at 2^24 weights.
    """
    reached = weights.cumsum(-1)
    u = torch.rand(
        (*weights.shape[:-1], n), generator=generator, dtype=weights.dtype, device=weights.device
    )
    total = reached[..., -1:].contiguous()
    last = torch.searchsorted(reached, total)  # rounding must not go past what has a weight
    return torch.minimum(torch.searchsorted(reached, u * total, right=True), last)
