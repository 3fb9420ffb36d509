"""Small matrices by the thousand: the two axes of a matrix come first, all others follow.

A (S, S, ..., N) and b (S, ..., N). A product of matrices is then a few passes over contiguous
vectors of length N, several times faster than a product per row; larger matrices, and few of them,
go to the batched products of the library. Trailing axes broadcast.
"""

import torch
from torch import Tensor

LARGEST = 6  # measured on CPU: products by components win for up to 6 x 6
FEWEST = 64  # and where there are matrices enough to fill a pass


def last(A: Tensor) -> Tensor:
    """(S, S, ...) -> (..., S, S)"""
    return A.movedim((0, 1), (-2, -1))


def first(A: Tensor) -> Tensor:
    """(..., S, S) -> (S, S, ...)"""
    return A.movedim((-2, -1), (0, 1))


def matmul(A: Tensor, B: Tensor) -> Tensor:
    """A B: (I, K, ...), (K, J, ...) -> (I, J, ...)"""
    inner = B.shape[0]
    if inner > LARGEST or B[0, 0].numel() < FEWEST:
        return first(last(A) @ last(B))
    out = A[:, 0, None] * B[0]
    for k in range(1, inner):
        out.addcmul_(A[:, k, None], B[k])
    return out


def matvec(A: Tensor, b: Tensor) -> Tensor:
    """A b: (I, K, ...), (K, ...) -> (I, ...)"""
    return matmul(A, b[:, None])[:, 0]


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a b': (I, ...), (J, ...) -> (I, J, ...)"""
    return a[:, None] * b


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a' b: (S, ...), (S, ...) -> (...)"""
    return (a * b).sum(0)


def transpose(A: Tensor) -> Tensor:
    """A'"""
    return A.transpose(0, 1)


def symmetric(A: Tensor) -> Tensor:
    """(A + A') / 2"""
    return (A + transpose(A)) / 2


def sandwich(A: Tensor, P: Tensor) -> Tensor:
    """A P A' of a symmetric P, symmetric to the last digit."""
    return symmetric(matmul(matmul(A, P), transpose(A)))


def one_plus(A: Tensor) -> Tensor:
    """I + A"""
    eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
    return A + eye.reshape(eye.shape + (1,) * (A.ndim - 2))


def inverse(A: Tensor) -> Tensor:
    """A⁻¹, by cofactors up to 3 x 3."""
    if len(A) == 1:
        return A.reciprocal()
    if len(A) == 2:
        a, b, c, d = A[0, 0], A[0, 1], A[1, 0], A[1, 1]
        adjugate = torch.stack([d, -b, -c, a]).reshape(2, 2, *a.shape)
        return adjugate / (a * d - b * c)
    if len(A) == 3:
        rows: Tensor = torch.linalg.cross(A.roll(-1, 1), A.roll(-2, 1), dim=0).transpose(0, 1)
        return rows / dot(rows[0], A[:, 0])
    return first(torch.linalg.inv(last(A)))


def log_det(A: Tensor) -> Tensor:
    """log |A|: (...); not a number where |A| is not positive."""
    if len(A) == 1:
        return A[0, 0].log()
    if len(A) == 2:
        return (A[0, 0] * A[1, 1] - A[0, 1] * A[1, 0]).log()
    if len(A) == 3:
        return dot(A[:, 0], torch.linalg.cross(A[:, 1], A[:, 2], dim=0)).log()
    log: Tensor
    sign, log = torch.linalg.slogdet(last(A))
    return log.where(sign > 0, torch.nan)


def factor(P: Tensor) -> Tensor:
    """L lower triangular with P = L L' for a positive semi-definite P.

    A direction without variance, up to rounding, has a column of zeros, so that singular matrices
    have a factor too.
    """
    if len(P) > LARGEST:
        L, failed = torch.linalg.cholesky_ex(last(P))
        if not failed.any():
            return first(L)
    return eliminated(P)[0]


def semidefinite(P: Tensor, slack: Tensor) -> Tensor:
    """Whether P has no negative pivot, but for the slack (S, ...) of each: (...)"""
    if len(P) > LARGEST:
        tiny = torch.finfo(P.dtype).tiny
        shifted = last(P) + torch.diag_embed(slack.movedim(0, -1) + tiny)
        failed: Tensor = torch.linalg.cholesky_ex(shifted).info
        return failed == 0
    return (eliminated(P)[1] >= -slack).all(0)


def eliminated(P: Tensor) -> tuple[Tensor, Tensor]:
    """L as in `factor`, and the pivots (S, ...): the squares of its diagonal, where not negative."""
    rounding = 4 * len(P) * torch.finfo(P.dtype).eps
    rest, columns, pivots = P, [], []
    for k in range(len(P)):
        pivot = rest[k, k]
        positive = pivot > rounding * P[k, k]
        column = rest[:, k] / pivot.where(positive, 1.0).sqrt()
        below = (torch.arange(len(P), device=P.device) >= k).reshape(-1, *(1,) * (P.ndim - 2))
        column = column.where(positive & below, 0.0)
        rest = rest - outer(column, column)
        columns.append(column)
        pivots.append(pivot)
    return torch.stack(columns, 1), torch.stack(pivots)
