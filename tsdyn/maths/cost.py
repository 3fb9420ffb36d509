"""Costs C (..., N, M) of moving mass from N sources to M targets, read a few rows at a time.

Either the numbers themselves (`Dense`), or a sum and an inner product (`Factored`),

    C_ij = row_i + column_j - left_i · right_j,

which is what every quadratic form comes to, also one with a matrix of its own at every source. A
factored cost takes (N + M) F numbers, whatever part of C is asked for; asking is a matrix product.

Leading axes are problems side by side. Padding is known by its weight of zero.

[1] Feydy, Séjourné, Vialard, Amari, Trouvé & Peyré. Interpolating between optimal transport and MMD
    using Sinkhorn divergences. AISTATS 2019: costs that are never stored.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ENTRIES = 2**19  # of C at a time: 4 MB in double precision stay close to the processor


class Dense(NamedTuple):
    """The costs as numbers."""

    values: Tensor  # (..., N, M)


class Factored(NamedTuple):
    """C_ij = row_i + column_j - left_i · right_j."""

    row: Tensor  # (..., N)
    column: Tensor  # (..., M)
    left: Tensor  # (..., N, F)
    right: Tensor  # (..., M, F)


Cost = Dense | Factored


def quadratic(
    x: Tensor, y: Tensor, precision: Tensor | None = None, constant: Tensor | None = None
) -> Factored:
    """C_ij = 1/2 (y_j - x_i)ᵀ Λ_i (y_j - x_i) + constant_i.

    With Λ_i the inverse of the covariance of a Gaussian transition from the i-th source to N(x_i, Λ_i⁻¹),
    and constant_i = 1/2 log det 2πΛ_i⁻¹, it is minus the log of the density at y_j: then ε = 1. The
    Euclidean W2 takes Λ = 2 I.

    Args:
        x: (..., N, D); y: (..., M, D), of the same problems.
        precision: Λ, symmetric and positive: (..., D, D) for all sources or (..., N, D, D) for each;
            None is the identity. It has one axis more than x where each source has its own.
        constant: (..., N), None is zero.
    """
    middle = y.detach().nanmean(-2, keepdim=True)  # near zero, products of coordinates round least
    x, y = x - middle, y - middle
    if precision is not None and precision.ndim > x.ndim:
        cost = _each_its_own(x, y, precision)
    else:
        bent = x if precision is None else x @ precision
        length = y.square() if precision is None else (y @ precision) * y
        cost = Factored((bent * x).sum(-1) / 2, length.sum(-1) / 2, bent, y)
    return cost if constant is None else cost._replace(row=cost.row + constant)


def _each_its_own(x: Tensor, y: Tensor, precision: Tensor) -> Factored:
    """1/2 yᵀΛ_i y is the inner product of Λ_i and yyᵀ, of which the upper triangles suffice."""
    upper = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    twice = torch.where(upper[0] == upper[1], 0.5, 1.0).to(x)  # both halves of the triangle
    bent = (precision @ x[..., None])[..., 0]  # (..., N, D)
    products = y[..., upper[0]] * y[..., upper[1]]  # (..., M, D (D + 1) / 2)
    return Factored(
        (bent * x).sum(-1) / 2,
        torch.zeros_like(y[..., 0]),
        torch.cat([bent, -twice * precision[..., upper[0], upper[1]]], -1),
        torch.cat([y, products], -1),
    )


def matrix(cost: Cost) -> Tensor:
    """All of C: (..., N, M)."""
    if isinstance(cost, Dense):
        return cost.values
    product = cost.left @ cost.right.mT
    return product.neg_().add_(cost.row[..., None]).add_(cost.column[..., None, :])


def size(cost: Cost) -> tuple[tuple[int, ...], int, int]:
    """((...), N, M)."""
    if isinstance(cost, Dense):
        *lead, n, m = cost.values.shape
    else:
        *lead, n, m = *cost.row.shape, cost.column.shape[-1]
    return tuple(lead), n, m


def rows(cost: Cost, start: int, stop: int) -> Cost:
    """The costs of the sources start, ..., stop - 1: a view."""
    if isinstance(cost, Dense):
        return Dense(cost.values[..., start:stop, :])
    return cost._replace(row=cost.row[..., start:stop], left=cost.left[..., start:stop, :])


def take(cost: Cost, index: Tensor) -> Cost:
    """The costs of the sources with the numbers (..., S)."""
    if isinstance(cost, Dense):
        return Dense(cost.values.take_along_dim(index[..., None], -2))
    return cost._replace(
        row=cost.row.take_along_dim(index, -1),
        left=cost.left.take_along_dim(index[..., None], -2),
    )


def transposed(cost: Cost) -> Cost:
    """The costs of going back."""
    if isinstance(cost, Dense):
        return Dense(cost.values.mT)
    return Factored(cost.column, cost.row, cost.right, cost.left)


def only(cost: Cost, sources: Tensor, targets: Tensor) -> Cost:
    """The cost with zero where a source (..., N) or a target (..., M) does not exist: padding may hold NaN."""
    if bool(sources.all()) and bool(targets.all()):
        return cost
    if isinstance(cost, Dense):
        return Dense(cost.values.where(sources[..., None] & targets[..., None, :], 0.0))
    return Factored(
        cost.row.where(sources, 0.0),
        cost.column.where(targets, 0.0),
        cost.left.where(sources[..., None], 0.0),
        cost.right.where(targets[..., None], 0.0),
    )


def mean(cost: Cost, a: Tensor, b: Tensor) -> Tensor:
    """Σ_ij a_i b_j C_ij for weights that sum to one: (...)."""
    if isinstance(cost, Dense):
        return ((cost.values @ b[..., None])[..., 0] * a).sum(-1)
    middle = (a[..., None] * cost.left).sum(-2), (b[..., None] * cost.right).sum(-2)
    return (a * cost.row).sum(-1) + (b * cost.column).sum(-1) - (middle[0] * middle[1]).sum(-1)


def cast(cost: Cost, dtype: torch.dtype) -> Cost:
    """The same cost in another precision."""
    return type(cost)(*(part.to(dtype) for part in cost))


def stretches(cost: Cost, entries: int = ENTRIES) -> Iterator[tuple[int, int]]:
    """(start, stop) of as many rows as hold about `entries` numbers, in turn."""
    lead, n, m = size(cost)
    step = max(1, entries // max(1, m * torch.Size(lead).numel()))
    return ((start, min(start + step, n)) for start in range(0, n, step))
