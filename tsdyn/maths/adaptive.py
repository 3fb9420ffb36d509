"""torchsde behind our types: adaptive steps, adjoint gradients, and an oracle for our own steps.

torchsde walks a batch along one clock with one step size. It would seed its Brownian motion from
numpy and, not told the step, build a tree of tens of thousands of nodes; here the seed comes from
torch's generator and the step is always told.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from .grid import Grid
from .sde import SDE, Dynamics, plain
from .steps import Noise, Scheme, euler, heun, milstein, srk

_NAMES: dict[Scheme, str] = {euler: "euler", heun: "heun", milstein: "milstein", srk: "srk"}


def solve_torchsde(
    sde: Dynamics,
    x0: Tensor,
    t: Tensor,
    grid: Grid,
    method: Scheme | None = None,
    generator: torch.Generator | None = None,
    controls: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
    noise: Noise | None = None,
    adaptive: bool = False,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    adjoint: bool = False,
    parameters: Iterable[Tensor] = (),
) -> Tensor:
    """States at times t (T,), one clock for all, from x0 (B, D) at the start of `grid`: (B, T, D).

    Args:
        grid: its largest step is torchsde's step, or its first step if adaptive. Between the ends of
            steps torchsde interpolates linearly, where our own solver lands.
        method: euler, milstein, srk (for any diffusion here) or heun; None for euler, or for srk
            if adaptive.
        controls: read at every evaluation.
        noise: increments over `grid` to use instead of a Brownian interval; not if adaptive.
        adaptive, rtol, atol: one step size for the whole batch, from step doubling.
        adjoint: gradients by solving backwards: for x0, for parts of the equation that are modules or
            tensors, and for what is listed in `parameters`; for nothing else.

    Raises:
        DataError: D17 for a clock per series.
        ConfigError: X01 for a scheme that torchsde does not have.
    """
    import torchsde

    _require_one_clock(t, grid)
    scheme = _scheme(method, adaptive)
    if not len(grid.h):
        return x0[:, None].expand(-1, len(t), -1)
    ends = torch.cat([grid.t[:1, 0, 0].double(), t.double()]).cpu()
    ts, where = torch.unique(ends, return_inverse=True)
    dt = float(grid.h.max())
    if noise is None:
        size = (len(x0), 1 if sde.noise == "scalar" else x0.shape[1])
        bm = _brownian(x0.new_empty(size), ts, dt, scheme, generator)
    else:
        bm = _Replay(grid, noise)
    system = _System(plain(sde), "stratonovich" if scheme is heun else "ito", controls)
    options: dict[str, Any] = {"adaptive": adaptive, "rtol": rtol, "atol": atol}
    if adjoint:
        options["adjoint_params"] = [*_trained(sde), *parameters]
    integrate = torchsde.sdeint_adjoint if adjoint else torchsde.sdeint
    states: Tensor = integrate(system, x0, ts, bm=bm, method=_NAMES[scheme], dt=dt, **options)
    return states[where[1:]].transpose(0, 1)


def _require_one_clock(t: Tensor, grid: Grid) -> None:
    if t.ndim != 1 or grid.h.shape[1] != 1:
        raise DataError(
            "D17",
            f"torchsde was asked for times of shape {tuple(t.shape)} from {grid.h.shape[1]} starts",
            "one clock (T,) shared by all series, from one start",
            "Use our own solver (backend='own'), or solve the series one by one",
        )


def _scheme(method: Scheme | None, adaptive: bool) -> Scheme:
    scheme = method or (srk if adaptive else euler)
    if scheme not in _NAMES:
        raise ConfigError(
            "X01",
            f"torchsde has no scheme `{getattr(scheme, '__name__', scheme)}`",
            f"one of {', '.join(_NAMES.values())}",
            "Choose one of these, or use our own solver (backend='own')",
        )
    return scheme


def _brownian(
    like: Tensor, ts: Tensor, dt: float, scheme: Scheme, generator: torch.Generator | None
) -> Any:
    """A Brownian motion of torchsde over the times ts, seeded from torch's generator."""
    import torchsde

    device = "cpu" if generator is None else generator.device
    seed = torch.randint(2**31 - 1, (), generator=generator, device=device)
    return torchsde.BrownianInterval(
        float(ts[0]),
        float(ts[-1]),
        size=tuple(like.shape),
        dtype=like.dtype,
        device=like.device,
        entropy=int(seed),
        dt=dt,
        levy_area_approximation="space-time" if scheme is srk else "none",
    )


def _trained(sde: Dynamics) -> list[Tensor]:
    """Parameters of the parts of an equation that are modules, and parts that are tensors."""
    modules = [p for part in sde if isinstance(part, nn.Module) for p in part.parameters()]
    return modules + [part for part in sde if isinstance(part, Tensor)]


class _System:
    """An SDE with the names that torchsde looks for."""

    def __init__(
        self, sde: SDE, kind: str, controls: Callable[[Tensor], tuple[Tensor, ...]] | None
    ):
        self.sde, self.controls = sde, controls
        self.sde_type, self.noise_type = kind, sde.noise

    def _at(self, t: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        t = t.to(x).expand(len(x), 1)
        return t, () if self.controls is None else self.controls(t)

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        t, u = self._at(t, x)
        return self.sde.drift(t, x, *u)

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        t, u = self._at(t, x)
        g = self.sde.diffusion(t, x, *u)
        return g[..., None] if self.noise_type == "scalar" else g


class _Replay:
    """A Brownian path for torchsde from increments already drawn; knows the steps of its grid only."""

    def __init__(self, grid: Grid, noise: Noise):
        self.noise, self.start, self.h = noise, grid.t[:, 0, 0].tolist(), grid.h[:, 0, 0].tolist()
        self.shape = tuple(noise.dw.shape[1:])
        self.levy_area_approximation = "none" if noise.area is None else "space-time"

    def __call__(
        self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        a, b = float(ta), float(tb)
        n = min(range(len(self.start)), key=lambda n: abs(self.start[n] - a))
        h = self.h[n]
        if max(abs(self.start[n] - a), abs(self.start[n] + h - b)) > 1e-6 * h:
            raise ValueError(
                f"No increment was drawn from {a} to {b}. Choose times on the grid of dt."
            )
        dw = self.noise.dw[n]
        if not return_U or self.noise.area is None:
            return dw
        return dw, h * (0.5 * dw + self.noise.area[n])
