"""Noisy observations of a Gaussian process known by its covariance: their density, and what they tell.

    y_i = X(t_i) + e_i,  X ~ N(0, C),  e_i ~ N(0, noise_i)

Dense and exact, O(N³), differentiable in all that the covariance depends on: the truth that models which
approximate the process, or learn it, are compared with. Any function of two times is a covariance here,
those of `fractional_exact` for instance.

[1] Rasmussen & Williams. Gaussian processes for machine learning. MIT Press 2006, section 2.2.
"""

import math

import torch
from torch import Tensor

from ..errors import ModelError
from .blocks import doubles
from .fractional_exact import Covariance, matrix


def log_evidence(
    law: Covariance,
    t: Tensor,
    y: Tensor,
    noise: Tensor | float,
    mask: Tensor | None = None,
) -> Tensor:
    """log N(y; 0, C + diag(noise)): (...)  [1]

    Args (here and below):
        law: (s, t) -> Cov(X(s), X(t)), elementwise.
        t: (..., N), in any order.
        y: (..., N), the mean of the process taken off. Not read where the mask is False.
        noise: variances, (..., N) or less; zero where values are exact.
        mask: (..., N), True where there is an observation; None if everywhere.

    Raises:
        ModelError: M04 if the covariance of y is not positive definite, as for an exact value at a time where
            the process has none.
    """
    y, L, seen = _factor(law, t, y, noise, mask)
    white = torch.linalg.solve_triangular(L, y[..., None], upper=False)[..., 0]
    scale = L.diagonal(dim1=-2, dim2=-1).log()
    count = seen.sum(-1)
    constant = count.double() * math.log(2 * math.pi) / 2
    density: Tensor = -(white**2).sum(-1) / 2 - scale.sum(-1) - constant
    return density


def condition(
    law: Covariance,
    t: Tensor,
    y: Tensor,
    noise: Tensor | float,
    at: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean (..., M) and covariance (..., M, M) of X at times (..., M), given y  [1]"""
    y, L, seen = _factor(law, t, y, noise, mask)
    (at,) = doubles(at)
    cross = matrix(law, t, at) * seen[..., None]  # (..., N, M)
    gain = torch.linalg.solve_triangular(L, cross, upper=False)
    white = torch.linalg.solve_triangular(L, y[..., None], upper=False)
    return (gain.mT @ white)[..., 0], matrix(law, at) - gain.mT @ gain


def _factor(
    law: Covariance, t: Tensor, y: Tensor, noise: Tensor | float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the Cholesky factor of its covariance, and what is seen; what is not is a zero of variance 1."""
    t, y, variance = doubles(t, y, noise)
    seen = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
    C = matrix(law, t) + torch.diag_embed(variance.expand_as(y))
    both = seen[..., :, None] & seen[..., None, :]
    C = C.where(both, torch.eye(y.shape[-1], dtype=C.dtype, device=C.device))
    L, failed = torch.linalg.cholesky_ex(C)
    if bool(failed.any()):
        raise ModelError(
            "M04",
            f"the covariance of {y.shape[-1]} observations has no Cholesky factor",
            "a positive definite matrix",
            "Give the observations a variance, or leave out those of equal times",
        )
    return y.where(seen, 0.0), L, seen
