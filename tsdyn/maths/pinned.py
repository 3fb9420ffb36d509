"""Smooth paths through points: an integrated Wiener process with any level and slope, pinned at K times.

    x'' = √q · white noise,   x(t_k) = x_k

Its mean is the natural cubic spline through the points; draws around it have a continuous velocity, and a
variance that grows with the third power of the gaps: q u² v² / (3 (u + v)) at u and v from two single points. All times at once, by the bordered
system of kriging; K is small.

[1] Wahba. Improper priors, spline smoothing and the problem of guarding against model errors in regression.
    JRSS B 1978.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Pinned(NamedTuple):
    """x(t) given x_k ~ N(weights x, q · cov), in double precision."""

    weights: Tensor  # (T, K)
    cov: Tensor  # (T, T)  for q = 1, in units of time cubed
    energy: Tensor  # (K, K)  xᵀ energy x / (K - 2) is the estimate of q; zero for K = 2


def pinned(knots: Tensor, t: Tensor) -> Pinned:
    """The law at times t (T,), pinned at knots (K,), K >= 2, that increase."""
    knots, t = knots.double(), t.double()
    span = knots[-1] - knots[0]
    u, s = (knots - knots[0]) / span, (t - knots[0]) / span
    K = len(u)
    bordered = u.new_zeros(K + 2, K + 2)
    bordered[:K, :K] = _kernel(u, u)
    bordered[:K, K], bordered[:K, K + 1] = 1.0, u
    bordered[K:, :K] = bordered[:K, K:].mT
    right = torch.cat([_kernel(s, u), torch.ones_like(s)[:, None], s[:, None]], 1)  # (T, K + 2)
    inverse = torch.linalg.inv(bordered)
    found = right @ inverse
    cov = (_kernel(s, s) - found @ right.mT) * span**3
    energy = inverse[:K, :K] / span**3 if K > 2 else u.new_zeros(K, K)
    return Pinned(found[:, :K], (cov + cov.mT) / 2, (energy + energy.mT) / 2)


def scale(law: Pinned, x: Tensor) -> Tensor:
    """The estimate of q by restricted maximum likelihood, over points x (n, K, D)."""
    n, K, D = x.shape
    return torch.einsum("nkd,kl,nld->", x, law.energy, x) / (n * D * max(K - 2, 1))


def draw(law: Pinned, x: Tensor, q: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Paths (n, T, D) through points x (n, K, D)."""
    values, vectors = torch.linalg.eigh(law.cov)
    root = vectors * (q * values.clamp(min=0)).sqrt()  # no Cholesky: it is singular at the knots
    z = torch.randn(
        (len(x), len(law.cov), x.shape[-1]), generator=generator, dtype=x.dtype, device=x.device
    )
    found: Tensor = law.weights @ x + root @ z
    return found


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Covariance of the integral of a Wiener process from zero: m³ / 3 + |a - b| m² / 2, m = min(a, b); also below zero."""
    low, gap = torch.minimum(a[:, None], b), (a[:, None] - b).abs()
    return low.pow(3) / 3 + gap * low.square() / 2
