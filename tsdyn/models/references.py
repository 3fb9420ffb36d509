"""Families of drifts that a Schrödinger bridge may be measured against, and how each is fitted.

    refit:  θ = argmin Σ_p w_p |c_p - f_θ(x_p)|² + ridge

Every family starts from zero drift, Brownian motion. Parameters are buffers in double precision: what fits
them is a least-squares problem, not a gradient step.

The rates of reactions are kept from turning negative by fitting without those that would.

[1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference refinement.
    AISTATS 2025: the families of its experiments.
"""

import abc
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .base import Part

ROWS = 4096  # of features at a time


class Determined(NamedTuple):
    """How well a fit determines its parameters: H = Σ w (df/dθ)ᵀ (df/dθ), scaled to a diagonal of one."""

    values: Tensor  # (F,)  eigenvalues of H, the smallest first; near zero where nothing is learned
    directions: Tensor  # (F, F)  its eigenvectors, one in each column
    names: tuple[str, ...]  # of the parameters


class Reference(Part):
    """f in dX = f(X) dt + σ dW."""

    @abc.abstractmethod
    def drift(self, x: Tensor) -> Tensor:
        """f at x (..., D): (..., D)."""

    @abc.abstractmethod
    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        """θ that comes nearest to drift (P, D) at x (P, D), squares weighted by (P,)."""

    @abc.abstractmethod
    def parameters_by_name(self) -> dict[str, Tensor]:
        """θ, for reading."""

    def jacobian(self, x: Tensor) -> Tensor:
        """df_i / dx_j at x (P, D): (P, D, D)."""
        found: Tensor = torch.func.vmap(torch.func.jacrev(self.drift))(x)
        return found

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor] | None:
        """(A (D, D), b (D,)) of f(x) = A x + b; None where f is not affine."""
        return None


class Zero(Reference):
    """f = 0: Brownian motion. Nothing is learned."""

    def drift(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        pass

    def parameters_by_name(self) -> dict[str, Tensor]:
        return {}

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(dims, dims, dtype=torch.float64), torch.zeros(dims, dtype=torch.float64)


class LinearInParameters(Reference):
    """f(x) = Φ(x) θ, fitted by the normal equations (Σ w ΦᵀΦ + ridge · diagonal) θ = Σ w Φᵀ c.

    Args:
        names: of θ.
        ridge: as a share of the diagonal of Σ w ΦᵀΦ.
        positive: θ is not negative.
    """

    theta: Tensor

    def __init__(self, names: tuple[str, ...], ridge: float = 0.0, positive: bool = False):
        super().__init__()
        self.names, self.ridge, self.positive = names, ridge, positive
        self.register_buffer("theta", torch.zeros(len(names), dtype=torch.float64))

    @abc.abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Φ at x (..., D): (..., D, F)."""

    def drift(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.theta.to(x)

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        gram, right = self._sums(x, drift, weights)
        level = gram.diagonal() * self.ridge + 1e-12 * gram.diagonal().mean()
        gram = gram + torch.diag(level)
        self.theta.copy_(not_negative(gram, right) if self.positive else _solved(gram, right))

    def determined(self, x: Tensor, weights: Tensor) -> Determined:
        """What the places x (P, D) with weights (P,) say of each direction of θ."""
        gram, _ = self._sums(x, torch.zeros_like(x), weights)
        scale = gram.diagonal().clamp(min=torch.finfo(gram.dtype).tiny).rsqrt()
        values, directions = torch.linalg.eigh(scale[:, None] * gram * scale)
        return Determined(values, directions, self.names)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.theta, strict=True))

    def _sums(self, x: Tensor, drift: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        gram = self.theta.new_zeros(len(self.theta), len(self.theta))
        right = torch.zeros_like(self.theta)
        for rows in _stretches(len(x)):
            features = self.features(x[rows]).flatten(0, 1)  # (P D, F)
            heavy = features * weights[rows].repeat_interleave(x.shape[1])[:, None]
            gram += heavy.mT @ features
            right += heavy.mT @ drift[rows].flatten()
        return gram, right


class Affine(Reference):
    """f(x) = A x + b: an Ornstein-Uhlenbeck process with any A. Its bridges are exact.

    (A, b) = argmin Σ w |c - A x - b|² + ridge Σ w · Σ_d s_d² |A_d|², s_d the deviation of x_d; b is free.

    Args:
        dims: D.
        ridge: 0.001 leaves 0.1 % of shrinkage in directions as wide as the cloud.
    """

    A: Tensor
    b: Tensor

    def __init__(self, dims: int, ridge: float = 1e-3):
        super().__init__()
        self.ridge = ridge
        self.register_buffer("A", torch.zeros(dims, dims, dtype=torch.float64))
        self.register_buffer("b", torch.zeros(dims, dtype=torch.float64))

    def drift(self, x: Tensor) -> Tensor:
        require_dims(x, len(self.b), "Affine")
        return x @ self.A.mT.to(x) + self.b.to(x)

    def jacobian(self, x: Tensor) -> Tensor:
        return self.A.to(x).expand(len(x), -1, -1)

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor]:
        require_dims(self.b.new_empty(0, dims), len(self.b), "Affine")
        return self.A, self.b

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        w = (weights / weights.sum())[:, None]
        middle, rate = (w * x).sum(0), (w * drift).sum(0)
        off = x - middle
        spread = (w * off).mT @ off
        spread = spread + torch.diag(self.ridge * spread.diagonal())
        self.A.copy_(_solved(spread, off.mT @ (w * (drift - rate))).mT)
        self.b.copy_(rate - self.A @ middle)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return {"A": self.A, "b": self.b}


class LinearVortex(LinearInParameters):
    """f(x, y) = (a y + b, -c x + d): rotation about a centre, each axis with a speed of its own. D = 2."""

    def __init__(self) -> None:
        super().__init__(("a", "b", "c", "d"))

    def features(self, x: Tensor) -> Tensor:
        require_dims(x, 2, "LinearVortex")
        u, v = x.unbind(-1)
        zero, one = torch.zeros_like(u), torch.ones_like(u)
        first = torch.stack([v, one, zero, zero], -1)
        return torch.stack([first, torch.stack([zero, zero, -u, one], -1)], -2)

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor]:
        a, b, c, d = self.theta
        zero = torch.zeros_like(a)
        return torch.stack([zero, a, -c, zero]).view(2, 2), torch.stack([b, d])


class LotkaVolterra(LinearInParameters):
    """dx = α x - β x y, dy = δ x y - γ y, for prey x and predators y; no rate is negative. D = 2."""

    def __init__(self) -> None:
        super().__init__(("alpha", "beta", "gamma", "delta"), positive=True)

    def features(self, x: Tensor) -> Tensor:
        require_dims(x, 2, "LotkaVolterra")
        u, v = x.unbind(-1)
        zero, met = torch.zeros_like(u), u * v
        prey = torch.stack([u, -met, zero, zero], -1)
        return torch.stack([prey, torch.stack([zero, zero, -v, met], -1)], -2)

    def jacobian(self, x: Tensor) -> Tensor:
        u, v = x.unbind(-1)
        alpha, beta, gamma, delta = self.theta.to(x)
        prey = torch.stack([alpha - beta * v, -beta * u], -1)
        return torch.stack([prey, torch.stack([delta * v, delta * u - gamma], -1)], -2)


def require_dims(x: Tensor, dims: int, family: str) -> None:
    """D14 unless x (..., D) has the dimensions of the family."""
    if x.shape[-1] != dims:
        raise DataError(
            "D14",
            f"{family} got cells of {x.shape[-1]} dimensions",
            f"{dims}",
            "Use Affine or GradientRFF for cells of any number of dimensions",
        )


def _stretches(n: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, n, ROWS))


def _solved(gram: Tensor, right: Tensor) -> Tensor:
    """The solution, or the shortest of several, where rounding or the data leave some open."""
    found: Tensor = torch.linalg.lstsq(gram, right.view(len(gram), -1), driver="gelsd").solution
    return found.view_as(right)


def not_negative(gram: Tensor, right: Tensor) -> Tensor:
    """argmin θᵀ G θ / 2 - rᵀ θ, θ >= 0, by leaving out what turns negative until nothing does."""
    kept = torch.ones_like(right, dtype=torch.bool)
    while True:
        theta = torch.zeros_like(right)
        theta[kept] = _solved(gram[kept][:, kept], right[kept])
        if not kept.any() or bool((theta >= 0).all()):
            return theta
        kept &= theta > 0
