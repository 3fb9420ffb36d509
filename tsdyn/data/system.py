"""What all synthetic systems share: a process, and the way it is observed."""

import abc
import dataclasses

import torch
from torch import Tensor

from ..batch import Clock, Gaussian, Names, Paths
from ..errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class System(abc.ABC):
    """A stochastic process x(t), seen at `length` times in [0, span], some values missing, with noise.

    Called, it gives `Paths` with t and x in float32; the same seed gives the same data, and torch's
    global generator is left alone.

    Args:
        n: number of series.
        length: rows in time of each series.
        span: the last possible time, in the system's own unit.
        irregular: every series has its own random times; else all share evenly spaced ones, 0 to span.
        missing: part of the values of each channel that is not observed, in [0, 1).
        noise: standard deviation of the observation noise.
        seed: of the data.
    """

    n: int = 256
    length: int = 50
    span: float = 10.0
    irregular: bool = True
    missing: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.length < 1 or self.span <= 0 or not 0 <= self.missing < 1:
            raise ConfigError(
                "X01",
                f"{type(self).__name__} got n={self.n}, length={self.length}, span={self.span}, "
                f"missing={self.missing}",
                "n and length of at least 1, span > 0 and missing in [0, 1)",
                "Change what lies outside",
            )

    @property
    @abc.abstractmethod
    def channels(self) -> tuple[str, ...]:
        """The names of the D coordinates."""

    @abc.abstractmethod
    def initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x(0): (n, D), in float64."""

    @abc.abstractmethod
    def simulate(
        self, x0: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """n paths from each x(0) = x0 (B, D), without observation noise: t (B, T) -> (n, B, T, D).

        Times are not negative and do not decrease. Float64; None is torch's global generator.
        """

    def moments(
        self, x0: Tensor, t: Tensor, n: int = 1000, generator: torch.Generator | None = None
    ) -> Gaussian:
        """Mean and variance of x(t) given x(0) = x0, (B, T, D), estimated from n paths."""
        draws = self.simulate(x0, t, n, generator)
        return Gaussian(draws.mean(0), draws.var(0))

    def observe(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """y = x + noise e, with e standard normal."""
        return x + self.noise * normal(x.shape, x, generator)

    def __call__(self) -> Paths:
        generator = torch.Generator().manual_seed(self.seed)
        t = self._times(generator)
        x = self.simulate(self.initial(self.n, generator), t.double(), 1, generator)[0]
        x = self.observe(x, generator)
        mask = self._seen(x, generator)
        names = Names(tuple(range(self.n)), self.channels, Clock("float"))
        return Paths(t, x.where(mask, 0.0).float(), mask, names=names)

    def _times(self, generator: torch.Generator) -> Tensor:
        """(n, length) in float32: sorted uniform times, kept a thousandth of the mean step apart."""
        even = torch.linspace(0.0, 1.0, self.length, dtype=torch.float64).expand(self.n, -1)
        if not self.irregular:
            return (self.span * even).float()
        u = torch.rand(self.n, self.length, generator=generator, dtype=torch.float64).sort(1).values
        return (self.span * (0.999 * u + 0.001 * even)).float()

    def _seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The mask (n, length, D): int(missing * length) values of each series and channel are gone."""
        rank = torch.rand(x.shape, generator=generator).argsort(1).argsort(1)
        return rank >= int(self.missing * self.length)


def normal(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal draws of this shape, with the dtype and device of `like`."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
