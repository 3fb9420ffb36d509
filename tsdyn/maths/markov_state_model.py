"""Markov state models: how states on a regular clock follow each other, one lag at a time.

    T_ij(lag) = P(x_{k + lag} = j | x_k = i)

If the states are Markov, T(k lag) = T(lag)^k, and the implied time scales -lag / log |λ_k| do not depend on
the lag; where states are lumped or misread both fail at short lags. For irregular times see `jump_em`.

[1] Prinz et al. Markov models of molecular kinetics: generation and validation. Journal of Chemical
    Physics 134, 2011: counting, time scales, the test of Chapman and Kolmogorov.
[2] Bowman, Beauchamp, Boxer & Pande. Progress and challenges in the automated construction of Markov
    state models for full protein systems. Journal of Chemical Physics 131, 2009: reversible estimate.
[3] Deuflhard & Weber. Robust Perron cluster analysis in conformation dynamics. Linear Algebra and its
    Applications 398, 2005.
[4] Röblitz & Weber. Fuzzy spectral clustering by PCCA+. Advances in Data Analysis and Classification 7,
    2013: the objective of the search.
[5] Kube & Weber. A coarse graining method for the identification of transition rates between molecular
    conformations. Journal of Chemical Physics 126, 2007.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import ConfigError, DataError, ModelError
from .jump_counts import require_states
from .rate_matrix import stationary

Estimator = Callable[[Tensor], Tensor]


class Steps(NamedTuple):
    """What a model of one lag foretells for multiples of it, and what is found there."""

    lags: Tensor  # (K,)
    foretold: Tensor  # (K, n, n)  T(lag)^k
    found: Tensor  # (K, n, n)  T(k lag)
    error: Tensor  # (K, n, n)  standard error of the latter


class Clusters(NamedTuple):
    """Metastable sets of states, with soft edges, and the chain between them."""

    membership: Tensor  # (n, m)  rows sum to one
    T: Tensor  # (m, m)
    stationary: Tensor  # (m,)


def sliding(state: Tensor, mask: Tensor, n: int, lag: int) -> Tensor:
    """C_ij = #{k: x_k = i, x_{k + lag} = j} over all pairs of rows that were observed: (n, n)  [1]

    Windows overlap: C is right for estimates, and `effective` for their errors.

    Args (here and below):
        state, mask: (B, T), rows of all paths equally far apart; n: number of states.
        lag: rows.

    Raises:
        DataError: D14 for a state that is not one of n; D10 where no pair is that far apart.
        ConfigError: X01 for a lag below one.
    """
    if lag < 1:
        raise ConfigError("X01", f"a lag of {lag}", "at least one row", "")
    require_states(state, mask, n)
    pair = mask[:, :-lag] & mask[:, lag:]
    if not bool(pair.any()):
        raise DataError(
            "D10",
            f"no two observations of a path are {lag} rows apart",
            "paths longer than the lag",
            "Take a shorter lag",
        )
    cell = state[:, :-lag][pair].long() * n + state[:, lag:][pair].long()
    return torch.bincount(cell, minlength=n * n).view(n, n).double()


def effective(state: Tensor, mask: Tensor, n: int, lag: int) -> Tensor:
    """Sliding counts divided by the lag: at most so many of them are independent  [1]"""
    return sliding(state, mask, n, lag) / lag


def largest_class(C: Tensor) -> Tensor:
    """Numbers of the states in the largest set that is connected both ways, increasing: (m,)"""
    _, label = connected_components((C > 0).cpu().numpy(), directed=True, connection="strong")
    label = torch.as_tensor(label, device=C.device).long()
    return (label == torch.bincount(label).argmax()).nonzero()[:, 0]


def transition_matrix(C: Tensor) -> Tensor:
    """The most likely T_ij = C_ij / C_i·: (..., n, n)

    Raises:
        DataError: D10 for a state that was never left or stayed in.
    """
    total = C.sum(-1, keepdim=True)
    if not bool((total > 0).all()):
        state = int((total <= 0).nonzero()[0, -2])
        raise DataError(
            "D10",
            f"no transition starts in state {state}",
            "transitions from every state",
            "Keep the states of `largest_class` only",
        )
    return C / total


def reversible_transition_matrix(
    C: Tensor, tolerance: float = 1e-12, steps: int = 1_000_000
) -> Tensor:
    """The most likely T with p_i T_ij = p_j T_ji, by x_ij <- (C_ij + C_ji) / (C_i· / x_i + C_j· / x_j)  [2]

    Args:
        C: (n, n), connected both ways.
        tolerance: of x_i, that sum to one, from one step to the next.

    Raises:
        DataError: D10 if the states are not connected; ModelError: M06 if the steps do not suffice.
    """
    connected = len(largest_class(C))
    if connected < len(C):
        raise DataError(
            "D10",
            f"of {len(C)} states {connected} are connected both ways by transitions",
            "all of them",
            "Keep the states of `largest_class` only",
        )
    both, leaving = C + C.mT, C.sum(1)
    share = both.sum(1) / both.sum()
    for _ in range(steps):
        pull = leaving / share
        x = both / (pull[:, None] + pull)
        new = x.sum(1) / x.sum()
        moved = float((new - share).abs().max())
        share = new
        if moved < tolerance:
            return x / x.sum(1, keepdim=True)
    raise ModelError(
        "M06",
        f"the stationary law still moves by {moved:.1g} after {steps} steps",
        f"less than {tolerance:g}",
        "Allow for more steps, or a larger tolerance",
    )


def time_scales(T: Tensor, lag: float = 1.0) -> Tensor:
    """-lag / log |λ_k| for every eigenvalue but the first, decreasing: (..., n - 1)  [1]

    Args:
        T: (..., n, n).
        lag: in any unit of time; the answer has the same.
    """
    size = torch.linalg.eigvals(T).abs().sort(-1, descending=True).values
    scales: Tensor = -lag / size[..., 1:].clamp(max=1).log()
    return scales


def implied_time_scales(
    state: Tensor,
    mask: Tensor,
    n: int,
    lags: Sequence[int],
    estimator: Estimator = transition_matrix,
) -> Tensor:
    """Time scales in rows, found at several lags: (lags, n - 1). They level off where T is Markov  [1]

    Args:
        lags: rows.
        estimator: T of counts, for instance `reversible_transition_matrix`.
    """
    found = [time_scales(estimator(sliding(state, mask, n, lag)), lag) for lag in lags]
    return torch.stack(found)


def chapman_kolmogorov(
    state: Tensor,
    mask: Tensor,
    n: int,
    lag: int,
    multiples: Sequence[int],
    estimator: Estimator = transition_matrix,
) -> Steps:
    """T(lag)^k beside T(k lag), the test of Chapman and Kolmogorov  [1]

    The error of T_ij(k lag) is √(T_ij (1 - T_ij) / C_i·), with effective counts C.
    """
    model = estimator(sliding(state, mask, n, lag))
    lags = [k * lag for k in multiples]
    found = torch.stack([estimator(sliding(state, mask, n, each)) for each in lags])
    visits = torch.stack([effective(state, mask, n, each).sum(1, keepdim=True) for each in lags])
    return Steps(
        torch.tensor(lags),
        torch.stack([torch.linalg.matrix_power(model, k) for k in multiples]),
        found,
        (found * (1 - found) / visits).sqrt(),
    )


def metastable(T: Tensor, m: int) -> Clusters:
    """m sets between which T moves rarely, by PCCA+: membership χ = X A of the slow eigenvectors X  [3]

    A maximises Σ_j Σ_i A_ij² / A_1j, how crisp the sets are, among those whose χ is not negative and sums
    to one  [4]. The chain between the sets is (χ'Dχ)⁻¹ χ'D T χ with D = diag(p)  [5].

    Args:
        T: (n, n), reversible, all states connected; m: from 2 to n.

    Raises:
        ConfigError: X01 for another m; DataError: D14 where T is not reversible.
    """
    if not 2 <= m <= len(T):
        raise ConfigError("X01", f"{m} sets of {len(T)} states", f"2 ... {len(T)}", "")
    p = stationary(T - torch.eye(len(T), dtype=T.dtype, device=T.device))
    X = _slow(T, p, m)
    corners = X[_far_apart(X)]
    A = _crisp(X, torch.linalg.inv(corners))
    membership = (X @ A).clamp(min=0)
    membership = membership / membership.sum(1, keepdim=True)
    weighted = membership.mT * p
    coarse = torch.linalg.solve(weighted @ membership, weighted @ T @ membership)
    return Clusters(membership, coarse, weighted.sum(1))


def _slow(T: Tensor, p: Tensor, m: int) -> Tensor:
    """Right eigenvectors of the m greatest eigenvalues, orthonormal under p; the first is one: (n, m)"""
    flow = p[:, None] * T
    if not torch.allclose(flow, flow.mT, rtol=1e-6, atol=1e-9):
        raise DataError(
            "D14",
            f"flows from i to j and back differ by up to {float((flow - flow.mT).abs().max()):.1g}",
            "a reversible transition matrix, p_i T_ij = p_j T_ji",
            "Estimate it by `reversible_transition_matrix`",
        )
    root = p.sqrt()
    symmetric = flow / (root[:, None] * root)
    _, vectors = torch.linalg.eigh((symmetric + symmetric.mT) / 2)
    X: Tensor = vectors.flip(-1)[:, :m] / root[:, None]
    X[:, 0] = 1.0
    return X


def _far_apart(X: Tensor) -> Tensor:
    """Rows of X that span the largest simplex, one after another: (m,)  [3]"""
    apart = X - X[X.square().sum(1).argmax()]
    rows = [int(X.square().sum(1).argmax())]
    for _ in range(1, X.shape[1]):
        size = apart.square().sum(1)
        rows.append(int(size.argmax()))
        direction = apart[rows[-1]] / size.max().sqrt()
        apart = apart - (apart @ direction)[:, None] * direction
    return torch.tensor(rows, device=X.device)


def _crisp(X: Tensor, start: Tensor) -> Tensor:
    """A of the crispest membership near that which starts: (m, m)  [4]"""
    shape = start[1:, 1:].shape

    def loss(inner: Any) -> float:
        A = _allowed(X, torch.as_tensor(inner, dtype=X.dtype, device=X.device).view(shape))
        return -float((A.square().sum(0) / A[0]).sum())

    # the objective has kinks where another state becomes the one that bounds χ
    found = minimize(
        loss,
        start[1:, 1:].flatten().cpu().numpy(),
        method="Nelder-Mead",
        options={"maxiter": 500 * start.numel(), "xatol": 1e-8, "fatol": 1e-10},
    )
    return _allowed(X, torch.as_tensor(found.x, dtype=X.dtype, device=X.device).view(shape))


def _allowed(X: Tensor, inner: Tensor) -> Tensor:
    """A with these entries but for its first row and column, so that X A >= 0 and rows of X A sum to one."""
    below = torch.cat([-inner.sum(1, keepdim=True), inner], 1)  # (m - 1, m)
    top = -(X[:, 1:] @ below).amin(0)
    A: Tensor = torch.cat([top[None], below]) / top.sum()
    return A
