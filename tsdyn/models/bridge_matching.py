"""Flow and score matching between snapshots: the drift of a bridge as a function of cell and time, learned by regression.

Pairs (x_0, x_1) of cells of consecutive snapshots are joined by x_s = α x_0 + β x_1 + γ z, and two networks are
fitted to the bounded targets α' x_0 + β' x_1 and z (`maths.interpolants`). What they learn are the flow v and
the score ∇ log p_t, and with them, for any diffusion e,

    dX = (v + (e² - (γ²)') / 2 ∇ log p_t) dt + e dW

has the populations of the interpolants as its marginals  [1]. With Brownian bridges between the pairs of the
entropic plan, and e = σ, it is the Schrödinger bridge  [2]; with exact pairs, lines and e = 0 it is optimal-transport
flow matching  [3]. An interval of length Δ is [0, 1] with the volatility σ √Δ.

References:
    [1] Albergo, Boffi & Vanden-Eijnden. Stochastic interpolants: a unifying framework for flows and
        diffusions. 2023.
    [2] Tong et al. Simulation-free Schrödinger bridges via score and flow matching. AISTATS 2024.
    [3] Tong et al. Improving and generalizing flow-based generative models with minibatch optimal
        transport. TMLR 2024.
"""

import math
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..batch import Snapshots, merge_snapshots, snapshots_of
from ..data.snapshots import require_snapshots
from ..errors import ConfigError, DataError, did_you_mean
from ..maths import plan as plans
from ..maths.assignment import LARGEST, assignment
from ..maths.cost import quadratic
from ..maths.interpolants import Interpolant, Kind
from ..maths.resample import systematic
from ..maths.transport import sinkhorn
from .base import Model, require_fitted
from .static_bridge import StaticBridge

Pairing = Literal["exact", "entropic", "independent", "columns"]

TOLERANCE = 1e-2  # of the marginals of the plan of a minibatch


class Pairs(NamedTuple):
    """P pairs of cells, each of two consecutive snapshots."""

    x0: Tensor  # (P, D)
    x1: Tensor  # (P, D)
    start: Tensor  # (P, 1)  time of the first
    span: Tensor  # (P, 1)  time between the two


class _Place(NamedTuple):
    """Where in time N cells are, (N, 1) each; and the mean time between two snapshots, ()."""

    since: Tensor  # time since the first snapshot, in mean gaps
    s: Tensor  # share of the interval that has passed
    span: Tensor  # length of the interval
    gap: Tensor


class BridgeMatching(Model):
    """v(x, t) and ∇ log p_t(x) by regression on interpolants between paired cells; populations by walking along them.

    Times between the snapshots that it was trained on are known to it as intervals: populations are moved from the
    cells of the last given snapshot along these. Its loss is a mean square, not a density.

    Args:
        dims: coordinates of a cell, D.
        sigma: σ, in the units of x per root of the unit of time: the volatility of "brownian" and
            "ornstein_uhlenbeck"; of the other kinds σ √Δ is the level of noise about the way between two cells.
        kind: of the interpolant.
        pairing: of the cells of a minibatch: "exact" by least Σ |x_0 - x_1|²; "entropic" by the plan of the bridge, which
            is dispersed by σ; "independent" at random; "columns" pairs cells of equal number, as in `aligned`.
        rate: of "ornstein_uhlenbeck", per unit of time.
        width, depth: of the hidden layers of both networks.
        diffusion: e at sampling, in the units of σ; None is σ, 0 is the ordinary equation.
        steps: of Euler's rule, in each interval.
    """

    times: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        dims: int,
        sigma: float,
        kind: Kind = "brownian",
        pairing: Pairing = "exact",
        *,
        rate: float = 1.0,
        width: int = 64,
        depth: int = 3,
        diffusion: float | None = None,
        steps: int = 100,
    ):
        super().__init__()
        _require_arguments(dims, sigma, pairing, diffusion, steps)
        Interpolant(kind, sigma, rate)  # says what is wrong with them
        self.sigma, self.kind, self.pairing, self.rate = sigma, kind, pairing, rate
        self.diffusion = sigma if diffusion is None else diffusion
        self.steps = steps
        self.flow_net, self.score_net = (_network(dims, width, depth) for _ in range(2))
        self.register_buffer("times", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("scale", torch.ones(dims))

    def on_epoch(self, epoch: int, train: tuple[Snapshots, Snapshots]) -> None:
        """Times, means and deviations of what it learns from, in the first epoch."""
        if epoch:
            return
        snapshots = _together(*train)
        self._require_dims(snapshots)
        cells = snapshots.x[snapshots.mask].to(self.mean)
        self.times = snapshots.t.double()
        self.mean, scale = cells.mean(0), cells.std(0, correction=0)
        self.scale = scale.where(scale > 0, 1.0)

    def loss(self, given: Snapshots, want: Snapshots) -> Tensor:
        """E |Δ v - (α' x_0 + β' x_1)|² + E |γ score + z|², per coordinate, the first in units of the spread of x.

        Over pairs of consecutive snapshots, those of want in place of those given at the same times, and s uniform.
        """
        require_fitted(self.times.isfinite(), "BridgeMatching")
        snapshots = _together(given, want)
        self._require_dims(snapshots)
        pairs = self.pairs(snapshots)
        s, span = torch.rand_like(pairs.x0[:, :1]), pairs.span.to(pairs.x0)
        noise = torch.randn_like(pairs.x0)
        between = self._interpolant(span)
        x, t = between.point(s, pairs.x0, pairs.x1, noise), pairs.start + s * pairs.span
        flow = span * self.flow(x, t) - between.flow(s, pairs.x0, pairs.x1)
        score = between.at(s).gamma * self.score(x, t) + noise
        error = (flow / self.scale).square().mean() + score.square().mean()
        return error.to(want.x.dtype)

    def sample(self, given: Snapshots, at: Tensor, n: int) -> Tensor:
        """n cells at each time of (K',), moved there from the last given snapshot at or before it: (n, K', D).

        At times between the same two given snapshots they are the same cells; elsewhere they are drawn anew.
        """
        require_fitted(self.times.isfinite(), "BridgeMatching")
        self._require_dims(given)
        given = snapshots_of(given, given.t.double() >= self.times[0])
        times, order = at.double().sort()
        self._require_times(given, times)
        source = torch.searchsorted(given.t.double(), times, right=True) - 1
        weights, found = _weights(given), []
        for k in source.unique().tolist():  # type: ignore[no-untyped-call]
            x, now = given.x[k][systematic(weights[k], n)].to(self.mean), float(given.t[k])
            for until in times[source == k].tolist():
                x, now = self.walk(x, now, until), until
                found.append(x)
        return torch.stack(found, 1)[:, order.argsort()].to(given.x.dtype)

    def walk(self, x: Tensor, start: float, end: float) -> Tensor:
        """Where cells (N, D) seen at one time are at a later one: Euler's rule, with the drift amid each step."""
        for first, last in pairwise(self.times.tolist()):
            low, high = max(first, start), min(last, end)
            count = math.ceil((high - low) / (last - first) * self.steps - 1e-9)
            for k in range(count):
                h = (high - low) / count
                x = x + h * self.drift(x, low + (k + 0.5) * h)
                x = x + self.diffusion * math.sqrt(h) * torch.randn_like(x)
        return x

    def pairs(self, snapshots: Snapshots) -> Pairs:
        """A draw of what the loss learns from: for each interval as many as the largest snapshot has cells, at most `LARGEST`."""
        count = min(int(snapshots.mask.sum(1).max()), LARGEST)
        x, weights = snapshots.x.to(self.mean), _weights(snapshots)
        if self.pairing == "columns":
            first = last = _rows(weights[:-1].where(snapshots.mask[1:], 0.0), count)
        else:
            first, last = _rows(weights[:-1], count), _rows(weights[1:], count)
        x0, x1 = x[:-1].take_along_dim(first, 1), x[1:].take_along_dim(last, 1)
        span = snapshots.t.double().diff()
        partner = PAIRINGS[self.pairing](x0, x1, self._dispersion(span).to(x))
        times = (f[:, None, None].expand(-1, count, 1) for f in (snapshots.t[:-1].double(), span))
        return Pairs(
            *(f.flatten(0, 1) for f in (x0, x1.take_along_dim(partner[..., None], 1), *times))
        )

    def flow(self, x: Tensor, t: float | Tensor) -> Tensor:
        """v: the mean rate of the interpolants through x, per unit of time, at (N, D) and one time or (N, 1)."""
        place = self._place(x, t)
        found: Tensor = self.flow_net(self._inputs(x, place)) * self.scale / place.gap
        return found

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """∇ log p_t(x) of the interpolants, at (N, D) and one time or (N, 1)."""
        found: Tensor = self.score_net(self._inputs(x, self._place(x, t))) / self.scale
        return found

    def drift(self, x: Tensor, t: float | Tensor, diffusion: float | None = None) -> Tensor:
        """v + (e² - (γ²)') / 2 ∇ log p_t per unit of time; an e of None is that of the model."""
        e = self.diffusion if diffusion is None else diffusion
        s, span = self._place(x, t)[1:3]
        between = self._interpolant(span)  # whose clock the flow and the diffusion are put on
        return between.drift(s, span * self.flow(x, t), self.score(x, t), e * span.sqrt()) / span

    def _place(self, x: Tensor, t: float | Tensor) -> _Place:
        at = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x), 1).contiguous()
        k = torch.searchsorted(self.times, at, right=True).sub(1).clamp(0, len(self.times) - 2)
        first, last = self.times[k], self.times[k + 1]
        gap = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        since = (at - self.times[0]) / gap
        return _Place(*(f.to(x) for f in (since, (at - first) / (last - first), last - first, gap)))

    def _inputs(self, x: Tensor, place: _Place) -> Tensor:
        return torch.cat([(x - self.mean) / self.scale, place.since, place.s], -1)

    def _interpolant(self, span: Tensor) -> Interpolant:
        """On the unit clock of intervals of these lengths."""
        return Interpolant(self.kind, self.sigma * span.sqrt(), self.rate * span)

    def _dispersion(self, span: Tensor) -> Tensor:
        """h such that |x_0 - x_1|² / 2 h² is the cost of the plan of the bridge at ε = 1, up to what a plan ignores."""
        level = self.sigma * span.sqrt()
        if self.kind == "ornstein_uhlenbeck":
            return level * (torch.sinh(self.rate * span) / (self.rate * span)).sqrt()
        return level

    def _require_dims(self, snapshots: Snapshots) -> None:
        if snapshots.x.shape[-1] != len(self.mean):
            raise DataError(
                "D14",
                f"cells of {snapshots.x.shape[-1]} coordinates came to BridgeMatching(dims={len(self.mean)})",
                f"{len(self.mean)} coordinates",
                "Set dims to that of the snapshots",
            )

    def _require_times(self, given: Snapshots, times: Tensor) -> None:
        low = float(given.t[0]) if len(given.t) else math.inf
        end = float(self.times[-1])
        bad = ~((times >= low) & (times <= end))
        if bool(bad.any()):
            raise DataError(
                "D17",
                f"cells are asked for at {float(times[bad][0]):g}, given snapshots from {low:g} on",
                f"times from the first given snapshot to {end:g}, the last that was trained on",
                f"Snapshots before {float(self.times[0]):g}, the first that was trained on, do not count",
            )

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # as many times as there were snapshots
        stored = state.get(prefix + "times")
        if stored is not None:
            self.times = self.times.new_empty(stored.shape)
        super()._load_from_state_dict(state, prefix, *rest)


def aligned(bridge: StaticBridge, n: int, generator: torch.Generator | None = None) -> Snapshots:
    """n paths of a chain of plans, at its snapshots: cell k of one snapshot belongs to cell k of the next.

    What BridgeMatching(pairing="columns") learns from: then no minibatch needs a plan, and pairs are those of
    whole populations.
    """
    walks = bridge.sample_paths(bridge.times, n, generator=generator)
    x = walks.x.movedim(1, 0)  # (K, n, D)
    return Snapshots(walks.t, x, x.new_ones(x.shape[:2]).bool(), walks.weights.mT)


def _exact(x0: Tensor, x1: Tensor, width: Tensor) -> Tensor:
    return torch.stack([assignment(c) for c in torch.cdist(x0, x1).square()])


def _entropic(x0: Tensor, x1: Tensor, width: Tensor) -> Tensor:
    h = width[:, None, None]
    coupling = sinkhorn(quadratic(x0 / h, x1 / h), tolerance=TOLERANCE)
    return plans.partners(coupling, _in_turn(x0, x1, width))


def _in_turn(x0: Tensor, x1: Tensor, width: Tensor) -> Tensor:
    return torch.arange(x0.shape[1], device=x0.device).expand(len(x0), -1)


# (x_0 (K - 1, N, D), x_1 (K - 1, N, D), h (K - 1,)) -> number of the cell of x_1 for each of x_0, (K - 1, N)
PAIRINGS = {
    "exact": _exact,
    "entropic": _entropic,
    "independent": _in_turn,  # rows come in random order
    "columns": _in_turn,
}


def _rows(weights: Tensor, n: int) -> Tensor:
    """n cells of each snapshot, drawn by weight: (K, n, 1)."""
    return torch.stack([systematic(w, n) for w in weights])[..., None]


def _weights(snapshots: Snapshots) -> Tensor:
    """(K, N), zero for padding."""
    if snapshots.weights is None:
        return snapshots.mask.double()
    return snapshots.weights.double().where(snapshots.mask, 0.0)


def _together(given: Snapshots, want: Snapshots) -> Snapshots:
    """Both in order of time; where both have a snapshot, that of want."""
    rest = snapshots_of(given, ~torch.isin(given.t, want.t))
    found = merge_snapshots(rest, want)
    require_snapshots(found._replace(weights=None))  # those of a minibatch may all be zero
    return found


def _network(dims: int, width: int, depth: int) -> nn.Sequential:
    """From a cell, its time and its place between two snapshots; with SELU, as published."""
    widths = [dims + 2] + [width] * depth
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.SELU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], dims))


def _require_arguments(
    dims: int, sigma: float, pairing: str, diffusion: float | None, steps: int
) -> None:
    if pairing not in PAIRINGS:
        raise ConfigError(
            "X01",
            f"BridgeMatching got pairing={pairing!r}",
            f"one of {', '.join(PAIRINGS)}",
            did_you_mean(pairing, PAIRINGS),
        )
    for name, value, good in (
        ("dims", dims, dims >= 1),
        ("sigma", sigma, sigma > 0),
        ("steps", steps, steps >= 1),
    ):
        if not good:
            raise ConfigError("X01", f"BridgeMatching got {name}={value}", "a positive number", "")
    if diffusion is not None and not diffusion >= 0:
        raise ConfigError(
            "X01",
            f"BridgeMatching got diffusion={diffusion}",
            "at least zero, or None for sigma",
            "",
        )
