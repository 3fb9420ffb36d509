"""What every model must beat: the last value, the line between neighbours, and the last season.

None of them is trained: level and spread come from the given part of each series itself.
"""

import abc
import math

import torch
from torch import Tensor

from ..batch import Gaussian, Paths
from ..maths import walk
from ..maths.near import Near, interpolate, near
from ..maths.score import masked_mean
from .base import Model


def gaussian_loss(law: Gaussian, want: Paths) -> Tensor:
    """-log N(x; mean, var), nats per observed value."""
    var = law.var.clamp(min=torch.finfo(law.var.dtype).tiny ** 0.5)
    square = (want.x.where(want.mask, 0.0) - law.mean).square() / var
    return masked_mean(0.5 * (square + (2 * math.pi * var).log()), want.mask)


class _Walk(Model):
    """A random walk pinned to observations; what differs is the anchor."""

    @abc.abstractmethod
    def weight(self, found: Near) -> Tensor:
        """Share of the next value in the anchor: (B, T, D), in [0, 1]."""

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return gaussian_loss(self.posterior(given, want.t), want)

    def posterior(self, given: Paths, at: Tensor) -> Gaussian:
        """Mean and variance of every value at times (B, T), without draws."""
        found = near(given.t, given.x, given.mask, at.to(given.t.dtype))
        weight = self.weight(found)
        mean = torch.lerp(found.before[..., 0], found.after[..., 0], weight)
        var = walk.rate(given.t, given.x, given.mask) * walk.variance(found, weight)
        prior = _pooled(given)  # for channels of which nothing was given
        return Gaussian(mean.where(found.known, prior.mean), var.where(found.known, prior.var))

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        at = at.to(given.t.dtype)
        found = near(given.t, given.x, given.mask, at)
        law = self.posterior(given, at)
        pinned = walk.draw(at, found, self.weight(found), n)
        pinned = pinned * walk.rate(given.t, given.x, given.mask).sqrt()
        free = law.var.sqrt() * torch.randn_like(pinned)
        return law.mean + pinned.where(found.known, free)


class LastValue(_Walk):
    """x(t) | given ~ N(x_last, v (t - t_last)): a random walk from the last value before t.

    v = sum (dx)^2 / sum dt over the given part of each channel of each series, pooled over the batch
    where a channel was seen less than twice. Before the first observation the first one stands in.
    Draws of one series are joint paths.
    """

    def weight(self, found: Near) -> Tensor:
        only_after = ~found.has_before[..., 0] & found.has_after[..., 0]
        return only_after.to(found.before.dtype)


class LinearInterpolation(_Walk):
    """x(t) | given ~ N(line between neighbours, v a b / (a + b)): the bridge of the same random walk.

    a and b are the times to the neighbours on either side; beyond the last value it is `LastValue`.
    """

    def weight(self, found: Near) -> Tensor:
        return found.weight


class SeasonalNaive(Model):
    """x(t) | given ~ N(x(t - m p), m s^2), m = the least number of seasons that leads to a known time.

    s^2 = mean (x(t) - x(t - p))^2 over the given part of each channel of each series; values between
    observations by linear interpolation, so times may be irregular. Where a series is shorter than a
    season it is `LastValue`. Draws are independent between times.

    Args:
        period: length p of the season in the units of t.
    """

    def __init__(self, period: float):
        super().__init__()
        self.period = period
        self.short = LastValue()

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return gaussian_loss(self.posterior(given, want.t), want)

    def posterior(self, given: Paths, at: Tensor) -> Gaussian:
        """Mean and variance of every value at times (B, T), without draws."""
        t, x, mask = given.t, given.x, given.mask
        at, p = at.to(t.dtype), self.period
        seen = mask.any(-1)
        first = t.where(seen, torch.inf).amin(1, keepdim=True)
        last = t.where(seen, -torch.inf).amax(1, keepdim=True)
        # A season back is found by interpolation, so allow for rounding of times by a thousandth of it.
        seasons = ((at - last) / p - 1e-3).ceil().clamp(min=1).nan_to_num(1.0, posinf=1.0)
        back = at - seasons * p
        back = torch.where((back < first - 1e-3 * p) & (at + p <= last), at + p, back)
        mean = interpolate(t, x, mask, back)
        usual = (t - p >= first - 1e-3 * p)[..., None] & mask
        change = (x - interpolate(t, x, mask, t - p)).square().where(usual, 0.0).sum(1)
        count = usual.sum(1)
        var = seasons[..., None].to(x.dtype) * (change / count.clamp(min=1))[:, None]
        known = ((back >= first - 1e-3 * p) & (back <= last))[..., None] & (count > 1)[:, None]
        short = self.short.posterior(given, at)
        return Gaussian(mean.where(known, short.mean), var.where(known, short.var))

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        law = self.posterior(given, at)
        noise = torch.randn(n, *law.mean.shape, dtype=law.mean.dtype, device=law.mean.device)
        return law.mean + law.var.sqrt() * noise


def _pooled(given: Paths) -> Gaussian:
    """Mean and variance of each channel over the whole batch; N(0, 1) where nothing was seen: (D,)."""
    count = given.mask.sum((0, 1))
    mean = given.x.where(given.mask, 0.0).sum((0, 1)) / count.clamp(min=1)
    square = (given.x - mean).where(given.mask, 0.0).square().sum((0, 1)) / count.clamp(min=1)
    return Gaussian(mean, square.where((count > 1) & (square > 0), 1.0))
