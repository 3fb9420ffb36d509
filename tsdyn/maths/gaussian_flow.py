"""The Gaussian law of dX = f(X) dt + σ dW from a known start, and of its bridges to a known end.

From X_0 = x:   dm/dt = f(m),   dP/dt = J P + P Jᵀ + σ² I,   J = f'(m),   m(0) = x,  P(0) = 0

It is exact where f is affine. Elsewhere it is the linear noise approximation about the path that each cell
takes without noise  [1], whose error vanishes with σ. With E_k the transition of the linear part between two
nodes and Q_k its noise, all else is sums of positive terms:

    P_{k+1} = E_k P_k E_kᵀ + Q_k,   A_k = A_{k+1} E_k,   Φ_k = Φ_{k+1} + A_{k+1} Q_k A_{k+1}ᵀ

where A_k is the transition from node k to the end and Φ_k the covariance of the end given node k.

References:
    [1] van Kampen. Stochastic processes in physics and chemistry, chapter X. 2007.
    [2] Wilson et al. Pathwise conditioning of Gaussian processes. JMLR 2021: Matheron's rule.
    [3] Van Loan. Computing integrals involving the matrix exponential. IEEE TAC 1978.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from .cost import Factored, quadratic

LARGEST = 0.5  # norm of A h up to which the exponential series is summed before doubling


class Flow(NamedTuple):
    """The law from each of N cells at S + 1 nodes; a leading 1 where all cells share a matrix."""

    t: Tensor  # (S + 1,)  time since the start; the first is zero
    mean: Tensor  # (N, S + 1, D)  m
    step: Tensor  # (N or 1, S, D, D)  E: from each node to the next
    noise: Tensor  # (N or 1, S, D, D)  Q
    cov: Tensor  # (N or 1, S + 1, D, D)  P
    ahead: Tensor  # (N or 1, S + 1, D, D)  A: from each node to the last
    left: Tensor  # (N or 1, S + 1, D, D)  Φ: covariance of the last given each node
    drift: Tensor  # (N, S + 1, D)  f(m)
    jacobian: Tensor  # (N or 1, S + 1, D, D)  J


def affine_flow(x: Tensor, A: Tensor, b: Tensor, sigma: float, t: Tensor) -> Flow:
    """The law of dX = (A X + b) dt + σ dW from x (N, D) at times t (S + 1,): exact, also for singular A."""
    x, A, b, t = (u.double() for u in (x, A, b, t))
    D = x.shape[1]
    wide = A.new_zeros(D + 1, D + 1)
    wide[:D, :D], wide[:D, D] = A, b
    grown = torch.linalg.matrix_exp(t[:, None, None] * wide)  # (S + 1, D + 1, D + 1)
    mean = torch.einsum("sde,ne->nsd", grown[:, :D, :D], x) + grown[:, :D, D]
    step, noise = _linear_steps(A, sigma, t.diff())
    return _flow(t, mean, step[None], noise[None], mean @ A.mT + b, A[None, None])


def linear_noise_flow(
    x: Tensor,
    drift: Callable[[Tensor], Tensor],
    jacobian: Callable[[Tensor], Tensor],
    sigma: float,
    t: Tensor,
    steps: int = 20,
) -> Flow:
    """The linear noise approximation from x (N, D) at times t (S + 1,): order 4 in the mean, 2 in the rest.

    Args:
        drift: f, (N, D) -> (N, D).
        jacobian: (N, D) -> (N, D, D).
        steps: number of steps that all of t would take if they were equal; every gap has at least one.

    Raises:
        ModelError: M03 where the drift carries a cell to infinity.
    """
    x, t = x.double(), t.double()
    span = float(t[-1])
    m, means, moves, noises = x, [x], [], []
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for gap in t.diff().tolist():
        count = max(1, math.ceil(gap * steps / span - 1e-9)) if gap > 0 else 0
        E, Q = one.expand(len(x), -1, -1), torch.zeros_like(one).expand(len(x), -1, -1)
        for _ in range(count):
            m, half = _runge_kutta(m, drift, gap / count)
            own, noise = _frozen(jacobian(half), sigma, gap / count)
            E, Q = own @ E, own @ Q @ own.mT + noise
        means.append(m)
        moves.append(E)
        noises.append(Q)
    _require_finite(torch.stack(means, 1), t)
    mean = torch.stack(means, 1)
    flat = mean.flatten(0, 1)
    return _flow(
        t,
        mean,
        torch.stack(moves, 1),
        torch.stack(noises, 1),
        drift(flat).view_as(mean),
        jacobian(flat).view(*mean.shape, mean.shape[2]),
    )


def transition_cost(flow: Flow, y: Tensor) -> Factored:
    """C_ij = -log N(y_j; m_i, P_i) at the last node, for y (M, D): the cost whose plan at ε = 1 is a bridge."""
    end, cov = flow.mean[:, -1], flow.cov[:, -1]
    root = torch.linalg.cholesky(cov)
    precision = torch.cholesky_inverse(root)
    constant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + cov.shape[-1] / 2 * math.log(
        2 * math.pi
    )
    if len(cov) == 1:
        precision = precision[0]
    return quadratic(end, y.to(end), precision, constant.expand(len(end)))


def bridge_moments(flow: Flow, i: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """E and Cov of X_t given that X_0 is cell i_r and X at the last node is y_r, at every node.

    Mean m + G (y - m_T), covariance P - G A P, with G = P Aᵀ P_T⁻¹.

    Args:
        i: (R,) numbers of cells. y: (R, D).

    Returns:
        (R, S + 1, D), and (R or 1, S + 1, D, D).
    """
    own = _of(flow, i)
    gain = _gain(own)
    mean = own.mean + (gain @ (y - own.mean[:, -1])[:, None, :, None])[..., 0]
    return mean, own.cov - gain @ own.ahead @ own.cov


def bridge_paths(
    flow: Flow, i: Tensor, y: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draws of X at all nodes given that X_0 is cell i_r and the last X is y_r: (R, S + 1, D).

    Matheron's rule: a draw δ of the noise from the start, bent to meet the end, m + δ + G (y - m_T - δ_T)  [2]
    """
    own = _of(flow, i)
    root = torch.linalg.cholesky(own.noise)
    shape = (len(i), len(flow.t) - 1, y.shape[1])
    z = torch.randn(shape, generator=generator, dtype=y.dtype, device=y.device)
    kicks = (root @ z[..., None])[..., 0]
    delta = [torch.zeros_like(y)]
    for k in range(shape[1]):
        delta.append((own.step[:, k] @ delta[-1][..., None])[..., 0] + kicks[:, k])
    free = own.mean + torch.stack(delta, 1)
    paths = free + (_gain(own) @ (y - free[:, -1])[:, None, :, None])[..., 0]
    paths[:, -1] = y
    return paths


def bridge_drift(flow: Flow, i: Tensor, y: Tensor, x: Tensor, sigma: float) -> Tensor:
    """f(m) + J (x - m) + σ² Aᵀ Φ⁻¹ (y - m_T - A (x - m)): drift at x of the bridge from cell i_r to y_r.

    Args:
        x: (R, S, D) at all nodes but the last.

    Returns:
        (R, S, D).
    """
    own = _of(flow, i)
    off = x - own.mean[:, :-1]
    ahead = own.ahead[:, :-1]
    gap = (y - own.mean[:, -1])[:, None] - (ahead @ off[..., None])[..., 0]
    root = torch.linalg.cholesky(own.left[:, :-1])
    pull = torch.cholesky_solve(gap[..., None], root.expand(len(x), -1, -1, -1))
    free = own.drift[:, :-1] + (own.jacobian[:, : x.shape[1]] @ off[..., None])[..., 0]
    return free + sigma**2 * (ahead.mT @ pull)[..., 0]


def _of(flow: Flow, i: Tensor) -> Flow:
    """The law from the chosen cells; matrices that all share stay shared."""
    n = len(flow.mean)
    _, *parts = (part if len(part) < n or n == 1 else part[i] for part in flow)
    return Flow(flow.t, *parts)


def _gain(flow: Flow) -> Tensor:
    """G = P Aᵀ P_T⁻¹."""
    cross = flow.ahead @ flow.cov  # its transpose is P Aᵀ
    root = torch.linalg.cholesky(flow.cov[:, -1:])
    return torch.cholesky_solve(cross, root.expand_as(cross)).mT


def _flow(
    t: Tensor, mean: Tensor, step: Tensor, noise: Tensor, drift: Tensor, jacobian: Tensor
) -> Flow:
    one = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    cov = [torch.zeros_like(step[:, 0])]
    for k in range(step.shape[1]):
        cov.append(_symmetric(step[:, k] @ cov[-1] @ step[:, k].mT + noise[:, k]))
    ahead, left = [one.expand(len(step), -1, -1)], [torch.zeros_like(step[:, 0])]
    for k in reversed(range(step.shape[1])):
        left.append(_symmetric(left[-1] + ahead[-1] @ noise[:, k] @ ahead[-1].mT))
        ahead.append(ahead[-1] @ step[:, k])
    return Flow(
        t,
        mean,
        step,
        noise,
        torch.stack(cov, 1),
        torch.stack(ahead[::-1], 1),
        torch.stack(left[::-1], 1),
        drift,
        jacobian.expand(-1, len(t), -1, -1),
    )


def _linear_steps(A: Tensor, sigma: float, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """exp(A h) and σ² ∫₀ʰ exp(A s) exp(A s)ᵀ ds for every gap h, (S, D, D) each.

    By the exponential of a block matrix  [3] over a part of h so short that nothing in it grows, then by
    doubling: Q(2 h) = Q(h) + exp(A h) Q(h) exp(A h)ᵀ, which only adds.
    """
    D = len(A)
    size = float(torch.linalg.matrix_norm(A, 1)) * float(gaps.max())
    doublings = max(0, math.ceil(math.log2(max(size, 1e-300) / LARGEST)))
    block = A.new_zeros(2 * D, 2 * D)
    block[:D, :D], block[D:, D:] = -A, A.mT
    block[:D, D:] = sigma**2 * torch.eye(D, dtype=A.dtype, device=A.device)
    whole = torch.linalg.matrix_exp((gaps / 2**doublings)[:, None, None] * block)
    E = whole[:, D:, D:].mT
    Q = _symmetric(E @ whole[:, :D, D:])
    for _ in range(doublings):
        Q = _symmetric(Q + E @ Q @ E.mT)
        E = E @ E
    return E, Q


def _frozen(J: Tensor, sigma: float, h: float) -> tuple[Tensor, Tensor]:
    """exp(J h) and σ² ∫₀ʰ exp(J s) exp(J s)ᵀ ds by Simpson's rule, with one exponential."""
    half = torch.linalg.matrix_exp(J * (h / 2))
    E = half @ half
    one = torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)
    return E, sigma**2 * h / 6 * (one + 4 * half @ half.mT + E @ E.mT)


def _runge_kutta(x: Tensor, drift: Callable[[Tensor], Tensor], h: float) -> tuple[Tensor, Tensor]:
    """A classical step of order 4, and its second guess of the middle of the step."""
    a = drift(x)
    b = drift(x + h / 2 * a)
    half = x + h / 2 * b
    c = drift(half)
    d = drift(x + h * c)
    return x + h / 6 * (a + 2 * b + 2 * c + d), half


def _symmetric(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def _require_finite(mean: Tensor, t: Tensor) -> None:
    bad = ~mean.isfinite().all(-1)
    if bad.any():
        cell, node = bad.nonzero()[0].tolist()
        raise ModelError(
            "M03",
            f"the reference carries {int(bad.any(1).sum())} of {len(mean)} cells to infinity, cell {cell} "
            f"by {float(t[node]):g} after its snapshot",
            "a drift that keeps cells finite between two snapshots",
            "Use more ridge or a simpler reference, or start with a larger sigma",
        )
