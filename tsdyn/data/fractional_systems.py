"""Systems driven by fractional Brownian motion whose conditional law is known: data with memory.

[1] Cheridito, Kawaguchi & Maejima. Fractional Ornstein-Uhlenbeck processes. Electronic Journal of
    Probability 8, 2003.
"""

import dataclasses

import torch
from torch import Tensor

from ..batch import Gaussian, Paths
from ..errors import ConfigError
from ..maths import gaussian_evidence
from ..maths.fractional_mean_reversion import fractional_ou, stationary_fractional_ou
from .gaussian import Joint
from .linear_systems import GaussianSystem
from .system import normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class FractionalOU(GaussianSystem):
    """dx = rate (level - x) dt + sigma dB,  B fractional Brownian motion of index hurst, Var B(1) = 1  [1]

    Gaussian. Stationary, with variance sigma^2 rate^(-2 H) H Gamma(2 H), and a covariance that falls as
    lag^(2 H - 2), for H > 1/2 so slowly that its integral is infinite; or from a fixed x(0), driven
    from then on. At H = 1/2 it is `OrnsteinUhlenbeck`; at any other what comes next depends on all that
    was observed. Drawn from its covariance, at cost (length)^3 for each series.

    Args:
        dim: number of independent coordinates.
        hurst: index of the noise, in (0, 1): below 1/2 rough, above it with long memory.
        rate: of return to the level, per unit of time; > 0.
        level: what it returns to.
        sigma: strength of the noise, per unit of time to the power H.
        start: x(0); None draws it, and all its past, from the stationary law.

    Raises:
        ConfigError: X01 for an index outside (0, 1) or a rate that is not positive.
    """

    dim: int = 1
    hurst: float = 0.8
    rate: float = 1.0
    level: float = 0.0
    sigma: float = 0.5
    start: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hurst < 1 or self.rate <= 0:
            raise ConfigError(
                "X01",
                f"FractionalOU got hurst={self.hurst}, rate={self.rate}",
                "an index in (0, 1) and a positive rate",
                "Change what lies outside",
            )

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"x{d}" for d in range(self.dim))

    def mean(self, t: Tensor) -> Tensor:
        start = self.level if self.start is None else self.start
        return self.level + (start - self.level) * (-self.rate * t).exp()

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        law = stationary_fractional_ou if self.start is None else fractional_ou
        return self.sigma**2 * law(self.hurst, self.rate)(s, t)

    def log_evidence(self, seen: Paths) -> Tensor:
        """log p of all that is seen of each series, in nats: (B,), in float64."""
        t = seen.t.double()
        y = (seen.x.double() - self.mean(t)[..., None]).mT  # (B, D, T)
        known = t[:, None].expand_as(y), y, self.noise**2, seen.mask.mT
        return gaussian_evidence.log_evidence(self.covariance, *known).sum(-1)

    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        x = torch.full((n, self.dim), self.level if self.start is None else self.start).double()
        if self.start is not None:
            return x
        zero = x.new_zeros(())
        return x + self.covariance(zero, zero).sqrt() * normal(x.shape, x, generator)

    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        x0, t = x0.double(), t.double()
        both = torch.cat([torch.zeros_like(t[:, :1]), t], 1)
        C = self.covariance(both[..., :, None], both[..., None, :])[:, None]
        C = C.expand(-1, self.dim, -1, -1)
        free = Joint(torch.zeros_like(C[..., 0]), C).draw(n, generator)
        # a path of the process becomes one given x(0) by moving all that x(0) tells of it
        miss = x0[:, None] - self.level - free[:, :, :1]
        return self.level + free[:, :, 1:] + self._carried(t) * miss

    def moments(
        self, x0: Tensor, t: Tensor, n: int = 0, generator: torch.Generator | None = None
    ) -> Gaussian:
        """Mean and variance of x(t) given x(0) = x0 (B, D), exact: (B, T, D). No draws are made."""
        x0, t = x0.double(), t.double()
        here, keep = torch.zeros_like(t), self._carried(t)
        mean = self.level + keep * (x0 - self.level)[:, None]
        known = keep[..., 0].square() * self.covariance(here, here)  # nothing, if x(0) is fixed
        var = (self.covariance(t, t) - known).clamp(min=0.0)
        return Gaussian(mean, var[..., None].expand_as(mean))

    def _carried(self, t: Tensor) -> Tensor:
        """How much of x(0) - level is expected at t: (B, T, 1)"""
        if self.start is not None:
            return (-self.rate * t).exp()[..., None]
        here = torch.zeros_like(t)
        return (self.covariance(here, t) / self.covariance(here, here))[..., None]
