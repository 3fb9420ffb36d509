"""Schrödinger bridges between consecutive snapshots, chained: the law of paths that is nearest to a reference.

    argmin_P KL(P || Q)  over laws of paths with the cells x_k (N_k, D) as their marginal at each t_k,
    Q: dX = f(X) dt + σ dW

Q is Markov and every snapshot is a constraint, so that P is a Markov chain of bridges, each between two
snapshots, with nothing lost. Each is an entropic plan whose cost is minus the log of the transition density,
and given its two ends a path of P is a path of Q. The transition is exact for affine f; for others it is
the Gaussian of the linear noise approximation about the path that each cell takes without noise, whose
error vanishes with σ.

References:
    [1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference
        refinement. AISTATS 2025.
    [2] Léonard. A survey of the Schrödinger problem and some of its connections with optimal transport.
        Discrete and Continuous Dynamical Systems 2014.
    [3] Pooladian & Niles-Weed. Plug-in estimation of Schrödinger bridges. 2024.
    [4] Schiebinger et al. Optimal-transport analysis of single-cell gene expression. Cell 2019: growth,
        descendants, ancestors and fates.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.cell_results import GeneTrends, gene_trends, to_anndata
from ..data.cells import CellOrigin
from ..errors import DataError, first
from ..maths import plan as plans
from ..maths.gaussian_flow import Flow, bridge_paths
from ..maths.pinned import draw, pinned, scale
from ..maths.plug_in import plug_in_drift, plug_in_score
from ..maths.resample import systematic
from ..maths.transport import Coupling
from ..maths.transport_value import value
from ..maths.unbalanced import posterior_growth

Law = Callable[[Tensor, Tensor], Flow]  # cells (N, D), times since then (S + 1,)


class Interval(NamedTuple):
    """The bridge between two snapshots."""

    start: float  # time of the first of them
    span: float  # time between them
    x: Tensor  # (N, D)  cells of the first, in double precision
    y: Tensor  # (M, D)  cells of the second
    weights: Tensor  # (N,)  of the cells of the first, which sum to one; before growth
    coupling: Coupling


class Walks(NamedTuple):
    """Paths through the snapshots, each with the mass it carries at every time."""

    t: Tensor  # (T,)
    x: Tensor  # (n, T, D)
    weights: Tensor  # (n, T)  with a sum of one at every time; all equal where nothing grows


@dataclasses.dataclass(frozen=True)
class StaticBridge:
    """The chain of bridges: what can be asked of it are paths, populations, fields and fates.

    Args:
        intervals: in order of time, each starting where the one before ends.
        law: the Gaussian law of the reference from each of several cells.
        field: drift of the reference, (P, D) -> (P, D).
        sigma: its volatility.
        nodes: times in an interval where its drift is looked at, and steps that it is solved in.
    """

    intervals: tuple[Interval, ...]
    law: Law
    field: Callable[[Tensor], Tensor]
    sigma: float
    nodes: int

    @property
    def times(self) -> list[float]:
        """Of the snapshots: K."""
        return [step.start for step in self.intervals] + [self._end]

    @property
    def cost(self) -> Tensor:
        """Σ_k min_π Σ_ij π_ij (log π_ij / (a_i b_j) - log q(y_j | x_i)): -log likelihood of the snapshots, in nats per cell.

        Up to what does not depend on f, it is the KL divergence of the bridge from its reference.
        """
        return torch.stack([value(step.coupling) for step in self.intervals]).sum()

    def sample_paths(
        self,
        times: Tensor | Sequence[float],
        n: int,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Walks:
        """n draws of whole paths at the times (T,): x_0, then x_{k+1} ~ π_k(· | x_k), and bridges between.

        After the last snapshot paths follow the reference.

        Args:
            times: not decreasing, from the first snapshot on.
            start: numbers (n,) of the cells that they start from, in the last snapshot at or before
                the first time; None draws them by weight.
            generator: None is torch's own.
        """
        at = torch.as_tensor(times, dtype=torch.float64)
        self._require_times(at)
        _require_paths(n)
        k = min(self._interval(float(at[0])), len(self.intervals) - 1)
        step = self.intervals[k]
        weights = step.weights
        if start is not None:
            _require_cells(start, n, "start", len(step.x))
        i = systematic(weights, n, generator) if start is None else start
        mass, found = step.x.new_ones(n), []
        for step in self.intervals[k:]:
            last = step is self.intervals[-1]
            inside = (at >= step.start) & ((at < step.start + step.span) | last & (at <= self._end))
            j = plans.partners(step.coupling, i, generator)
            ratio = plans.row_mass(step.coupling)[i] / step.weights[i]
            if inside.any():
                share = (at[inside] - step.start) / step.span
                x = self._between(step, i, j, at[inside] - step.start, generator)
                found.append((x, mass[:, None] * ratio[:, None] ** share))
            i, mass = j, mass * ratio
            if not bool((at >= step.start + step.span).any()):
                break
        later = at[at > self._end]
        if len(later):
            x = self._onwards(self.intervals[-1].y[i], later - self._end, generator)
            found.append((x, mass[:, None].expand(-1, len(later))))
        x, mass = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return Walks(at, x, mass / mass.sum(0))

    def smooth_paths(
        self,
        times: Tensor | Sequence[float],
        n: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Walks:
        """n paths with a continuous velocity through cells that the chain joins, x_0, then x_{k+1} ~ π_k(· | x_k).

        Between the snapshots they are an integrated Wiener process pinned at the cells, its scale estimated from all
        paths (`maths.pinned`), in place of the reference. Snapshots are kept exactly; the law of paths
        is no longer the Schrödinger bridge. With two snapshots they are straight lines.
        """
        at = torch.as_tensor(times, dtype=torch.float64)
        self._require_times(at)
        pins = self.sample_paths(self.times, n, generator=generator)
        law = pinned(pins.t, at)
        x = draw(law, pins.x, scale(law, pins.x), generator)
        right = torch.searchsorted(pins.t, at).clamp(1, len(pins.t) - 1)
        share = ((at - pins.t[right - 1]) / (pins.t[right] - pins.t[right - 1])).clamp(max=1.0)
        mass = torch.lerp(pins.weights[:, right - 1].log(), pins.weights[:, right].log(), share)
        return Walks(at, x, mass.softmax(0))

    def interpolate(self, t: float, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n cells of the population at time t: (n, D)."""
        return populations(self.sample_paths([t], n, generator=generator), generator)[:, 0]

    def drift(self, x: Tensor, t: float) -> Tensor:
        """b(x, t) = f(x) + σ² ∇ log Σ_j b_j exp(g_j) q(y_j, t_{k+1} | x, t), the drift of the bridge at (Q, D)  [3]

        With it, dX = b dt + σ dW has the snapshots as its marginals. From the last snapshot on it is f.
        Just before a snapshot it points at single cells of it, σ² / (t_{k+1} - t) strong.
        """
        k = self._interval(t)
        self._require_points(x)
        points = x.double()
        if k == len(self.intervals):
            return self.field(points).to(x)
        step = self.intervals[k]
        left = step.start + step.span - t
        ahead = self.law(points, _until(left))
        return plug_in_drift(ahead, step.y, step.coupling, self.sigma).to(x)

    def score(self, x: Tensor, t: float) -> Tensor:
        """∇ log p_t(x) of the population strictly between two snapshots, at (Q, D)."""
        k = self._interval(t)
        self._require_points(x)
        if k == len(self.intervals) or t == self.intervals[k].start:
            raise DataError(
                "D17",
                f"the score is asked for at {t:g}, where the population is known by single cells only",
                f"a time strictly between two snapshots: {_listed(self.times)}",
                "Ask a little later, or amortise it with BridgeMatching",
            )
        step = self.intervals[k]
        points = x.double()
        behind = self.law(step.x, _until(t - step.start))
        ahead = self.law(points, _until(step.start + step.span - t))
        return plug_in_score(points, behind, ahead, step.y, step.coupling).to(x)

    def push(self, mass: Tensor, t: float, until: float) -> Tensor:
        """Descendants: where mass (N_k,) on the cells seen at t is at a later snapshot, (N_l,); its sum is kept  [4]"""
        self._require_order(t, until)
        steps = self.intervals[self._snapshot(t) : self._snapshot(until)]
        if steps:
            _require_length(mass, len(steps[0].x), "mass")
        for step in steps:
            mass = plans.push(step.coupling, mass)
        return mass

    def pull(self, mass: Tensor, t: float, back: float) -> Tensor:
        """Ancestors: where mass (N_l,) on the cells seen at t was at an earlier snapshot, (N_k,)  [4]"""
        self._require_order(back, t)
        steps = self.intervals[self._snapshot(back) : self._snapshot(t)]
        if steps:
            _require_length(mass, len(steps[-1].y), "mass")
        for step in reversed(steps):
            mass = plans.pull(step.coupling, mass)
        return mass

    def fate(self, classes: Tensor, number: int | None = None) -> list[Tensor]:
        """P(the descendants of a cell at the end are of class c): K tensors (N_k, C), the last of zeros and ones.

        Args:
            classes: (N_K,) class numbers of the cells of the last snapshot; negative ones have none.
            number: C; None is one more than the largest.
        """
        _require_length(classes, len(self.intervals[-1].y), "classes")
        count = max(int(classes.max()) + 1, 1) if number is None else number
        known = torch.zeros(len(classes), count, dtype=torch.float64)
        known[classes >= 0] = torch.nn.functional.one_hot(
            classes[classes >= 0].long(), count
        ).double()
        found = [known]
        for step in reversed(self.intervals):
            share = plans.apply(step.coupling, found[0])
            found.insert(0, share / plans.row_mass(step.coupling)[:, None])
        return found

    def growth(self) -> list[Tensor]:
        """Factor per unit of time by which each cell grew, relative to the mean: a tensor (N_k,) per interval."""
        return [posterior_growth(step.coupling, step.weights, step.span) for step in self.intervals]

    def cell_drift(self) -> list[Tensor]:
        """The drift at the cells themselves: K tensors (N_k, D).

        The last snapshot has no interval ahead of it; there it is the mean way that its cells came
        from the snapshot before, per unit of time.
        """
        ahead = [self.drift(step.x, step.start) for step in self.intervals]
        last = self.intervals[-1]
        origin = plans.barycentric(plans.transposed(last.coupling), last.x)
        return [*ahead, (last.y - origin) / last.span]

    def to_anndata(self, adata: Any, origin: CellOrigin, **record: Any) -> None:
        """Writes the drift (velocity) at every cell, its growth and its mass into `adata`, in its own order and units.

        obsm["sb_drift"] and obsm["velocity_pca"], obs["sb_growth"], obs["sb_mass"], uns["sb"]; cells that were not
        given get NaN.

        Args:
            origin: from `from_anndata`, for these snapshots or for more of them.
            record: what is kept besides in uns["sb"], and options of `cell_results.to_anndata`.
        """
        mass = [plans.row_mass(step.coupling) for step in self.intervals]
        last = self.intervals[-1].coupling
        to_anndata(
            adata,
            origin,
            times=self.times,
            drift=self.cell_drift(),
            growth=self.growth(),
            mass=[*mass, plans.row_mass(plans.transposed(last))],
            sigma=self.sigma,
            **record,
        )

    def gene_trends(
        self,
        adata: Any,
        origin: CellOrigin,
        genes: Sequence[str],
        times: Tensor | Sequence[float],
        n: int = 500,
        *,
        generator: torch.Generator | None = None,
    ) -> GeneTrends:
        """Mean and quantiles of genes over the population at each time, from n paths."""
        cells = populations(self.sample_paths(times, n, generator=generator), generator)
        return gene_trends(adata, origin, times, cells, genes)

    def _between(
        self,
        step: Interval,
        i: Tensor,
        j: Tensor,
        at: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Bridges from cells i to cells j at times (T,) since the start: (n, T, D)."""
        nodes, place = torch.cat([_until(step.span), at]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        flow = self.law(step.x[i], nodes)
        paths = bridge_paths(flow, torch.arange(len(i)), step.y[j], generator)
        return paths[:, place[2:]]

    def _onwards(self, x: Tensor, at: Tensor, generator: torch.Generator | None) -> Tensor:
        """The reference from cells (n, D), by Euler steps no longer than those of the last interval: (n, T, D)."""
        longest = self.intervals[-1].span / self.nodes
        found, now = [], 0.0
        for t in at.tolist():
            count = max(1, int(-(-(t - now) // longest)))
            h = (t - now) / count
            for _ in range(count):
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + h * self.field(x) + self.sigma * h**0.5 * noise
            found.append(x)
            now = t
        return torch.stack(found, 1)

    @property
    def _end(self) -> float:
        return self.intervals[-1].start + self.intervals[-1].span

    def _interval(self, t: float) -> int:
        """Number of the interval that t lies in, K - 1 from the last snapshot on."""
        self._require_times(torch.tensor([t], dtype=torch.float64))
        return sum(t >= s for s in self.times) - 1

    def _snapshot(self, t: float) -> int:
        """Number of the snapshot seen at t."""
        near = [k for k, s in enumerate(self.times) if abs(s - t) <= 1e-9 * max(1.0, abs(s))]
        if not near:
            raise DataError(
                "D17", f"no snapshot was seen at {t:g}", f"one of {_listed(self.times)}", ""
            )
        return near[0]

    def _require_points(self, x: Tensor) -> None:
        dims = self.intervals[0].x.shape[1]
        if x.ndim != 2 or x.shape[1] != dims:
            raise DataError(
                "D14",
                f"places of shape {tuple(x.shape)} came",
                f"places (Q, {dims}), as the cells have",
                "",
            )

    def _require_order(self, early: float, late: float) -> None:
        if self._snapshot(early) > self._snapshot(late):
            raise DataError(
                "D17",
                f"mass is to go from {early:g} to {late:g}",
                "an earlier snapshot first",
                "`push` goes ahead in time and `pull` back",
            )

    def _require_times(self, at: Tensor) -> None:
        if at.ndim != 1 or not len(at):
            raise DataError(
                "D17", f"times of shape {tuple(at.shape)} are asked for", "a list of times", ""
            )
        bad = ~at.isfinite() | (at < self.times[0])
        if bad.any() or (at.diff() < 0).any():
            raise DataError(
                "D17",
                f"times {_listed(at.tolist())} are asked for",
                f"finite times that do not decrease, from the first snapshot at {self.times[0]:g} on",
                "Nothing is known of cells before they were first seen",
            )


def populations(walks: Walks, generator: torch.Generator | None = None) -> Tensor:
    """Equal cells in place of weighted ones: (n, T, D), drawn anew at every time where weights differ."""
    n = len(walks.x)
    if bool(((walks.weights * n - 1).abs() < 1e-3).all()):  # within the tolerance of the plans
        return walks.x
    drawn = [systematic(w, n, generator) for w in walks.weights.unbind(1)]
    return walks.x.take_along_dim(torch.stack(drawn, 1)[..., None], 0)


def _require_cells(numbers: Tensor, n: int, name: str, cells: int) -> None:
    """D14 unless these are n numbers of so many cells."""
    if len(numbers) != n or bool(((numbers < 0) | (numbers >= cells)).any()):
        raise DataError(
            "D14",
            f"`{name}` has {len(numbers)} numbers from {int(numbers.min())} to {int(numbers.max())}",
            f"{n} numbers of cells, 0 to {cells - 1}",
            "",
        )


def _require_length(values: Tensor, count: int, name: str) -> None:
    if values.shape != (count,):
        raise DataError(
            "D14",
            f"`{name}` has the shape {tuple(values.shape)}",
            f"one for each of the {count} cells of that snapshot",
            "",
        )


def _require_paths(n: int) -> None:
    if n < 1:
        raise DataError("D01", f"{n} paths are asked for", "one at least", "")


def _until(span: float) -> Tensor:
    return torch.tensor([0.0, span], dtype=torch.float64)


def _listed(times: Sequence[float]) -> str:
    return first([f"{t:g}" for t in times], 6)
