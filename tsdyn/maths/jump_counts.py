"""How often a chain that is seen at times went from state i to state j over a gap.

    C^g_ij = #{k: x(t_k) = i, x(t_{k+1}) = j, t_{k+1} - t_k = g}

A Markov chain without noise has no other sufficient statistic, but for its first states  [1]. Gaps that
differ by rounding are one gap, so that exp(Q g) is found once for each.

[1] Kalbfleisch & Lawless. The analysis of panel data under a Markov assumption. JASA 80, 1985.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError


class Counts(NamedTuple):
    """Transitions between consecutive observations, by the gap between them."""

    gaps: Tensor  # (G,)  increasing, positive
    C: Tensor  # (G, n, n)  from row to column; need not be whole numbers


class Observed(NamedTuple):
    """The observations of each path, moved to the front; what comes behind them means nothing."""

    t: Tensor  # (B, T)
    value: Tensor  # (B, T, ...)
    real: Tensor  # (B, T)


def counts(t: Tensor, state: Tensor, mask: Tensor, n: int, tolerance: float = 1e-6) -> Counts:
    """C^g_ij over all consecutive observations of all paths; rows without one are passed over.

    Args:
        t: (B, T) non-decreasing where observed.
        state: (B, T) 0 ... n - 1 where observed.
        mask: (B, T) True where observed.
        n: number of states.
        tolerance: gaps of one group differ by less than this, relatively.

    Raises:
        DataError: D14 for a state that is not one of n, D07 for times out of order, D06 for two states
            at one time.
    """
    require_states(state, mask, n)
    seen = observed(t, state, mask)
    pair = seen.real[:, 1:]
    gap = gaps_between(seen)[pair]
    start, end = seen.value[:, :-1][pair].long(), seen.value[:, 1:][pair].long()
    _require_one_state(gap, start, end)
    moved = gap > 0
    gaps, group = merged(gap[moved], tolerance)
    cell = (group * n + start[moved]) * n + end[moved]
    C = torch.bincount(cell, minlength=len(gaps) * n * n).view(-1, n, n)
    return Counts(gaps, C.to(gaps.dtype))


def crude_rates(gaps: Tensor, C: Tensor, jumps: float = 0.1, time: float = 0.1) -> Tensor:
    """q_ij = (C_ij + jumps) / (T_i + time), as if nothing happened between the observations: (n, n)

    T_i is the time that follows an observation of i. Too low where gaps are long, too high where states
    are misread; a baseline and a start.

    Args:
        jumps, time: what is added to each pair and each state; time in the unit of the gaps.
    """
    held = (gaps[:, None] * C.sum(-1)).sum(0)
    Q = ((C.sum(0) + jumps) / (held + time)[:, None]).fill_diagonal_(0.0)
    return Q - torch.diag(Q.sum(-1))


def merged(gap: Tensor, tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Groups of nearly equal gaps: the mean of each (G,), increasing, and the group of every gap (...).

    A group spans less than the tolerance, however densely the gaps lie.

    Args:
        gap: (...) not negative.
        tolerance: relative.
    """
    ordered, order = gap.flatten().sort()
    number = torch.zeros_like(order)
    number[1:] = (ordered.diff() > tolerance * ordered[1:]).cumsum(0)
    # a run without a break may be long, where gaps lie densely: it is cut into pieces
    first = ordered[torch.searchsorted(number, number)]
    piece = ((ordered / first).where(first > 0, 1.0).log() / tolerance).floor().long()
    rank = torch.zeros_like(order)
    rank[1:] = ((number.diff() != 0) | (piece.diff() != 0)).cumsum(0)
    group = torch.empty_like(rank)
    group[order] = rank
    size = torch.bincount(rank)
    total = ordered.new_zeros(len(size)).index_add_(0, rank, ordered)
    return total / size, group.view(gap.shape)


def observed(t: Tensor, value: Tensor, mask: Tensor) -> Observed:
    """The observed rows of (B, T, ...) moved to the front, in order."""
    order = (~mask).to(torch.int8).sort(dim=1, stable=True).indices
    shape = (*order.shape, *(1,) * (value.ndim - 2))
    rows = order.view(shape).expand(*order.shape, *value.shape[2:])
    return Observed(t.gather(1, order), value.gather(1, rows), mask.gather(1, order))


def gaps_between(seen: Observed) -> Tensor:
    """Times from each observation to the next: (B, T - 1), zero behind the last.

    Raises:
        DataError: D07 if one is negative.
    """
    gap = seen.t.diff().where(seen.real[:, 1:], 0.0)
    if bool((gap < 0).any()):
        path, row = (gap < 0).nonzero()[0].tolist()
        raise DataError(
            "D07",
            f"observation {row + 1} of path {path} is {-gap[path, row].item():g} before the last one",
            "times that do not decrease",
            "Sort the rows of each path by time",
        )
    return gap


def departures(Q: Tensor, t: Tensor, state: Tensor, mask: Tensor) -> Tensor:
    """Times that each state is left during one of the shorter gaps between observations, -q_ii g: (n,)

    g is the 10 % quantile of the gaps that are not zero. Beyond one or so many rates have nearly the same transitions;
    beyond three the data tell of the stationary law and of little else.
    """
    gap = gaps_between(observed(t, state, mask))
    moved = gap[gap > 0]
    short = moved.sort().values[len(moved) // 10] if len(moved) else gap.new_zeros(())
    return -Q.diagonal() * short


def require_states(state: Tensor, mask: Tensor, n: int) -> None:
    """Observed states are whole numbers 0 ... n - 1.

    Raises:
        DataError: D14.
    """
    wrong = mask & ~((state >= 0) & (state < n) & (state == state.floor()))
    if bool(wrong.any()):
        path, row = wrong.nonzero()[0].tolist()
        raise DataError(
            "D14",
            f"state {state[path, row].item():g} in row {row} of path {path}",
            f"whole numbers 0 ... {n - 1}, for {n} states",
            "Number the states from 0, or allow for more of them",
        )


def _require_one_state(gap: Tensor, start: Tensor, end: Tensor) -> None:
    twice = (gap == 0) & (start != end)
    if bool(twice.any()):
        k = int(twice.nonzero()[0])
        raise DataError(
            "D06",
            f"states {int(start[k])} and {int(end[k])} are seen at one time ({int(twice.sum())} times)",
            "one state at a time",
            "Drop one of them, or use a hidden chain, which allows for states that are misread",
        )
