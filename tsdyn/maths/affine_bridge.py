"""Bridges of an affine reference are linear in their ends, so that sums over all pairs are sums of moments.

    X_t | X_0 = x, X_T = y  ~  N(U_t u, C_t),   u = (x, y, 1)
    drift of the bridge at X_t:   V_t u + W_t (X_t - U_t u)

for dX = (A X + b) dt + σ dW. With the second moments of u under a plan, those of X_t and of the drift need
no pairs and no draws.

[1] Särkkä & Solin. Applied stochastic differential equations, chapters 6 and 10. 2019.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian_flow import Flow, affine_flow, bridge_moments


class AffineBridge(NamedTuple):
    """At S times between the ends."""

    mean: Tensor  # (S, D, 2 D + 1)  U
    cov: Tensor  # (S, D, D)  C
    drift: Tensor  # (S, D, 2 D + 1)  V
    feedback: Tensor  # (S, D, D)  W


class Moments(NamedTuple):
    """Of (X_t, 1) and the drift c of the bridge there, each (S, ...)."""

    mean: Tensor  # (S, D)  E X
    cov: Tensor  # (S, D, D)  Cov X
    drift: Tensor  # (S, D)  E c
    cross: Tensor  # (S, D, D)  Cov(c, X)


def affine_bridge(A: Tensor, b: Tensor, sigma: float, span: float, t: Tensor) -> AffineBridge:
    """The matrices at times t (S,) strictly between 0 and the span."""
    D = len(A)
    ends = t.new_tensor([0.0, span])
    nodes = torch.cat([ends[:1], t, ends[1:]]).double()
    unit = torch.eye(2 * D + 1, dtype=torch.float64, device=A.device)  # u = (0, 0, 1) and others
    start, goal = unit[:, :D], unit[:, D : 2 * D]
    flow = affine_flow(start, A, b, sigma, nodes)
    mean, cov = bridge_moments(flow, torch.arange(2 * D + 1), goal)
    mean, cov = mean[:, 1:-1], cov[0, 1:-1]
    U = _linear_part(mean)
    W = A.double() - _pull(flow, sigma)[1:-1] @ flow.ahead[0, 1:-1]
    target = goal[:, None] - flow.mean[:, -1:] + _through(flow.ahead[0], flow.mean)
    constant = (_pull(flow, sigma) @ target[..., None])[..., 0][:, 1:-1] + b.double()
    V = _linear_part(constant + (W @ mean[..., None])[..., 0])
    return AffineBridge(U, cov, V, W)


def bridge_moments_of(bridge: AffineBridge, ends: Tensor) -> Moments:
    """Moments over all pairs of a plan, from `ends` = E[u uᵀ] / E[1] (2 D + 1, 2 D + 1)."""
    middle = ends[:, -1]  # E u, because the last of u is one
    spread = ends - middle[:, None] * middle
    U, V = bridge.mean, bridge.drift
    return Moments(
        U @ middle,
        U @ spread @ U.mT + bridge.cov,
        V @ middle,
        V @ spread @ U.mT + bridge.feedback @ bridge.cov,
    )


def _pull(flow: Flow, sigma: float) -> Tensor:
    """σ² Aᵀ Φ⁻¹ at every node; at the last, where it is infinite, zero."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(flow.left[0, :-1]))
    strength = sigma**2 * flow.ahead[0, :-1].mT @ inverse
    return torch.cat([strength, torch.zeros_like(strength[:1])])


def _through(matrices: Tensor, vectors: Tensor) -> Tensor:
    """M_s v_ns: (S, D, D), (N, S, D) -> (N, S, D)."""
    return (matrices @ vectors[..., None])[..., 0]


def _linear_part(values: Tensor) -> Tensor:
    """The matrix of an affine function of (x, y), from its values (2 D + 1, S, D) at the units and at zero."""
    rest = values[-1]
    return torch.cat([values[:-1] - rest, rest[None]]).movedim(0, -1)
