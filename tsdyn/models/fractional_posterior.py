"""Draws of a `FractionalPrior` given Gaussian potentials, with a network for what is not Gaussian.

    u(t, x, Y) = the gain of the linear equation, exact, + network(t, x, Y, context)

The paper lets a network learn all of u  [1]; `learned` does so. What follows from the linear part of the equation needs no
learning: the guide conditions it on the potentials, by steps of any length, and after the last potential it does nothing, as
a forecast must.

[1] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
"""

import math
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..maths.fractional_chain import Potentials, chain, guide, motion
from ..maths.fractional_transition import times
from ..maths.fractional_walk import Start, Steps, Walk, start_of, steps_of, walk
from ..maths.grid import Grid, graded, grid
from ..nets import mlp
from .base import Part
from .fractional_prior import FractionalPrior, require_one_of

By = Literal["guide", "guide_and_network", "network"]
BEYOND = 1.5  # horizons; a forecast may run a little over
MOST = 50.0  # of |u|: a divergence stays finite


class Scene(NamedTuple):
    """What is known of B series: Gaussian potentials on x, and numbers for the networks."""

    t: Tensor  # (B, T)
    target: Tensor  # (B, T, D)
    precision: Tensor  # (B, T, D)  zero where nothing is said
    context: Callable[[Tensor], Tensor]  # times (B, Q) -> (B, Q, C)


class FractionalPosterior(Part):
    """q(x, Y, ξ) of paths, absolutely continuous to the prior.

    Args:
        dim: coordinates of x, D.
        states: numbers beside each, K.
        context: C.
        by: "guide" for the exact law of the linear equation; "guide_and_network" adds a network to the control, for
            equations and potentials that are not linear and Gaussian; "network" learns all of it: a gain on (1, x, Y) that
            depends on the context, and a network.
        hidden: width of the networks.
        past: functions that carry the past, M, for "network".

    Raises:
        ConfigError: X01 for another `by`.
    """

    def __init__(
        self, dim: int, states: int, context: int, by: By, hidden: int = 64, past: int = 0
    ):
        super().__init__()
        require_one_of(By, "by", by)
        self.dim, self.by = dim, by
        wide = dim * (1 + states)
        self.network = None if by == "guide" else _silent(mlp(context + wide, hidden, dim))
        self.gain = _silent(mlp(context, hidden, dim * (2 + states))) if by == "network" else None
        self.start = (
            _silent(mlp(context, hidden, 2 * dim * (1 + past))) if by == "network" else None
        )

    def draw(
        self,
        prior: FractionalPrior,
        scene: Scene,
        draws: int,
        dt: float | None = None,
        grading: tuple[int, float] | None = None,
        landing: bool = False,
    ) -> Walk:
        """Paths at the times of the scene, with their costs.

        Args:
            dt: longest step; None for one from each time to the next.
            grading: (substeps, power) of every gap instead, the shortest before the next time.
            landing: give the cost of that name its gradient, for one more evaluation of the control.
        """
        t0 = scene.t[:, 0].double()
        steps = _steps(prior, scene, dt, grading)
        moving = motion(prior.approximation(times(steps)), steps)
        equation = prior.equation()
        linear = chain(moving, equation.linear)
        begin: Start
        guided: Steps | None
        if self.by == "network":
            begin, guided = self._begin(scene), None
        else:
            known = guide(linear, gathered(steps, scene))
            begin, guided = start_of(known, prior.states), steps_of(known)
        dtype = scene.target.dtype
        begin = Start(*(f.to(dtype) for f in begin))
        controls: tuple[Tensor, ...] = ()
        if self.network is not None:
            at = (steps.t[..., 0].T + t0[:, None]).to(scene.t.dtype)  # (B, N)
            last = scene.t.where((scene.precision > 0).any(-1), -torch.inf).amax(1, keepdim=True)
            open_ = (at < last).to(dtype)[..., None]
            seen = scene.context(at)
            row = [seen, open_] if self.gain is None else [seen, open_, self.gain(seen)]
            controls = tuple(f.transpose(0, 1) for f in row)
        held = {k: p.detach() for k, p in self.named_parameters()}
        has = self.network is not None
        unit = prior.unit.to(dtype)

        def control(t: Tensor, x: Tensor, Y: Tensor, *row: Tensor) -> Tensor:
            return self.control(t, x, Y * unit, *row)

        def control_held(t: Tensor, x: Tensor, Y: Tensor, *row: Tensor) -> Tensor:
            seen = t, x, Y * unit, *(c.detach() for c in row)
            u: Tensor = functional_call(self, held, seen)
            return u

        return walk(
            equation,
            linear,
            steps,
            begin,
            guided,
            draws,
            control=control if has else None,
            control_held=control_held if has and landing else None,
            controls=controls,
            landing=landing,
        )

    def forward(self, *seen: Tensor) -> Tensor:
        """`control`, under the name that calls with other parameters go by."""
        return self.control(*seen)

    def control(
        self, t: Tensor, x: Tensor, Y: Tensor, context: Tensor, open_: Tensor, *gain: Tensor
    ) -> Tensor:
        """u of one step, for x (n, B, D) and Y (n, B, D, K) of unit size: (n, B, D); none after the last potential."""
        assert self.network is not None
        state = torch.cat([x, Y.flatten(-2)], -1)
        known = context.expand(*x.shape[:-1], context.shape[-1])
        u = self.network(torch.cat([known, state], -1))
        if gain:
            g = gain[0].view(*gain[0].shape[:-1], self.dim, -1)  # (B, D, 2 + K)
            each = torch.cat([torch.ones_like(x)[..., None], x[..., None], Y], -1)
            u = u + (g * each).sum(-1)
        bounded: Tensor = MOST * torch.tanh(u / MOST) * open_
        return bounded

    def _begin(self, scene: Scene) -> Start:
        """q(x(0), ξ) by a network of what is near the start."""
        assert self.start is not None
        raw = self.start(scene.context(scene.t[:, :1]))[:, 0]
        raw = raw.view(len(raw), self.dim, 2, -1)
        shift, log_std = raw.unbind(-2)
        return Start(shift, torch.diag_embed(log_std.clamp(-7, 7).exp()))


def log_evidence(prior: FractionalPrior, scene: Scene) -> Tensor:
    """log p(targets) for a linear prior, where each is x + N(0, 1 / precision): (B,), by one pass backwards."""
    steps = _steps(prior, scene, None, None)
    moving = motion(prior.approximation(times(steps)), steps)
    linear = prior.equation().linear
    potentials = gathered(steps, scene)
    found = guide(chain(moving, linear), potentials)
    precision, target = scene.precision.double(), scene.target.double()
    there = precision > 0
    constant = (precision.where(there, 1.0).log() - math.log(2 * math.pi)) / 2
    alone = precision * target.where(there, 0.0).square() / 2
    together = (potentials.precision * potentials.target.square() / 2).sum(0)
    value: Tensor = (found.log_evidence + together).sum(-1)
    return value + (constant.where(there, 0.0) - alone).sum((1, 2))


def _steps(
    prior: FractionalPrior, scene: Scene, dt: float | None, grading: tuple[int, float] | None
) -> Grid:
    """The steps from the first of the times of every series on, counted from there."""
    since = scene.t.double() - scene.t[:, :1].double()
    longest = float(since.max()) if since.numel() else 0.0
    if prior.states > 1 and longest > BEYOND * prior.horizon:
        warnings.warn(
            f"A series goes on for {longest:g} units of time, and the memory of the model was made for {prior.horizon:g}: beyond, "
            f"it fades too soon. Give horizon={math.ceil(longest)} or more (in median gaps, inside Scaled).",
            stacklevel=2,
        )
    return grid(since, dt) if grading is None else graded(since, *grading)


def gathered(steps: Grid, scene: Scene) -> Potentials:
    """The potentials at the ends of steps; those of one time are multiplied."""
    N, B, D = len(steps.t), len(scene.t), scene.target.shape[-1]
    where = torch.tensor(steps.stops, device=scene.t.device)
    precision, target = scene.precision.double(), scene.target.double()

    def added(f: Tensor) -> Tensor:
        return f.new_zeros(N + 1, B, D).index_add(0, where, f.transpose(0, 1))

    total = added(precision)
    weighted = added(precision * target.where(precision > 0, 0.0))
    return Potentials(weighted / total.where(total > 0, 1.0), total)


def _silent(net: nn.Sequential) -> nn.Sequential:
    """The network with a last layer of zeros."""
    last = net[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return net
