"""Kernels whose parameters are learned: modules that make a `Kernel` from their current values.

Positive parameters are kept as logarithms, in double precision. A value may be a list of R numbers: then
the module stands for R kernels side by side, one for each series of times (R, N).

The equations are those of the functions in `tsdyn.maths` that each class names.
"""

import abc
import functools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean
from ..maths import matern, oscillator, periodic, squared_exponential, trend
from ..maths.kernels import Kernel, add, coregionalize, multiply
from .base import Part

Value = float | Sequence[float]


class LearnedKernel(Part):
    """A covariance function of time with parameters.

    Args:
        fixed: names of parameters that stay as they are.
        positive: first value of every positive parameter.
    """

    def __init__(self, fixed: Sequence[str] = (), **positive: Value):
        super().__init__()
        unknown = [name for name in fixed if name not in positive]
        if unknown:
            raise ConfigError(
                "X01",
                f"{type(self).__name__} has no parameter `{unknown[0]}`",
                "names of its parameters in `fixed`",
                did_you_mean(unknown[0], positive),
            )
        for name, value in positive.items():
            first = torch.tensor(value, dtype=torch.float64)
            if not bool(((first > 0) & first.isfinite()).all()):
                raise ConfigError(
                    "X01", f"{type(self).__name__}({name}={value})", "positive numbers", ""
                )
            log = nn.Parameter(first.log(), requires_grad=name not in fixed)
            self.register_parameter(f"log_{name}", log)

    def value(self, name: str) -> Tensor:
        """The parameter as it is now, in double precision."""
        return self.get_parameter(f"log_{name}").double().exp()

    @abc.abstractmethod
    def kernel(self) -> Kernel:
        """The kernel at the current values of the parameters."""


class Matern(LearnedKernel):
    """Of smoothness nu = 0.5, 1.5, 2.5 or 3.5: f has nu - 1/2 derivatives. See `maths.matern.matern`.

    Args:
        nu: smoothness; not learned.
        lengthscale: in the units of t.
        variance: of f.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self,
        nu: float = 1.5,
        lengthscale: Value = 1.0,
        variance: Value = 1.0,
        fixed: Sequence[str] = (),
    ):
        super().__init__(fixed, lengthscale=lengthscale, variance=variance)
        self.nu = nu
        self.kernel()  # refuses other nu at once

    def kernel(self) -> Kernel:
        return matern.matern(self.nu, self.value("lengthscale"), self.value("variance"))


class SquaredExponential(LearnedKernel):
    """variance exp(-r^2 / (2 lengthscale^2)), approximately. See `maths.squared_exponential`.

    Args:
        lengthscale: in the units of t.
        variance: of f.
        order: coordinates of the state, 2 to 8; the largest error for 6 is 0.3 % of the variance.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self,
        lengthscale: Value = 1.0,
        variance: Value = 1.0,
        order: int = 6,
        fixed: Sequence[str] = (),
    ):
        super().__init__(fixed, lengthscale=lengthscale, variance=variance)
        self.order = order
        self.kernel()  # refuses other orders at once

    def kernel(self) -> Kernel:
        lengthscale, variance = self.value("lengthscale"), self.value("variance")
        return squared_exponential.squared_exponential(lengthscale, variance, self.order)


class Periodic(LearnedKernel):
    """variance exp(-2 sin^2(pi r / period) / lengthscale^2). See `maths.periodic.periodic`.

    Args:
        lengthscale: without units: smoothness within a period. Small values make large states.
        period: in the units of t.
        variance: of f.
        harmonics: waves that it is made of; None for as many as the lengthscale of the moment wants.
        fixed: names of parameters that are not learned; the period should be one unless it is nearly known.
    """

    def __init__(
        self,
        lengthscale: Value = 1.0,
        period: Value = 1.0,
        variance: Value = 1.0,
        harmonics: int | None = None,
        fixed: Sequence[str] = ("period",),
    ):
        super().__init__(fixed, lengthscale=lengthscale, period=period, variance=variance)
        self.harmonics = harmonics

    def kernel(self) -> Kernel:
        lengthscale, period, variance = map(self.value, ("lengthscale", "period", "variance"))
        return periodic.periodic(lengthscale, period, variance, self.harmonics)


class QuasiPeriodic(LearnedKernel):
    """A season whose shape drifts: Periodic times Matern. See `maths.periodic.quasi_periodic`.

    Args:
        lengthscale: without units: smoothness within a period. Small values make large states.
        period: in the units of t.
        decay: in the units of t: the lengthscale of the drift.
        variance: of f.
        nu: smoothness of the drift; not learned.
        harmonics: as in `Periodic`.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self,
        lengthscale: Value = 1.0,
        period: Value = 1.0,
        decay: Value = 10.0,
        variance: Value = 1.0,
        nu: float = 1.5,
        harmonics: int | None = None,
        fixed: Sequence[str] = ("period",),
    ):
        super().__init__(
            fixed, lengthscale=lengthscale, period=period, decay=decay, variance=variance
        )
        self.nu, self.harmonics = nu, harmonics

    def kernel(self) -> Kernel:
        return periodic.quasi_periodic(
            self.value("lengthscale"),
            self.value("period"),
            self.value("decay"),
            self.value("variance"),
            self.nu,
            self.harmonics,
        )


class Cosine(LearnedKernel):
    """variance cos(2 pi r / period). See `maths.periodic.cosine`.

    Args:
        period: in the units of t.
        variance: of f.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self, period: Value = 1.0, variance: Value = 1.0, fixed: Sequence[str] = ("period",)
    ):
        super().__init__(fixed, period=period, variance=variance)

    def kernel(self) -> Kernel:
        return periodic.cosine(2 * math.pi / self.value("period"), self.value("variance"))


class Constant(LearnedKernel):
    """A random level. See `maths.trend.constant`.

    Args:
        variance: of f.
        fixed: names of parameters that are not learned.
    """

    def __init__(self, variance: Value = 1.0, fixed: Sequence[str] = ()):
        super().__init__(fixed, variance=variance)

    def kernel(self) -> Kernel:
        return trend.constant(self.value("variance"))


class Linear(LearnedKernel):
    """variance (t - origin) (t' - origin). See `maths.trend.linear`.

    Args:
        variance: of the slope.
        origin: where the line is zero; not learned.
        fixed: names of parameters that are not learned.
    """

    def __init__(self, variance: Value = 1.0, origin: float = 0.0, fixed: Sequence[str] = ()):
        super().__init__(fixed, variance=variance)
        self.origin = origin

    def kernel(self) -> Kernel:
        return trend.linear(self.value("variance"), self.origin)


class Wiener(LearnedKernel):
    """A random walk. See `maths.trend.wiener`.

    Args:
        diffusion: growth of the variance of f per time.
        level: variance of f at the origin; not learned.
        origin: the time it starts from; earlier times are refused.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self,
        diffusion: Value = 1.0,
        level: float = 0.0,
        origin: float = 0.0,
        fixed: Sequence[str] = (),
    ):
        super().__init__(fixed, diffusion=diffusion)
        self.level, self.origin = level, origin

    def kernel(self) -> Kernel:
        return trend.wiener(self.value("diffusion"), self.level, self.origin)


class IntegratedWiener(LearnedKernel):
    """The local linear trend, or cubic smoothing spline. See `maths.trend.integrated_wiener`.

    Args:
        diffusion: growth of the variance of the slope per time.
        level, slope: variances of f and of its slope at the origin; not learned.
        origin: the time it starts from, near the first data; earlier times are refused.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self,
        diffusion: Value = 1.0,
        level: float = 0.0,
        slope: float = 0.0,
        origin: float = 0.0,
        fixed: Sequence[str] = (),
    ):
        super().__init__(fixed, diffusion=diffusion)
        self.level, self.slope, self.origin = level, slope, origin

    def kernel(self) -> Kernel:
        return trend.integrated_wiener(self.value("diffusion"), self.level, self.slope, self.origin)


class Oscillator(LearnedKernel):
    """A damped oscillator kicked by noise. See `maths.oscillator.oscillator`.

    Args:
        period: of the oscillator without damping, in the units of t.
        quality: without units; about the number of swings it remembers. Below 1/2 it does not swing.
        variance: of f.
        fixed: names of parameters that are not learned.
    """

    def __init__(
        self,
        period: Value = 1.0,
        quality: Value = 1.0,
        variance: Value = 1.0,
        fixed: Sequence[str] = (),
    ):
        super().__init__(fixed, period=period, quality=quality, variance=variance)

    def kernel(self) -> Kernel:
        frequency = 2 * math.pi / self.value("period")
        return oscillator.oscillator(frequency, self.value("quality"), self.value("variance"))


class Sum(LearnedKernel):
    """k_1 + k_2 + ...

    Args:
        kernels: at least one.
    """

    def __init__(self, kernels: Sequence[LearnedKernel]):
        super().__init__()
        self.kernels = several(kernels)

    def kernel(self) -> Kernel:
        return add(*current(self.kernels))


class Product(LearnedKernel):
    """k_1 * k_2 * ...; the sizes of their states multiply.

    Args:
        kernels: at least one.
    """

    def __init__(self, kernels: Sequence[LearnedKernel]):
        super().__init__()
        self.kernels = several(kernels)

    def kernel(self) -> Kernel:
        return functools.reduce(multiply, current(self.kernels))


class Coregionalized(LearnedKernel):
    """O outputs mixed from L independent processes, f = mixing g. See `maths.kernels.coregionalize`.

    The first mixing is drawn, with unit variance of every output where the kernels have it.

    Args:
        kernels: L.
        outputs: O.
    """

    def __init__(self, kernels: Sequence[LearnedKernel], outputs: int):
        super().__init__()
        self.kernels = several(kernels)
        mixing = torch.randn(outputs, len(kernels), dtype=torch.float64)
        self.mixing = nn.Parameter(mixing / mixing.norm(dim=1, keepdim=True))

    def kernel(self) -> Kernel:
        return coregionalize(current(self.kernels), self.mixing)


def several(kernels: Sequence[LearnedKernel]) -> nn.ModuleList:
    """At least one kernel, kept as parts of another."""
    if not kernels:
        raise ConfigError("X01", "no kernels to combine", "a list of at least one", "")
    return nn.ModuleList(kernels)


def current(kernels: nn.ModuleList) -> list[Kernel]:
    """The kernels at the current values of their parameters."""
    return [cast(LearnedKernel, k).kernel() for k in kernels]
