"""Counts whose intensity is a process of known law.

[1] Cox. Some statistical methods connected with series of events. JRSS B 17, 1955.
[2] Møller, Syversveen & Waagepetersen. Log Gaussian Cox processes. Scandinavian Journal of Statistics
    25, 1998.
"""

import dataclasses
import math

import torch
from torch import Tensor

from ..batch import Gaussian
from ..errors import ConfigError
from .linear_systems import OrnsteinUhlenbeck
from .system import System


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogGaussianCounts(System):
    """y ~ Poisson(exp f),  f an Ornstein-Uhlenbeck process  [2]

    Cov(f(s), f(t)) = deviation^2 exp(-|s - t| / lengthscale), stationary about `level`: the Matérn-1/2
    Gaussian process, so that an `ApproximateGP` with these values is the exact model. States x are f;
    what is observed are counts, of mean exp(level + deviation^2 / 2).

    Args:
        dim: number of independent coordinates.
        level: mean of f.
        deviation: standard deviation of f; > 0.
        lengthscale: in the units of time; > 0.
    """

    span: float = 20.0
    dim: int = 1
    level: float = 1.0
    deviation: float = 1.0
    lengthscale: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise or not (self.deviation > 0 and self.lengthscale > 0):
            raise ConfigError(
                "X01",
                f"LogGaussianCounts got noise={self.noise}, deviation={self.deviation}, "
                f"lengthscale={self.lengthscale}",
                "a positive deviation and lengthscale, and no noise",
                "The spread of counts is that of Poisson's law",
            )

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"y{d}" for d in range(self.dim))

    @property
    def latent(self) -> OrnsteinUhlenbeck:
        """The law of f."""
        rate = 1 / self.lengthscale
        sigma = self.deviation * math.sqrt(2 * rate)
        return OrnsteinUhlenbeck(dim=self.dim, rate=rate, level=self.level, sigma=sigma)

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.latent.initial(n, generator)

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.latent.simulate(x0, t, n, generator)

    def moments(
        self, x0: Tensor, t: Tensor, n: int = 0, generator: torch.Generator | None = None
    ) -> Gaussian:
        """Mean and variance of f(t) given f(0) = x0, exact."""
        return self.latent.moments(x0, t)

    def observe(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.poisson(x.exp(), generator=generator)
