"""A Gaussian Markov chain at some of its rows: a Gaussian Markov chain again.

    x_j given x_i:  A = A_j ... A_{i+1},  Q = sum_k (A_j ... A_{k+1}) Q_k (A_j ... A_{k+1})',  i < k <= j

Steps between rows that are kept are joined by a scan that begins anew behind each of them  [1], so that
rows that nobody asks about cost nothing afterwards, however many draws are made of the others.

[1] Blelloch. Prefix sums and their applications. Carnegie Mellon University, CMU-CS-90-190, 1990,
    section 1.5: segmented scans.
"""

import torch
from torch import Tensor

from .chain_sampling import unseen
from .chain_scan import pieces
from .components import last, matmul, matvec, sandwich
from .kalman import LinearGaussian, to_rows
from .scan import Tensors, scan


def at_rows(chain: LinearGaussian, rows: Tensor) -> LinearGaussian:
    """The chain of rows (..., M) alone, which increase; leading axes broadcast to those of the chain."""
    whole = to_rows(chain, unseen(chain))
    steps = pieces(whole, 0, whole.A.shape[-1])
    anew = torch.zeros(
        *rows.shape[:-1], steps.b.shape[-1] + 1, dtype=torch.bool, device=rows.device
    )
    anew = anew.scatter(-1, rows + 1, True)[..., :-1]  # behind a row that is kept
    A, Q, b, _ = scan(_join, (steps.A, steps.Q, steps.b, anew))
    A, Q, b = (torch.take_along_dim(f, _padded(rows, f.ndim), -1) for f in (A, Q, b))
    A, Q, b = last(A), last(Q), b.movedim(0, -1)
    return LinearGaussian(A, Q, Q[..., 0, :, :], b[..., 0, :], b)


def joint_covariance(chain: LinearGaussian) -> Tensor:
    """Cov(x_j, x_i) of all pairs of rows: (..., N S, N S); dense, for few rows."""
    corner = row = chain.P0
    for k in range(1, chain.A.shape[-3]):
        A, Q = chain.A[..., k, :, :], chain.Q[..., k, :, :]
        P = A @ row[..., -A.shape[-1] :] @ A.mT + Q
        below = A @ row
        row = torch.cat([below, P], -1)
        corner = torch.cat([torch.cat([corner, below.mT], -1), row], -2)
    return corner


def _join(earlier: Tensors, later: Tensors) -> Tensors:
    """x -> A x + b + N(0, Q) twice, unless the later one begins anew."""
    (A1, Q1, b1, anew1), (A2, Q2, b2, anew2) = earlier, later
    A = torch.where(anew2, A2, matmul(A2, A1))
    Q = torch.where(anew2, Q2, sandwich(A2, Q1) + Q2)
    return A, Q, torch.where(anew2, b2, matvec(A2, b1) + b2), anew1 | anew2


def _padded(rows: Tensor, axes: int) -> Tensor:
    return rows.reshape((1,) * (axes - rows.ndim) + rows.shape)
