"""What the reference of a bridge is fitted to: the drift of its paths given their two ends.

    argmin_f KL(P || Q_f) = argmin_f Σ_k ∫ E_P |c_t - f(X_t)|² dt

c_t, the drift at X_t of a path of the old reference that knows both of its ends, has the drift of the
bridge as its mean given X_t. Increments of the paths would do in its place, but are noisier and off by
their length. The integral is a Gauss-Legendre sum over each interval.

[1] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference refinement.
    AISTATS 2025, section 4: the fit, there of increments.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..maths import plan as plans
from ..maths.affine_bridge import affine_bridge, bridge_moments_of
from ..maths.gaussian_flow import bridge_drift, bridge_paths
from ..maths.quadrature import gauss_legendre
from ..maths.resample import systematic
from .static_bridge import Interval, StaticBridge


class Targets(NamedTuple):
    """What `Reference.refit` takes."""

    x: Tensor  # (P, D)
    drift: Tensor  # (P, D)
    weights: Tensor  # (P,)  in units of time


def drawn_targets(
    bridge: StaticBridge, pairs: int, generator: torch.Generator | None = None
) -> Targets:
    """Of `pairs` paths drawn through each interval, at `bridge.nodes` times."""
    return _joined([_drawn(bridge, step, pairs, generator) for step in bridge.intervals])


def affine_targets(bridge: StaticBridge, A: Tensor, b: Tensor) -> Targets:
    """Of all pairs of cells and all paths between them, for a bridge under dX = (A X + b) dt + σ dW: no draws.

    A fit that is linear in x sees the second moments of X_t and c_t alone. They are known, and 2 D points per
    time stand for them: E X ± √D L_d where L Lᵀ = Cov X, with the c that is linear in them.
    """
    return _joined([_summed(bridge, step, A, b) for step in bridge.intervals])


def _drawn(
    bridge: StaticBridge, step: Interval, pairs: int, generator: torch.Generator | None
) -> Targets:
    i = systematic(plans.row_mass(step.coupling), pairs, generator).sort().values
    j = plans.partners(step.coupling, i, generator)
    t, w = gauss_legendre(step.span, bridge.nodes)
    nodes = torch.cat([t.new_zeros(1), t, t.new_tensor([step.span])])
    few = len(step.x) <= pairs
    flow = bridge.law(step.x if few else step.x[i], nodes)
    rows = i if few else torch.arange(pairs)
    y = step.y[j]
    x = bridge_paths(flow, rows, y, generator)[:, :-1]
    c = bridge_drift(flow, rows, y, x, bridge.sigma)
    weights = (w / pairs).expand(pairs, -1)
    return Targets(x[:, 1:].flatten(0, 1), c[:, 1:].flatten(0, 1), weights.flatten())


def _summed(bridge: StaticBridge, step: Interval, A: Tensor, b: Tensor) -> Targets:
    t, w = gauss_legendre(step.span, bridge.nodes)
    found = bridge_moments_of(affine_bridge(A, b, bridge.sigma, step.span, t), _ends(step))
    D = step.x.shape[1]
    root = torch.linalg.cholesky(found.cov)
    out = D**0.5 * root.mT  # (S, D, D), a point in each row
    bent = D**0.5 * torch.linalg.solve_triangular(root, found.cross.mT, upper=False)
    x = torch.cat([found.mean[:, None] + out, found.mean[:, None] - out], 1)
    c = torch.cat([found.drift[:, None] + bent, found.drift[:, None] - bent], 1)
    weights = (w / (2 * D))[:, None].expand(-1, 2 * D)
    return Targets(x.flatten(0, 1), c.flatten(0, 1), weights.flatten())


def _ends(step: Interval) -> Tensor:
    """E[u uᵀ], u = (x, y, 1), over the pairs of the plan: (2 D + 1, 2 D + 1)."""
    p = step.coupling
    D = step.x.shape[1]
    one = step.x.new_ones(len(step.y), 1)
    sums = plans.apply(p, torch.cat([step.y, one], 1))  # P (y, 1)
    left, arrived = sums[:, -1:], plans.row_mass(plans.transposed(p))[:, None]
    found = step.x.new_zeros(2 * D + 1, 2 * D + 1)
    found[:D, :D] = step.x.mT @ (left * step.x)
    found[:D, D:] = step.x.mT @ sums
    y = torch.cat([step.y, one], 1)
    found[D:, D:] = y.mT @ (arrived * y)
    found[D:, :D] = found[:D, D:].mT
    return found / found[-1, -1]


def _joined(parts: list[Targets]) -> Targets:
    return Targets(*(torch.cat(u) for u in zip(*parts, strict=True)))
