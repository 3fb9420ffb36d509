"""The law of the state of a chain at any time, given what is seen at its rows.

A time between two rows takes the law that its past leaves it, weighed with what its future says: the
same two messages that meet at a row  [1]. It is the law a row without observation would have there,
for O(1) per time. Before the first row the past is the prior, behind the last the future is silent.

[1] Särkkä & Solin. Applied stochastic differential equations. Cambridge 2019, chapter 10.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .components import first, inverse, last, matmul, matvec, one_plus, sandwich, transpose
from .kalman import Filtered, LinearGaussian, Messages, about_zero, common, dtype_of, weighed
from .scan import Tensors

Transition = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Law(NamedTuple):
    """A Gaussian state at each of M times."""

    mean: Tensor  # (..., M, S)
    cov: Tensor  # (..., M, S, S)


def interpolate(
    known: Messages,
    t: Tensor,
    at: Tensor,
    transition: Transition,
    before: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    offset: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Law:
    """The law of x(at) given everything seen: exact between, before and behind the rows.

    Args:
        known: from `messages`.
        t: (..., N) the times of the rows, non-decreasing.
        at: (..., M) in any order.
        transition: times (start, end), (..., M) each -> A, Q (..., M, S, S) of x(end) = A x(start) + b + e.
        before: times (..., M) -> mean (..., M, S) and covariance (..., M, S, S) of x there before
            anything is seen; asked for times before the first row. N(m0, P0) where None, as for a
            stationary chain.
        offset: (start, end) -> b (..., M, S); zero where None.
    """
    axes = max(t.ndim, at.ndim, known.past.mean.ndim - 1)  # of (..., M)
    lead = common(t.shape[:-1], at.shape[:-1])
    t, at = (padded(f.double().expand(*lead, -1), axes).contiguous() for f in (t, at))
    index = torch.searchsorted(t, at, side="right")  # rows at or before each time: 0, ..., N
    first_row, silent = index == 0, index == t.shape[-1]
    left, right = (index - 1).clamp(min=0), index.clamp(max=t.shape[-1] - 1)

    def step(start: Tensor, end: Tensor) -> Tensors:
        A, Q = (matrix(f, axes) for f in transition(start, end))
        none = torch.zeros_like(Q[0])
        return A, Q, none if offset is None else vector(offset(start, end), axes)

    # where there is no row on one side, a step of length zero stands in for what is not read
    mean, cov = predicted(known.past, left, step(torch.minimum(t.gather(-1, left), at), at))
    prior = before(at) if before is not None else start_of(known.chain)
    mean = torch.where(first_row, vector(prior[0], axes), mean)
    cov = torch.where(first_row, matrix(prior[1], axes), cov)
    h, J = carried_back(known, right, step(at, torch.maximum(t.gather(-1, right), at)))
    mean, cov = weighed(mean, cov, h.where(~silent, 0.0), J.where(~silent, 0.0))

    dtype, mean = dtype_of(known.chain, known.sites), mean.movedim(0, -1)
    return Law(mean.to(dtype), last(cov).expand(*mean.shape, -1).to(dtype))


def predicted(past: Filtered, row: Tensor, step: Tensors) -> Tensors:
    """Mean and covariance a step behind rows (..., M), given what is seen up to them."""
    A, Q, b = step
    mean, cov = vector(past.mean, row.ndim), matrix(past.cov, row.ndim)
    return matvec(A, pick(mean, row)) + b, sandwich(A, pick(cov, row)) + Q


def carried_back(known: Messages, row: Tensor, step: Tensors) -> Tensors:
    """h and J a step before rows (..., M): what is seen from them on."""
    A, Q, b = step
    here = about_zero(known.sites)
    h = pick(vector(here.h + known.future.h, row.ndim), row)
    J = pick(matrix(here.J + known.future.J, row.ndim), row)
    XA = matmul(inverse(one_plus(matmul(Q, J))), A)
    return matvec(transpose(XA), h - matvec(J, b)), matmul(transpose(A), matmul(J, XA))


def pick(values: Tensor, row: Tensor) -> Tensor:
    """Rows (..., M) of values whose last axis they are."""
    return torch.take_along_dim(values, padded(row, values.ndim), -1)


def padded(f: Tensor, axes: int) -> Tensor:
    """With axes of length 1 in front."""
    return f.reshape((1,) * (axes - f.ndim) + f.shape)


def vector(f: Tensor, axes: int) -> Tensor:
    """(..., M, S) -> (S, ..., M)"""
    return padded(f.double(), axes + 1).movedim(-1, 0)


def matrix(f: Tensor, axes: int) -> Tensor:
    """(..., M, S, S) -> (S, S, ..., M)"""
    return first(padded(f.double(), axes + 2))


def start_of(chain: LinearGaussian) -> Tensors:
    """m0 (..., 1, S) and P0 (..., 1, S, S)"""
    m0 = torch.zeros_like(chain.P0[..., 0]) if chain.m0 is None else chain.m0
    return m0[..., None, :], chain.P0[..., None, :, :]
