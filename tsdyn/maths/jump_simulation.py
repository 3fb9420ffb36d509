"""Paths of Markov jump processes, drawn exactly: event by event, at given times, or between given ends.

Q (..., n, n) are the rate matrices of independent processes and p0 (..., n) the laws of their first
states, broadcast; K paths of each are drawn at once and stand in the axis after those of the
processes. Loops run over events, on those paths only that are not over yet.

[1] Gillespie. Exact stochastic simulation of coupled chemical reactions. Journal of Physical
    Chemistry 81 (1977).
[2] Hobolth & Stone. Simulation from endpoint-conditioned, continuous-time Markov chains on a finite
    state space. Annals of Applied Statistics 3 (2009): uniformisation (section 2.3).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .draws import choose, exponential, uniform
from .grid import timeline
from .rate_matrix import unique_transitions

MOST_EVENTS = 1_000_000  # expected of one path; a sweep over the paths takes tens of microseconds
MOST_GAPS = 2**18  # at once: each may want a transition matrix of its own


class JumpPaths(NamedTuple):
    """Paths by their jumps: row 0 is the start, and in row k a path enters state[k] at t[k].

    Padding repeats the last state, at the time at which the path ends; so differences of t, with `end`
    behind them, are the holding times of all states.
    """

    t: Tensor  # (..., K, 1 + J)  non-decreasing
    state: Tensor  # (..., K, 1 + J)  long
    jumps: Tensor  # (..., K)  how many
    end: Tensor  # (..., K)  when it was last seen


class _Event(NamedTuple):
    """The next jump of each path that still makes one."""

    path: Tensor  # (A,)
    t: Tensor  # (A,)
    before: Tensor  # (A,)
    after: Tensor  # (A,)


def gillespie(
    Q: Tensor, p0: Tensor, paths: int, end: float, generator: torch.Generator | None = None
) -> JumpPaths:
    """All jumps of `paths` paths of each process from time 0 to `end`  [1]

    Raises:
        DataError: D16 where a path would make more than a million jumps.
    """
    shape, rates, first = _start(Q, p0, paths, end, generator)
    events = list(_events(rates, first, paths, end, generator))
    t = rates.new_full((len(first), 1 + len(events)), end)
    t[:, 0] = 0.0
    state = first.new_zeros(t.shape)
    state[:, 0] = first
    count = torch.zeros_like(first)
    for k, event in enumerate(events, 1):
        t[event.path, k], state[event.path, k] = event.t, event.after
        count[event.path] += 1
    return _jump_paths(t, state, count, t.new_full((len(first),), end), shape)


def gillespie_grid(
    Q: Tensor, p0: Tensor, paths: int, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """States at times t (T,) of `paths` paths of each process, which begin at t[0]: (..., K, T)  [1]

    Small integers (int8) where the number of a state fits, else long.

    Raises:
        DataError: D16 where a path would make more than a million jumps; D17 for unusable times.
    """
    since = elapsed(t).to(Q.device)
    span = float(since[-1])
    shape, rates, first = _start(Q, p0, paths, span, generator)
    kind = torch.int8 if Q.shape[-1] <= 127 else torch.int64
    # what a jump adds stands at the first time from it on; the sum over times is the state
    change = torch.zeros(len(first), len(t), dtype=kind, device=Q.device)
    change[:, 0] = first
    for event in _events(rates, first, paths, span, generator):
        change[event.path, torch.searchsorted(since, event.t)] += (event.after - event.before).to(
            kind
        )
    return change.cumsum(1, dtype=kind).reshape(*shape, len(t))


def skeleton(Q: Tensor, p0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """States at irregular times t (..., K, T), a clock per path, by exact transitions: (..., K, T) long.

    A path begins at its first time; padding repeats the last time, and there the state stays.

    Args:
        t: the axes before K are those of the processes; non-decreasing, D17 otherwise.
    """
    n, K, T = Q.shape[-1], *t.shape[-2:]
    lead = t.shape[:-2]
    process = torch.arange(lead.numel(), device=Q.device).repeat_interleave(K)
    law = p0.detach().double().expand(*lead, n).reshape(-1, n).cumsum(-1)
    start = choose(law[process], generator)
    rates = Q.detach().double().expand(*lead, n, n).reshape(-1, n, n)
    gap = _rounded(timeline(t.reshape(-1, T))[:, 1:].diff(), t).to(Q.device)
    parts = torch.arange(len(gap), device=Q.device).tensor_split(-(-gap.numel() // MOST_GAPS) or 1)
    walks = [_walk(rates, process[k], start[k], gap[k], generator) for k in parts]
    return torch.cat(walks).reshape(t.shape)


def bridge(
    Q: Tensor, a: Tensor, b: Tensor, gap: Tensor, generator: torch.Generator | None = None
) -> JumpPaths:
    """Paths from state a to state b a time `gap` later, by uniformisation: no draw is thrown away  [2]

    Between ticks of a clock of rate r = max |Q_ii| stands the chain M = 1 + Q / r, some of whose steps
    stay. The number N of ticks has weights Poisson(N; r gap) (M^N)_ab; given it, the times of ticks
    are uniform, and the states a chain that knows where it must end.

    Args:
        Q, a, b, gap: (..., n, n) and (..., K) of one shape, long, long and float.

    Raises:
        DataError: D14 where b cannot be reached from a; D16 as `gillespie`.
    """
    n = Q.shape[-1]
    processes = Q.detach().double().reshape(-1, n, n)
    a, b, length = (f.reshape(-1) for f in (a, b, gap.to(processes)))
    process = torch.arange(len(processes), device=Q.device)
    process = process.repeat_interleave(max(len(a) // max(len(processes), 1), 1))
    rate = -processes.diagonal(dim1=-2, dim2=-1).amin(-1)
    rate = rate.where(rate > 0, 1.0)  # nothing moves: any clock will do
    mean = rate[process] * length  # ticks of each path
    _require_few(float(mean.amax()))
    powers = _powers(processes, rate, float(mean.amax()))  # (N + 1, M, n, n)
    ticks = _ticks(powers[:, process, a, b].mT, mean[:, None], generator)
    return _along(powers, process, a, b, length, ticks, generator, gap.shape)


def states_at(paths: JumpPaths, t: Tensor) -> Tensor:
    """States at times t (..., K, T) between the start and the end: (..., K, T)."""
    row = torch.searchsorted(paths.t.contiguous(), t.to(paths.t).contiguous(), right=True) - 1
    return paths.state.gather(-1, row.clamp(min=0))


def elapsed(t: Tensor) -> Tensor:
    """Times since the first, (T,) double; D17 unless t is one clock (T,) that never goes back."""
    if t.ndim != 1:
        raise DataError(
            "D17",
            f"times of shape {tuple(t.shape)}",
            "one clock (T,) for all paths",
            "Draw the paths of other clocks by themselves, or read whole paths at any times",
        )
    clock = timeline(t)[0, 1:]
    return clock - clock[0]


def _start(
    Q: Tensor, p0: Tensor, paths: int, end: float, generator: torch.Generator | None
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Shape of the paths, rates of jumps (M, n, n) added up along rows, and first states (M K,)."""
    n = Q.shape[-1]
    shape = torch.broadcast_shapes(Q.shape[:-2], p0.shape[:-1])  # type: ignore[no-untyped-call]
    rates = Q.detach().double().expand(*shape, n, n).reshape(-1, n, n).clamp(min=0)
    _require_few(float(rates.sum(-1).amax()) * end)
    law = p0.detach().double().expand(*shape, n).reshape(-1, n).cumsum(-1)
    return (*shape, paths), rates.cumsum(-1), choose(law.repeat_interleave(paths, 0), generator)


def _rounded(gap: Tensor, t: Tensor) -> Tensor:
    """Gaps that agree to the precision of the times made equal."""
    unit = 4 * torch.finfo(t.dtype).eps * float(t.abs().amax()) if t.numel() else 0.0
    return (gap / unit).round() * unit if unit else gap


def _walk(
    Q: Tensor, process: Tensor, state: Tensor, gap: Tensor, generator: torch.Generator | None
) -> Tensor:
    """States of K paths, of `process` (K,) from `state` (K,) over gaps (K, T - 1): (K, T)."""
    P, where = unique_transitions(Q, process[:, None].expand_as(gap), gap)
    ladders = P.cumsum(-1)  # (U, n, n)
    states = [state]
    for number in where.unbind(-1):
        states.append(choose(ladders[number, states[-1]], generator))
    return torch.stack(states, -1)


def _require_few(jumps: float) -> None:
    if not jumps <= MOST_EVENTS:
        raise DataError(
            "D16",
            f"the rate of the state that is left fastest, times the time, are {jumps:.3g} jumps",
            f"at most {MOST_EVENTS} in a path",
            "Ask for a shorter stretch of time, or for states at given times with `skeleton`",
        )


def _events(
    rates: Tensor, state: Tensor, paths: int, end: float, generator: torch.Generator | None
) -> Iterator[_Event]:
    """The first jump of every path, then the second of those that make one, and so on."""
    n = rates.shape[-1]
    ladders = rates.reshape(-1, n)  # (M n, n)
    total = ladders[:, -1].contiguous()
    path = torch.arange(len(state), device=state.device)
    base = path.div(paths, rounding_mode="floor") * n  # the rows of the process of each path
    now = rates.new_zeros(len(state))
    while len(path):
        row = base + state
        now = now + exponential(now, generator) / total[row]  # infinite where nothing happens
        going = (now < end).nonzero()[:, 0]
        path, base, row, state, now = (f[going] for f in (path, base, row, state, now))
        if len(path):
            after = choose(ladders[row], generator)
            yield _Event(path, now, state, after)
            state = after


def _powers(processes: Tensor, rate: Tensor, mean: float) -> Tensor:
    """M^0, ..., M^N with N beyond what a Poisson number of this mean reaches: (N + 1, M, n, n)."""
    n = processes.shape[-1]
    most = int(mean + 8 * mean**0.5) + 20 + n
    M = (torch.eye(n).to(processes) + processes / rate[:, None, None]).clamp(min=0)
    powers = [torch.eye(n).to(M).expand_as(M)]
    for _ in range(most):
        powers.append(powers[-1] @ M)
    return torch.stack(powers)


def _ticks(reached: Tensor, mean: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers of ticks with weights Poisson(N; mean) reached_N: (K,); D14 where all are zero."""
    number = torch.arange(reached.shape[-1]).to(reached)
    weights = torch.xlogy(number, mean) - torch.lgamma(number + 1) + reached.log()
    largest = weights.amax(-1, keepdim=True)
    if not bool(largest.isfinite().all()):
        k = int((~largest[:, 0].isfinite()).nonzero()[0])
        raise DataError(
            "D14",
            f"path {k} cannot reach its last state from its first in a time of {float(mean[k]):.3g} "
            "holding times",
            "ends that the rates join, and a gap that is positive where they differ",
            "Check the ends, or give the rates between them a value above zero",
        )
    return choose((weights - largest).exp().cumsum(-1), generator)


def _along(
    powers: Tensor,
    process: Tensor,
    a: Tensor,
    b: Tensor,
    length: Tensor,
    ticks: Tensor,
    generator: torch.Generator | None,
    shape: torch.Size,
) -> JumpPaths:
    """Bridges of so many ticks each, without the ticks at which the state stays."""
    most = int(ticks.amax()) if len(ticks) else 0
    M = powers[1] if most else powers[0]
    state = [a]
    for k in range(1, most + 1):
        left = (ticks - k).clamp(min=0)
        weights = M[process, state[-1]] * powers[left, process, :, b]
        moved = choose(weights.cumsum(-1), generator)
        state.append(moved.where(k <= ticks, state[-1]))
    states = torch.stack(state, -1)  # (K, 1 + N)
    u = uniform(length.new_empty(len(length), most), generator)
    late = torch.arange(1, most + 1, device=u.device) > ticks[:, None]
    times = u.masked_fill(late, 1.0).sort(-1).values * length[:, None]
    moves = states.diff() != 0
    count = moves.sum(-1)
    # jumps to the front, in their order
    order = (~moves).to(torch.int8).sort(dim=-1, stable=True).indices
    order = order[:, : int(count.amax()) if len(count) else 0]
    t = torch.cat([torch.zeros_like(length)[:, None], times.gather(1, order)], 1)
    state_after = torch.cat([a[:, None], states[:, 1:].gather(1, order)], 1)
    return _jump_paths(t, state_after, count, length, tuple(shape))


def _jump_paths(
    t: Tensor, state: Tensor, count: Tensor, end: Tensor, shape: tuple[int, ...]
) -> JumpPaths:
    """Padded after `count` jumps, in the shape of the paths."""
    place = torch.arange(t.shape[1], device=t.device)
    t = t.where(place <= count[:, None], end[:, None])
    state = state.gather(1, torch.minimum(place, count[:, None]))
    return JumpPaths(
        t.reshape(*shape, -1), state.reshape(*shape, -1), count.reshape(shape), end.reshape(shape)
    )
