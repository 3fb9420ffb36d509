"""Reaction networks of mass action: numbers of molecules, animals or people that change by reactions.

Reaction r takes m_ri of each species i, happens at the rate

    a_r(x) = k_r prod_i C(x_i, m_ri)                  per unit of time,

and adds v_r to the state x, whole numbers of S species. Axes: B states, R reactions, S species, T times.
Laws of x come from draws (`simulate`, `leap`), from equations for mean and covariance (`linear_noise`,
`normal_closure`), or whole (`finite_state_projection`). Rates k may be (R,) or one row per state, (B, R);
equations and projection can be differentiated with respect to them.

[1] Gillespie. Exact stochastic simulation of coupled chemical reactions. Journal of Physical
    Chemistry 81 (1977).
[2] Cao, Gillespie & Petzold. Efficient step size selection for the tau-leaping simulation method.
    Journal of Chemical Physics 124 (2006).
[3] van Kampen. Stochastic processes in physics and chemistry. North-Holland, 3rd edition 2007: the
    linear noise approximation (X.3).
[4] Schnoerr, Sanguinetti & Grima. Approximation and inference methods for stochastic biochemical
    kinetics. Journal of Physics A 50 (2017): moment closure (section 4.2).
[5] Munsky & Khammash. The finite state projection algorithm for the solution of the chemical master
    equation. Journal of Chemical Physics 124 (2006).
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import DataError, ModelError
from .draws import choose, exponential, poisson
from .jump_simulation import elapsed
from .ode import dormand_prince
from .rate_matrix import from_rates

MOST_STEPS = 1_000_000  # of one path: reactions, or leaps over them
MOST_STATES = 2_000_000  # of a box that is searched
CRITICAL = 10  # a reaction that can happen fewer times before it runs out is never leapt over  [2]
FEW_EVENTS = 10  # a leap over fewer is not worth it  [2]


class ReactionNetwork(NamedTuple):
    """R reactions among S species."""

    change: Tensor  # (R, S)  what one reaction adds to the state
    rates: Tensor  # (R,) or (B, R)  k, per unit of time and combination of reactants
    reactants: Tensor  # (R, S)  how many of each species one reaction takes


class Moments(NamedTuple):
    """Mean and covariance of the state."""

    mean: Tensor  # (B, T, S)
    cov: Tensor  # (B, T, S, S)


class StateSpace(NamedTuple):
    """N states, and where each reaction leads."""

    states: Tensor  # (N, S)
    target: Tensor  # (N, R)  the number of the next state; N where it lies outside


class Projection(NamedTuple):
    """Probabilities of the states of a space, each at most the true one."""

    p: Tensor  # (T, N)
    error: Tensor  # (T,)  what left the space: the probabilities together are low by no more


def require_network(network: ReactionNetwork) -> None:
    """DataError: D14 unless the three tensors fit, counts are whole, and rates are finite and not negative."""
    change, rates, reactants = network
    if change.ndim != 2 or change.shape != reactants.shape or rates.shape[-1] != len(change):
        raise _no_network(
            f"change {tuple(change.shape)}, rates {tuple(rates.shape)} and reactants "
            f"{tuple(reactants.shape)}",
            "shapes (R, S), (R,) and (R, S)",
        )
    whole = (change == change.round()).all() & (reactants == reactants.round()).all()
    if not bool(whole & (reactants >= 0).all()):
        raise _no_network("a count that is not whole, or negative reactants", "whole numbers")
    if not bool(((rates >= 0) & rates.isfinite()).all()):
        raise _no_network("a rate that is negative or not finite", "rates of at least zero")
    taken = (change < 0) & (-change > reactants)
    if bool(taken.any()):
        r, i = taken.nonzero()[0].tolist()
        raise _no_network(
            f"reaction {r} takes {-int(change[r, i])} of species {i} but asks for "
            f"{int(reactants[r, i])}",
            "at least as many reactants as are used up, so that no count becomes negative",
        )


def propensities(network: ReactionNetwork, x: Tensor) -> Tensor:
    """a_r(x) = k_r prod_i C(x_i, m_ri): (B, R), at whole or real x (B, S)."""
    return network.rates.to(x) * _falling(network, x, 0)[:, 0].prod(-1)


def simulate(
    network: ReactionNetwork, x0: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """States at times t (T,) of paths that begin in x0 (B, S) at t[0], drawn exactly: (B, T, S) long  [1]

    Raises:
        DataError: D14 for states that cannot be, D17 for unusable times.
        ModelError: M03 where a path makes more than a million reactions.
    """
    network, x, clock = _start(network, x0, t)
    # what a reaction changes stands at the first time from it on; the sum over times is the state
    moves = torch.zeros(len(x), len(clock), x.shape[1], dtype=torch.long, device=x.device)
    moves[:, 0] = x.long()
    path = torch.arange(len(x), device=x.device)
    now = x.new_zeros(len(x))
    for _ in range(MOST_STEPS):
        if not len(path):
            return moves.cumsum(1)
        ladder = propensities(network._replace(rates=network.rates[path]), x).cumsum(-1)
        now = now + exponential(now, generator) / ladder[:, -1]  # infinite where nothing can happen
        going = (now < clock[-1]).nonzero()[:, 0]
        path, x, now, ladder = (f[going] for f in (path, x, now, ladder))
        step = network.change[choose(ladder, generator)]
        moves[path, torch.searchsorted(clock, now)] += step.long()
        x = x + step
    raise _too_many(int(path[0]), float(now[0] + t[0]), x[0])


def leap(
    network: ReactionNetwork,
    x0: Tensor,
    t: Tensor,
    epsilon: float = 0.03,
    generator: torch.Generator | None = None,
) -> Tensor:
    """States at times t (T,), many reactions at once: (B, T, S) long, in law near `simulate`  [2]

    Over a leap tau reactions happen Poisson(a_r tau) times; each path has leaps of its own, so short
    that no propensity is expected to change by more than a share of about `epsilon`. Reactions close
    to using up a reactant, and all of them where leaps would be short, happen one by one.

    Raises:
        DataError: D14 for states that cannot be, D17 for unusable times.
        ModelError: M03 where a path takes more than a million leaps.
    """
    network, x, clock = _start(network, x0, t)
    found = x.new_zeros(len(x), len(clock), x.shape[1])
    found[:, 0] = x
    path = torch.arange(len(x), device=x.device)
    row = torch.zeros_like(path)  # the last time that was reached
    now, longest = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
    for _ in range(MOST_STEPS):
        going = (row + 1 < len(clock)).nonzero()[:, 0]
        path, row, x, now, longest = (f[going] for f in (path, row, x, now, longest))
        if not len(path):
            return found.long()
        here = network._replace(rates=network.rates[path])
        a = propensities(here, x)
        critical, tau = _leap_length(here, x, a, epsilon)
        alone = a.where(critical, 0.0).cumsum(-1)
        wait = exponential(tau, generator) / alone[:, -1]
        left = clock[row + 1] - now
        step = torch.stack([tau, longest, left]).amin(0)
        single = wait < step
        step = torch.minimum(step, wait.nan_to_num(nan=torch.inf))
        times = poisson(a.masked_fill(critical, 0.0) * step[:, None], generator)
        chosen = one_hot(choose(alone, generator), 1 + len(network.change))[:, :-1].to(x)
        moved = x + (times + chosen.where(single[:, None], 0.0)) @ network.change
        fine = (moved >= 0).all(-1)
        # a leap that used up more than there was is drawn again, half as long
        longest = torch.where(fine, torch.inf, step / 2)
        x = moved.where(fine[:, None], x)
        arrived = fine & (step == left)
        now = torch.where(arrived, clock[row + 1], now + step.where(fine, 0.0))
        row = row + arrived.long()
        found[path[arrived], row[arrived]] = x[arrived]
    raise _too_many(int(path[0]), float(now[0] + t[0]), x[0])


def linear_noise(
    network: ReactionNetwork, x0: Tensor, t: Tensor, cov0: Tensor | None = None, rtol: float = 1e-8
) -> Moments:
    """dm/dt = v' a,  dC/dt = J C + C J' + v' diag(a) v,  J = v' da/dx at m, from x0 at t[0]  [3]

    The law of fluctuations about the rate equations, for large numbers: here a_r = k_r prod x_i^m_ri /
    m_ri!. Exact for the mean and covariance of linear networks (at most one reactant each).

    Args:
        x0: (B, S); cov0: (B, S, S), None for a known start.
        t: (T,)
    """

    def right(now: ReactionNetwork, x: Tensor, cov: Tensor) -> _Rates:
        powers = _falling(now, x, 1, step=0.0)
        return now.rates * _derivative(powers, 0), now.rates[..., None] * _derivative(powers, 1)

    return _moments(right, network, x0, t, cov0, rtol)


def normal_closure(
    network: ReactionNetwork, x0: Tensor, t: Tensor, cov0: Tensor | None = None, rtol: float = 1e-8
) -> Moments:
    """dm/dt = v' E[a],  dC/dt = v' A + A' v + v' diag(E[a]) v,  A = E[da/dx] C: mean and covariance  [4]

    Expectations are those of a normal law of mean m and covariance C, E[a] = a + tr(C a'') / 2 at m; exact
    for reactions of up to three reactants. For linear networks the moments are exact.

    Args:
        as in `linear_noise`; D14 for a reaction of more than three reactants. ModelError: M03 where the
        closed equations run away, as they may where numbers are small.
    """
    if bool((network.reactants.sum(-1) > 3).any()):
        r = int((network.reactants.sum(-1) > 3).nonzero()[0])
        raise DataError(
            "D14",
            f"reaction {r} has {int(network.reactants[r].sum())} reactants",
            "at most three, for which normal expectations are closed here",
            "Split it into steps, or use `linear_noise` or `simulate`",
        )

    def right(now: ReactionNetwork, x: Tensor, cov: Tensor) -> _Rates:
        powers = _falling(now, x, 3)
        bend, twist = _derivative(powers, 2), _derivative(powers, 3)
        a = _derivative(powers, 0) + torch.einsum("brij,bij->br", bend, cov) / 2
        slope = _derivative(powers, 1) + torch.einsum("brkij,bij->brk", twist, cov) / 2
        return now.rates * a, now.rates[..., None] * slope

    return _moments(right, network, x0, t, cov0, rtol)


def reachable(network: ReactionNetwork, x0: Tensor, most: Tensor) -> StateSpace:
    """The states that reactions lead to from x0 (S,) without a count above `most` (S,).

    State 0 is x0. D14 where the box holds more than two million states or x0 lies outside of it.
    """
    size = most.long() + 1
    total = int(size.double().prod())
    if total > MOST_STATES or not bool(((x0 >= 0) & (x0 <= most)).all()):
        raise DataError(
            "D14",
            f"{total:.3g} states up to {most.tolist()}, from {x0.tolist()}",
            f"at most {MOST_STATES} states, the first among them",
            "Ask for lower counts of each species",
        )
    weight = torch.cat([size[1:].flip(0).cumprod(0).flip(0), size.new_ones(1)])  # (S,)
    number = size.new_full((total,), -1)  # of each place of the box
    frontier, found = x0.long()[None], []
    number[(frontier * weight).sum(-1)] = 0
    count = 1
    while len(frontier):
        found.append(frontier)
        ahead, inside = _successors(network, frontier, most)
        place = torch.unique((ahead[inside] * weight).sum(-1))
        place = place[number[place] < 0]
        number[place] = torch.arange(count, count + len(place), device=place.device)
        count += len(place)
        frontier = place[:, None].div(weight, rounding_mode="floor") % size
    states = torch.cat(found)
    ahead, inside = _successors(network, states, most)
    target = number[(ahead.where(inside[..., None], 0) * weight).sum(-1)]
    return StateSpace(states, target.where(inside, count))


def rate_matrix_within(network: ReactionNetwork, space: StateSpace) -> Tensor:
    """Q of the states of a space, for a process that stays inside: reactions that leave it do not happen.

    (N, N), as `tsdyn.maths.rate_matrix` has it; the rates of the network are (R,).
    """
    n = len(space.states)
    a = propensities(network, space.states.double()).where(space.target < n, 0.0)
    pair = torch.arange(n, device=a.device)[:, None] * n + space.target.clamp(max=n - 1)
    rates = a.new_zeros(n * n).index_add(0, pair.flatten(), a.flatten())
    return from_rates(rates.reshape(n, n))


def finite_state_projection(
    network: ReactionNetwork, space: StateSpace, p0: Tensor, t: Tensor
) -> Projection:
    """dp/dt = p Q on the states of a space, where what leaves is lost: lower bounds, and their error  [5]

    By uniformisation: at the ticks of a clock as fast as the fastest state the chain 1 + Q / rate takes
    a step, and the number of ticks is Poisson. Terms are all positive, so that nothing cancels.

    Args:
        p0: (N,) at t[0]; t: (T,). D16 where the clock would tick more than ten million times.
    """
    clock = elapsed(t).to(p0.device)
    a = propensities(network, space.states.double())
    leave = a.sum(-1)
    rate = float(leave.detach().amax())
    if not rate * float(clock[-1]) <= 1e7:
        raise DataError(
            "D16",
            f"a state is left at rate {rate:.3g}, over a time of {float(clock[-1]):g}",
            "at most ten million reactions",
            "Ask for a shorter stretch of time, or for lower counts",
        )
    share = a / rate if rate else a
    stay = (1 - share.sum(-1)).clamp(min=0)

    def tick(p: Tensor) -> Tensor:
        moved = torch.cat([p[:-1] * stay, p[-1:]])
        return moved.index_add(0, space.target.flatten(), (p[:-1, None] * share).flatten())

    p = torch.cat([p0.double(), 1 - p0.double().sum()[None]])
    rows = [p]
    for gap in clock.diff().tolist():
        for _ in range(pieces := max(int(rate * gap / 500) + 1, 1)):  # weights stay in range
            p = _uniformised(tick, p, rate * gap / pieces)
        rows.append(p)
    found = torch.stack(rows)
    return Projection(found[:, :-1], found[:, -1].clamp(min=0))


_Rates = tuple[Tensor, Tensor]  # E[a] (B, R) and E[da/dx] (B, R, S)


def _moments(
    right: Callable[[ReactionNetwork, Tensor, Tensor], _Rates],
    network: ReactionNetwork,
    x0: Tensor,
    t: Tensor,
    cov0: Tensor | None,
    rtol: float,
) -> Moments:
    """Mean and covariance by dm/dt = v' a, dC/dt = v' A C + (v' A C)' + v' diag(a) v."""
    x0, S = x0.double(), x0.shape[-1]
    change = network.change.to(x0)
    now = network._replace(rates=network.rates.to(x0))
    cov0 = x0.new_zeros(len(x0), S, S) if cov0 is None else cov0.to(x0)

    def field(_: Tensor, y: Tensor) -> Tensor:
        mean, cov = y[:, :S], y[:, S:].reshape(-1, S, S)
        a, slope = right(now, mean, cov)
        spread = change.mT @ slope @ cov
        noise = change.mT @ (a[..., None] * change)
        return torch.cat([a @ change, (spread + spread.mT + noise).flatten(1)], 1)

    start = torch.cat([x0, cov0.flatten(1)], 1)
    path = dormand_prince(field, start, t, rtol=rtol, atol=rtol)  # (B, T, S + S²)
    return Moments(path[..., :S], path[..., S:].reshape(*path.shape[:2], S, S))


def _falling(network: ReactionNetwork, x: Tensor, derivatives: int, step: float = 1.0) -> Tensor:
    """x (x - step) ... (x - (m - 1) step) / m! and its derivatives: (B, 1 + derivatives, R, S).

    With step 1 these are combinations of m out of x, with step 0 powers x^m / m!.
    """
    m = network.reactants
    factors = [torch.ones_like(x), *[torch.zeros_like(x)] * derivatives]
    found = torch.stack(factors, -2)[..., None, :].expand(-1, -1, *m.shape)
    for j in range(int(m.max()) if m.numel() else 0):
        factor = x - j * step
        factors = [
            (f * factor + (k * factors[k - 1] if k else 0.0)) / (j + 1)
            for k, f in enumerate(factors)
        ]
        found = torch.where(m > j, torch.stack(factors, -2)[..., None, :], found)
    return found


def _derivative(factors: Tensor, order: int) -> Tensor:
    """Derivatives of prod_i f_i of some order, by `order` species each: (B, R, S, ..., S)."""
    B, _, R, S = factors.shape
    chosen = torch.tensor(list(itertools.product(range(S), repeat=order)), device=factors.device)
    times = one_hot(chosen.long(), S).sum(1)  # (S^order, S)
    species = torch.arange(S, device=factors.device)
    picked = factors.movedim(1, -2)[..., times, species]  # (B, R, S^order, S)
    tensor: Tensor = picked.prod(-1).reshape(B, R, *[S] * order)
    return tensor


def _leap_length(
    network: ReactionNetwork, x: Tensor, a: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Which reactions go one by one, (B, R), and how long the others may be leapt over, (B,)  [2]"""
    used = (-network.change).clamp(min=0)
    left = (x[:, None] / used).floor().where(used > 0, torch.inf).amin(-1)  # (B, R)
    critical = (a > 0) & (left < CRITICAL)
    leapt = a.masked_fill(critical, 0.0)
    drift, spread = leapt @ network.change, leapt @ network.change.square()  # (B, S)
    allowed = (epsilon * x / _order(network, x)).clamp(min=1.0)
    tau = torch.minimum(allowed / drift.abs(), allowed.square() / spread)
    taken = (network.reactants > 0).any(0)
    tau = tau.where(taken & (spread > 0), torch.inf).amin(-1)
    short = tau * a.sum(-1) < FEW_EVENTS
    return critical | short[:, None], tau.masked_fill(short, torch.inf)


def _order(network: ReactionNetwork, x: Tensor) -> Tensor:
    """How many times the relative change of x_i the propensity it enters most steeply changes: (B, S)  [2]

    A reaction of order n that takes m of the species: (n / m) sum_{j < m} x / (x - j).
    """
    m = network.reactants
    total = torch.zeros_like(x)[:, None].expand(-1, *m.shape)  # (B, R, S)
    for j in range(int(m.max()) if m.numel() else 0):
        total = total + torch.where(
            m > j, (x / (x - j).clamp(min=1.0)).clamp(min=1.0)[:, None], 0.0
        )
    share = m.sum(-1, keepdim=True) / m.clamp(min=1)
    return (share * total).amax(1).clamp(min=1.0)


def _successors(network: ReactionNetwork, x: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Where each reaction leads from x (N, S), (N, R, S), and whether that is in the box, (N, R).

    A reaction that cannot happen leads outside.
    """
    ahead = x[:, None] + network.change.long()
    possible = (x[:, None] >= network.reactants).all(-1)
    return ahead, possible & ((ahead >= 0) & (ahead <= most)).all(-1)


def _uniformised(tick: Callable[[Tensor], Tensor], p: Tensor, mean: float) -> Tensor:
    """sum_m Poisson(m; mean) tick^m(p)"""
    most = int(mean + 8 * mean**0.5) + 20
    m = torch.arange(most + 1, dtype=torch.float64)
    weights = (torch.xlogy(m, m.new_tensor(mean)) - torch.lgamma(m + 1)).softmax(0).tolist()
    total: Tensor = weights[0] * p
    for weight in weights[1:]:
        p = tick(p)
        total = total + weight * p
    return total


def _start(
    network: ReactionNetwork, x0: Tensor, t: Tensor
) -> tuple[ReactionNetwork, Tensor, Tensor]:
    """The network with rates (B, R), states and times since the first, in double precision; D14 for
    states that cannot be."""
    x = x0.detach().double()
    wrong = (x < 0) | (x != x.round()) | ~x.isfinite()
    if bool(wrong.any()):
        b, i = wrong.nonzero()[0].tolist()
        raise DataError(
            "D14",
            f"path {b} begins with {float(x[b, i]):g} of species {i}",
            "whole numbers of at least zero",
            "Round them",
        )
    rates = network.rates.detach().to(x).expand(len(x), -1)
    return network._replace(change=network.change.to(x), rates=rates), x, elapsed(t).to(x.device)


def _no_network(came: str, wanted: str) -> DataError:
    return DataError(
        "D14", came, wanted, "Give what each reaction takes and what it changes, species by species"
    )


def _too_many(path: int, t: float, x: Tensor) -> ModelError:
    return ModelError(
        "M03",
        f"path {path} took {MOST_STEPS} steps until time {t:g}, where its largest count is "
        f"{float(x.amax()):g}",
        "a path that ends",
        "Ask for a shorter stretch of time, leap over reactions with `leap`, or check the rates",
    )
