"""Growth between two snapshots: sources that divide weigh more, and the plan corrects what was believed.

    a_i ∝ w_i growth_i^span,      growth_i = (mass that leaves i / w_i)^(1 / span)

[1] Schiebinger et al. Optimal-transport analysis of single-cell gene expression identifies
    developmental trajectories in reprogramming. Cell 176, 2019: growth rates, learned in turn with plans.
"""

from typing import Any

import torch
from torch import Tensor

from .cost import Cost
from .plan import row_mass
from .transport import Coupling, sinkhorn


def grown(weights: Tensor, growth: Tensor, span: float) -> Tensor:
    """w_i growth_i^span / Σ: (..., N), the sources as they weigh when the targets are seen.

    Args:
        weights: (..., N) of the sources, zero for padding.
        growth: (..., N) positive, factor per unit of time.
        span: time between the snapshots.
    """
    heavier = (weights * growth**span).where(weights > 0, 0.0)
    return heavier / heavier.sum(-1, keepdim=True)


def posterior_growth(p: Coupling, weights: Tensor, span: float) -> Tensor:
    """Factor per unit of time by which each source grew, relative to the mean; one at padding."""
    mass = row_mass(p)
    shares = (u / u.sum(-1, keepdim=True) for u in (mass, weights.to(mass)))
    after, before = shares
    return torch.where(before > 0, after / before, 1.0) ** (1 / span)


def learn_growth(
    cost: Cost,
    weights: Tensor,
    b: Tensor,
    epsilon: float,
    tau: tuple[float, float],
    growth: Tensor,
    span: float,
    *,
    rounds: int = 3,
    **options: Any,
) -> tuple[Coupling, Tensor]:
    """(plan, growth (..., N)): each round starts from the growth that the plan before it found  [1]

    Args:
        cost, b, epsilon, tau, options: as in `sinkhorn`; both sums of weights become one.
        weights, growth, span: as in `grown`; `growth` is what is believed at first.
        rounds: plans to find, at least one.
    """
    b = b / b.sum(-1, keepdim=True)
    start = options.pop("start", None)
    for _ in range(max(rounds, 1)):
        plan = sinkhorn(
            cost, grown(weights, growth, span), b, epsilon, tau=tau, start=start, **options
        )
        growth, start = posterior_growth(plan, weights, span), plan.g
    return plan, growth
