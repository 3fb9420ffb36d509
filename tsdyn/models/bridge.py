"""Trajectories from snapshots: Schrödinger bridges whose reference is learned from them.

    min_θ min_P KL(P || Q_θ)  over laws of paths P with the snapshots as marginals,   Q_θ: dX = f_θ(X) dt + σ dW

Two projections in turn lower it [1]: P given θ, which is a chain of bridges between consecutive snapshots; and
θ given P, which is the least-squares fit of f_θ to the drift of these bridges.

References:
    [1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference
        refinement. AISTATS 2025.
    [2] Zhang. Learning stochastic dynamics from snapshots through regularized unbalanced optimal
        transport and linear references. 2024.
"""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Snapshots, merge_snapshots, snapshots_of
from ..data.snapshots import require_snapshots
from ..errors import ConfigError, ModelError
from ..maths.cost import Cost
from ..maths.gaussian_flow import affine_flow, linear_noise_flow, transition_cost
from ..maths.transport import Coupling, sinkhorn
from ..maths.unbalanced import grown, learn_growth
from .base import Model
from .bridge_targets import Targets, affine_targets, drawn_targets
from .reference_base import Reference
from .sbirr import Ends, IteratedBridge, increments, iterate
from .static_bridge import Interval, Law, StaticBridge, populations


class _Pair(NamedTuple):
    """Two snapshots, one after the other, in double precision; weights sum to one."""

    start: float
    span: float
    x: Tensor  # (N, D)
    y: Tensor  # (M, D)
    a: Tensor  # (N,)
    b: Tensor  # (M,)
    growth: Tensor  # (N,)  factor per unit of time


class SnapshotBridge(Model):
    """The Schrödinger bridge through the snapshots, with the reference that fits them best.

    The first round starts from the reference as it is: Brownian motion, where its drift is zero.
    Rotations that leave every snapshot in place, and σ, cannot be learned from snapshots; look at
    `reference.identifiability`.

    Args:
        reference: the family of drifts f_θ; `Zero()` for Brownian motion, in whose place nothing is learned.
        sigma: σ, in the units of x per root of the unit of time; `suggest_sigma(snapshots)` helps.
        method: "static" finds P from entropic plans; "sbirr" as published, by half bridges of fitted drifts, for
            comparison: slow, and without weights, growth or fields.
        rounds: of the two projections; 0 keeps the reference as it is.
        nodes: times in an interval where drifts are compared; where f is not affine, also the steps that its law
            is solved in.
        pairs: paths that are drawn through each interval in a round, for the fit of θ. An affine f needs none.
        tau: how hard the weights of the cells of an interval's start and end are kept, each in (0, 1]: λ / (λ + ε) of
            a KL penalty λ; 1 keeps them exactly.
        growth_rounds: how often growth is learned anew from the plan of each interval; needs a first tau below one.
        smooth: draw paths with a continuous velocity, `StaticBridge.smooth_paths`, for cells that do not jitter.
        tolerance: largest error of the marginals of a plan; ten times as much while θ moves.
        step: of "sbirr" only: length of an Euler step in units of time. n steps of N cells take (n N)³ / 3 operations.
        half_bridges: of "sbirr" only: pairs of them in each interval and round.
    """

    def __init__(
        self,
        reference: Reference,
        sigma: float,
        *,
        method: Literal["static", "sbirr"] = "static",
        rounds: int = 8,
        nodes: int = 20,
        pairs: int = 300,
        tau: tuple[float, float] = (1.0, 1.0),
        growth_rounds: int = 0,
        smooth: bool = False,
        tolerance: float = 1e-4,
        step: float | None = None,
        half_bridges: int = 10,
    ):
        super().__init__()
        if not sigma > 0:
            raise ConfigError(
                "X01",
                f"SnapshotBridge got sigma={sigma}",
                "a positive number",
                "`tsdyn.suggest_sigma(snapshots)` is a start",
            )
        if method not in ("static", "sbirr") or (method == "sbirr") != (step is not None):
            raise ConfigError(
                "X01",
                f"SnapshotBridge got method={method!r} with step={step}",
                'a step in units of time for method="sbirr", and none for "static"',
                "",
            )
        if not isinstance(tau, tuple | list) or len(tau) != 2 or any(not 0 < u <= 1 for u in tau):
            raise ConfigError(
                "X01",
                f"SnapshotBridge got tau={tau}",
                "two numbers in (0, 1], for start and end",
                "",
            )
        if growth_rounds > 0 and tau[0] == 1:
            raise ConfigError(
                "X01",
                f"SnapshotBridge got growth_rounds={growth_rounds} with tau={tuple(tau)}",
                "a first tau below one: else the weights of the cells may not change, and no growth shows",
                "Try tau=(0.9, 0.999)",
            )
        counts = {"nodes": nodes, "pairs": pairs, "half_bridges": half_bridges}
        least = {**dict.fromkeys(counts, 1), "rounds": 0, "growth_rounds": 0}
        counts |= {"rounds": rounds, "growth_rounds": growth_rounds}
        small = [f"{name}={value}" for name, value in counts.items() if value < least[name]]
        if small or not tolerance > 0 or (step is not None and not step > 0):
            raise ConfigError(
                "X01",
                f"SnapshotBridge got {', '.join(small) or f'tolerance={tolerance}, step={step}'}",
                "positive numbers; rounds and growth_rounds may be zero",
                "",
            )
        self.reference, self.sigma, self.rounds = reference, sigma, rounds
        self.smooth = smooth
        self.method, self.step, self.half_bridges = method, step, half_bridges
        self.nodes, self.pairs, self.tau = nodes, pairs, (tau[0], tau[1])
        self.growth_rounds, self.tolerance = growth_rounds, tolerance
        self.history: Tensor
        self.register_buffer("history", torch.full((rounds + 1,), torch.nan, dtype=torch.float64))

    def on_epoch(self, epoch: int, train: tuple[Snapshots, Snapshots]) -> None:
        """All rounds, in the first epoch. `history` keeps KL + constant after each, in nats per cell."""
        if not bool(self.history.isnan().all()):
            return
        snapshots, start = train[0], None
        for k in range(self.rounds):
            start = self.solve(snapshots, start=start, tolerance=10 * self.tolerance)
            self.history[k] = start.cost
            targets = (
                self._targets(start) if self.step is None else increments(self.iterate(snapshots))
            )
            self.reference.refit(*targets)
        self.history[self.rounds] = self.solve(snapshots, start=start).cost

    def solve(
        self,
        snapshots: Snapshots,
        *,
        start: StaticBridge | None = None,
        tolerance: float | None = None,
    ) -> StaticBridge:
        """The bridge through these snapshots under the reference as it is now.

        Args:
            start: the bridge of a nearby reference, to start from.
            tolerance: None is that of the model.
        """
        reference = copy.deepcopy(self.reference)  # the bridge stays as it is when θ moves on
        law = _law(reference, self.sigma, self.nodes, snapshots.x.shape[-1])
        goal = self.tolerance if tolerance is None else tolerance
        steps = []
        for k, pair in enumerate(_pairs(snapshots)):
            cost = transition_cost(law(pair.x, pair.x.new_tensor([0.0, pair.span])), pair.y)
            warm = None if start is None else start.intervals[k].coupling.g
            coupling = self._coupling(cost, pair, warm, goal)
            steps.append(Interval(pair.start, pair.span, pair.x, pair.y, pair.a, coupling))
        return StaticBridge(tuple(steps), law, reference.drift, self.sigma, self.nodes)

    def iterate(self, snapshots: Snapshots) -> IteratedBridge:
        """The bridge through these snapshots by half bridges, for method="sbirr"."""
        if self.step is None:
            raise ModelError(
                "M05",
                'SnapshotBridge(method="static") has no half bridges',
                'one of method="sbirr"',
                "Call `solve`",
            )
        if snapshots.weights is not None or snapshots.growth is not None:
            raise ModelError(
                "M05",
                "half bridges know no weights and no growth, and the snapshots have some",
                "cells that all count the same",
                'Use method="static", or take weights and growth away',
            )
        ends = [Ends(p.start, p.span, p.x, p.y) for p in _pairs(snapshots)]
        return iterate(
            ends,
            self.reference.drift,
            self.sigma,
            step=self.step,
            iterations=self.half_bridges,
        )

    def loss(self, given: Snapshots, want: Snapshots) -> Tensor:
        """(cost of given and want together - cost of given without the times of want) / values of a cell of want.

        The cost, `StaticBridge.cost`, is -log of the likelihood of the snapshots given the first, in nats per
        cell; so that this is -log p(want | given), per cell and coordinate, averaged over snapshots.
        """
        rest = snapshots_of(given, ~torch.isin(given.t, want.t))
        cost = self._cost(merge_snapshots(rest, want)) - self._cost(rest)
        return (cost / (len(want.t) * want.x.shape[-1])).to(want.x.dtype)

    def sample(self, given: Snapshots, at: Tensor, n: int) -> Tensor:
        """n paths through what is given, at times (K',): (n, K', D)."""
        order = at.argsort()
        if self.step is not None:
            walks = self.iterate(given).sample_paths(at[order], n)
        elif self.smooth:
            walks = self.solve(given).smooth_paths(at[order], n)
        else:
            walks = self.solve(given).sample_paths(at[order], n)
        found = populations(walks)
        return found[:, order.argsort()].to(given.x.dtype)

    def _cost(self, snapshots: Snapshots) -> Tensor:
        if len(snapshots.t) < 2:
            return snapshots.t.new_zeros(()).double()
        return self.solve(snapshots).cost

    def _targets(self, bridge: StaticBridge) -> Targets:
        affine = self.reference.coefficients(bridge.intervals[0].x.shape[1])
        if affine is not None:
            return affine_targets(bridge, *affine)
        return drawn_targets(bridge, self.pairs)

    def _coupling(self, cost: Cost, pair: _Pair, warm: Tensor | None, tolerance: float) -> Coupling:
        if not self.growth_rounds:
            a = grown(pair.a, pair.growth, pair.span)
            return sinkhorn(cost, a, pair.b, tau=self.tau, start=warm, tolerance=tolerance)
        plan, _ = learn_growth(
            cost,
            pair.a,
            pair.b,
            1.0,
            self.tau,
            pair.growth,
            pair.span,
            rounds=self.growth_rounds,
            start=warm,
            tolerance=tolerance,
        )
        return plan


def _law(reference: Reference, sigma: float, nodes: int, dims: int) -> Law:
    """The law of the reference from each of several cells: exact where the drift is affine."""
    affine = reference.coefficients(dims)
    if affine is not None:
        return lambda x, t: affine_flow(x, *affine, sigma, t)
    return lambda x, t: linear_noise_flow(x, reference.drift, reference.jacobian, sigma, t, nodes)


def _pairs(snapshots: Snapshots) -> Iterator[_Pair]:
    """Each snapshot with the next.

    Raises:
        DataError: D20 for fewer than two snapshots, empty ones, or times that do not increase; D14 for
            cells, weights or growth that are no numbers.
    """
    require_snapshots(snapshots)
    t = snapshots.t.double().tolist()
    clouds = [_cloud(snapshots, k) for k in range(len(t))]
    for k, ((x, a, growth), (y, b, _)) in enumerate(pairwise(clouds)):
        yield _Pair(t[k], t[k + 1] - t[k], x, y, a, b, growth)


def _cloud(snapshots: Snapshots, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (N_k, D), their shares and their growth (N_k,) of one snapshot."""
    real = snapshots.mask[k]
    x = snapshots.x[k][real].double()
    weights = x.new_ones(len(x)) if snapshots.weights is None else snapshots.weights[k][real].to(x)
    growth = x.new_ones(len(x)) if snapshots.growth is None else snapshots.growth[k][real].to(x)
    return x, weights / weights.sum(), growth
