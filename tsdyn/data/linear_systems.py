"""Systems whose conditional law is known in closed form, whatever was observed and whatever is asked.

[1] Uhlenbeck & Ornstein (1930), On the theory of the Brownian motion.
[2] Black & Scholes (1973), The pricing of options and corporate liabilities.
"""

import abc
import dataclasses
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Gaussian, Paths
from .gaussian import Joint, condition
from .system import System, normal

Kind = Literal["observation", "latent"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianSystem(System):
    """Independent coordinates, each a Gaussian process with a mean m(t) and a covariance k(s, t)."""

    @abc.abstractmethod
    def mean(self, t: Tensor) -> Tensor:
        """m(t), in the shape of t."""

    @abc.abstractmethod
    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        """k(s, t); s and t broadcast against each other."""

    def law(self, given: Paths, at: Tensor, kind: Kind = "observation") -> Gaussian:
        """The exact Gaussian p(x(at) | given), value by value: at (B, T) -> (B, T, D), in float64.

        Args:
            given: what was observed of B series; without any observation the law is the prior.
            at: the times asked.
            kind: "observation" for what would be measured there, with new noise; "latent" without.
        """
        mean, var = self._joint(given, at).marginal()
        return Gaussian(mean, var + self.noise**2 * (kind == "observation"))

    def sample_law(
        self,
        given: Paths,
        at: Tensor,
        n: int,
        kind: Kind = "observation",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n joint draws from p(x(at) | given): (n, B, T, D), in float64."""
        x = self._joint(given, at).draw(n, generator)
        return self.observe(x, generator) if kind == "observation" else x

    def _joint(self, given: Paths, at: Tensor) -> Joint:
        return condition(self.mean, self.covariance, given, at, self.noise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeck(GaussianSystem):
    """dx = rate (level - x) dt + sigma dW  [1]

    Gaussian. Stationary, k(s, t) = sigma^2 / (2 rate) exp(-rate |s - t|), or from a fixed x(0), for
    which sigma^2 / (2 rate) exp(-rate (s + t)) is taken off. Drawn by its exact transition.

    Args:
        dim: number of independent coordinates.
        rate: of return to the level, per unit of time; > 0.
        level: what it returns to.
        sigma: strength of the noise.
        start: x(0); None draws it from the stationary law.
    """

    dim: int = 1
    rate: float = 1.0
    level: float = 0.0
    sigma: float = 0.5
    start: float | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"x{d}" for d in range(self.dim))

    def mean(self, t: Tensor) -> Tensor:
        start = self.level if self.start is None else self.start
        return self.level + (start - self.level) * (-self.rate * t).exp()

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        stationary = self.sigma**2 / (2 * self.rate)
        apart = (-self.rate * (s - t).abs()).exp()
        begun = 0.0 if self.start is None else (-self.rate * (s + t)).exp()
        return stationary * (apart - begun)

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        x = torch.full(
            (n, self.dim), float(self.level if self.start is None else self.start)
        ).double()
        if self.start is not None:
            return x
        return x + self.sigma / math.sqrt(2 * self.rate) * normal(x.shape, x, generator)

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        x0 = x0.double().expand(n, *x0.shape)
        return self.level + _relax(x0 - self.level, t, self.rate, self.sigma, generator)

    def moments(
        self, x0: Tensor, t: Tensor, n: int = 0, generator: torch.Generator | None = None
    ) -> Gaussian:
        """Mean and variance of x(t) given x(0) = x0 (B, D), exact: (B, T, D). No draws are made."""
        keep = (-self.rate * t.double()).exp()[..., None]
        mean = self.level + keep * (x0.double() - self.level)[:, None]
        return Gaussian(mean, (self.sigma**2 / (2 * self.rate) * (1 - keep**2)).expand_as(mean))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeasonalAR(GaussianSystem):
    """x = level + a cos(2 pi t / period) + b sin(2 pi t / period) + r,  dr = -rate r dt + sigma dW

    a, b ~ N(0, amplitude^2) anew for each series: a season of its own strength and phase, and a
    residual that is a first-order autoregression in continuous time. Gaussian, stationary:

        k(s, t) = amplitude^2 cos(2 pi (s - t) / period) + sigma^2 / (2 rate) exp(-rate |s - t|)

    Args:
        level: the mean.
        amplitude: root mean square of a and b.
        period: of the season.
        rate: of return of the residual; > 0.
        sigma: strength of the noise that drives the residual.
        gap: part of the rows, in one stretch placed at random, that is not observed, in [0, 1).
    """

    span: float = 20.0
    level: float = 0.0
    amplitude: float = 1.0
    period: float = 4.0
    rate: float = 1.0
    sigma: float = 0.5
    gap: float = 0.0

    @property
    def channels(self) -> tuple[str, ...]:
        return ("x0",)

    def mean(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.level)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        season = (2 * math.pi / self.period * (s - t)).cos()
        residual = (-self.rate * (s - t).abs()).exp()
        return self.amplitude**2 * season + self.sigma**2 / (2 * self.rate) * residual

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        zero = torch.zeros(n, 1, dtype=torch.float64)
        spread = math.sqrt(self.amplitude**2 + self.sigma**2 / (2 * self.rate))
        return self.level + spread * normal(zero.shape, zero, generator)

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        x0 = x0.double().expand(n, *x0.shape) - self.level
        # a and r(0) are known only by their sum x(0) - level; b is not touched by it
        season, residual = self.amplitude**2, self.sigma**2 / (2 * self.rate)
        share = season / (season + residual)
        a = share * x0 + math.sqrt(residual * share) * normal(x0.shape, x0, generator)
        b = self.amplitude * normal(x0.shape, x0, generator)
        phase = (2 * math.pi / self.period * t.double())[..., None]  # (B, T, 1)
        wave = a[..., None, :] * phase.cos() + b[..., None, :] * phase.sin()
        return self.level + wave + _relax(x0 - a, t, self.rate, self.sigma, generator)

    def moments(
        self, x0: Tensor, t: Tensor, n: int = 0, generator: torch.Generator | None = None
    ) -> Gaussian:
        """Mean and variance of x(t) given x(0) = x0 (B, D), exact: (B, T, D). No draws are made."""
        start = Paths(
            t.new_zeros(len(t), 1), x0[:, None], torch.ones_like(x0, dtype=torch.bool)[:, None]
        )
        return condition(self.mean, self.covariance, start, t).marginal()

    def _seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        rows = int(self.gap * self.length)
        first = torch.rand(len(x), 1, 1, generator=generator) * (self.length - rows + 1)
        place = torch.arange(self.length)[:, None]
        hole = (place >= first.floor()) & (place < first.floor() + rows)
        seen = super()._seen(x, generator)
        # a series whose other rows are missing by chance keeps those of the hole
        return torch.where((seen & ~hole).any(1, keepdim=True), seen & ~hole, seen)


class LogNormal(NamedTuple):
    """log x is Gaussian: its mean and variance, and those of x itself."""

    mean: Tensor  # (B, T, D)
    var: Tensor  # (B, T, D)
    log_mean: Tensor  # (B, T, D)
    log_var: Tensor  # (B, T, D)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometricBrownianMotion(System):
    """dx = drift x dt + sigma x dW, x(0) = start > 0  [2]

    log x is a Brownian motion with slope drift - sigma^2 / 2, so x given any observations is
    log-normal. Drawn by its exact transition; it stays positive, and so does what is observed:
    y = x exp(noise e).

    Args:
        dim: number of independent coordinates.
        drift: growth of the mean, per unit of time.
        sigma: strength of the noise, per square root of the unit of time.
        start: x(0).
        noise: standard deviation of the observation noise of log x.
    """

    dim: int = 1
    drift: float = 0.1
    sigma: float = 0.2
    start: float = 1.0

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"x{d}" for d in range(self.dim))

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.full((n, self.dim), float(self.start), dtype=torch.float64)

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        t = t.double()
        gaps = t.diff(dim=1, prepend=t.new_zeros(len(t), 1))[..., None]  # (B, T, 1)
        e = normal(torch.Size((n, *t.shape, x0.shape[1])), t, generator)
        steps = (self.drift - self.sigma**2 / 2) * gaps + self.sigma * gaps.sqrt() * e
        return x0.double()[:, None] * steps.cumsum(-2).exp()

    def observe(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x * (self.noise * normal(x.shape, x, generator)).exp()

    def moments(
        self, x0: Tensor, t: Tensor, n: int = 0, generator: torch.Generator | None = None
    ) -> Gaussian:
        """Mean and variance of x(t) given x(0) = x0, exact: (B, T, D). No draws are made."""
        mean = x0.double()[:, None] * (self.drift * t.double()).exp()[..., None]
        return Gaussian(mean, mean**2 * (self.sigma**2 * t.double()).expm1()[..., None])

    def law(self, given: Paths, at: Tensor, kind: Kind = "observation") -> LogNormal:
        """The exact log-normal p(x(at) | given), value by value: at (B, T) -> (B, T, D), in float64."""
        mean, var = self._joint(given, at).marginal()
        var = var + self.noise**2 * (kind == "observation")
        expected = (mean + var / 2).exp()
        return LogNormal(expected, expected**2 * var.expm1(), mean, var)

    def sample_law(
        self,
        given: Paths,
        at: Tensor,
        n: int,
        kind: Kind = "observation",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n joint draws from p(x(at) | given): (n, B, T, D), in float64."""
        x = self._joint(given, at).draw(n, generator).exp()
        return self.observe(x, generator) if kind == "observation" else x

    def _joint(self, given: Paths, at: Tensor) -> Joint:
        """The law of log x."""
        slope = self.drift - self.sigma**2 / 2
        logs = given._replace(x=given.x.double().where(given.mask, 1.0).log())
        return condition(
            lambda t: math.log(self.start) + slope * t,
            lambda s, t: self.sigma**2 * torch.minimum(s, t),
            logs,
            at,
            self.noise,
        )


def _relax(
    r0: Tensor, t: Tensor, rate: float, sigma: float, generator: torch.Generator | None
) -> Tensor:
    """dr = -rate r dt + sigma dW from r(0) = r0 (n, B, D), by exact steps: t (B, T) -> (n, B, T, D)."""
    t = t.double()
    gaps = t.diff(dim=1, prepend=t.new_zeros(len(t), 1))[..., None]  # (B, T, 1)
    keep = (-rate * gaps).exp()
    spread = sigma * (-(-2 * rate * gaps).expm1() / (2 * rate)).sqrt()
    n, B, D = r0.shape
    noise = spread * normal(torch.Size((n, B, t.shape[1], D)), r0, generator)
    rows, r = [], r0
    for k in range(t.shape[1]):
        r = keep[:, k] * r + noise[:, :, k]
        rows.append(r)
    return torch.stack(rows, 2)
