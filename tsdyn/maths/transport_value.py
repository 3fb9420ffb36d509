"""The value of entropic transport, differentiable: a plan that is optimal need not be differentiated.

    V(C, a, b) = max_{f, g}  Σ a_i φ_a(f_i) + Σ b_j φ_b(g_j) - ε Σ_ij P_ij + ε Σ a Σ b
    φ(f) = f, or λ (1 - exp(-f / λ)) where mass may be made and lost

    ∂V/∂C_ij = P_ij,   ∂V/∂a_i = φ_a(f_i) - ε exp(-f_i / λ_a) + ε Σ b

by the envelope theorem  [1]. The gradient costs two more passes over the plan, whatever the number of
iterations was. It goes on through the factors of the cost to points and to precisions.

[1] Feydy, Séjourné, Vialard, Amari, Trouvé & Peyré. Interpolating between optimal transport and MMD
    using Sinkhorn divergences. AISTATS 2019, section 3.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import cost as costs
from .cost import Cost, Dense
from .plan import apply, dense, row_mass, transposed
from .transport import Coupling, sinkhorn


def transport_value(
    cost: Cost, a: Tensor, b: Tensor, epsilon: float = 1.0, **options: Any
) -> tuple[Tensor, Coupling]:
    """(V (...), the plan), V with gradients with respect to cost, a and b.

    The value is right to second order in the error of the marginals, the gradient to first. Where
    both marginals are kept, the gradients with respect to a and b are known up to a constant each,
    and at weights of zero they are zero.

    Args:
        cost, a, b, epsilon, options: as in `sinkhorn`.
    """
    coupling = sinkhorn(cost, a, b, epsilon, **options)
    dtype = coupling.a.dtype
    parts = costs.cast(cost, dtype)
    found: Tensor = _Value.apply(coupling, a.to(dtype), b.to(dtype), *parts)  # type: ignore[no-untyped-call]
    return found, coupling


def value(p: Coupling) -> Tensor:
    """V (...) by its duals."""
    first, second = (
        (w * _price(dual, tau, p.epsilon)).sum(-1)
        for w, dual, tau in ((p.a, p.f, p.tau[0]), (p.b, p.g, p.tau[1]))
    )
    mass = (p.a * _left(p.f, p.tau[0], p.epsilon)).sum(-1)
    return first + second - p.epsilon * (mass - p.a.sum(-1) * p.b.sum(-1))


def _left(dual: Tensor, tau: float, epsilon: float) -> Tensor:
    """exp(-f / λ): mass of the plan per unit of weight; one where the marginal is kept."""
    return torch.exp(-dual * (1 - tau) / (tau * epsilon))


def _price(dual: Tensor, tau: float, epsilon: float) -> Tensor:
    """φ(f)."""
    if tau == 1:
        return dual
    return epsilon * tau / (1 - tau) * (1 - _left(dual, tau, epsilon))


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Coupling, a: Tensor, b: Tensor, *parts: Tensor) -> Tensor:
        ctx.coupling = p
        return value(p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        p, (grad,) = ctx.coupling, grads
        weights = [
            _weight_gradient(own, dual, tau, p.epsilon, other)
            for own, dual, tau, other in (
                (p.a, p.f, p.tau[0], p.b),
                (p.b, p.g, p.tau[1], p.a),
            )
        ]
        if isinstance(p.cost, Dense):
            return None, *(grad[..., None] * w for w in weights), grad[..., None, None] * dense(p)
        back = transposed(p)
        linear = [grad[..., None] * w for w in (*weights, row_mass(p), row_mass(back))]
        bent = [-apply(p, p.cost.right), -apply(back, p.cost.left)]
        return None, *linear, *(grad[..., None, None] * x for x in bent)


def _weight_gradient(
    own: Tensor, dual: Tensor, tau: float, epsilon: float, other: Tensor
) -> Tensor:
    made = other.sum(-1, keepdim=True) - _left(dual, tau, epsilon)
    return (_price(dual, tau, epsilon) + epsilon * made).where(own > 0, 0.0)
