"""How values are seen of a Gaussian process: p(y | f), as sites of the chain that makes f.

A likelihood gives sites (s, h, J) such that `log_z(chain, sites)` is log p(y), exactly where p(y | f) is
Gaussian, else an approximation of it. With the sites all that is asked of a Gaussian process is exact.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..batch import Gaussian
from ..errors import ConfigError
from ..maths.kalman import LinearGaussian, Sites
from ..maths.observations import observe
from .base import Part


class Seen(NamedTuple):
    """Values y of f = mean + H x, of C independent chains with O outputs each: D = C O."""

    H: Tensor  # (..., O, S)
    mean: Tensor  # (B, C, N, O)
    y: Tensor  # (B, C, N, O)  not read where the mask is False
    mask: Tensor  # (B, C, N, O)


class Likelihood(Part):
    """p(y | f), every value on its own."""

    additive = False  # y is f and something independent of it

    @abc.abstractmethod
    def sites(self, chain: LinearGaussian, seen: Seen) -> Sites:
        """Sites (B, C, N, ...) of the chain (B, C or 1, N, ...), with gradients to the parameters."""

    @abc.abstractmethod
    def values(self, f: Gaussian) -> Gaussian:
        """Mean and variance of y where f is Gaussian: (B, T, D)."""

    @abc.abstractmethod
    def draw(self, f: Tensor) -> Tensor:
        """One y for every f (n, B, T, D)."""

    def start(self, variance: Tensor) -> None:
        """Called once with the variances (D,) of what is observed in training."""


class GaussianNoise(Likelihood):
    """y ~ N(f, noise^2), with a noise of every channel.

    Args:
        dim: coordinates of the series, D.
        noise: standard deviation, one for all channels or one each; None starts at a third of that of
            the data.
        fixed: it is not learned.
    """

    additive = True

    def __init__(self, dim: int, noise: float | Sequence[float] | None = None, fixed: bool = False):
        super().__init__()
        self.from_data = noise is None
        first = torch.tensor(1.0 if noise is None else noise, dtype=torch.float64).expand(dim)
        if not bool(((first > 0) & first.isfinite()).all()):
            raise ConfigError(
                "X01",
                f"GaussianNoise(noise={noise})",
                "positive standard deviations",
                "For values that are nearly exact, a thousandth of their size will do",
            )
        self.log_noise = nn.Parameter(first.log(), requires_grad=not fixed)

    @property
    def variance(self) -> Tensor:
        """noise^2 of every channel: (D,)."""
        return (2 * self.log_noise.double()).exp()

    def sites(self, chain: LinearGaussian, seen: Seen) -> Sites:
        _, C, _, O = seen.y.shape
        R = self.variance.view(C, 1, O)  # the same at all rows
        H = seen.H if seen.H.ndim == 2 else seen.H[..., None, :, :]
        return observe(H, R, seen.y.double() - seen.mean, seen.mask)

    def values(self, f: Gaussian) -> Gaussian:
        return Gaussian(f.mean, f.var + self.variance)

    def draw(self, f: Tensor) -> Tensor:
        return f + self.variance.sqrt() * torch.randn_like(f)

    @torch.no_grad()
    def start(self, variance: Tensor) -> None:
        if self.from_data:
            self.log_noise.copy_((variance / 10).log() / 2)
