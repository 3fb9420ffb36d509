"""Families of drifts with few parameters: Brownian motion, linear processes, a vortex, predators and prey.

[1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference refinement.
    AISTATS 2025: the families of its experiments.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..maths.least_squares import not_negative
from .reference_base import LinearByCoordinate, LinearInParameters, Reference, require


class Zero(Reference):
    """f = 0: Brownian motion. Nothing is learned."""

    def __init__(self) -> None:
        super().__init__(None)

    def drift(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def jacobian(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape, x.shape[-1])

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(dims, dims, dtype=torch.float64), torch.zeros(dims, dtype=torch.float64)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return {}

    def parameter_names(self) -> tuple[str, ...]:
        return ()

    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        return weights.new_zeros(0, 0)

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        pass


class Affine(LinearByCoordinate):
    """f(x) = A x + b: an Ornstein-Uhlenbeck process, of any A. Its bridges are exact.

    Args:
        dims: D.
        ridge: as a share of the variance of each x_j; 0.001 shrinks A by as much, and more where coordinates
            move together.
        A: (D, D) before the first fit; None is zero.
        b: (D,) likewise.
    """

    def __init__(
        self,
        dims: int,
        ridge: float = 1e-3,
        A: Sequence[Sequence[float]] | None = None,
        b: Sequence[float] | None = None,
    ):
        require(dims >= 1, "Affine", f"dims={dims}", "one dimension at least")
        super().__init__(torch.ones(dims, dims), ridge)
        for name, own, given in (("A", self.A, A), ("b", self.b, b)):
            if given is not None:
                own.copy_(_numbers(given, own.shape, name))

    def regressors(self, x: Tensor) -> Tensor:
        return x

    def slopes(self, x: Tensor) -> Tensor:
        return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)

    def regressor_names(self) -> list[str]:
        return [f"x{j}" for j in range(len(self.b))]

    def jacobian(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        return self.A.to(x).expand(len(x), -1, -1)

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor]:
        self.require_dims(self.b.new_empty(0, dims))
        return self.A.clone(), self.b.clone()


class LinearVortex(LinearInParameters):
    """f(x, y) = (r (y - y₀), -s (x - x₀)): rotation about a centre. D = 2.

    Args:
        circular: one speed for both axes, r = s; else the paths are ellipses.
        speed: (r, s) before the first fit, in radians per unit of time.
        centre: (x₀, y₀) before the first fit.
    """

    def __init__(
        self,
        circular: bool = False,
        speed: tuple[float, float] = (0.0, 0.0),
        centre: tuple[float, float] = (0.0, 0.0),
    ):
        (r, s), (u, v) = speed, centre
        require(not circular or r == s, "LinearVortex", f"speed={speed}", "equal ones on a circle")
        names, start = ["r", "s", "-r y0", "s x0"], [r, s, -r * v, s * u]
        own = slice(1 if circular else 0, None)
        super().__init__(2, names[own], start[own])
        self.circular = circular

    def features(self, x: Tensor) -> Tensor:
        u, v = x.unbind(-1)
        zero, one = torch.zeros_like(u), torch.ones_like(u)
        columns = [(v, zero), (zero, -u), (one, zero), (zero, one)]
        if self.circular:
            columns = [(v, -u), *columns[2:]]
        return torch.stack([torch.stack(column, -1) for column in columns], -1)

    def jacobian(self, x: Tensor) -> Tensor:
        A, _ = self.coefficients(x.shape[-1])
        return A.to(x).expand(len(x), -1, -1)

    def coefficients(self, dims: int) -> tuple[Tensor, Tensor]:
        self.require_dims(self.theta.new_empty(0, dims))
        r, s = self._speeds()
        zero = torch.zeros_like(r)
        return torch.stack([zero, r, -s, zero]).view(2, 2), self.theta[-2:].clone()

    def parameters_by_name(self) -> dict[str, Tensor]:
        """The speeds, and the centre, which is no number while nothing turns."""
        r, s = self._speeds()
        across, along = self.theta[-2:]
        return {"r": r, "s": s, "x0": along / s, "y0": -across / r}

    def _speeds(self) -> tuple[Tensor, Tensor]:
        return self.theta[0].clone(), self.theta[0 if self.circular else 1].clone()


class LotkaVolterra(LinearInParameters):
    """dx = α x - β x y, dy = δ x y - γ y, for prey x and predators y; no rate is negative. D = 2.

    Args:
        alpha, beta, delta, gamma: before the first fit.
    """

    def __init__(
        self, alpha: float = 0.0, beta: float = 0.0, delta: float = 0.0, gamma: float = 0.0
    ):
        start = (alpha, beta, delta, gamma)
        require(min(start) >= 0, "LotkaVolterra", f"rates {start}", "zero or more")
        super().__init__(2, ("alpha", "beta", "delta", "gamma"), start)

    def features(self, x: Tensor) -> Tensor:
        u, v = x.unbind(-1)
        zero, met = torch.zeros_like(u), u * v
        columns = [(u, zero), (-met, zero), (zero, met), (zero, -v)]
        return torch.stack([torch.stack(column, -1) for column in columns], -1)

    def jacobian(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        u, v = x.unbind(-1)
        alpha, beta, delta, gamma = self.theta.to(x)
        prey = torch.stack([alpha - beta * v, -beta * u], -1)
        return torch.stack([prey, torch.stack([delta * v, delta * u - gamma], -1)], -2)

    def _solution(self, gram: Tensor, right: Tensor) -> Tensor:
        return not_negative(gram, right)


def _numbers(
    values: Sequence[float] | Sequence[Sequence[float]], shape: torch.Size, name: str
) -> Tensor:
    try:
        found = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError):  # rows of different lengths, or no numbers
        found = torch.empty(0, dtype=torch.float64)
    require(found.shape == shape, "Affine", f"{name}={values}", f"numbers of shape {tuple(shape)}")
    return found
