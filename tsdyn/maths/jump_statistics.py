"""What a Markov chain did between two observations: holding times and jumps, given both ends.

    ∫₀^Δ P(X_s = c, jump to d in ds, X_Δ = b | X_0 = a) = q_cd I_abcd,   I_abcd = ∫₀^Δ P_ac(s) P_db(Δ - s) ds

so that E[R_c | a, b] = I_abcc / P_ab(Δ) is the time in c, and E[N_cd | a, b] = q_cd I_abcd / P_ab(Δ) the
number of jumps from c to d. `van_loan`, `by_eigenvectors` and `uniformised` are three ways to

    G_cd = Σ_ab W_ab I_abcd

of one signature (Q, gaps, W) -> G. Rates are per time, Q_ij from i to j, and rows of Q sum to zero.

[1] Van Loan. Computing integrals involving the matrix exponential. IEEE Transactions on Automatic
    Control 23, 1978.
[2] Hobolth & Jensen. Summary statistics for endpoint-conditioned continuous-time Markov chains.
    Journal of Applied Probability 48, 2011: the three ways.
[3] Grassmann. Transient solutions in Markovian queueing systems. Computers & Operations Research 4, 1977.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .rate_matrix import transition

Integrals = Callable[[Tensor, Tensor, Tensor], Tensor]

WORST_CONDITION = 1e2  # of sound eigenvectors: two digits lost
NEAR = 1e-3  # difference of eigenvalues times gap, below which quotients give way to series
MANY = 50  # gaps; for fewer the exponentials cost less than to ask for eigenvectors


class Expected(NamedTuple):
    """E[R_c | a, b] and E[N_cd | a, b] of a gap; not a number where a never leads to b."""

    time: Tensor  # (..., n, n, n)  axes a, b, c
    jumps: Tensor  # (..., n, n, n, n)  axes a, b, c, d; zero for c = d


def van_loan(Q: Tensor, gaps: Tensor, W: Tensor) -> Tensor:
    """G as the corner of one exponential of 2 n x 2 n:  [1]

    exp(Δ [[Q', W], [0, Q']]) = [[P', G], [0, P']]

    Args (of all three):
        Q: (n, n); gaps: (...); W: (..., n, n). Leading axes broadcast.

    Returns:
        (..., n, n).
    """
    n = Q.shape[-1]
    # G is linear in W; a large corner would cost squarings, and digits
    size = W.abs().amax((-2, -1), keepdim=True)
    size = size.where(size > 0, 1.0) / Q.diagonal().abs().max().clamp(min=1e-300)
    W = W / size
    block = torch.cat(
        [
            torch.cat([Q.mT.expand_as(W), W], -1),
            torch.cat([torch.zeros_like(W), Q.mT.expand_as(W)], -1),
        ],
        -2,
    )
    corner: Tensor = torch.linalg.matrix_exp(block * gaps[..., None, None])[..., :n, n:]
    return corner * size


def by_eigenvectors(Q: Tensor, gaps: Tensor, W: Tensor) -> Tensor:
    """G = U' (Ψ ∘ V' W U') V' with Q = V Λ U, U = V⁻¹, Ψ_kl = (e^{λ_k Δ} - e^{λ_l Δ}) / (λ_k - λ_l)  [2]

    Cheap for many gaps. Loses as many digits as the condition number of V has, and all of them where Q
    has too few eigenvectors.
    """
    values, V = torch.linalg.eig(Q)
    U = torch.linalg.inv(V)
    inner = V.mT @ W.to(V.dtype) @ U.mT
    G: Tensor = (U.mT @ (_divided(values, gaps) * inner) @ V.mT).real
    return G


def uniformised(Q: Tensor, gaps: Tensor, W: Tensor) -> Tensor:
    """G = 1/B Σ_m Pois(m + 1; B Δ) Σ_{k <= m} (M')^k W (M')^{m - k},   M = I + Q / B  [3]

    No term is negative where W is not, so that small entries are exact too. The number of terms grows
    with B Δ, the expected number of jumps at the largest rate.
    """
    M, B = _uniform(Q)
    weight = _poisson(B * gaps)  # (m, ...)
    total = torch.zeros((), dtype=Q.dtype, device=Q.device)
    moved, summed = W, W  # W (M')^m and the inner sum
    for m in range(len(weight) - 1):
        total = total + weight[m + 1, ..., None, None] * summed
        moved = moved @ M.mT
        summed = M.mT @ summed + moved
    return total / B


def uniformised_transition(Q: Tensor, gaps: Tensor) -> Tensor:
    """exp(Q Δ) = Σ_m Pois(m; B Δ) M^m: (..., n, n), small entries exact too  [3]"""
    M, B = _uniform(Q)
    power = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    total = torch.zeros((), dtype=Q.dtype, device=Q.device)
    for weight in _poisson(B * gaps):
        total = total + weight[..., None, None] * power
        power = power @ M
    return total


def between(Q: Tensor, gaps: Tensor, integrals: Integrals = uniformised) -> Expected:
    """Expected time in every state and number of every jump, for all pairs of ends.

    Args:
        Q: (n, n); gaps: (...) positive.
        integrals: `uniformised` keeps its digits where an end is unlikely.
    """
    n = Q.shape[-1]
    ends = torch.eye(n * n, dtype=Q.dtype, device=Q.device).view(n, n, n, n)
    I = integrals(Q, gaps[..., None, None], ends)
    P = uniformised_transition(Q, gaps)
    given = I / P.where(P > 0, torch.nan)[..., None, None]
    off = ~torch.eye(n, dtype=torch.bool, device=Q.device)
    return Expected(given.diagonal(dim1=-2, dim2=-1), (Q * given).where(off, 0.0 * given))


def transitions(Q: Tensor, gaps: Tensor) -> Tensor:
    """exp(Q g) for gaps (G,): (G, n, n), for EM, without gradients.

    Between the eigenvectors, where gaps are many and the eigenvectors sound.
    """
    basis = _sound_basis(Q, gaps)
    if basis is None:
        return transition(Q, gaps)
    values, V, U = basis
    of_modes = (V[:, :, None] * U).transpose(0, 1).flatten(1)  # (k, n n)
    P = ((values * gaps[:, None]).exp() @ of_modes).real.view(-1, *Q.shape).clamp(min=0)
    return P / P.sum(-1, keepdim=True)


def summed(Q: Tensor, gaps: Tensor, W: Tensor) -> Tensor:
    """Σ_g G^g for gaps (G,) and W (G, n, n): (n, n), all that EM asks for.

    Between the eigenvectors as in `transitions`, else by `van_loan`.
    """
    basis = _sound_basis(Q, gaps)
    if basis is None:
        return van_loan(Q, gaps, W).sum(0)
    values, V, U = basis
    # V' W U' of all gaps in one product
    both = torch.einsum("ak,lb->abkl", V, U).reshape(Q.numel(), -1)
    inner = (W.flatten(1).to(V.dtype) @ both).view(W.shape)
    total: Tensor = (U.mT @ _divided_sum(values, gaps, inner) @ V.mT).real
    return total


def _sound_basis(Q: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Eigenvalues, V and V⁻¹, if there are so many gaps that they pay, and few digits are lost."""
    if len(gaps) < MANY:
        return None
    values, V = torch.linalg.eig(Q)
    if not bool(torch.linalg.cond(V) < WORST_CONDITION):
        return None
    return values, V, torch.linalg.inv(V)


def _divided_sum(values: Tensor, gaps: Tensor, inner: Tensor) -> Tensor:
    """Σ_g Ψ^g ∘ inner^g with Ψ of `_divided`, which is not formed: (n, n)"""
    apart = values[:, None] - values
    near = (apart.abs() * gaps.max() < NEAR).nonzero()
    grown = (values * gaps[:, None]).exp()
    total = torch.einsum("gkl,gk->kl", inner, grown) - torch.einsum("gkl,gl->kl", inner, grown)
    # Δ e^{(λ_k + λ_l) Δ / 2} sinh(z / 2) / (z / 2) with z = (λ_k - λ_l) Δ small
    k, l = near.unbind(-1)
    middle = ((values[k] + values[l]) / 2 * gaps[:, None]).exp() * gaps[:, None]
    bend = 1 + (apart[k, l] * gaps[:, None]).square() / 24
    total = total / apart.index_put((k, l), torch.ones_like(values[:1]))
    return total.index_put((k, l), (inner[:, k, l] * middle * bend).sum(0))


def _divided(values: Tensor, gaps: Tensor) -> Tensor:
    """(e^{λ_k Δ} - e^{λ_l Δ}) / (λ_k - λ_l), which is Δ e^{λ Δ} for equal ones: (..., n, n)"""
    gaps = gaps[..., None]
    grown = (values * gaps).exp()
    apart = values[:, None] - values
    z = apart * gaps[..., None]
    near = z.abs() < NEAR
    series = torch.ones_like(z)
    for k in range(6, 1, -1):
        series = 1 + series * z / k  # (e^z - 1) / z
    quotient = (grown[..., :, None] - grown[..., None, :]) / apart.where(~near, 1.0)
    return torch.where(near, gaps[..., None] * grown[..., None, :] * series, quotient)


def _uniform(Q: Tensor) -> tuple[Tensor, Tensor]:
    B = Q.diagonal().abs().max().clamp(min=1e-300)
    return torch.eye(len(Q), dtype=Q.dtype, device=Q.device) + Q / B, B


def _poisson(mean: Tensor) -> Tensor:
    """Pois(m; mean) for m = 0, 1, ... until the rest is rounding: (m, ...)"""
    most = float(mean.max())
    m = torch.arange(int(most + 9 * most**0.5) + 20, dtype=mean.dtype, device=mean.device)
    m = m.view(-1, *(1,) * mean.ndim)
    return (torch.xlogy(m, mean) - mean - torch.lgamma(m + 1)).exp()
