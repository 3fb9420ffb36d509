"""Exact optimal transport of one problem: an assignment where weights allow, else a linear program.

    min_P Σ P_ij C_ij,   P 1 = a,   Pᵀ 1 = b,   P >= 0

The linear program is solved on few pairs (i, j). Its prices u, v tell which pairs are missing: those
with C_ij < u_i + v_j. They are added until there is none, which proves the plan optimal among all  [2].

[1] Crouse. On implementing 2D rectangular assignment algorithms. IEEE Transactions on Aerospace and
    Electronic Systems 52, 2016; scipy's linear_sum_assignment.
[2] Schmitzer. A sparse multiscale algorithm for dense optimal transport. Journal of Mathematical
    Imaging and Vision 56, 2016: optimal on a sparse set that its prices verify.
[3] Huangfu & Hall. Parallelizing the dual revised simplex method. Mathematical Programming
    Computation 10, 2018; scipy's HiGHS.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from .cost import Dense
from .transport import sinkhorn

LARGEST = 2500  # points on a side
FIRST = 8  # pairs of every point in the first linear program
TOLERANCE = 1e-10  # of prices and masses, as a share of the largest cost and of the mean weight


class Pairs(NamedTuple):
    """A plan by its positive entries: at most N + M - 1, or the N of an assignment."""

    i: Tensor  # (P,)  sources
    j: Tensor  # (P,)  targets
    mass: Tensor  # (P,)
    cost: Tensor  # ()  Σ mass C


def assignment(cost: Tensor) -> Tensor:
    """The permutation j(i) of least Σ_i C_{i j(i)}: (N, N) -> (N,)  [1]"""
    from scipy.optimize import linear_sum_assignment  # scipy is slow to load

    columns = linear_sum_assignment(cost.detach().double().cpu().numpy())[1]
    return torch.as_tensor(columns, device=cost.device)


def exact(cost: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Pairs:
    """The optimal plan for weights of the sources (N,) and targets (M,), None for equal ones.

    Equal weights on N and M points are an assignment of copies, as many as the least common multiple of
    N and M, if it is not too large; all else is a linear program. Seconds for a thousand points.

    Args:
        cost: (N, M).

    Raises:
        ModelError: M05 for more than `LARGEST` points.
        DataError: D14 where the sums of the weights differ.
    """
    n, m = cost.shape
    if max(n, m) > LARGEST:
        raise ModelError(
            "M05",
            f"an exact plan between {n} and {m} points was asked for",
            f"at most {LARGEST} points on a side",
            "Draw fewer points, or use `sinkhorn` with a small epsilon",
        )
    values = cost.detach().double()
    copies = math.lcm(n, m)
    if a is None and b is None and copies <= LARGEST:
        return _by_copies(values, copies)
    a = values.new_full((n,), 1 / n) if a is None else a.to(values)
    b = values.new_full((m,), 1 / m) if b is None else b.to(values)
    if not torch.isclose(a.sum(), b.sum(), rtol=1e-5, atol=0.0):
        raise DataError(
            "D14",
            f"the weights sum to {float(a.sum()):.6g} and {float(b.sum()):.6g}",
            "equal sums",
            "Divide each by its sum",
        )
    b = b * (a.sum() / b.sum())
    rows, columns = a.nonzero()[:, 0], b.nonzero()[:, 0]
    found = _by_prices(values[rows][:, columns], a[rows], b[columns])
    return found._replace(i=rows[found.i], j=columns[found.j])


def _by_copies(cost: Tensor, copies: int) -> Pairs:
    """Equal weights: each source is copied copies / N times, each target copies / M times."""
    n, m = cost.shape
    many = cost.repeat_interleave(copies // n, 0).repeat_interleave(copies // m, 1)
    place = torch.arange(copies, device=cost.device) // (copies // n) * m
    taken = place + assignment(many) // (copies // m)
    pairs, count = torch.unique(taken, return_counts=True)
    return _pairs(cost, pairs // m, pairs % m, count.to(cost) / copies)


def _pairs(cost: Tensor, i: Tensor, j: Tensor, mass: Tensor) -> Pairs:
    return Pairs(i, j, mass, (mass * cost[i, j]).sum())


def _by_prices(cost: Tensor, a: Tensor, b: Tensor) -> Pairs:
    """The linear program on a growing set of pairs, until no price asks for another  [2]"""
    n, m = cost.shape
    unit, total = float(cost.abs().max()) or 1.0, float(a.sum())
    scaled = cost / unit
    f, g = _guess(scaled, a / total, b / total)
    used = torch.unique(torch.cat([_cheapest(scaled - f[:, None] - g, FIRST), _corner(a, b)]))
    while True:
        i, j = used // m, used % m
        mass, u, v = _linear_program(scaled[i, j], i, j, a * n / total, b * n / total)
        reduced = scaled - u[:, None] - v
        best = _cheapest(reduced, FIRST)
        more = torch.unique(torch.cat([used, best[reduced.flatten()[best] < -TOLERANCE]]))
        if len(more) == len(used):
            kept = mass > 0
            return _pairs(cost, i[kept], j[kept], mass[kept] * total / n)
        used = more


def _guess(cost: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Prices of a nearby entropic problem: they tell which pairs are worth a try."""
    level = float(cost.abs().mean()) or 1.0
    p = sinkhorn(Dense(cost), a, b, 0.02 * level, tolerance=0.05)
    return p.f, p.g


def _cheapest(reduced: Tensor, k: int) -> Tensor:
    """Numbers i M + j of the k cheapest pairs of every source and of every target."""
    n, m = reduced.shape
    j = reduced.topk(min(k, m), 1, largest=False).indices  # (N, k)
    i = reduced.topk(min(k, n), 0, largest=False).indices  # (k, M)
    rows = torch.arange(n, device=reduced.device)[:, None]
    columns = torch.arange(m, device=reduced.device)
    return torch.cat([(rows * m + j).flatten(), (i * m + columns).flatten()])


def _corner(a: Tensor, b: Tensor) -> Tensor:
    """Numbers i M + j of the pairs of a plan that fits the weights: it fills the targets in order."""
    ends = torch.cat([a.cumsum(0), b.cumsum(0)]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    middle = (starts + ends) / 2
    i = torch.searchsorted(a.cumsum(0), middle).clamp(max=len(a) - 1)
    j = torch.searchsorted(b.cumsum(0), middle).clamp(max=len(b) - 1)
    return i * len(b) + j


def _linear_program(
    cost: Tensor, i: Tensor, j: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(mass (P,), u (N,), v (M,)) of the pairs (i, j) with costs (P,)  [3]"""
    n, m, count = len(a), len(b), len(i)
    place = torch.cat([i, n + j]).cpu().numpy()
    pair = torch.arange(count).repeat(2).numpy()
    ones = torch.ones(2 * count, dtype=torch.float64).numpy()
    from scipy.optimize import linprog  # scipy is slow to load
    from scipy.sparse import coo_array

    found = linprog(
        cost.cpu().numpy(),
        A_eq=coo_array((ones, (place, pair)), shape=(n + m, count)).tocsr(),
        b_eq=torch.cat([a, b]).cpu().numpy(),
        method="highs",
        options={
            "primal_feasibility_tolerance": TOLERANCE,
            "dual_feasibility_tolerance": TOLERANCE,
        },
    )
    if found.x is None:
        raise ModelError(
            "M06",
            f"the linear program of exact transport gave no plan: {found.message}",
            "a plan",
            "Divide the weights by their sum, or use `sinkhorn` with a small epsilon",
        )
    prices = torch.as_tensor(found.eqlin.marginals).to(cost)
    return torch.as_tensor(found.x).to(cost), prices[:n], prices[n:]
