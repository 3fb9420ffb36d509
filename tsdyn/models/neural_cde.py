"""Neural controlled differential equations: a hidden state driven by the path of the data.

[1] Kidger, Morrill, Foster & Lyons. Neural controlled differential equations for irregular time
    series. NeurIPS 2020.
[2] Morrill, Kidger, Yang & Lyons. Neural controlled differential equations for online prediction
    tasks. arXiv:2106.11028: which path to choose.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..batch import Paths, compact, merge, query
from ..maths.grid import grid
from ..maths.near import near
from ..maths.solve import require_finite, solve
from ..maths.spline import Path, derivative, evaluate, hermite, linear, natural, rectilinear
from ..maths.steps import Noise, Step
from ..nets import local_features, mlp
from .pointwise import Pointwise, readout

Kind = Literal["linear", "rectilinear", "hermite", "natural"]
PATHS = {"linear": linear, "hermite": hermite, "natural": natural}
Side = Literal["left", "right"]
Rate = Callable[[Tensor, Side], Tensor]  # dX / dt at times (B, N), from one side: (B, N, C)
Matrix = Callable[[Tensor], Tensor]  # f: (B, H) -> (B, H, C)


def controlled_step(f: Matrix) -> Step:
    """z + (k1 + 2 k2 + 2 k3 + k4) / 6 for dz = f(z) dX: the classical step, of order 4.

    Three controls (N, B, C): dX / dt at the start, in the middle and at the end of each step.
    """

    def along(z: Tensor, dx: Tensor) -> Tensor:
        return (f(z) @ dx[..., None])[..., 0]

    def prepare(t: Tensor, h: Tensor, noise: Noise | None, *rates: Tensor) -> tuple[Tensor, ...]:
        return tuple(h * rate for rate in rates)

    def advance(
        t: Tensor, z: Tensor, u: tuple[Tensor, ...], start: Tensor, middle: Tensor, end: Tensor
    ) -> Tensor:
        k1 = along(z, start)
        k2 = along(z + k1 / 2, middle)
        k3 = along(z + k2 / 2, middle)
        return z + (k1 + 2 * (k2 + k3) + along(z + k3, end)) / 6

    return Step(prepare, advance, needs="nothing")


def solve_cde(f: Matrix, z0: Tensor, rate: Rate, t: Tensor, substeps: int = 1) -> Tensor:
    """States of dz = f(z) dX at times t (B, T), from z0 (B, H) at the first of them: (B, T, H).

    Each gap between two times is walked in `substeps` equal steps. Of order 4 if X is smooth inside
    the gaps: let the knots of X be among the times. Each end of a gap is read from within.

    Raises:
        DataError: D17 for unusable times.
        ModelError: M03 if the solution blows up.
    """
    now = grid(t, substeps=substeps)
    start = now.t[..., 0].T  # (B, N)
    # the next step starts where this one ends, to the last digit: no step reaches over a knot
    end = torch.cat([start[:, 1:], t[:, -1:]], 1)[:, : start.shape[1]]
    sides: list[tuple[Tensor, Side]] = [(start, "right"), ((start + end) / 2, "right")]
    rates = [rate(at, side).transpose(0, 1) for at, side in [*sides, (end, "left")]]
    return require_finite(solve(controlled_step(f), z0, now, controls=tuple(rates)), now)


class _Drive(NamedTuple):
    """The control of a batch of series."""

    rate: Rate
    first: Tensor  # (B, C - 1)  X at the start, without time
    t: Tensor  # (B, R)  the times of a solve, in the clock of the control
    asked: Tensor  # (B, Q)  which of them were asked for


class CDEEncoder(nn.Module):
    """dz = f(z) dX(t), z(t0) = zeta(X(t0)): what a series was up to a time, as H numbers  [1]

    X holds the time since the first row, the interpolated coordinates, the number of observations so
    far of each (so that what is missing, and how often, can be told), and covariates. f ends in tanh,
    so that z cannot run away faster than X moves; X moves far in a long series, so that z is handed
    out with its mean and spread over the H numbers normalised.

    Paths: "rectilinear" reads no later row than z(t) may know; "linear" and "hermite" lead to the next
    observation; "natural" reads the whole series. The smooth ones, "hermite" and "natural", are for rows
    at nearly even distances: two noisy values close in time make a slope that throws them far off.

    z does not depend on which other times are asked for, but for the error of the steps; before the
    first row it is z(t0), after the last it moves on with time.

    Args:
        dim: coordinates of the series, D.
        hidden: size of z, H.
        width: of the hidden layers of f and zeta.
        depth: hidden layers of f.
        path: how the observations are joined.
        counts: whether the numbers of observations are part of X.
        covariates: time-varying covariates, C, known at every row.
        substeps: solver steps from each row or asked time to the next.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 32,
        width: int = 64,
        depth: int = 1,
        path: Kind = "linear",
        counts: bool = True,
        covariates: int = 0,
        substeps: int = 1,
    ):
        super().__init__()
        self.hidden, self.path, self.counts, self.covariates = hidden, path, counts, covariates
        self.substeps = substeps
        self.channels = dim * (1 + counts) + covariates
        self.start = mlp(self.channels, width, hidden, depth=1)
        matrix = mlp(hidden, width, hidden * (1 + self.channels), depth)
        with torch.no_grad():  # start slowly, near zeta(X(t0))
            for p in matrix[-1].parameters():
                p.mul_(0.1)
        self.matrix = nn.Sequential(*matrix, nn.Tanh(), nn.Unflatten(-1, (hidden, -1)))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, given: Paths) -> Tensor:
        """z at the last observed row (with covariates: the last row) of each series: (B, H)."""
        given = self._rows(given)
        return self.along(given, given.t[:, -1:])[:, 0]

    def along(self, given: Paths, at: Tensor) -> Tensor:
        """z at times (B, Q) in any order: (B, Q, H)."""
        drive = self._drive(self._rows(given), at)
        z = solve_cde(self.matrix, self.start(drive.first), drive.rate, drive.t, self.substeps)
        return self.norm(z.take_along_dim(drive.asked[..., None], 1))  # type: ignore[no-any-return]

    def _rows(self, given: Paths) -> Paths:
        """Without the rows that say nothing."""
        return given if self.covariates else compact(given)

    def _drive(self, given: Paths, at: Tensor) -> _Drive:
        seen = self._channels(given)
        at = torch.maximum(at.to(seen.t.dtype), seen.t[:, :1])
        both, asked = merge(seen, query(at, seen))
        if self.path == "rectilinear":
            stairs = rectilinear(both.t, both.x, both.mask)
            moves = stairs.knots[:, 0]
            first = evaluate(stairs, moves[:, :1])[:, 0, 1:]
            return _Drive(lambda s, side: derivative(stairs, s, side), first, moves, 2 * asked)
        path = PATHS[self.path](seen.t, seen.x, seen.mask)
        return _Drive(_with_time(path), evaluate(path, seen.t[:, :1])[:, 0], both.t, asked)

    def _channels(self, given: Paths) -> Paths:
        """All that X is made of but time, as coordinates."""
        parts = [(given.x, given.mask)]
        if self.counts:
            row = given.mask.any(-1, keepdim=True).expand_as(given.mask)
            parts.append((given.mask.cumsum(1).to(given.x.dtype), row))
        if self.covariates and given.covariates is not None:
            known = torch.ones_like(given.covariates, dtype=torch.bool)
            parts.append((given.covariates, known))
        x, mask = (torch.cat(each, -1) for each in zip(*parts))
        return Paths(given.t, x, mask)


def _with_time(path: Path) -> Rate:
    """The rate of (t, X): time goes on where X ends."""

    def rate(at: Tensor, side: Side) -> Tensor:
        slope = derivative(path, at, side)
        return torch.cat([torch.ones_like(slope[..., :1]), slope], -1)

    return rate


class NeuralCDE(Pointwise):
    """x(t) ~ N(l(t) + m(z(t), c(t)), s(z(t), c(t))^2), z the state of a `CDEEncoder`  [1]

    l(t) is the linear interpolation of the given part, constant beyond its ends; c(t) tells the nearest
    given values of every channel on both sides and their distances in time. The loss is the negative log
    density of every single value; draws are independent of each other given the law of each value, which
    `posterior` gives without drawing.

    Works in standard units: wrap it in `Scaled`. Choose it for nonlinear dynamics, at one solve per series
    however many draws; for short or near-linear series `Linear` is as good and takes no training.

    Args:
        dim, hidden, width, depth, path, counts, covariates, substeps: as in `CDEEncoder`.
        neighbours: given values used on either side of each channel, k.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 32,
        width: int = 64,
        depth: int = 1,
        path: Kind = "linear",
        counts: bool = True,
        covariates: int = 0,
        substeps: int = 1,
        neighbours: int = 4,
    ):
        super().__init__()
        self.neighbours = neighbours
        self.encoder = CDEEncoder(dim, hidden, width, depth, path, counts, covariates, substeps)
        self.readout = readout(hidden + (6 * neighbours + 1) * dim, width, dim)

    def law(self, given: Paths, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at times (B, T): (B, T, D) each."""
        at = at.to(given.x.dtype)
        found = near(given.t, given.x, given.mask, at, self.neighbours)
        features = torch.cat([self.encoder.along(given, at), local_features(found)], -1)
        mean, raw = self.readout(features).chunk(2, -1)
        return found.level + mean, softplus(raw) + 1e-4
