"""Any model, on what a trend and seasons leave over."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Paths, merge
from .base import Model, require_fitted


class Harmonic(Model):
    """x(t) = sum_i a_i u^i + sum_p sum_j [b_pj cos(2 pi j t / p) + c_pj sin(2 pi j t / p)] + residual(t)

    with u in [0, 1] over the training times. The coefficients are fitted once, by least squares with
    a slight ridge, to all that was observed in training, the same for every series; the wrapped model
    learns the residual. For one series, or for series that share their seasons; series with levels of
    their own want none of this. A trend of degree 2 bends for ever: keep horizons short against the
    training span.

    Args:
        model: of the residual.
        dim: coordinates of the series, D.
        periods: lengths of the seasons in the units of t (31557600.0 is a year in seconds).
        order: harmonics of each season.
        degree: of the polynomial trend.

    Source: Harvey & Shephard. Structural time series models. Handbook of Statistics 11, 1993 (the
    deterministic case).
    """

    coefficients: Tensor
    origin: Tensor
    span: Tensor
    fitted: Tensor

    def __init__(
        self,
        model: Model,
        dim: int,
        periods: Sequence[float] = (),
        order: int = 3,
        degree: int = 1,
    ):
        super().__init__()
        self.model, self.periods, self.order, self.degree = model, tuple(periods), order, degree
        terms = degree + 1 + 2 * order * len(self.periods)
        self.register_buffer("coefficients", torch.zeros(terms, dim, dtype=torch.float64))
        self.register_buffer("origin", torch.zeros((), dtype=torch.float64))
        self.register_buffer("span", torch.ones((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def basis(self, t: Tensor) -> Tensor:
        """Trend and seasons at times (...): (..., terms) in float64."""
        t = t.double()
        u = (t - self.origin) / self.span
        trend = [u**i for i in range(self.degree + 1)]
        angles = [2 * math.pi * j * t / p for p in self.periods for j in range(1, self.order + 1)]
        return torch.stack(trend + [f(a) for a in angles for f in (torch.cos, torch.sin)], -1)

    def fixed(self, t: Tensor) -> Tensor:
        """The fitted trend and seasons at times (B, T): (B, T, D)."""
        return self.basis(t) @ self.coefficients

    def inside(self, paths: Paths) -> Paths:
        """The same paths less trend and seasons."""
        residual = paths.x.double() - self.fixed(paths.t)
        return paths._replace(x=residual.to(paths.x.dtype))

    def loss(self, given: Paths, want: Paths) -> Tensor:
        require_fitted(self.fitted, "Harmonic")
        return self.model.loss(self.inside(given), self.inside(want))

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        require_fitted(self.fitted, "Harmonic")
        residual = self.model.sample(self.inside(given), at, n)
        return (residual + self.fixed(at)).to(given.x.dtype)

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        given, want = train
        if not self.fitted:
            self._fit(merge(given, want)[0])
        self.model.on_epoch(epoch, (self.inside(given), self.inside(want)))

    def _fit(self, seen: Paths) -> None:
        rows = seen.mask.any(-1)
        t = seen.t.double()[rows]
        self.origin.copy_(t.min())
        span = t.max() - t.min()
        self.span.copy_(span.where(span > 0, 1.0))
        basis = self.basis(t)  # (R, terms)
        ridge = 1e-8 * len(t) * torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)
        for d in range(seen.x.shape[-1]):  # each channel has holes of its own
            seen_here = seen.mask[..., d][rows]
            a, y = basis[seen_here], seen.x[..., d][rows][seen_here].double()
            self.coefficients[:, d] = torch.linalg.solve(a.T @ a + ridge, a.T @ y)
        self.fitted.fill_(True)
