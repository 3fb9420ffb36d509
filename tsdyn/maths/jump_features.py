"""What paths of labels say of every pair of states, in numbers that do not grow with their amount.

For every ordered pair (i, j) and every class of gaps: the share of j after i, how much that share is worth, how often
it was taken back at once, the crude rate. Times are in units of τ = observed time / changes of label, so that the
features, and what is learned from them, do not know seconds from hours.

[1] Berghaus et al. Foundation inference models for Markov jump processes. NeurIPS 2024: the task. The features are sums over
    paths, whose number may be any, and turn with the names of the states.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

BINS = 12  # of gaps
SHORTEST, LONGEST = (
    -7.0,
    3.0,
)  # log2 of a gap in units of τ, at the middle of the first and of the last bin
PAIR, NODE, WHOLE = 2 * BINS + 6, 4, 4 + BINS  # sizes of the features


class Features(NamedTuple):
    """Of M problems with n states."""

    pair: Tensor  # (M, n, n, PAIR)
    node: Tensor  # (M, n, NODE)
    whole: Tensor  # (M, WHOLE)
    crude: Tensor  # (M, n, n)  (jumps + .1) / (time + .1), per τ; one on the diagonal
    first: Tensor  # (M, n)  share of the paths that are first seen there
    unit: Tensor  # (M,)  τ


class _Steps(NamedTuple):
    """Consecutive observations of one path, flat: from state a to b, then to c."""

    problem: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    gap: Tensor
    more: Tensor  # whether there is a c


def jump_features(t: Tensor, state: Tensor, mask: Tensor, states: int) -> Features:
    """The features of M problems of K paths with L rows.

    Args:
        t: (M, K, L), not decreasing; state: (M, K, L) labels 0, ..., n - 1, not read where mask (M, K, L) is False.
        states: n.
    """
    M, n = len(t), states
    steps, first = _steps(t.double(), state.long(), mask)
    unit = _unit(steps, M)
    steps = steps._replace(gap=steps.gap / unit[steps.problem])
    counts = _binned(steps, M, n)  # (M, BINS, n, n)
    total = counts.sum(1)
    spent = _summed(steps.problem * n + steps.a, steps.gap, M * n).view(M, n)
    change = steps.more & (steps.a != steps.b)
    pair = (steps.problem * n + steps.a) * n + steps.b
    back, stay = (
        _summed(pair[chosen], torch.ones_like(steps.gap[chosen]), M * n * n).view(M, n, n)
        for chosen in (change & (steps.c == steps.a), change & (steps.c == steps.b))
    )
    off = 1 - torch.eye(n, dtype=torch.float64, device=t.device)
    crude, kept = (
        ((jumps + 0.1) / (spent[..., None] + 0.1)).where(off > 0, 1.0) for jumps in (total, stay)
    )
    rows = counts.sum(-1)  # (M, BINS, n)
    share = (counts + 0.3) / (rows[..., None] + 0.3 * n)
    worth = (rows / (rows + 20)).movedim(1, -1)  # (M, n, BINS)
    begun = _summed(first.problem * n + first.state, torch.ones_like(first.gap), M * n).view(M, n)
    paths = begun.sum(-1, keepdim=True).clamp(min=1)
    changes = (total * off).sum((1, 2)).clamp(min=1)
    pairs = torch.cat(
        [
            share.log().movedim(1, -1) / 3,
            worth[:, :, None].expand(-1, -1, n, -1),
            torch.stack(
                [
                    back / (total + 1),
                    stay / (total + 1),
                    total / (total + 10),
                    crude.log() / 2,
                    kept.log() / 2,
                    (1 - off).expand(M, n, n),
                ],
                -1,
            ),
        ],
        -1,
    )
    node = torch.stack(
        [
            spent / spent.sum(-1, keepdim=True).clamp(min=1e-6),
            spent / (spent + 1),
            begun / paths,
            begun / (begun + 5),
        ],
        -1,
    )
    whole = torch.cat(
        [
            paths.log().clamp(max=math.log(300)) / 6,
            torch.full_like(paths, n / 6),
            (back.sum((1, 2)) / changes)[:, None],
            (stay.sum((1, 2)) / changes)[:, None],
            rows.sum(-1) / rows.sum((1, 2)).clamp(min=1)[:, None],
        ],
        -1,
    )
    return Features(pairs, node, whole, crude, begun / paths, unit)


class _First(NamedTuple):
    problem: Tensor
    state: Tensor
    gap: Tensor


def _steps(t: Tensor, state: Tensor, mask: Tensor) -> tuple[_Steps, _First]:
    """All consecutive pairs of observed rows, and the first of each path."""
    M, K, L = t.shape
    place = torch.arange(L, device=t.device).expand(M, K, L)
    seen = place.where(mask, -1)
    before = torch.cat([seen.new_full((M, K, 1), -1), seen.cummax(-1).values[..., :-1]], -1)
    ahead = place.where(mask, L).flip(-1).cummin(-1).values.flip(-1)
    after = torch.cat([ahead[..., 1:], ahead.new_full((M, K, 1), L)], -1)
    real = mask & (before >= 0)
    problem = torch.arange(M, device=t.device)[:, None, None].expand(M, K, L)
    earlier, later = before.clamp(min=0), after.clamp(max=L - 1)
    steps = _Steps(
        problem[real],
        state.gather(-1, earlier)[real],
        state[real],
        state.gather(-1, later)[real],
        (t - t.gather(-1, earlier))[real],
        (after < L)[real],
    )
    begin = mask & (before < 0)
    return steps, _First(problem[begin], state[begin], t[begin])


def _unit(steps: _Steps, M: int) -> Tensor:
    """τ: observed time per change of label, of at least one change; one where nothing was observed."""
    time = _summed(steps.problem, steps.gap, M)
    changes = _summed(steps.problem, (steps.a != steps.b).double(), M).clamp(min=1)
    unit = time / changes
    return unit.where(unit > 0, 1.0)


def _binned(steps: _Steps, M: int, n: int) -> Tensor:
    """Counts of (i, j) by class of gap, each gap shared by the two classes around it: (M, BINS, n, n)."""
    level = torch.log2(steps.gap.clamp(min=1e-12))
    at = ((level - SHORTEST) / (LONGEST - SHORTEST) * (BINS - 1)).clamp(0, BINS - 1)
    low = at.floor().clamp(max=BINS - 2)
    share = at - low
    key = ((steps.problem * BINS + low.long()) * n + steps.a) * n + steps.b
    size = M * BINS * n * n
    counts = _summed(key, 1 - share, size) + _summed(key + n * n, share, size)
    return counts.view(M, BINS, n, n)


def _summed(key: Tensor, values: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64, device=key.device).index_add_(0, key, values)
