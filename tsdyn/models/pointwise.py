"""Models that give every value a normal law of its own."""

import abc
import math

import torch
from torch import Tensor, nn

from ..batch import Gaussian, Paths
from ..maths.score import masked_mean
from ..nets import mlp
from .base import Model


class Pointwise(Model):
    """x(t) ~ N(mean, scale^2), every value by itself: the loss is its negative log density in nats.

    Draws are independent of each other given the laws, which `posterior` gives without drawing.
    """

    @abc.abstractmethod
    def law(self, given: Paths, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at times (B, T): (B, T, D) each."""

    def posterior(self, given: Paths, at: Tensor) -> Gaussian:
        """The law of every value at times (B, T)."""
        mean, scale = self.law(given, at)
        return Gaussian(mean, scale.square())

    def loss(self, given: Paths, want: Paths) -> Tensor:
        mean, scale = self.law(given, want.t)
        u = (want.x.where(want.mask, 0.0) - mean) / scale
        return masked_mean(0.5 * u.square() + scale.log() + 0.5 * math.log(2 * math.pi), want.mask)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        mean, scale = self.law(given, at)
        return mean + scale * torch.randn(n, *mean.shape, dtype=mean.dtype, device=mean.device)


def readout(features: int, width: int, dim: int) -> nn.Sequential:
    """To shift and raw scale of D coordinates: near no shift and a spread of about .3 at first."""
    net = mlp(features, width, 2 * dim, depth=1)
    with torch.no_grad():
        last = net[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.1)
        last.bias.zero_()
        last.bias[dim:] = -1.0
    return net
