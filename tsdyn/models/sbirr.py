"""Schrödinger bridges through snapshots by iterated half bridges, as published: a row to compare with.

Between consecutive snapshots a drift in each direction is fitted by Gaussian processes (`maths.half_bridge`).
The paths are the cells of every snapshot, carried forward through all later intervals and backward through
all earlier ones, so that errors add up over intervals. It takes a Cholesky factorisation of all rows of all
paths per half bridge; `static_bridge` finds the same law from plans, nearer and some hundred times faster.

Two things are not as published: the reference is fitted to the increments by its own least squares, to the
optimum, where the published code takes 20 steps of Adam; and no graph of derivatives is kept meanwhile.

[1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference refinement.
    AISTATS 2025.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..maths.half_bridge import HalfBridges, along, euler, half_bridges
from ..maths.resample import systematic
from .bridge_targets import Targets
from .static_bridge import Walks


class Ends(NamedTuple):
    """Two snapshots, one after the other."""

    start: float
    span: float
    x: Tensor  # (N, D)
    y: Tensor  # (M, D)


@dataclasses.dataclass(frozen=True)
class IteratedBridge:
    """All cells of all snapshots on one grid of times."""

    t: Tensor  # (T,)
    x: Tensor  # (sum of all N, T, D)

    def sample_paths(
        self,
        times: Tensor | Sequence[float],
        n: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Walks:
        """n of the paths at the times (T',) within the grid, on straight lines between its points."""
        at = torch.as_tensor(times, dtype=self.t.dtype)
        if bool((at < self.t[0]).any()) or bool((at > self.t[-1]).any()):
            raise DataError(
                "D17",
                f"times from {float(at.min()):g} to {float(at.max()):g} are asked for",
                f"times between the first snapshot and the last, {float(self.t[0]):g} to {float(self.t[-1]):g}",
                'Use method="static" for later ones',
            )
        i = systematic(self.t.new_ones(len(self.x)), n, generator)
        right = torch.searchsorted(self.t, at).clamp(1, len(self.t) - 1)
        share = ((at - self.t[right - 1]) / (self.t[right] - self.t[right - 1]))[:, None]
        x = self.x[i]
        found = torch.lerp(x[:, right - 1], x[:, right], share)
        return Walks(at, found, found.new_full((n, len(at)), 1 / n))


def iterate(
    ends: Sequence[Ends],
    reference: Callable[[Tensor], Tensor],
    sigma: float,
    *,
    step: float,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> IteratedBridge:
    """The paths of all cells, from half bridges between all snapshots.

    Args:
        reference: its drift, (N, D) -> (N, D).
        step: length of an Euler step; 0.01 to 0.05 of a unit of time as published, and n steps of N cells cost
            (n N)³ / 3 per half bridge.
        iterations: pairs of half bridges; 10 as published.
    """
    legs = [
        half_bridges(
            lambda x, _: reference(x),
            leg.x,
            leg.y,
            leg.span,
            step=step,
            sigma=sigma,
            iterations=iterations,
            generator=generator,
        )
        for leg in ends
    ]
    clouds = [leg.x for leg in ends] + [ends[-1].y]
    paths = [
        _carried(cells, k, legs, ends, sigma, step, generator) for k, cells in enumerate(clouds)
    ]
    grids = [_grid(leg, step) for leg in ends]
    t = torch.cat([g[:-1] for g in grids] + [grids[-1][-1:]])
    return IteratedBridge(t, torch.cat(paths))


def increments(bridge: IteratedBridge) -> Targets:
    """(X_{t+h} - X_t) / h at X_t, for every step of every path, weighted by h."""
    h = bridge.t.diff()
    velocity = bridge.x.diff(dim=1) / h[:, None]
    weights = (h / len(bridge.x)).expand(len(bridge.x), -1)
    return Targets(bridge.x[:, :-1].flatten(0, 1), velocity.flatten(0, 1), weights.flatten())


def _carried(
    cells: Tensor,
    k: int,
    legs: list[HalfBridges],
    ends: Sequence[Ends],
    sigma: float,
    step: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Cells of snapshot k at all times: (N_k, T, D)."""
    before: list[Tensor] = []
    now = cells
    for leg, own in zip(reversed(ends[:k]), reversed(legs[:k]), strict=True):
        _, x = euler(along(own.backward), now, leg.span, step, sigma, generator)
        before.insert(0, x.flip(1)[:, :-1])
        now = x[:, -1]
    after, now = [cells[:, None]], cells
    for leg, own in zip(ends[k:], legs[k:], strict=True):
        _, x = euler(along(own.forward), now, leg.span, step, sigma, generator)
        after.append(x[:, 1:])
        now = x[:, -1]
    return torch.cat(before + after, 1)


def _grid(leg: Ends, step: float) -> Tensor:
    t, _ = euler(lambda x, _: 0 * x, leg.x[:1], leg.span, step, 0.0)
    return leg.start + t
