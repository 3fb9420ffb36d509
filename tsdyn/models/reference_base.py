"""What a family of reference drifts is, and how those that are linear in θ are fitted.

    dX = f_θ(X) dt + σ dW,      refit: θ = argmin Σ_p w_p |v_p - f_θ(x_p)|² + ridge

Parameters are buffers in double precision: a least-squares problem fits them, not an optimiser of the whole
model. Unless the user gives other values, every family starts from f = 0, Brownian motion.

What depends linearly on θ is fitted in closed form, from sums over stretches of rows. A ridge is a share of
what the rows say of each parameter, so that it means the same in any units and for any number of rows.

[1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference refinement.
    AISTATS 2025: the alternation of bridges and fits.
"""

import abc
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..maths.least_squares import ridge_solution, scaled_eigh
from .base import Part

ENTRIES = 2**22  # numbers of a design matrix at a time: 32 MB


class Identifiability(NamedTuple):
    """What the places of a fit say of each direction of θ.

    Moving θ by s · directions[:, k] changes Σ w |f|² by s² · values[k]. Directions are measured in units of
    1 / √H_kk, so that the values do not depend on the units of θ.
    """

    names: tuple[str, ...]  # (F,)  of θ
    hessian: Tensor  # (F, F)  H = Σ w (∂f/∂θ)ᵀ (∂f/∂θ), without the ridge
    values: Tensor  # (F,)  eigenvalues, the smallest first, of H scaled to a diagonal of one
    directions: Tensor  # (F, F)  one in each column

    @property
    def condition(self) -> float:
        """The largest eigenvalue by the smallest; infinite where a direction is not seen at all."""
        if not len(self.values):
            return 1.0
        low, high = float(self.values[0]), float(self.values[-1])
        return high / low if low > 0 else math.inf

    def undetermined(self, tolerance: float = 1e-8) -> list[dict[str, float]]:
        """The directions whose eigenvalue is below a share of the largest, each as {name: amount}, at most one.

        θ may move along them and no place sees it: of such parameters only other combinations are estimates.
        """
        weak = self.values <= tolerance * self.values[-1:]
        if not bool(weak.any()):
            return []
        columns = self.directions.mT[weak]
        largest = columns.abs().amax(1, keepdim=True)
        shown = (columns / largest).where(columns.abs() > 1e-6 * largest, 0.0)
        return [
            {name: u for name, u in zip(self.names, column, strict=True) if u}
            for column in shown.tolist()
        ]


class Reference(Part):
    """f in dX = f(X) dt + σ dW, one of a family.

    Families of one's own derive from it, and can be saved and loaded where their module is imported.

    Args:
        dims: D; None takes any.
    """

    def __init__(self, dims: int | None):
        super().__init__()
        if dims is not None:
            require(dims >= 1, type(self).__name__, f"dims={dims}", "one dimension at least")
        self.dims = dims

    @abc.abstractmethod
    def drift(self, x: Tensor) -> Tensor:
        """f at x (..., D): (..., D), in units of x per unit of time."""

    @abc.abstractmethod
    def parameters_by_name(self) -> dict[str, Tensor]:
        """θ, for reading."""

    @abc.abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Of the F numbers of θ, in the order of `hessian`."""

    @abc.abstractmethod
    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        """H = Σ_p w_p (∂f/∂θ)ᵀ (∂f/∂θ) at x (P, D), of Gauss and Newton, without the ridge: (F, F)."""

    @abc.abstractmethod
    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        """θ moves to the least sum of squares; share (P,) sums to one."""

    def jacobian(self, x: Tensor) -> Tensor:
        """∂f_i / ∂x_j at x (P, D): (P, D, D). Here by automatic differentiation; f of a row must not see others."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            f = self.drift(at)
            if not f.requires_grad:
                return x.new_zeros(*x.shape, x.shape[-1])
            rows = [
                torch.autograd.grad(f[:, i].sum(), at, retain_graph=True, materialize_grads=True)[0]
                for i in range(x.shape[-1])
            ]
        return torch.stack(rows, 1)

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor] | None:
        """(A (D, D), b (D,)) of f(x) = A x + b for D = dims; None where f is not affine."""
        return None

    def refit(self, x: Tensor, velocity: Tensor, weights: Tensor | None = None) -> None:
        """θ <- argmin Σ_p w_p |v_p - f_θ(x_p)|² + ridge, in place.

        Args:
            x: places (P, D); velocity: v (P, D), in units of x per unit of time.
            weights: w (P,), of which only ratios count; None is one each.

        Raises:
            DataError: D14 for other shapes, or what is no number, or without a positive weight.
        """
        self._fit(*self._checked(x, velocity, weights))

    def identifiability(self, x: Tensor, weights: Tensor | None = None) -> Identifiability:
        """What a fit at places x (P, D) of weights (P,) can know of θ, near the θ of now, whatever the velocities.

        The law of the snapshots decides less still: currents that leave every snapshot in place are seen
        here, at places on paths, and not there.

        Raises:
            DataError: D14 as `refit`.
        """
        places, _, share = self._checked(x, torch.zeros_like(x), weights)
        hessian = self.hessian(places, share)
        scale, values, vectors = scaled_eigh(hessian)
        directions = scale.where(scale > 0, 1.0)[:, None] * vectors
        return Identifiability(self.parameter_names(), hessian, values.clamp(min=0), directions)

    def require_dims(self, x: Tensor) -> None:
        """D14 unless x (..., D) has the dimensions of the family."""
        if self.dims is not None and x.shape[-1] != self.dims:
            raise DataError(
                "D14",
                f"{type(self).__name__} got cells of {x.shape[-1]} dimensions",
                f"{self.dims}",
                "Choose a reference of as many dimensions, or other coordinates of the cells",
            )

    def _checked(
        self, x: Tensor, velocity: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = x.new_ones(len(x)) if weights is None else weights
        if x.ndim != 2 or velocity.shape != x.shape or own.shape != x.shape[:1]:
            raise DataError(
                "D14",
                f"places {tuple(x.shape)} came with velocities {tuple(velocity.shape)} and weights {tuple(own.shape)}",
                "(P, D), (P, D) and (P,)",
                "",
            )
        self.require_dims(x)
        finite = all(bool(f.isfinite().all()) for f in (x, velocity, own))
        if not finite or bool((own < 0).any()) or not bool((own > 0).any()):
            raise DataError(
                "D14",
                f"{type(self).__name__} got {len(x)} places, velocities and weights that cannot be fitted",
                "finite numbers, no weight below zero, and one above",
                "Look for infinite values among the cells, and for a σ or a span of time near zero",
            )
        return x.double(), velocity.double(), own.double() / own.double().sum()


class LinearInParameters(Reference):
    """f(x) = Φ(x) θ, where all coordinates share θ: (Σ w ΦᵀΦ + ridge · its diagonal) θ = Σ w Φᵀ v.

    Args:
        names: of θ.
        start: θ before the first fit.
        ridge: as a share of the diagonal.
    """

    theta: Tensor

    def __init__(self, dims: int, names: Sequence[str], start: Sequence[float], ridge: float = 0.0):
        super().__init__(dims)
        require(ridge >= 0, type(self).__name__, f"ridge={ridge}", "zero or more")
        self.names, self.ridge = tuple(names), ridge
        self.register_buffer("theta", torch.tensor([*start], dtype=torch.float64))

    @abc.abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Φ at x (..., D): (..., D, F)."""

    def drift(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        return self.features(x) @ self.theta.to(x)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.theta.clone(), strict=True))

    def parameter_names(self) -> tuple[str, ...]:
        return self.names

    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._sums(x, torch.zeros_like(x), weights)[0]

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        self.theta.copy_(self._solution(*self._sums(x, velocity, share)))

    def _solution(self, gram: Tensor, right: Tensor) -> Tensor:
        return ridge_solution(gram, right[:, None], self.ridge)[:, 0]

    def _sums(self, x: Tensor, velocity: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w ΦᵀΦ (F, F) and Σ w Φᵀ v (F,)."""
        F = len(self.theta)
        gram, right = self.theta.new_zeros(F, F), self.theta.new_zeros(F)
        for rows in stretches(len(x), x.shape[1] * F):
            features = self.features(x[rows])  # (p, D, F)
            heavy = (features * weights[rows, None, None]).flatten(0, 1)
            gram += heavy.mT @ features.flatten(0, 1)
            right += heavy.mT @ velocity[rows].flatten()
        return gram, right


class LinearByCoordinate(Reference):
    """f_i(x) = Σ_k A_ik φ_k(x) + b_i, where each coordinate has parameters of its own.

        A_i = argmin Σ w (v_i - b_i - A_i · φ)² + ridge Σ_k A_ik² Var φ_k,   b_i = mean of v_i - A_i · φ

    Args:
        kept: (D, F) of zeros and ones: which A_ik are not zero.
        ridge: as a share of the variance of each φ_k, over the places of the fit.
    """

    A: Tensor  # (D, F)
    b: Tensor  # (D,)
    kept: Tensor

    def __init__(self, kept: Tensor, ridge: float):
        dims, F = kept.shape
        super().__init__(dims)
        require(ridge >= 0, type(self).__name__, f"ridge={ridge}", "zero or more")
        self.ridge = ridge
        self.register_buffer("kept", kept.bool(), persistent=False)
        self.register_buffer("A", torch.zeros(dims, F, dtype=torch.float64))
        self.register_buffer("b", torch.zeros(dims, dtype=torch.float64))

    @abc.abstractmethod
    def regressors(self, x: Tensor) -> Tensor:
        """φ at x (..., D): (..., F)."""

    @abc.abstractmethod
    def slopes(self, x: Tensor) -> Tensor:
        """∂φ_k / ∂x_j at x (P, D): (P, F, D)."""

    @abc.abstractmethod
    def regressor_names(self) -> list[str]:
        """Of φ."""

    def drift(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        return self.regressors(x) @ self.A.mT.to(x) + self.b.to(x)

    def jacobian(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        return self.A.to(x) @ self.slopes(x)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return {"A": self.A.clone(), "b": self.b.clone()}

    def parameter_names(self) -> tuple[str, ...]:
        """Of A; b is not among them, since it always follows from A and the mean."""
        known = self.regressor_names()
        return tuple(f"f{i}: {known[k]}" for i, k in self.kept.nonzero().tolist())

    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        """Of A, with b fitted along: a block of covariances of φ for each coordinate."""
        gram, _, _, _ = self._sums(x, torch.zeros_like(x), weights / weights.sum())
        blocks = [gram[own][:, own] for own in self.kept]
        found: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return found * weights.sum()

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        gram, right, middle, rate = self._sums(x, velocity, share)
        patterns, of_row = self.kept.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
        found = torch.zeros_like(self.A)
        for k, own in enumerate(patterns):  # coordinates of the same regressors are solved together
            rows = (of_row == k).nonzero()[:, 0]
            block = ridge_solution(gram[own][:, own], right[own][:, rows], self.ridge)
            found[rows[:, None], own.nonzero()[:, 0]] = block.mT
        self.A.copy_(found)
        self.b.copy_(rate - found @ middle)

    def _sums(
        self, x: Tensor, velocity: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cov φ (F, F), Cov(φ, v) (F, D), E φ (F,) and E v (D,)."""
        F = self.A.shape[1]
        rows = list(stretches(len(x), F))
        middle = self.b.new_zeros(F)
        for some in rows:
            middle += share[some] @ self.regressors(x[some])
        rate = share @ velocity
        gram, right = self.b.new_zeros(F, F), self.b.new_zeros(F, len(rate))
        for some in rows:
            off = self.regressors(x[some]) - middle
            heavy = (off * share[some, None]).mT
            gram += heavy @ off
            right += heavy @ (velocity[some] - rate)
        return gram, right, middle, rate


def stretches(rows: int, width: int) -> Iterator[slice]:
    """Slices of all rows, in turn, for a matrix of this width that is never made whole."""
    step = max(1, ENTRIES // max(1, width))
    return (slice(start, start + step) for start in range(0, rows, step))


def moments(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of places (P, D) of shares (P,); one where a coordinate is constant."""
    middle = share @ x
    spread = (share @ (x - middle).square()).sqrt()
    return middle, spread.where(spread > 1e-12 * middle.abs(), 1.0)


def require(good: bool, family: str, came: str, wanted: str) -> None:
    """X01 unless an argument of the family is good."""
    if not good:
        raise ConfigError("X01", f"{family} got {came}", wanted, "")
