"""Solving SDEs in fixed steps, with a clock per series.

    now = grid(t, dt)  ->  noise = increments(now, like)  ->  x = solve(euler(sde), x0, now, noise)

`solve_at` does all three. Chance enters in `increments` only, from torch's generator.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from ..errors import ModelError
from .adaptive import solve_torchsde
from .fractional_noise import Fractional, driven, pathwise
from .grid import Grid as Grid, grid as grid, increments as increments
from .sde import SDE, Dynamics, Geometric, Langevin, LinearNoise
from .steps import (
    Noise as Noise,
    Scheme,
    Step as Step,
    euler as euler,
    exponential_euler as exponential_euler,
    heun as heun,
    lie as lie,
    logarithmic as logarithmic,
    milstein as milstein,
    srk as srk,
)

Controls = tuple[Tensor, ...]


def solve(
    step: Step,
    x0: Tensor,
    grid: Grid,
    noise: Noise | None = None,
    controls: Controls = (),
    checkpoint: int = 0,
) -> Tensor:
    """States at the asked times (B, T, D), from x0 (B, D) at the start of the grid.

    Args:
        step: made from an equation by a scheme, as `euler(sde)`.
        noise: from `increments`; None for schemes that need none.
        controls: tensors (N, B or 1, ...) of what was computed for all steps at once; each step
            hands its row to the functions of the equation as `*u`.
        checkpoint: in chunks of so many steps, keep only the first state and compute the others
            again on the way back; same values and gradients, less memory. 0 keeps everything.
    """
    if step.needs != "nothing" and (noise is None or (step.needs == "area" and noise.area is None)):
        raise ValueError(
            f"This step needs {step.needs} and came without. Draw the noise with "
            f"`increments(grid, like{', area=True' if step.needs == 'area' else ''})`."
        )
    t, h = grid.t.to(x0), grid.h.to(x0)
    prepared = step.prepare(t, h, noise, *controls)
    rows = _rows(t.expand(-1, len(x0), 1), controls, prepared)
    size = checkpoint or max(len(rows), 1)
    states = [x0] * grid.stops.count(0)
    x, done = x0, len(states)
    for first in range(0, len(rows), size):
        last = min(first + size, len(rows))
        stops = [s - first for s in grid.stops[done:] if s <= last]
        walk = _walk_again if checkpoint and torch.is_grad_enabled() else _walk
        *reached, x = walk(step.advance, x, rows[first:last], stops)
        states += reached
        done += len(reached)
    return torch.stack(states, 1)


_Row = tuple[Tensor, Controls, tuple[Tensor, ...]]


def _rows(t: Tensor, controls: Controls, prepared: Sequence[Tensor]) -> list[_Row]:
    """What each of the N steps needs: (t, u, prepared)."""
    for name, given in [("controls", controls), ("increments", prepared)]:
        for each in given:
            if len(each) != len(t):
                raise ValueError(
                    f"The grid has {len(t)} steps and the {name} have {len(each)} rows. "
                    "Make both from the same grid."
                )
    us = list(zip(*(u.unbind(0) for u in controls))) if controls else [()] * len(t)
    return list(zip(t.unbind(0), us, zip(*(p.unbind(0) for p in prepared))))


def _walk(
    advance: Callable[..., Tensor], x: Tensor, rows: list[_Row], stops: list[int]
) -> list[Tensor]:
    """The states after so many steps as each of `stops` says, and after the last."""
    states = []
    for first, last in pairwise([0, *stops, len(rows)]):
        for t, u, prepared in rows[first:last]:
            x = advance(t, x, u, *prepared)
        states.append(x)
    return states


def _walk_again(
    advance: Callable[..., Tensor], x: Tensor, rows: list[_Row], stops: list[int]
) -> list[Tensor]:
    """`_walk`, forgetting what happens inside until the gradient asks."""
    states: list[Tensor] = recompute(_walk, advance, x, rows, stops, use_reentrant=False)
    return states


def require_finite(states: Tensor, grid: Grid) -> Tensor:
    """The states (B, T, D) themselves, or M03 with series, time, step and largest state.

    One look at the end of a solve; the loop itself never waits for it.
    """
    finite = states.isfinite().all(-1)  # (B, T)
    if bool(finite.all()):
        return states
    b, k = (~finite).nonzero()[0].tolist()
    first, last = grid.stops[k - 1] if k else 0, grid.stops[k]
    if first == last:
        came = f"the state of series {b} is not finite at the start"
    else:
        row = min(b, grid.h.shape[1] - 1)
        end = float(grid.t[last - 1, row] + grid.h[last - 1, row])
        came = (
            f"the state of series {b} stopped being finite on the way to time {end:g}, in "
            f"{last - first} steps of at most {float(grid.h[first:last, row].max()):g}"
        )
    if k:
        came += f"; the largest state before was {float(states[b, :k].detach().abs().amax()):g}"
    raise ModelError(
        "M03",
        came,
        "a solution that stays finite",
        "Take smaller steps (lower `dt`), scale the data, or bound drift and diffusion",
    )


_NATURAL: dict[type, Scheme] = {
    SDE: euler,
    Langevin: exponential_euler,
    LinearNoise: lie,
    Geometric: logarithmic,
}


def solve_at(
    sde: Dynamics | Fractional,
    x0: Tensor,
    t: Tensor,
    dt: float | None = None,
    t0: float | Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    method: Scheme | None = None,
    controls: Callable[[Tensor], Controls] | None = None,
    substeps: int = 1,
    checkpoint: int = 0,
    backend: Literal["own", "torchsde"] = "own",
    **options: Any,
) -> Tensor:
    """One path per row of x0 (B, D), at times t (T,) or (B, T): (B, T, D).

    Args:
        sde: of Brownian noise, or made by `fractional` of noise of another Hurst index.
        dt, t0, substeps: as in `grid`.
        method: a scheme, as `milstein`; None for the one that fits the structure of the equation.
        controls: what every step needs and does not depend on the state, from the times of all
            steps (N, B or 1, 1); reaches the functions of the equation as `*u`.
        checkpoint: as in `solve`.
        backend: "torchsde" for adaptive steps and adjoint gradients, on a clock shared by all
            series; takes the options of `solve_torchsde`.

    Raises:
        DataError: D17, D16 as in `grid`.
        ModelError: M03 if the solution blows up.
        ConfigError: X01 for a scheme that does not fit the noise.
    """
    now = grid(t, dt, t0, substeps)
    if backend == "torchsde":
        if isinstance(sde, Fractional):
            raise TypeError("torchsde has Brownian noise only. Pass backend='own'.")
        if checkpoint:
            raise TypeError("torchsde has no checkpoints. Pass adjoint=True, or backend='own'.")
        states = solve_torchsde(sde, x0, t, now, method, generator, controls, **options)
        return require_finite(states, now)
    if options:
        raise TypeError(f"Only torchsde takes {sorted(options)}. Pass backend='torchsde'.")
    if isinstance(sde, Fractional):
        step, noise = pathwise(sde, method), driven(sde, now, x0, generator)
    else:
        step = (method or _NATURAL[type(sde)])(sde)
        like = x0[:, :1] if sde.noise == "scalar" else x0
        noise = increments(now, like, generator, area=step.needs == "area")
    u = () if controls is None else controls(now.t.to(x0))
    return require_finite(solve(step, x0, now, noise, u, checkpoint), now)
