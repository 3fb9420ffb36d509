"""The Schrödinger bridge between two Gaussians under dX = (A X + b) dt + σ dW, in closed form.

    X_0 ~ N(m_0, S_0),   X_T ~ N(m_1, S_1),   Cov(X_0, X_T) = Ψ⁻¹ Φ^½ C Φ^½
    C = U^½ (U^½ V U^½ + I / 4)^½ U^-½ - I / 2,   U = Φ^-½ Ψ S_0 Ψᵀ Φ^-½,   V = Φ^-½ S_1 Φ^-½

with Ψ = exp(A T) and Φ the covariance of X_T given X_0 under the reference. All marginals are Gaussian and the
drift is affine in x. It is what every other bridge of this package is tested against.

[1] Bunne, Hsieh, Cuturi & Krause. The Schrödinger bridge between Gaussian measures has a closed form.
    AISTATS 2023, theorem 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .affine_bridge import affine_bridge, bridge_moments_of
from .gaussian_flow import affine_flow


class Gaussian(NamedTuple):
    """N(mean, cov)."""

    mean: Tensor  # (D,)
    cov: Tensor  # (D, D)


class GaussianBridge(NamedTuple):
    """At S times strictly between the ends."""

    mean: Tensor  # (S, D)
    cov: Tensor  # (S, D, D)
    slope: Tensor  # (S, D, D)  the drift at x is slope (x - mean) + rate
    rate: Tensor  # (S, D)
    coupling: Tensor  # (D, D)  Cov(X_0, X_T)


def gaussian_bridge(
    start: Gaussian, end: Gaussian, A: Tensor, b: Tensor, sigma: float, span: float, t: Tensor
) -> GaussianBridge:
    """Marginals and drift of the bridge at times t (S,) strictly between 0 and the span, in double precision."""
    cross = _coupling(start.cov, end.cov, A, sigma, span)
    middle = torch.cat([start.mean, end.mean, start.mean.new_ones(1)])
    D = len(cross)
    spread = cross.new_zeros(2 * D + 1, 2 * D + 1)
    spread[:D, :D], spread[D : 2 * D, D : 2 * D] = start.cov, end.cov
    spread[:D, D : 2 * D], spread[D : 2 * D, :D] = cross, cross.mT
    ends = spread + middle[:, None] * middle
    found = bridge_moments_of(affine_bridge(A, b, sigma, span, t), ends)
    slope = torch.linalg.solve(found.cov, found.cross, left=False)
    return GaussianBridge(found.mean, found.cov, slope, found.drift, cross)


def _coupling(first: Tensor, last: Tensor, A: Tensor, sigma: float, span: float) -> Tensor:
    """Cov(X_0, X_T)."""
    D = len(A)
    nodes = first.new_tensor([0.0, span])
    flow = affine_flow(first.new_zeros(1, D), A, first.new_zeros(D), sigma, nodes)
    move, noise = flow.ahead[0, 0], flow.cov[0, -1]
    root = _power(noise, 0.5)
    back = _power(noise, -0.5)
    U, V = back @ move @ first @ move.mT @ back, back @ last @ back
    half, inverse = _power(U, 0.5), _power(U, -0.5)
    one = torch.eye(D, dtype=first.dtype, device=first.device)
    C = half @ _power(half @ V @ half + one / 4, 0.5) @ inverse - one / 2
    found: Tensor = torch.linalg.solve(move, root @ C @ root)
    return found


def _power(S: Tensor, p: float) -> Tensor:
    """S^p of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(S)
    found: Tensor = vectors * values**p @ vectors.mT
    return found
