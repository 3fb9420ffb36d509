"""A Markov jump process that is seen through noise, at any times: which states, and how likely.

    x_1 ~ first,   x_{k+1} | x_k ~ [exp(Q (t_{k+1} - t_k))]_{x_k}·,   y_k | x_k = i has density b_i(y_k)

Forwards and backwards over the rows of all paths side by side, scaled row by row  [1], with one
exponential per gap. A row without observation has b = 1: its state is inferred from its neighbours. So
has padding, whose gaps are zero.

[1] Rabiner. A tutorial on hidden Markov models. Proceedings of the IEEE 77, 1989.
[2] Liu, Li, Li, Song & Rehg. Efficient learning of continuous-time hidden Markov models. NeurIPS 2015:
    irregular gaps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .jump_counts import merged
from .jump_statistics import transitions
from .rate_matrix import transition

LARGEST_EXPONENT = 700.0  # its exponential is finite
FEW_GAPS = 64  # for which a product of matrices each is quicker than one of all rows


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
    # b / c, from logarithms: both may be far from one; states with no weight are passed over
    relative = (log_density - forward.log_scale[..., None]).exp().where(forward.law > 0, 0.0)
    beta = torch.ones_like(log_density[:, 0])
    betas, arrivals = [beta], []
    back = P.mT
    for k in range(log_density.shape[1] - 2, -1, -1):
        arrival = relative[:, k + 1] * beta
        beta = _carried(arrival, back, rows.group[:, k])
        betas.append(beta)
        arrivals.append(arrival)
    law = forward.law * torch.stack(betas[::-1], 1)
    W = _products_by_gap(forward.law[:, :-1], arrivals[::-1], rows, len(P))
    return Smoothed(law / law.sum(-1, keepdim=True), forward.log_likelihood, W)


def viterbi(Q: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> MostLikely:
    """The states that maximise p(x_1, ..., x_T, y_1, ..., y_T): max-product forwards, then traced back."""
    log_P = transition(Q, rows.gaps).log()
    best = first.to(log_P.dtype).log() + log_density[:, 0]
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


def _forward(P: Tensor, first: Tensor, rows: Clock, log_density: Tensor) -> Filtered:
    law, log_scale = _updated(first.expand_as(log_density[:, 0]), log_density[:, 0])
    laws, log_scales = [law], [log_scale]
    for k in range(log_density.shape[1] - 1):
        ahead = _carried(law, P, rows.group[:, k])
        law, log_scale = _updated(ahead, log_density[:, k + 1])
        laws.append(law)
        log_scales.append(log_scale)
    return Filtered(torch.stack(laws, 1), torch.stack(log_scales, 1))


def _updated(law: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
    """law ∘ b, normalised, and the logarithm of its sum: (B, n), (B,)

    Only states that are possible set the scale: one that is not, however well it would explain what is
    seen, must not drown the others.
    """
    height = log_density.detach().where(law > 0, -torch.inf).amax(-1, keepdim=True)
    height = height.where(height.isfinite(), 0.0)  # where no possible state explains what is seen
    weight = law * (log_density - height).clamp(max=LARGEST_EXPONENT).exp()
    total = weight.sum(-1, keepdim=True)
    return weight / total.where(total > 0, 1.0), (total.log() + height)[..., 0]


def _carried(law: Tensor, P: Tensor, index: Tensor) -> Tensor:
    """law P of every path: (B, n)"""
    if len(P) == 1:
        return law @ P[0]
    return (law[:, None] @ P[index])[:, 0]


def _products_by_gap(law: Tensor, arrivals: list[Tensor], rows: Clock, G: int) -> Tensor:
    """Σ over the rows of a gap of law_a arrival_b: (G, n, n)"""
    n = law.shape[-1]
    if not arrivals:
        return law.new_zeros(G, n, n)
    left, right = law.flatten(0, 1), torch.stack(arrivals, 1).flatten(0, 1)
    group = rows.group.flatten()
    if G > FEW_GAPS:
        return law.new_zeros(G, n, n).index_add(0, group, left[:, :, None] * right[:, None])
    order = group.argsort()
    sizes = torch.bincount(group, minlength=G).tolist()
    parts = zip(torch.split(left[order], sizes), torch.split(right[order], sizes))
    return torch.stack([a.mT @ b for a, b in parts])
