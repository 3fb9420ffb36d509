"""Systems without a closed-form conditional law, of which something else is known exactly.

Paths are drawn in small steps of a scheme of strong order 3/2, the noise being additive in the
coordinates in which each is solved.

[1] Kramers (1940), Brownian motion in a field of force and the diffusion model of chemical reactions.
[2] Lotka (1925), Elements of physical biology; Volterra (1926). Noise in the rates of growth: May
    (1973), Stability in randomly fluctuating versus deterministic environments.
[3] Lorenz (1963), Deterministic nonperiodic flow.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..maths.sde import SDE
from ..maths.solve import solve_at, srk
from .system import System, normal

Field = Callable[[Tensor], Tensor]  # x (P, D) -> (P, D)

MOST_PATHS = 2000  # at once: all small steps are held in memory
POINTS = 20_001  # of a quadrature; the densities are smooth and vanish at its ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoubleWell(System):
    """dx = (x - x^3) dt + sigma dW: a particle in U = x^4 / 4 - x^2 / 2  [1]

    The stationary density is known, proportional to exp(-2 U / sigma^2), and with it every stationary
    moment. Paths start from it.

    Args:
        sigma: strength of the noise; the wells are left about every 4.4 exp(1 / (2 sigma^2)).
        step: largest step of the scheme.
    """

    span: float = 20.0
    sigma: float = 0.8
    step: float = 0.02

    @property
    def channels(self) -> tuple[str, ...]:
        return ("x0",)

    def density(self, x: Tensor) -> Tensor:
        """The stationary density at x."""
        grid = self._grid()
        return self._weight(x) / torch.trapezoid(self._weight(grid), grid)

    def moment(self, k: int) -> float:
        """E x^k in the stationary state, by quadrature."""
        grid = self._grid()
        return float(torch.trapezoid(grid**k * self.density(grid), grid))

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return _draw(self._grid(), self._weight, n, generator)[:, None]

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        return _walk(lambda x: x - x**3, (self.sigma,), x0, t, n, self.step, generator)

    def _weight(self, x: Tensor) -> Tensor:
        return ((x**2 - x**4 / 2) / self.sigma**2).exp()

    def _grid(self) -> Tensor:
        """Out to where 2 U = 60 sigma^2: beyond lies less than e^-60 of the mass at x = 0."""
        end = math.sqrt(1 + math.sqrt(1 + 120 * self.sigma**2))
        return torch.linspace(-end, end, POINTS, dtype=torch.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LotkaVolterra(System):
    """dx = x (alpha - beta y) dt + sigma x dW,  dy = y (delta x - gamma) dt + sigma y dW'  [2]

    Solved for log x and log y, so that prey x and predators y stay positive; so does what is observed,
    which is x exp(noise e). Known exactly: the energy, constant without noise, grows in the mean as

        E V(t) = V(0) + (alpha + gamma) sigma^2 t / 2

    Args:
        alpha: growth of prey, per unit of time.
        beta: loss of prey per predator.
        gamma: death of predators, per unit of time.
        delta: growth of predators per prey.
        sigma: strength of the noise in both rates of growth.
        spread: standard deviation of log x(0) and log y(0) about the fixed point.
        step: largest step of the scheme.
        noise: standard deviation of the observation noise of log x and log y.
    """

    span: float = 15.0
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    delta: float = 1.0
    sigma: float = 0.1
    spread: float = 0.5
    step: float = 0.02

    @property
    def channels(self) -> tuple[str, ...]:
        return ("prey", "predators")

    def energy(self, x: Tensor) -> Tensor:
        """V = delta x - gamma log x + beta y - alpha log y: (..., 2) -> (...)."""
        prey, predators = x.unbind(-1)
        return (
            self.delta * prey
            - self.gamma * prey.log()
            + self.beta * predators
            - self.alpha * predators.log()
        )

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        fixed = (
            torch.tensor([self.gamma / self.delta, self.alpha / self.beta]).double().repeat(n, 1)
        )
        return fixed * (self.spread * normal(fixed.shape, fixed, generator)).exp()

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        def growth(logs: Tensor) -> Tensor:
            prey, predators = logs.exp().unbind(-1)
            rates = self.alpha - self.beta * predators, self.delta * prey - self.gamma
            return torch.stack(rates, -1) - self.sigma**2 / 2

        noise = (self.sigma, self.sigma)
        return _walk(growth, noise, x0.log(), t, n, self.step, generator).exp()

    def observe(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x * (self.noise * normal(x.shape, x, generator)).exp()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lorenz(System):
    """dx = sigma (y - x) dt + s dW,  dy = (x (rho - z) - y) dt + s dW',  dz = (x y - beta z) dt + s dW''  [3]

    with s the diffusion. Chaotic: two paths part by e every 1.1 units of time, so that what can be
    forecast at all ends after a few. In the stationary state, where paths start, exactly

        E x y = beta E z,   E x^2 = E x y + s^2 / (2 sigma)

    Args:
        sigma: Prandtl number.
        rho: Rayleigh number over its critical value.
        beta: aspect of the convection cell.
        diffusion: strength of the noise in each coordinate.
        burn_in: time from a rough start to x(0).
        step: largest step of the scheme.
    """

    span: float = 2.0
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3
    diffusion: float = 1.0
    burn_in: float = 5.0
    step: float = 0.005

    @property
    def channels(self) -> tuple[str, ...]:
        return ("x", "y", "z")

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        rough = torch.tensor([0.0, 0.0, self.rho - 1]).double().repeat(n, 1)
        rough = rough + 5.0 * normal(rough.shape, rough, generator)
        end = torch.full((n, 1), self.burn_in, dtype=torch.float64)
        return self.simulate(rough, end, 1, generator)[0, :, 0]

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        def drift(state: Tensor) -> Tensor:
            x, y, z = state.unbind(-1)
            return torch.stack(
                [self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z], -1
            )

        return _walk(drift, (self.diffusion,) * 3, x0, t, n, self.step, generator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pendulum(System):
    """d angle = v dt,  dv = (-frequency^2 sin(angle) - damping v) dt + sigma dW  [1]

    With T = sigma^2 / (2 damping) the stationary law, where paths start, is known: v ~ N(0, T) and,
    independent of it, a density of the angle proportional to exp(frequency^2 cos(angle) / T). Near rest,
    sin(angle) = angle, and all is Gaussian: `linear_moments`. Angles in radians, not wrapped.

    Args:
        frequency: of small swings, in radians per unit of time.
        damping: rate at which v is lost, per unit of time; > 0.
        sigma: strength of the noise that pushes v.
        start: angle and v at time 0; None draws them from the stationary law.
        step: largest step of the scheme.
    """

    frequency: float = 2.0
    damping: float = 0.2
    sigma: float = 0.5
    start: tuple[float, float] | None = None
    step: float = 0.02

    @property
    def channels(self) -> tuple[str, ...]:
        return ("angle", "velocity")

    @property
    def temperature(self) -> float:
        """T, the stationary variance of v."""
        return self.sigma**2 / (2 * self.damping)

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        if self.start is not None:
            return torch.tensor(self.start, dtype=torch.float64).repeat(n, 1)
        grid = torch.linspace(-math.pi, math.pi, POINTS, dtype=torch.float64)
        stiffness = self.frequency**2 / self.temperature
        angle = _draw(grid, lambda a: (stiffness * (a.cos() - 1)).exp(), n, generator)
        return torch.stack(
            [angle, math.sqrt(self.temperature) * normal(angle.shape, angle, generator)], -1
        )

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        def drift(x: Tensor) -> Tensor:
            angle, v = x.unbind(-1)
            return torch.stack([v, -(self.frequency**2) * angle.sin() - self.damping * v], -1)

        return _walk(drift, (0.0, self.sigma), x0, t, n, self.step, generator)

    def linear_moments(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, T, 2) and covariance (B, T, 2, 2) of x(t) given x(0) = x0, with angle for its sine.

        x(t) ~ N(e^{A t} x0, S - e^{A t} S e^{A t}'), S the stationary covariance.
        """
        A = x0.new_tensor([[0.0, 1.0], [-(self.frequency**2), -self.damping]])
        S = torch.diag(x0.new_tensor([self.temperature / self.frequency**2, self.temperature]))
        flow = torch.linalg.matrix_exp(A * t[..., None, None].to(A))  # (B, T, 2, 2)
        return (flow @ x0[:, None, :, None]).squeeze(-1), S - flow @ S @ flow.mT


def _walk(
    drift: Field,
    diffusion: tuple[float, ...],
    x0: Tensor,
    t: Tensor,
    n: int,
    step: float,
    generator: torch.Generator | None,
) -> Tensor:
    """n paths of dx = drift(x) dt + diffusion dW from x(0) = x0 (B, D): t (B, T) -> (n, B, T, D)."""
    x, clock = x0.double().repeat(n, 1), t.double()
    # a shared ruler beside the times of each series: every step is at most `step`, for any gaps
    ruler = torch.arange(1, math.ceil(float(clock.max()) / step) + 1).to(clock) * step
    clock, order = torch.cat([clock, ruler.expand(len(t), -1)], 1).sort(1)
    where = order.argsort(1)[:, : t.shape[1], None].repeat(n, 1, 1)  # (n B, T, 1)
    noise = x.new_tensor(diffusion)
    sde = SDE(lambda t, x: drift(x), lambda t, x: noise.expand_as(x))
    parts = (torch.split(whole, MOST_PATHS) for whole in (x, clock.repeat(n, 1), where))
    states = [
        solve_at(sde, a, c, t0=0.0, method=srk, generator=generator).take_along_dim(w, 1)
        for a, c, w in zip(*parts)
    ]
    return torch.cat(states).reshape(n, *t.shape, -1)


def _draw(grid: Tensor, weight: Field, n: int, generator: torch.Generator | None) -> Tensor:
    """n draws (n,) from the density proportional to `weight`, through its distribution function."""
    mass = torch.cumulative_trapezoid(weight(grid), grid)
    u = mass[-1] * torch.rand(n, generator=generator, dtype=grid.dtype, device=grid.device)
    right = torch.searchsorted(mass, u).clamp(1, len(mass) - 1)
    low, high = mass[right - 1], mass[right]
    # mass[k] lies left of grid[k + 1]
    return grid[right] + (u - low) / (high - low) * (grid[1] - grid[0])
