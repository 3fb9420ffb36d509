"""Any SDE with noise of a Hurst index: dx = f dt + g ∘ dB̂, B̂ fractional Brownian motion in its Markov approximation.

    x = solve_at(fractional(sde, 0.3), x0, t, dt)

Products are those of the limit of smooth paths, for which the chain rule holds: Young's for H > 1/2, Stratonovich's else.
The schemes fit any driving path, so that none has a term of Itô's: every coordinate is solved exactly as if B̂ were
straight within a step. Where g does not see x, or sees it as a factor, the noise is exact for any B̂, and what is left is
of order one in the step at every index. That of `heun` for a plain `SDE` falls slowly for rough noise: for dx = x ∘ dB̂ it
leaves 10 % in 1600 steps at H = 0.3, 0.3 % at 0.4 and 0.005 % at 0.7. Where an equation has a structure, say so.

At H = 1/2, given as a number, B̂ is W itself, and a solution is that of an Itô solver in law once its drift has lost
1/2 g ∂g/∂x. Where g does not see x the two are also the same path by path, as far as both schemes are exact.

[1] Coutin & Qian. Stochastic analysis, rough path analysis and fractional Brownian motions. Probability Theory and
    Related Fields 122, 2002: the limit, for H > 1/4.
[2] Deya, Neuenkirch & Tindel. A Milstein-type scheme without Lévy area terms for SDEs driven by fractional Brownian
    motion. Annales de l'IHP, Probabilités et Statistiques 48, 2012: steps that see increments only, for H > 1/3.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .fractional import (
    MarkovApproximation,
    brownian_motion,
    faded,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
)
from .fractional_transition import draw, increments
from .grid import Grid
from .sde import SDE, Dynamics, Geometric, Langevin, LinearNoise
from .steps import (
    Noise,
    Scheme,
    Step,
    exponential_euler,
    heun,
    lie,
    logarithmic,
    milstein,
    srk,
)

Kind = Literal["riemann_liouville", "mandelbrot_van_ness"]
_KINDS: dict[str, Callable[..., MarkovApproximation]] = {
    "riemann_liouville": riemann_liouville,
    "mandelbrot_van_ness": mandelbrot_van_ness,
}


class Fractional(NamedTuple):
    """An SDE whose dW is ∘ dB̂; made by `fractional`."""

    sde: Dynamics
    hurst: Tensor | float  # () or (D,)
    horizon: float | None
    step: float | None
    kind: Kind
    speeds: int


def fractional(
    sde: Dynamics,
    hurst: Tensor | float,
    horizon: float | None = None,
    step: float | None = None,
    kind: Kind = "riemann_liouville",
    speeds: int = 7,
) -> Fractional:
    """The same equation, driven by fractional Brownian motions of Var B(1) = 1 that are zero where a solve starts.

    Independent motions for the coordinates where `sde` has diagonal noise; for scalar noise all have the same W, and
    with one index the same B̂.

    Args:
        hurst: a number, or a tensor () or (D,), to which gradients flow. 0.5 as a number is Brownian motion, by one
            process and without error.
        horizon: longest time from the start of a solve, in the units of t; None for that of each solve. Later the
            memory fades too soon.
        step: shortest time over which increments must be right; None for the median step of each solve. With numbers
            for both, the law of a path does not depend on what is solved beside it.
        kind: a motion that begins with the solve, or one of stationary increments that has been going on.
        speeds: processes of the approximation.

    Raises:
        ConfigError: X01 for an index outside (0, 1) or of another shape, horizon, step or speeds out of range, or an
            unknown kind.
    """
    index = torch.as_tensor(hurst).detach()
    inside = (index > 0) & (index < 1)  # a NaN compares as false
    if index.ndim > 1 or not bool(inside.all()):
        worst = index[~inside].flatten()[:1].tolist()
        raise _refused(
            f"Hurst indices of shape {tuple(index.shape)}{f', {worst[0]:g} among them' if worst else ''}",
            "a number between 0 and 1, both excluded, or one for each coordinate, (D,)",
            "Learn it as the sigmoid of a free number",
        )
    sizes = [s for s in (step, horizon) if s is not None]
    if not all(0 < s < float("inf") for s in sizes) or sizes != sorted(sizes) or speeds < 2:
        raise _refused(
            f"step = {step}, horizon = {horizon}, speeds = {speeds}",
            "0 < step <= horizon, and two speeds at least",
            "Both are in the units of t",
        )
    if kind not in _KINDS:
        raise _refused(f"the kind {kind!r}", f"one of {', '.join(_KINDS)}", "Choose one of these")
    return Fractional(sde, hurst, horizon, step, kind, speeds)


def _refused(came: str, wanted: str, do: str) -> ConfigError:
    return ConfigError("X01", f"fractional got {came}", wanted, do)


def motion(
    hurst: Tensor | float,
    horizon: float,
    step: float,
    kind: Kind = "riemann_liouville",
    speeds: int = 7,
) -> MarkovApproximation:
    """B̂ of Var B(1) = 1 for paths of this length in such steps, by `speeds_for`; W itself for the number 0.5."""
    if isinstance(hurst, float) and hurst == 0.5:
        return brownian_motion()
    return _KINDS[kind](hurst, speeds_for(horizon, step, speeds), horizon)


def approximation(equation: Fractional, grid: Grid) -> MarkovApproximation:
    """The motion that drives an equation along this grid."""
    h = grid.h.detach().double()
    horizon, step = equation.horizon, equation.step
    moving = h[h > 0]
    if not len(moving):  # nothing moves, and any will do
        moving = h = torch.ones(1, dtype=torch.float64)
    if horizon is None:
        horizon = max(float(h.sum(0).max()), step or 0.0)
    if step is None:
        step = min(float(moving.median()), horizon)
    return motion(equation.hurst, horizon, step, equation.kind, equation.speeds)


def fractional_increments(
    motion: MarkovApproximation,
    grid: Grid,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> Noise:
    """ΔB̂ of every step (N, B, D) for `like` (B, D), of motions that are zero where each series starts.

    Gradients flow to the index. As in `grid.increments`, steps of size zero have increments of exactly zero, `like`
    has one column for scalar noise, and draws are made on the generator's device.
    """
    if not len(grid.h):
        return Noise(like.new_zeros(0, *like.shape))
    h = grid.h.double()
    elapsed = Grid(h.cumsum(0) - h, h, grid.stops)
    drawn = increments(draw(motion, elapsed, like, generator))
    moves = (grid.h > 0).to(like.device)
    return Noise(drawn.dw.where(moves, 0.0))


def driven(
    equation: Fractional, grid: Grid, x0: Tensor, generator: torch.Generator | None = None
) -> Noise:
    """The increments that an equation wants along a grid, from x0 (B, D).

    Raises:
        ConfigError: X01 for indices of another number of coordinates.
    """
    found = approximation(equation, grid)
    indices, D = found.weights.shape[:-1], x0.shape[1]
    if indices not in ((), (1,), (D,)):
        raise _refused(
            f"{indices[0]} Hurst indices for {D} coordinates",
            "one for each coordinate, or one for all",
            "Give `hurst` as a number, or as a tensor (D,)",
        )
    like = x0[:, :1] if equation.sde.noise == "scalar" else x0
    return fractional_increments(found, grid, like, generator)


def pathwise(equation: Fractional, method: Scheme | None = None) -> Step:
    """The step of an equation, by a scheme or the one that fits its structure.

    `heun` fits every structure. `euler` reads the products of the approximation as Itô's, which has no limit for
    H < 1/2; where g does not see x it is right, at half the cost of `heun`.

    Raises:
        ConfigError: X01 for a scheme made for increments of Brownian motion alone.
    """
    if method in _BROWNIAN:
        raise _refused(
            f"the scheme `{getattr(method, '__name__', method)}`, which is for Brownian motion",
            "heun, or one of the schemes of `fractional_noise`",
            "Leave `method` out",
        )
    return (method or _FITTING[type(equation.sde)])(equation.sde)


def pathwise_exponential(sde: Langevin) -> Step:
    """z e^{-kappa h} + (r h + sigma dB) (1 - e^{-kappa h}) / kappa h

    Exact where B is straight and r constant within the step; the noise is off by a share of order (kappa h)². Steps
    longer than the memory 1 / kappa stay stable and lose noise, at H = 1/2 the factor (2 / kappa h)^{1/2}. One
    evaluation.
    """
    kappa, _, sigma, _ = sde

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        a = kappa * h
        held = faded(a)
        return torch.exp(-a), h * held, sigma(t, *u) * held * noise.dw

    return Step(prepare, exponential_euler(sde).advance)


def pathwise_lie(sde: LinearNoise, kappa: Tensor | None = None) -> Step:
    """(z + f h) exp(sigma dB): drift by Euler, then the noise exactly.

    With kappa (H,) the drift is f - kappa z, as in `steps.lie`. One evaluation.
    """

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        factor = (sde.sigma(t, *u) * noise.dw).exp()
        if kappa is None:
            return h, factor
        a = kappa * h
        return h * faded(a), factor, torch.exp(-a)

    return Step(prepare, lie(sde, kappa).advance)


def pathwise_logarithmic(sde: Geometric, kappa: Tensor | None = None) -> Step:
    """z exp(growth h + sigma dB): Euler for log|z|, where the noise is additive.

    Keeps the sign of z, and zero; exact for constant growth and sigma. With kappa (H,) log|z| takes a step of
    `pathwise_exponential`; bounds as in `steps.logarithmic`. One evaluation.
    """

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        moved = sde.sigma(t, *u) * noise.dw
        if kappa is None:
            return h, moved
        a = kappa * h
        held = faded(a)
        return h * held, moved * held, torch.expm1(-a)

    return Step(prepare, logarithmic(sde, kappa).advance)


_FITTING: dict[type, Callable[[Any], Step]] = {
    SDE: heun,
    Langevin: pathwise_exponential,
    LinearNoise: pathwise_lie,
    Geometric: pathwise_logarithmic,
}
_BROWNIAN: tuple[Scheme, ...] = (milstein, srk, exponential_euler, lie, logarithmic)
