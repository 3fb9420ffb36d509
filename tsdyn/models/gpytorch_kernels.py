"""Kernels of fractional processes for gpytorch, with an index that is learned.

    k(s, t) = variance · Cov(B(s), B(t)),   Var B(1) = 1

for fractional Brownian motion, motion of Riemann and Liouville, and the Markov approximation of either one. B(0) = 0:
times count from where the process starts. Parameters have gpytorch's own form, so that its priors, constraints, batches,
sums and products, `ScaleKernel` and training go with them. Covariances are computed in double precision and returned in
that of the times.

See `tsdyn.maths.fractional_exact` and `tsdyn.maths.fractional` for the equations and their sources.
"""

import abc
from collections.abc import Callable
from typing import Any

import gpytorch
import torch
from gpytorch.constraints import Interval, Positive
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..maths.fractional import MarkovApproximation, covariance, riemann_liouville
from ..maths.fractional_exact import (
    Covariance,
    fractional_brownian,
    riemann_liouville as exact_riemann_liouville,
    riemann_liouville_variance,
)

NEAREST = 0.01  # of H to 0 and 1, where the sigmoid of a large number would end


class FractionalKernel(gpytorch.kernels.Kernel, abc.ABC):  # type: ignore[misc]
    """variance · law(H)(s, t), H = 0.01 + 0.98 sigmoid(raw_hurst)

    Args (here and below):
        hurst: the first value of H, a number or of the batch shape.
        variance: the first value of the variance at time 1, likewise.
        hurst_constraint, variance_constraint: of gpytorch; None for the one above, and for a positive number.
        **others: of gpytorch's `Kernel`, `batch_shape` and `active_dims` for instance.
    """

    has_lengthscale = False

    def __init__(
        self,
        hurst: float | Tensor = 0.5,
        variance: float | Tensor = 1.0,
        hurst_constraint: Interval | None = None,
        variance_constraint: Interval | None = None,
        **others: Any,
    ):
        super().__init__(**others)
        for name in ("raw_hurst", "raw_variance"):
            self.register_parameter(name, nn.Parameter(torch.zeros(*self.batch_shape, 1, 1)))
        self.register_constraint("raw_hurst", hurst_constraint or Interval(NEAREST, 1 - NEAREST))
        self.register_constraint("raw_variance", variance_constraint or Positive())
        self.hurst, self.variance = hurst, variance

    @property
    def hurst(self) -> Tensor:
        """(*batch_shape, 1, 1)"""
        found: Tensor = self.raw_hurst_constraint.transform(self.raw_hurst)
        return found

    @hurst.setter
    def hurst(self, value: float | Tensor) -> None:
        constraint, raw = self.raw_hurst_constraint, self.raw_hurst
        value = _per_kernel(value, raw)
        inside = (value > constraint.lower_bound) & (value < constraint.upper_bound)
        if not bool(inside.all()):
            raise ConfigError(
                "X01",
                f"a Hurst index of {float(value[~inside][0]):g}",
                f"one between {float(constraint.lower_bound):g} and {float(constraint.upper_bound):g}",
                "Give `hurst_constraint` for other bounds",
            )
        self.initialize(raw_hurst=constraint.inverse_transform(value))

    @property
    def variance(self) -> Tensor:
        """(*batch_shape, 1, 1)"""
        found: Tensor = self.raw_variance_constraint.transform(self.raw_variance)
        return found

    @variance.setter
    def variance(self, value: float | Tensor) -> None:
        value = _per_kernel(value, self.raw_variance)
        if not bool((value > 0).all()):
            raise ConfigError("X01", f"a variance of {float(value.min()):g}", "one above zero", "")
        self.initialize(raw_variance=self.raw_variance_constraint.inverse_transform(value))

    @abc.abstractmethod
    def law(self, hurst: Tensor) -> Covariance:
        """Of the process of index H, which broadcasts with the times."""

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **_: Any
    ) -> Tensor:
        """(..., N, M) for x1 (..., N, 1) and x2 (..., M, 1), or (..., N) of equal N if `diag`.

        Raises:
            ConfigError: X01 for more than one input dimension, and for `last_dim_is_batch`.
            DataError: D17 for times before zero.
        """
        if x1.shape[-1] != 1 or last_dim_is_batch:
            raise ConfigError(
                "X01",
                f"{type(self).__name__} of {x1.shape[-1]} input dimensions",
                "one, the time",
                "Choose it by `active_dims`; for one kernel per dimension make a batch of the dimensions",
            )
        for x in (x1, x2):
            if bool((x < 0).any()):
                raise DataError(
                    "D17",
                    f"time {float(x.min()):g}",
                    "times from zero on, where the process starts",
                    "Take the start off the times",
                )
        s, t = (x1[..., 0], x2[..., 0]) if diag else (x1, x2.mT)
        hurst, variance = ((p[..., 0] if diag else p).double() for p in (self.hurst, self.variance))
        return (variance * self.law(hurst)(s, t)).to(x1.dtype)


class FractionalBrownianKernel(FractionalKernel):
    """variance (s^2H + t^2H - |t - s|^2H) / 2: stationary increments."""

    def law(self, hurst: Tensor) -> Covariance:
        return fractional_brownian(hurst)


class RiemannLiouvilleKernel(FractionalKernel):
    """variance · 2H ∫_0^min(s, t) (s - u)^{H - 1/2} (t - u)^{H - 1/2} du: starts afresh at zero."""

    def law(self, hurst: Tensor) -> Covariance:
        exact, size = exact_riemann_liouville(hurst), riemann_liouville_variance(hurst)
        return lambda s, t: exact(s, t) / size


class MarkovApproximationKernel(FractionalKernel):
    """Of a sum of Ornstein-Uhlenbeck processes that share one Brownian motion, with the best weights for H.

    What a model that is driven by the approximation would say of the same data. Memory is N M K².

    Args:
        speeds: (K,) in 1 / time, `tsdyn.maths.fractional.speeds_for` for instance; not learned.
        horizon: the last time; the error is the least up to there.
        make: `riemann_liouville`, `mandelbrot_van_ness` or `stationary` of `tsdyn.maths.fractional`, whose variances are
            those of the motions at time 1, but for the error of the approximation.
    """

    def __init__(
        self,
        speeds: Tensor,
        horizon: float,
        make: Callable[..., MarkovApproximation] = riemann_liouville,
        **others: Any,
    ):
        super().__init__(**others)
        # no buffer: gpytorch would take its part of a batch of kernels from it
        self.speeds, self.horizon, self.make = speeds.detach().double(), horizon, make

    def law(self, hurst: Tensor) -> Covariance:
        found = self.make(hurst, self.speeds.to(hurst.device), self.horizon)
        return lambda s, t: covariance(found, s, found, t)


def _per_kernel(value: float | Tensor, raw: Tensor) -> Tensor:
    """(*batch_shape, 1, 1) of a number, of the batch shape, or of that itself."""
    value = torch.as_tensor(value).to(raw)
    full = value.shape == raw.shape or value.ndim == 0
    return (value if full else value[..., None, None]).expand(raw.shape)
