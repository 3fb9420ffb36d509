"""Drifts without a form of their own: polynomials, landscapes of random features, and what a user writes."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..maths.distances import median_distance
from ..maths.least_squares import Expansion, levenberg_marquardt
from .reference_base import (
    LinearByCoordinate,
    LinearInParameters,
    Reference,
    moments,
    require,
    stretches,
)


class Polynomial(LinearByCoordinate):
    """f_i(x) = Σ_e A_ie Π_d z_d^e_d + b_i,  z = (x - middle) / spread, over all e with 1 <= Σ e <= degree.

    Middle and spread are the mean and the deviation of the places of the first fit. Outside of the cloud a
    polynomial of degree two or more runs away, and so do its paths.

    Args:
        dims: D.
        degree: of the highest term; (D + degree)! / (D! degree!) parameters for each coordinate.
        ridge: as a share of the variance of each term.
    """

    middle: Tensor
    spread: Tensor
    exponents: Tensor  # (F, D)

    def __init__(self, dims: int, degree: int = 2, ridge: float = 1e-3):
        require(dims >= 1, "Polynomial", f"dims={dims}", "one dimension at least")
        require(degree >= 1, "Polynomial", f"degree={degree}", "one or more")
        terms = [
            term
            for size in range(1, degree + 1)
            for term in itertools.combinations_with_replacement(range(dims), size)
        ]
        super().__init__(torch.ones(dims, len(terms)), ridge)
        exponents = torch.tensor([[term.count(d) for d in range(dims)] for term in terms])
        self.register_buffer("exponents", exponents, persistent=False)
        self.register_buffer("middle", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(dims, dtype=torch.float64))

    def regressors(self, x: Tensor) -> Tensor:
        return _product(self._powers(x), self.exponents)

    def slopes(self, x: Tensor) -> Tensor:
        powers, columns = self._powers(x), []
        for d, scale in enumerate(self.spread.to(x)):
            fewer = self.exponents.clone()
            fewer[:, d] = (fewer[:, d] - 1).clamp(min=0)
            columns.append(self.exponents[:, d].to(x) / scale * _product(powers, fewer))
        return torch.stack(columns, -1)

    def regressor_names(self) -> list[str]:
        return [_term("z", e) for e in self.exponents.tolist()]

    def parameters_by_name(self) -> dict[str, Tensor]:
        """For each coordinate the coefficients of 1, x0, x1, ..., x0², x0 x1, ... in the units of x."""
        every = torch.cat([self.exponents.new_zeros(1, len(self.b)), self.exponents])
        # (x - m)^e = Σ_e' C(e, e') (-m)^(e - e') x^e', coordinate by coordinate
        choose = [
            [math.prod(map(math.comb, e, own)) for own in every.tolist()] for e in every.tolist()
        ]
        left = (every[:, None] - every).clamp(min=0)  # where e' > e, C(e, e') is zero
        shift = (-self.middle).pow(left).prod(-1) / self.spread.pow(every).prod(-1)[:, None]
        expand = torch.tensor(choose, dtype=torch.float64, device=shift.device) * shift
        coefficients = torch.cat([self.b[:, None], self.A], 1) @ expand
        names = [_term("x", e) for e in every.tolist()]
        return {
            f"dx{i}: {name}": value
            for i, row in enumerate(coefficients)
            for name, value in zip(names, row, strict=True)
        }

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        if not bool(self.A.any()):
            for own, found in zip((self.middle, self.spread), moments(x, share), strict=True):
                own.copy_(found)
        super()._fit(x, velocity, share)

    def _powers(self, x: Tensor) -> Tensor:
        """z_d^e for e = 0, 1, ..., degree: (..., D, degree + 1)."""
        z = (x - self.middle.to(x)) / self.spread.to(x)
        ones = torch.ones_like(z)
        most = int(self.exponents.amax())
        return torch.stack(list(itertools.accumulate([z] * most, torch.mul, initial=ones)), -1)


def _product(powers: Tensor, exponents: Tensor) -> Tensor:
    """Π_d z_d^e_d: (..., D, degree + 1), (F, D) -> (..., F)."""
    found = powers[..., 0, :][..., exponents[:, 0]]
    for d in range(1, exponents.shape[1]):
        found = found * powers[..., d, :][..., exponents[:, d]]
    return found


def _term(letter: str, exponents: Sequence[int]) -> str:
    """`x0^2 x1`."""
    parts = [f"{letter}{d}" + (f"^{e}" if e > 1 else "") for d, e in enumerate(exponents) if e]
    return " ".join(parts) or "1"


class GradientRFF(LinearInParameters):
    """f = -∇ψ,  ψ(x) = √(2 / F) Σ_k θ_k cos(ω_k · x / l + φ_k),  ω ~ N(0, I): a Gaussian process landscape  [1]

    Cells slide down ψ and cannot run in circles.

    Args:
        dims: D.
        features: F.
        lengthscale: l, in units of x; None is the median distance between two places of the first fit.
        ridge: as a share of the mean square of each feature's part of f; thousands of cells of few dimensions
            bear less.
        seed: of ω and φ.

    [1] Rahimi & Recht. Random features for large-scale kernel machines. NeurIPS 2007.
    """

    waves: Tensor  # (F, D)
    phases: Tensor  # (F,)
    lengthscale: Tensor  # ()  not a number until it is known

    def __init__(
        self,
        dims: int,
        features: int = 256,
        lengthscale: float | None = None,
        ridge: float = 0.1,
        seed: int = 0,
    ):
        require(features >= 1, "GradientRFF", f"features={features}", "one or more")
        super().__init__(dims, [f"theta{k}" for k in range(features)], [0.0] * features, ridge)
        known = math.nan if lengthscale is None else lengthscale
        require(not known <= 0, "GradientRFF", f"lengthscale={lengthscale}", "a positive number")
        g = torch.Generator().manual_seed(seed)
        waves = torch.randn(features, dims, generator=g, dtype=torch.float64)
        phases = 2 * math.pi * torch.rand(features, generator=g, dtype=torch.float64)
        self.register_buffer("waves", waves)
        self.register_buffer("phases", phases)
        self.register_buffer("lengthscale", torch.tensor(known, dtype=torch.float64))

    def potential(self, x: Tensor) -> Tensor:
        """ψ at x (..., D): (...)."""
        waves, at = self._at(x)
        return math.sqrt(2 / len(waves)) * (torch.cos(at) @ self.theta.to(x))

    def features(self, x: Tensor) -> Tensor:
        waves, at = self._at(x)
        size = math.sqrt(2 / len(waves))
        return (size * torch.sin(at))[..., None, :] * waves.mT

    def drift(self, x: Tensor) -> Tensor:
        waves, at = self._at(x)
        return math.sqrt(2 / len(waves)) * ((torch.sin(at) * self.theta.to(x)) @ waves)

    def jacobian(self, x: Tensor) -> Tensor:
        waves, at = self._at(x)
        bend = math.sqrt(2 / len(waves)) * torch.cos(at) * self.theta.to(x)
        products = (waves[:, :, None] * waves[:, None]).flatten(1)  # (F, D D)
        return (bend @ products).view(*x.shape, x.shape[-1])

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        if bool(self.lengthscale.isnan()):
            self.lengthscale.copy_(_typical_distance(x[share > 0]))
        super()._fit(x, velocity, share)

    def _sums(self, x: Tensor, velocity: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w ΦᵀΦ and Σ w Φᵀ v; the inner products of ω are the same at all places."""
        F = len(self.theta)
        gram, right = self.theta.new_zeros(F, F), self.theta.new_zeros(F)
        for rows in stretches(len(x), F):
            waves, at = self._at(x[rows])
            wave = torch.sin(at) * math.sqrt(2 / F)
            heavy = (wave * weights[rows, None]).mT
            gram += heavy @ wave * (waves @ waves.mT)
            right += (heavy @ velocity[rows] * waves).sum(1)
        return gram, right

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ω / l (F, D), and ω · x / l + φ (..., F)."""
        self.require_dims(x)
        waves = (self.waves / self.lengthscale.nan_to_num(1.0)).to(x)
        return waves, x @ waves.mT + self.phases.to(x)


def _typical_distance(x: Tensor) -> Tensor:
    different = torch.unique(x, dim=0)
    if len(different) < 2:
        raise DataError(
            "D14",
            f"all {len(x)} places of the first fit are the same",
            "different ones, whose median distance is the lengthscale",
            "Give lengthscale a number, or look for a constant table of cells",
        )
    # rows of `unique` are sorted, and every so many of them are taken
    return median_distance(different)


class Custom(Reference):
    """f(x, θ) as the user writes it, fitted by Levenberg and Marquardt from where the last fit ended.

    The first round of a bridge takes θ as it is given: choose it so that f is zero to start from Brownian
    motion. A checkpoint holds names of classes and numbers, and cannot hold a function: to save the model,
    derive a class from `Reference` in a module of your own, and import that before loading.

    Args:
        function: (x (P, D), θ (F,)) -> (P, D), in torch and row by row.
        theta: θ to start from.
        names: of θ; None is theta0, theta1, ...
        steps: most steps of a fit.
    """

    theta: Tensor

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        theta: Sequence[float],
        names: Sequence[str] | None = None,
        steps: int = 100,
    ):
        super().__init__(None)
        own = [f"theta{k}" for k in range(len(theta))] if names is None else names
        require(len(own) == len(theta), "Custom", f"{len(own)} names", f"{len(theta)}")
        self.function, self.names, self.steps = function, tuple(own), steps
        self.register_buffer("theta", torch.tensor([*theta], dtype=torch.float64))

    def drift(self, x: Tensor) -> Tensor:
        return self._value(x.reshape(-1, x.shape[-1]), self.theta.to(x)).view_as(x)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.theta.clone(), strict=True))

    def parameter_names(self) -> tuple[str, ...]:
        return self.names

    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._expand(x, torch.zeros_like(x), weights, self.theta).gram

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        free = torch.full_like(self.theta, torch.inf)
        found, _ = levenberg_marquardt(
            lambda theta: self._expand(x, velocity, share, theta),
            self.theta,
            -free,
            free,
            self.steps,
        )
        self.theta.copy_(found)

    def _expand(self, x: Tensor, velocity: Tensor, share: Tensor, theta: Tensor) -> Expansion:
        F = len(theta)
        loss, slope, gram = theta.new_zeros(()), theta.new_zeros(F), theta.new_zeros(F, F)
        for rows in stretches(len(x), x.shape[1] * F):
            at, w = x[rows], share[rows, None]
            off = self._value(at, theta) - velocity[rows]
            turn = torch.func.jacfwd(lambda u, at=at: self._value(at, u))(theta)  # (p, D, F)
            heavy = (turn * w[..., None]).flatten(0, 1).mT
            loss += (w * off.square()).sum()
            slope += heavy @ off.flatten()
            gram += heavy @ turn.flatten(0, 1)
        return Expansion(loss, slope, gram)

    def _value(self, x: Tensor, theta: Tensor) -> Tensor:
        found = self.function(x, theta)
        if found.shape != x.shape:
            raise ConfigError(
                "X01",
                f"the function of Custom turned x {tuple(x.shape)} into {tuple(found.shape)}",
                f"{tuple(x.shape)}",
                "It takes all rows at once, and returns a velocity for each",
            )
        return found
