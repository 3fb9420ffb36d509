"""Systems whose laws are known: data to try a model on when the right answer must be at hand.

Each is a source: called, it gives `Paths`. Each can be asked for its law; its docstring says how much
of it is known in closed form.
"""

from ..batch import Gaussian
from .linear_systems import GeometricBrownianMotion, LogNormal, OrnsteinUhlenbeck, SeasonalAR
from .nonlinear_systems import DoubleWell, Lorenz, LotkaVolterra, Pendulum
from .system import System

SYSTEMS: dict[str, type[System]] = {
    "ornstein_uhlenbeck": OrnsteinUhlenbeck,
    "geometric_brownian_motion": GeometricBrownianMotion,
    "seasonal_ar": SeasonalAR,
    "double_well": DoubleWell,
    "lotka_volterra": LotkaVolterra,
    "lorenz": Lorenz,
    "pendulum": Pendulum,
}

__all__ = [
    "SYSTEMS",
    "DoubleWell",
    "Gaussian",
    "GeometricBrownianMotion",
    "LogNormal",
    "Lorenz",
    "LotkaVolterra",
    "OrnsteinUhlenbeck",
    "Pendulum",
    "SeasonalAR",
    "System",
]
