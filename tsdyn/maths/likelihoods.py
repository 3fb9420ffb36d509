"""p(y | f) of one observed value given one Gaussian unknown: counts, labels, values with outliers.

    expected   E log p(y | f)            under f ~ N(mean, var)   (variational inference)
    tilted     log ∫ p(y | f)^a dN(f)    under f ~ N(mean, var)   (expectation propagation, prediction)

in closed form where there is one, and else by Gauss-Hermite quadrature. Everything acts on each value
alone, arguments broadcast, and derivatives are those of what is computed, so that a stationary point of
a bound is one of the computed bound. Parameters are numbers or tensors, which may be learned.

[1] Opper & Archambeau. The variational Gaussian approximation revisited. Neural Computation 21, 2009:
    the derivatives by mean and variance.
[2] Liu & Pierce. A note on Gauss-Hermite quadrature. Biometrika 81, 1994: nodes about the mode.
[3] Rasmussen & Williams. Gaussian processes for machine learning. MIT Press 2006, section 3.9.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from scipy.special import roots_hermitenorm
from torch import Tensor

from ..errors import DataError
from .blocks import doubles

POINTS = 20  # of quadrature under q, which is narrower than the likelihood
POINTS_TILTED = 50  # and under a cavity, which may be much wider
POINTS_MIXTURE = 200
MODE_STEPS = 40


class Expected(NamedTuple):
    """E log p(y | f), f ~ N(mean, var), and its derivatives."""

    value: Tensor
    by_mean: Tensor
    by_var: Tensor


class Tilted(NamedTuple):
    """log ∫ p(y | f)^a dN(f; mean, var), and its first two derivatives with respect to the mean."""

    value: Tensor
    slope: Tensor
    curvature: Tensor


class Likelihood(abc.ABC):
    """p(y | f). Where p is not log-concave in f, `tilted` has to be overridden."""

    @abc.abstractmethod
    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        """log p(y | f)"""

    @abc.abstractmethod
    def draw(self, f: Tensor) -> Tensor:
        """y ~ p(y | f), in the shape of f, from torch's generator."""

    @abc.abstractmethod
    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of y given f."""

    def guess(self, y: Tensor) -> Tensor:
        """Some f under which y is not surprising: where to start from."""
        return torch.zeros_like(y)

    def require(self, y: Tensor, mask: Tensor) -> None:
        """D14 if a value where the mask is True cannot have come from this law."""
        refuse(~y.isfinite(), y, mask, "a number", "finite values")

    def plain(self) -> Self:
        """With parameters that are apart from any graph, as `plain` makes them."""
        return type(self)(*(plain(f) if isinstance(f, Tensor) else f for f in vars(self).values()))

    def expected(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """E log p(y | f), f ~ N(mean, var)."""
        return average(lambda f: self.log_prob(y, f), mean, var)

    def tilted(self, y: Tensor, mean: Tensor, var: Tensor, power: float = 1.0) -> Tensor:
        """log ∫ p(y | f)^power dN(f; mean, var); with power 1 the log density of y under that f.

        Quadrature about the mode of the integrand  [2], with the width that its curvature there gives.
        """
        own, known = self.plain(), plain(y)
        centre, width = mode(lambda f: power * own.log_prob(known, f), mean, var, self.guess(y))
        x, w = nodes(POINTS_TILTED, mean)
        f = centre + width * x
        term = power * self.log_prob(y, f) - (f - mean) ** 2 / (2 * var) + x**2 / 2
        return (term + w.log()).logsumexp(0) + width.log() - var.log() / 2

    def predicted(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of y when f ~ N(mean, var)."""
        first = average(lambda f: self.moments(f)[0], mean, var)
        second = average(lambda f: self.moments(f)[0] ** 2 + self.moments(f)[1], mean, var)
        return first, second - first**2


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian(Likelihood):
    """y ~ N(f, variance)"""

    variance: Tensor | float

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        (R,) = doubles(self.variance)
        return -((y - f) ** 2 / R + (2 * math.pi * R).log()) / 2

    def draw(self, f: Tensor) -> Tensor:
        (R,) = doubles(self.variance)
        return f + R.sqrt() * torch.randn_like(f)

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        (R,) = doubles(self.variance)
        return f, R.expand_as(f)

    def guess(self, y: Tensor) -> Tensor:
        return y

    def expected(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        (R,) = doubles(self.variance)
        return self.log_prob(y, mean) - var / (2 * R)

    def tilted(self, y: Tensor, mean: Tensor, var: Tensor, power: float = 1.0) -> Tensor:
        (R,) = doubles(self.variance)
        spread = R / power + var
        level = (1 - power) * (2 * math.pi * R).log() - math.log(power)  # of N^power next to N
        return (level - (y - mean) ** 2 / spread - (2 * math.pi * spread).log()) / 2

    def predicted(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        (R,) = doubles(self.variance)
        return mean, var + R


@dataclasses.dataclass(frozen=True, eq=False)
class StudentT(Likelihood):
    """y = f + scale e, e of Student's t law with df degrees of freedom: values with outliers.

    Not log-concave: far values lose their pull.
    """

    df: Tensor | float
    scale: Tensor | float

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        df, scale = doubles(self.df, self.scale)
        square = ((y - f) / scale) ** 2
        return self._level(df, scale) - (df + 1) / 2 * torch.log1p(square / df)

    def draw(self, f: Tensor) -> Tensor:
        df, scale = doubles(self.df, self.scale)
        weight = torch._standard_gamma((df / 2).expand_as(f)) / (df / 2)
        return f + scale * torch.randn_like(f) / weight.sqrt()

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        df, scale = doubles(self.df, self.scale)
        var = scale**2 * df / (df - 2)
        return f, var.where(df > 2, torch.inf).expand_as(f)

    def tilted(self, y: Tensor, mean: Tensor, var: Tensor, power: float = 1.0) -> Tensor:
        """p^power is a mixture of Gaussians of precision l, l^(k-1) exp(-l) dl with k = power (df+1) / 2.

        Each has its integral in closed form; that over log l is smooth and decays at both ends, so that
        the trapezoidal rule is accurate to rounding.
        """
        df, scale = doubles(self.df, self.scale)
        k, unit = power * (df + 1) / 2, df * scale**2
        square = (y - mean) ** 2
        with torch.no_grad():
            low = k.log() - torch.log1p(square / unit) - 40 / k
            high = (k + 40 + (80 * k).sqrt()).log() + torch.zeros_like(low)
            step = (high - low) / (POINTS_MIXTURE - 1)
            count = torch.arange(POINTS_MIXTURE, dtype=low.dtype, device=low.device)
            u = low + step * ahead(count, low)
        spread = unit + 2 * u.exp() * var
        term = k * u - u.exp() - (spread / unit).log() / 2 - u.exp() * square / spread
        total = term.logsumexp(0) + step.log() - torch.lgamma(k)
        return power * self._level(df, scale) + total

    def predicted(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        return mean, var + self.moments(mean)[1]

    @staticmethod
    def _level(df: Tensor, scale: Tensor) -> Tensor:
        """The log density at its mode."""
        ratio = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2)
        return ratio - (math.pi * df * scale**2).log() / 2


class _Count(Likelihood):
    """y in 0, 1, 2, ... with mean exp f."""

    def guess(self, y: Tensor) -> Tensor:
        return (y + 0.5).log()

    def require(self, y: Tensor, mask: Tensor) -> None:
        refuse((y < 0) | (y != y.round()) | ~y.isfinite(), y, mask, "a count", "0, 1, 2, ...")


@dataclasses.dataclass(frozen=True, eq=False)
class Poisson(_Count):
    """y ~ Poisson(exp f)"""

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        return y * f - f.exp() - torch.lgamma(y + 1)

    def draw(self, f: Tensor) -> Tensor:
        return torch.poisson(f.exp())

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f.exp(), f.exp()

    def expected(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return y * mean - (mean + var / 2).exp() - torch.lgamma(y + 1)

    def predicted(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        rate, spread = log_normal(mean, var)
        return rate, rate + spread


@dataclasses.dataclass(frozen=True, eq=False)
class NegativeBinomial(_Count):
    """y ~ Poisson(g exp f), g of a gamma law with mean 1 and variance 1 / size: counts that spread more.

    The variance is mu + mu^2 / size at mean mu = exp f.
    """

    size: Tensor | float

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        (r,) = doubles(self.size)
        level = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
        return level + r * r.log() + y * f - (y + r) * torch.logaddexp(r.log(), f)

    def draw(self, f: Tensor) -> Tensor:
        (r,) = doubles(self.size)
        return torch.poisson(f.exp() * torch._standard_gamma(r.expand_as(f)) / r)

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        (r,) = doubles(self.size)
        return f.exp(), f.exp() + (2 * f).exp() / r

    def predicted(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        (r,) = doubles(self.size)
        rate, spread = log_normal(mean, var)
        return rate, rate + spread + (rate**2 + spread) / r


class _Label(Likelihood):
    """y in 0, 1."""

    @abc.abstractmethod
    def log_one(self, f: Tensor) -> Tensor:
        """log P(y = 1 | f), which is log P(y = 0 | -f)."""

    def log_prob(self, y: Tensor, f: Tensor) -> Tensor:
        return self.log_one((2 * y - 1) * f)

    def draw(self, f: Tensor) -> Tensor:
        return torch.bernoulli(self.log_one(f).exp())

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        one = self.log_one(f).exp()
        return one, one * self.log_one(-f).exp()

    def require(self, y: Tensor, mask: Tensor) -> None:
        refuse((y != 0) & (y != 1), y, mask, "a label", "0 or 1")

    def predicted(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        one = self.tilted(torch.ones_like(mean), mean, var).exp()
        return one, one * (1 - one)


@dataclasses.dataclass(frozen=True, eq=False)
class Logit(_Label):
    """P(y = 1) = 1 / (1 + exp(-f))"""

    def log_one(self, f: Tensor) -> Tensor:
        return -torch.logaddexp(torch.zeros_like(f), -f)


@dataclasses.dataclass(frozen=True, eq=False)
class Probit(_Label):
    """P(y = 1) = P(e < f), e ~ N(0, 1)"""

    def log_one(self, f: Tensor) -> Tensor:
        log: Tensor = torch.special.log_ndtr(f)
        return log

    def tilted(self, y: Tensor, mean: Tensor, var: Tensor, power: float = 1.0) -> Tensor:
        if power != 1.0:
            return super().tilted(y, mean, var, power)
        return self.log_prob(y, mean / (1 + var).sqrt())  # [3]


def expected(likelihood: Likelihood, y: Tensor, mean: Tensor, var: Tensor) -> Expected:
    """E log p(y | f) under f ~ N(mean, var), and its derivatives, all without graph  [1]"""
    own, y, m, v = likelihood.plain(), plain(y), plain(mean), plain(var)
    with torch.inference_mode(False), torch.enable_grad():
        value = own.expected(y, m.requires_grad_(), v.requires_grad_())
        by_mean, by_var = torch.autograd.grad(value.sum(), (m, v))
    return Expected(value.detach(), by_mean, by_var)


def tilted(
    likelihood: Likelihood, y: Tensor, mean: Tensor, var: Tensor, power: float = 1.0
) -> Tilted:
    """log ∫ p(y | f)^power dN(f; mean, var), and its derivatives, all without graph."""
    own, y, v = likelihood.plain(), plain(y), plain(var)
    return Tilted(*slopes(lambda m: own.tilted(y, m, v, power), mean))


def log_slopes(likelihood: Likelihood, y: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """(log p)' and (log p)'' of each value at f, without graph."""
    own, y = likelihood.plain(), plain(y)
    return slopes(lambda f: own.log_prob(y, f), f)[1:]


def slopes(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g(x), g'(x) and g''(x), value by value and without graph; all that g holds is to be `plain`."""
    x = plain(x)
    with torch.inference_mode(False), torch.enable_grad():
        value = function(x.requires_grad_())
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
    return value.detach(), slope.detach(), curvature


def plain(f: Tensor) -> Tensor:
    """A copy without graph that a graph may be made of, also within inference mode."""
    with torch.inference_mode(False):
        return f.detach().clone()


@torch.no_grad()
def mode(
    log_p: Callable[[Tensor], Tensor], mean: Tensor, var: Tensor, near: Tensor
) -> tuple[Tensor, Tensor]:
    """The mode of p(f) N(f; mean, var), p log-concave, and 1 / sqrt of the curvature there.

    Newton's method, with bisection where it leaves the bracket: the mode is mean + var (log p)' there,
    and (log p)' decreases. It need not be exact, nor is it differentiated.
    """
    pull = var * slopes(log_p, mean)[1]
    low, high = mean + pull.clamp(-1e8, 0.0), mean + pull.clamp(0.0, 1e8)
    f = near.clamp(low, high)
    for _ in range(MODE_STEPS):
        _, slope, curvature = slopes(log_p, f)
        slope, curvature = slope - (f - mean) / var, curvature - 1 / var
        low, high = f.where(slope > 0, low), f.where(~(slope > 0), high)
        newton = f - slope / curvature
        inside = (newton >= low) & (newton <= high)
        step = newton.where(inside, (low + high) / 2) - f
        f = f + step
        if bool((step.abs() <= 1e-6 * var.sqrt()).all()):
            break
    return f, (1 / var - slopes(log_p, f)[2]).rsqrt()


def average(g: Callable[[Tensor], Tensor], mean: Tensor, var: Tensor) -> Tensor:
    """E g(f), f ~ N(mean, var), by quadrature; g is asked for (POINTS, ...)."""
    x, w = nodes(POINTS, mean)
    return (w * g(mean + var.sqrt() * x)).sum(0)


def nodes(points: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of quadrature under N(0, 1): (points, 1, ...) each, to stand ahead of `like`.

    Ahead, because parameters broadcast to values from the last axis on.
    """
    x, w = (like.new_tensor(f) for f in _hermite(points))
    return ahead(x, like), ahead(w, like)


def ahead(f: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, ...), an axis in front of those of `like`."""
    return f.reshape(-1, *(1,) * like.ndim)


@functools.cache
def _hermite(points: int) -> tuple[list[float], list[float]]:
    x, w = roots_hermitenorm(points)
    return x.tolist(), (w / math.sqrt(2 * math.pi)).tolist()


def log_normal(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of exp f, f ~ N(mean, var)."""
    rate = (mean + var / 2).exp()
    return rate, torch.expm1(var) * rate**2


def refuse(wrong: Tensor, y: Tensor, mask: Tensor, kind: str, wanted: str) -> None:
    """D14 with the first value that is wrong where the mask is True."""
    places = (wrong & mask).nonzero()
    if len(places):
        at = tuple(places[0].tolist())
        raise DataError(
            "D14",
            f"{float(y[at])} is not {kind} (index {at}; {len(places)} such values)",
            wanted,
            "Use another likelihood, or mask what is not an observation; counts and labels are not scaled",
        )
