"""Drift and score of a Schrödinger bridge at any place, from the duals of its plan: nothing is trained.

    b(x, t) = f(x) + σ² ∇ log φ(x, t),   ∇ log p_t(x) = ∇ log φ + ∇ log φ̂
    φ(x, t) = Σ_j b_j exp(g_j) q(y_j, T | x, t),   φ̂(x, t) = Σ_i a_i exp(f_i) q(x, t | x_i, 0)

with q the Gaussian transition of the reference, exact for an affine one; for others, what its covariance
changes with x is left out, as is all else of that order in σ. The error of the drift grows to T: there it
points at single cells.

[1] Pooladian & Niles-Weed. Plug-in estimation of Schrödinger bridges. 2024.
"""

import torch
from torch import Tensor

from . import cost as costs
from .cost import Cost
from .gaussian_flow import Flow, transition_cost
from .transport import Coupling


def plug_in_drift(ahead: Flow, y: Tensor, coupling: Coupling, sigma: float) -> Tensor:
    """b at the Q places that the law `ahead` starts from and whose last node is T: (Q, D).

    Args:
        y: (M, D) cells at T, the targets of the coupling.
        sigma: volatility of the reference.
    """
    return ahead.drift[:, 0] + sigma**2 * _forward(ahead, y, coupling)


def plug_in_score(x: Tensor, behind: Flow, ahead: Flow, y: Tensor, coupling: Coupling) -> Tensor:
    """∇ log p_t at x (Q, D).

    Args:
        behind: the law from the cells at 0, whose last node is t.
        ahead: the law from x at t, whose last node is T.
        y: (M, D) cells at T.
    """
    cost = costs.transposed(transition_cost(behind, x))
    mean, cov = behind.mean[:, -1], behind.cov[:, -1]
    precision = torch.cholesky_inverse(torch.linalg.cholesky(cov))
    bent = (precision @ mean[..., None])[..., 0]
    weights = coupling.a.log() + coupling.f
    if len(cov) == 1:
        back = _average(cost, weights, bent) - x @ precision[0]
    else:
        both = torch.cat([bent, precision.flatten(1)], 1)
        held = _average(cost, weights, both)
        D = x.shape[1]
        back = held[:, :D] - (held[:, D:].view(-1, D, D) @ x[..., None])[..., 0]
    return back + _forward(ahead, y, coupling)


def _forward(ahead: Flow, y: Tensor, coupling: Coupling) -> Tensor:
    """∇ log φ = Aᵀ P⁻¹ (E[y | x] - m)."""
    goal = _average(transition_cost(ahead, y), coupling.b.log() + coupling.g, y)
    root = torch.linalg.cholesky(ahead.cov[:, -1])
    gap = (goal - ahead.mean[:, -1])[..., None]
    pull = torch.cholesky_solve(gap, root.expand(len(gap), -1, -1))
    return (ahead.ahead[:, 0].mT @ pull)[..., 0]


def _average(cost: Cost, log_weights: Tensor, values: Tensor) -> Tensor:
    """Σ_j p_qj v_j with p_q· = softmax(log w - C_q·), some rows at a time: (Q, ...)."""
    found = []
    for start, stop in costs.stretches(cost):
        scores = log_weights - costs.matrix(costs.rows(cost, start, stop))
        found.append(scores.softmax(-1) @ values)
    return torch.cat(found)
