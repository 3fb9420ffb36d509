"""Steps of the stable neural SDEs, for Brownian motion and for noise of any Hurst index.

[1] Oh, Lim & Kim. Stable neural stochastic differential equations in analyzing irregular time series
    data. ICLR 2024.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..maths.fractional_noise import pathwise_exponential, pathwise_lie, pathwise_logarithmic
from ..maths.sde import Field, Geometric, Langevin, LinearNoise, NoiseKind, langevin
from ..maths.steps import Scheme, Step, euler, exponential_euler, heun, lie, logarithmic


class Schemes(NamedTuple):
    """One for every structure of an equation; the last two take kappa too."""

    plain: Scheme
    langevin: Scheme
    linear_noise: Callable[..., Step]
    geometric: Callable[..., Step]


BROWNIAN = Schemes(euler, exponential_euler, lie, logarithmic)
PATHWISE = Schemes(heun, pathwise_exponential, pathwise_lie, pathwise_logarithmic)


def _sigma(t: Tensor, c: Tensor, s: Tensor) -> Tensor:
    return s


def _stable_langevin(
    r: Field, kappa: Tensor, gain: Tensor, noise: NoiseKind, schemes: Schemes
) -> Step:
    """dz = (-kappa z + gain tanh r) dt + sigma dW"""
    return schemes.langevin(Langevin(kappa, lambda *u: gain * r(*u).tanh(), _sigma, noise))


def _stable_linear_noise(
    r: Field, kappa: Tensor, gain: Tensor, noise: NoiseKind, schemes: Schemes
) -> Step:
    """dz = (-kappa z + gain tanh r) dt + sigma z dW"""
    residual = LinearNoise(lambda *u: gain * r(*u).tanh(), _sigma, noise)
    return schemes.linear_noise(residual, kappa)


def _stable_geometric(
    r: Field, kappa: Tensor, gain: Tensor, noise: NoiseKind, schemes: Schemes
) -> Step:
    """dz / z = kappa (2 tanh r - log z) dt + sigma dW"""
    growth = Geometric(lambda *u: 2 * kappa * r(*u).tanh(), _sigma, noise)
    return schemes.geometric(growth, kappa)


STABLE: dict[str, Callable[..., Step]] = {
    "langevin": _stable_langevin,
    "linear_noise": _stable_linear_noise,
    "geometric": _stable_geometric,
}


def _paper_langevin(r: Field, noise: NoiseKind, schemes: Schemes) -> Step:
    """dz = r dt + sigma dW, the same in every sense: sigma does not see z."""
    return euler(langevin(0.0, r, _sigma, noise))


def _paper_linear_noise(r: Field, noise: NoiseKind, schemes: Schemes) -> Step:
    """dz = r dt + sigma z dW"""
    return schemes.linear_noise(LinearNoise(r, _sigma, noise))


def _paper_geometric(r: Field, noise: NoiseKind, schemes: Schemes) -> Step:
    """dz / z = r dt + sigma dW"""
    return schemes.geometric(Geometric(r, _sigma, noise))


PAPER: dict[str, Callable[..., Step]] = {
    "langevin": _paper_langevin,
    "linear_noise": _paper_linear_noise,
    "geometric": _paper_geometric,
}
