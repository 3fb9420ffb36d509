"""What a Gaussian process varies about: a constant, a line, seasons.

[1] Rasmussen & Williams. Gaussian processes for machine learning. MIT Press 2006, section 2.7.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..batch import Paths
from .base import Part


class MeanFunction(Part):
    """m(t) = sum_i a_i u^i + sum_p sum_j [b_pj cos(2 pi j t / p) + c_pj sin(2 pi j t / p)]

    with u in [0, 1] over the training times. Coefficients start at the least-squares fit to what was
    observed in training, the same for all series and each channel's own, and are learned from there
    together with the kernel. They are taken as known in predictions; for coefficients with a
    variance, add Constant, Linear or Periodic kernels instead  [1].

    Args:
        dim: coordinates of the series, D.
        degree: of the polynomial: 0 a constant, 1 a line.
        periods: lengths of seasons in the units of t.
        harmonics: of each season.
    """

    origin: Tensor
    span: Tensor

    def __init__(
        self, dim: int, degree: int = 0, periods: Sequence[float] = (), harmonics: int = 2
    ):
        super().__init__()
        self.degree, self.periods, self.harmonics = degree, tuple(periods), harmonics
        terms = degree + 1 + 2 * harmonics * len(self.periods)
        self.coefficients = nn.Parameter(torch.zeros(terms, dim, dtype=torch.float64))
        self.register_buffer("origin", torch.zeros((), dtype=torch.float64))
        self.register_buffer("span", torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor) -> Tensor:
        """m at times (...): (..., D) in double precision."""
        return self.basis(t) @ self.coefficients.double()

    def basis(self, t: Tensor) -> Tensor:
        """Powers of u and waves at times (...): (..., terms)."""
        t = t.double()
        u = (t - self.origin) / self.span
        powers = [u**i for i in range(self.degree + 1)]
        angles = [
            2 * math.pi * j * t / p for p in self.periods for j in range(1, self.harmonics + 1)
        ]
        return torch.stack(powers + [f(a) for a in angles for f in (torch.cos, torch.sin)], -1)

    @torch.no_grad()
    def start(self, seen: Paths) -> None:
        """Least squares, with a slight ridge, for every channel on its own."""
        rows = seen.mask.any(-1)
        t = seen.t.double()[rows]
        self.origin.copy_(t.min())
        span = t.max() - t.min()
        self.span.copy_(span.where(span > 0, 1.0))
        basis = self.basis(t)  # (R, terms)
        eye = torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)
        for d in range(seen.x.shape[-1]):  # each channel has holes of its own
            here = seen.mask[..., d][rows]
            if here.any():
                a, y = basis[here], seen.x[..., d][rows][here].double()
                system = a.T @ a + 1e-10 * len(y) * eye
                self.coefficients[:, d] = torch.linalg.solve(system, a.T @ y)
