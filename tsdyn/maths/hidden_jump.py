"""A Markov jump process that is seen through noise, at any times: which states, and how likely.

    x_1 ~ first,   x_{k+1} | x_k ~ [exp(Q (t_{k+1} - t_k))]_{x_k}·,   y_k | x_k = i has density b_i(y_k)

Forwards and backwards over the rows of all paths side by side, scaled row by row  [1], with one
exponential per gap; where series are few and long, over all rows at once by `hidden_scan`. A row without
observation has b = 1: its state is inferred from its neighbours. So has padding, whose gaps are zero.

[1] Rabiner. A tutorial on hidden Markov models. Proceedings of the IEEE 77, 1989.
[2] Liu, Li, Li, Song & Rehg. Efficient learning of continuous-time hidden Markov models. NeurIPS 2015:
    irregular gaps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from . import hidden_scan
from .hidden_scan import Steps, updated
from .jump_counts import merged
from .jump_statistics import transitions
from .rate_matrix import transition

FEW_GAPS = 64  # for which a product of matrices each is quicker than one of all rows
# measured on a CPU: a loop over as many rows is as quick as a scan,
SHORT = 16
# and a loop over rows with as many entries, one for each series and pair of states: with 3 states 30 series are
# scanned 1.7 times as quickly, 100 are not; one series of 100,000 rows is scanned 75 times as quickly
WIDE = 800


class Clock(NamedTuple):
    """Gaps between the rows of all paths, those that differ by rounding counted as one."""

    gaps: Tensor  # (G,)  increasing
    group: Tensor  # (B, T - 1)  the one that leads to the next row


class Filtered(NamedTuple):
    """What is known at every row from the rows up to it."""

    law: Tensor  # (B, T, n)
    log_scale: Tensor  # (B, T)  log density of what is seen there, given all before

    @property
    def log_likelihood(self) -> Tensor:
        """(B,)"""
        return self.log_scale.sum(-1)


class Smoothed(NamedTuple):
    """What is known at every row from all rows."""

    law: Tensor  # (B, T, n)
    log_likelihood: Tensor  # (B,)
    W: Tensor  # (G, n, n)  W^g_ab [exp(Q g)]_ab: expected transitions from a to b over gaps g

    def transitions(self, P: Tensor) -> Tensor:
        """C^g_ab = W^g_ab P^g_ab for P = exp(Q g): (G, n, n)"""
        return self.W * P


class MostLikely(NamedTuple):
    """The most likely states of each path, together."""

    states: Tensor  # (B, T)
    log_density: Tensor  # (B,)  of these states and all that is seen


def clock(t: Tensor, tolerance: float = 1e-6) -> Clock:
    """The gaps of times (B, T); relative tolerance.

    Raises:
        DataError: D07 for times that decrease.
    """
    gap = t.double().diff()
    if bool((gap < 0).any()):
        path, row = (gap < 0).nonzero()[0].tolist()
        raise DataError(
            "D07",
            f"row {row + 1} of path {path} is {-gap[path, row].item():g} before the last one",
            "times that do not decrease",
            "Sort the rows of each path by time",
        )
    return Clock(*merged(gap, tolerance))


def log_likelihood(Q: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> Tensor:
    """log p(y_1, ..., y_T) of each path: (B,), differentiable.

    Args (here and below):
        Q: (n, n); first: (n,) law of the state at the first row.
        rows: of `clock(t)`.
        log_density: (B, T, n) log b_i(y_k) for every state i; zero where nothing was observed.
    """
    return filtered(Q, first, rows, log_density).log_likelihood


def filtered(Q: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> Filtered:
    """α_1 ∝ first ∘ b(y_1), α_{k+1} ∝ (α_k P) ∘ b(y_{k+1})  [1]"""
    return _forward(transition(Q, rows.gaps), first, rows, log_density)


def smoothed(Q: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> Smoothed:
    """γ_k = α_k ∘ β_k,   β_k = P (b(y_{k+1}) ∘ β_{k+1}) / c_{k+1}  [1]

    W sums the products of α_k and b(y_{k+1}) ∘ β_{k+1} / c_{k+1}, so that expected transitions are never
    divided by their probability. Without gradients to Q.
    """
    P = transitions(Q, rows.gaps)
    forward = _forward(P, first, rows, log_density)
    if _scanned(log_density):
        law, arrivals = hidden_scan.smoothed(Steps(P, rows.group), forward.law)
    else:
        law, arrivals = _backward(P, rows, log_density, forward)
    W = _products_by_gap(forward.law[:, :-1], arrivals, rows, len(P))
    return Smoothed(law / law.sum(-1, keepdim=True), forward.log_likelihood, W)


def viterbi(Q: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> MostLikely:
    """The states that maximise p(x_1, ..., x_T, y_1, ..., y_T): max-product forwards, then traced back."""
    P = transition(Q, rows.gaps)
    best = first.to(P.dtype).log() + log_density[:, 0]
    if _scanned(log_density):
        found = hidden_scan.most_likely(Steps(P, rows.group), best, log_density[:, 1:])
        return MostLikely(*found)
    log_P = P.log()
    origins = []
    for k in range(log_density.shape[1] - 1):
        ways = best[:, :, None] + log_P[rows.group[:, k]]  # (B, from, to)
        best, origin = ways.max(1)
        best = best + log_density[:, k + 1]
        origins.append(origin)
    density, state = best.max(-1)
    states = [state]
    for origin in reversed(origins):
        state = origin.gather(1, state[:, None])[:, 0]
        states.append(state)
    return MostLikely(torch.stack(states[::-1], 1), density)


def _scanned(log_density: Tensor) -> bool:
    """Whether a scan over the rows is quicker than a loop: where series are few and long."""
    B, T, n = log_density.shape
    return T > SHORT and B * n**2 < WIDE


def _forward(P: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> Filtered:
    law, log_scale = updated(first.expand_as(log_density[:, 0]), log_density[:, 0])
    if _scanned(log_density):
        laws, scales = hidden_scan.filtered(Steps(P, rows.group), law, log_density[:, 1:])
        return Filtered(
            torch.cat([law[:, None], laws], 1), torch.cat([log_scale[:, None], scales], 1)
        )
    found = [(law, log_scale)]
    for k in range(log_density.shape[1] - 1):
        law, log_scale = updated(_carried(law, P, rows.group[:, k]), log_density[:, k + 1])
        found.append((law, log_scale))
    return Filtered(*(torch.stack(f, 1) for f in zip(*found)))


def _backward(
    P: Tensor, rows: Clock, log_density: Tensor, forward: Filtered
) -> tuple[Tensor, Tensor]:
    """α ∘ β (B, T, n), and b(y_{k+1}) ∘ β_{k+1} / c_{k+1} (B, T - 1, n)."""
    # b / c, from logarithms: both may be far from one; states with no weight are passed over
    relative = (log_density - forward.log_scale[..., None]).exp().where(forward.law > 0, 0.0)
    beta = torch.ones_like(log_density[:, 0])
    betas, arrivals = [beta], [beta[:, None][:, :0]]
    back = P.mT
    for k in range(log_density.shape[1] - 2, -1, -1):
        arrival = relative[:, k + 1] * beta
        beta = _carried(arrival, back, rows.group[:, k])
        betas.append(beta)
        arrivals.append(arrival[:, None])
    return forward.law * torch.stack(betas[::-1], 1), torch.cat(arrivals[::-1], 1)


def _carried(law: Tensor, P: Tensor, index: Tensor) -> Tensor:
    """law P of every path: (B, n)"""
    if len(P) == 1:
        return law @ P[0]
    return (law[:, None] @ P[index])[:, 0]


def _products_by_gap(law: Tensor, arrivals: Tensor, rows: Clock, G: int) -> Tensor:
    """Σ over the rows of a gap of law_a arrival_b: (G, n, n)"""
    n = law.shape[-1]
    if not G:
        return law.new_zeros(G, n, n)
    left, right = law.flatten(0, 1), arrivals.flatten(0, 1)
    group = rows.group.flatten()
    if G > FEW_GAPS:
        return law.new_zeros(G, n, n).index_add(0, group, left[:, :, None] * right[:, None])
    order = group.argsort()
    sizes = torch.bincount(group, minlength=G).tolist()
    parts = zip(torch.split(left[order], sizes), torch.split(right[order], sizes))
    return torch.stack([a.mT @ b for a, b in parts])
