"""Recursions along a Gaussian Markov chain as associative scans, components first, rows last.

Given x_{k-1} = x, the element (A, b, C, η, J) of row k says that what is seen there weighs x with
exp(η' x - x' J x / 2), and that x_k then is N(A x + b, C). Elements of neighbours combine into the
element of both  [1]. Forwards an element acts on the law (m, P) of the row before it, which is the
Kalman filter; backwards on (η, J) of all that is seen behind it, which is the information filter  [2].
The gradient of the evidence is an affine scan of pairs (r, N)  [3]. Nothing is inverted but
I + P J with two positive semi-definite matrices.

[1] Särkkä & García-Fernández. Temporal parallelization of Bayesian smoothers. IEEE Transactions on
    Automatic Control 66, 2021.
[2] Fraser & Potter. The optimum linear smoother as a combination of two optimum linear filters.
    IEEE Transactions on Automatic Control 14, 1969.
[3] Koopman & Shephard. Exact score for time series models in state space form. Biometrika 79, 1992.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .components import (
    dot,
    inverse,
    log_det,
    matmul,
    matvec,
    one_plus,
    outer,
    sandwich,
    symmetric,
    transpose,
)
from .scan import Backend, Tensors, accumulate


class Rows(NamedTuple):
    """A chain and what is seen of it: vectors (S, ..., N), matrices (S, S, ..., N).

    Vectors have the same batch axes, matrices too; those of the matrices broadcast to those of the
    vectors, so that a covariance shared by many chains is worked on once.
    """

    A: Tensor
    Q: Tensor
    P0: Tensor  # (S, S, ..., 1)
    m0: Tensor  # (S, ..., 1)
    b: Tensor
    h: Tensor
    J: Tensor
    c: Tensor  # no gradient passes
    s: Tensor  # (..., N)


class Pieces(NamedTuple):
    """Some rows; the first row of the chain steps from nowhere: A = 0, Q = P0, b = m0."""

    A: Tensor
    Q: Tensor
    b: Tensor
    h: Tensor
    J: Tensor
    c: Tensor
    s: Tensor

    @property
    def total(self) -> Tensor:
        """h of the site expanded around zero."""
        return self.h + matvec(self.J, self.c)


class Split(NamedTuple):
    """How the work is done."""

    backend: Backend
    chunk: int  # rows worked on at once


def pieces(rows: Rows, start: int, stop: int) -> Pieces:
    """Rows start, ..., stop - 1, contiguous; the first of all comes from nowhere: A = 0, Q = P0, b = m0."""
    A, Q, b, *seen = (
        contiguous(f[..., start:stop])
        for f in (rows.A, rows.Q, rows.b, rows.h, rows.J, rows.c, rows.s)
    )
    if start == 0:
        A = torch.cat([torch.zeros_like(rows.P0), A[..., 1:]], -1)
        Q = torch.cat([rows.P0, Q[..., 1:]], -1)
        b = torch.cat([rows.m0, b[..., 1:]], -1)
    return Pieces(A, Q, b, *seen)


def contiguous(f: Tensor) -> Tensor:
    """With the rows next to each other in memory, where every later pass wants them."""
    return f if f.stride(-1) == 1 else f.contiguous()


def elements(p: Pieces) -> Tensors:
    """(A, b, C, η, J) of every row."""
    h = p.total
    X = inverse(one_plus(matmul(p.Q, p.J)))
    A = matmul(X, p.A)
    C = symmetric(matmul(X, p.Q))
    b = matvec(X, p.b + matvec(p.Q, h))
    eta = matvec(transpose(A), h - matvec(p.J, p.b))
    return A, b, C, eta, symmetric(matmul(transpose(p.A), matmul(p.J, A)))


def combine(earlier: Tensors, later: Tensors) -> Tensors:
    """The element of two neighbours  [1, eq. 15]"""
    A1, b1, C1, eta1, J1 = earlier
    A2, b2, C2, eta2, J2 = later
    X = inverse(one_plus(matmul(C1, J2)))
    XA, A2X = matmul(X, A1), matmul(A2, X)
    return (
        matmul(A2, XA),
        matvec(A2X, b1 + matvec(C1, eta2)) + b2,
        symmetric(matmul(matmul(A2X, C1), transpose(A2))) + C2,
        matvec(transpose(XA), eta2 - matvec(J2, b1)) + eta1,
        symmetric(matmul(transpose(XA), matmul(J2, A1))) + J1,
    )


def forward(law: Tensors, element: Tensors) -> Tensors:
    """The law (m, P) of a row from that of the row before."""
    (m, P), (A, b, C, eta, J) = law, element
    AX = matmul(A, inverse(one_plus(matmul(P, J))))
    return (
        matvec(AX, m + matvec(P, eta)) + b,
        symmetric(matmul(matmul(AX, P), transpose(A))) + C,
    )


def backward(future: Tensors, element: Tensors) -> Tensors:
    """What is seen from a row on, (η, J) as a function of the row before, from what is seen behind it."""
    (eta, J), (A, b, C, eta1, J1) = future, element
    XA = matmul(inverse(one_plus(matmul(C, J))), A)
    return (
        matvec(transpose(XA), eta - matvec(J, b)) + eta1,
        symmetric(matmul(transpose(XA), matmul(J, A))) + J1,
    )


def combine_affine(earlier: Tensors, later: Tensors) -> Tensors:
    """r -> E r + c, N -> E N E' + L, first of the later row, then of the earlier."""
    E1, c1, L1 = earlier
    E2, c2, L2 = later
    return matmul(E1, E2), matvec(E1, c2) + c1, sandwich(E1, L2) + L1


def affine(state: Tensors, element: Tensors) -> Tensors:
    """E r + c and E N E' + L: an element acting on a mean and a covariance."""
    (r, N), (E, c, L) = state, element
    return matvec(E, r) + c, sandwich(E, N) + L


def predict(m: Tensor, P: Tensor, p: Pieces) -> Tensors:
    """The law of x_k before row k is seen, from that of x_{k-1} after row k-1 was."""
    return matvec(p.A, m) + p.b, sandwich(p.A, P) + p.Q


def evidence(law: Tensors, p: Pieces) -> Tensor:
    """log ∫ exp(s + h' (x - c) - (x - c)' J (x - c) / 2) N(x; m, P) dx of every row: (..., N)

    Nothing large cancels where c is what was observed, because h is small then.
    """
    m, P = law
    M = one_plus(matmul(P, p.J))
    d = m - p.c
    after = matvec(inverse(M), d + matvec(P, p.h))
    return p.s + (dot(p.h, d) + dot(p.h - matvec(p.J, d), after) - log_det(M)) / 2


def behind(state: Tensor, states: Tensor) -> Tensor:
    """The states before each row, of which `state` is the first."""
    return torch.cat([state, states[..., :-1]], -1)


def ahead(states: Tensor, state: Tensor) -> Tensor:
    """The states after each row, of which `state` is the last."""
    return torch.cat([states[..., 1:], state], -1)


def nothing(rows: Rows) -> Tensors:
    """A vector and a matrix of zeros, for one row."""
    return torch.zeros_like(rows.m0), torch.zeros_like(rows.P0)


def starts(rows: Rows, split: Split) -> range:
    """The first row of every chunk."""
    return range(0, rows.A.shape[-1], split.chunk)


def forwards(rows: Rows, split: Split) -> tuple[list[Tensors], Tensor]:
    """The laws (m, P) of x_k given rows up to k, chunk by chunk, and the evidence of all rows."""
    law, total = nothing(rows), rows.s.new_zeros(())
    laws: list[Tensors] = []
    for start in starts(rows, split):
        p = pieces(rows, start, start + split.chunk)
        m, P = accumulate(combine, forward, elements(p), law, backend=split.backend)
        before = predict(behind(law[0], m), behind(law[1], P), p)
        total = total + evidence(before, p).sum(-1)
        law = m[..., -1:], P[..., -1:]
        laws.append((m, P))
    return laws, total


def backwards(rows: Rows, split: Split) -> Tensors:
    """(η, J) of all that is seen behind row k, as a function of x_k."""
    future, futures = nothing(rows), []
    for start in reversed(starts(rows, split)):
        p = pieces(rows, start, start + split.chunk)
        seen = accumulate(combine, backward, elements(p), future, True, split.backend)
        futures.append(tuple(map(ahead, seen, future)))
        future = seen[0][..., :1], seen[1][..., :1]
    eta, J = (torch.cat(f, -1) for f in zip(*reversed(futures)))
    return eta, J


class Evidence(torch.autograd.Function):
    """The evidence of all rows, with the exact score as its gradient  [3]

    r and N, the first two derivatives of the evidence with respect to the predicted mean, run
    backwards: r_k = X_k' (h_k - J_k m_k + A_{k+1}' r_{k+1}) with X = (I + P J)⁻¹. Only the filtered
    laws are kept. Where a gradient of the gradient is asked for, autograd goes through the scans.
    """

    @staticmethod
    def forward(ctx: Any, split: Split, *rows: Tensor) -> Tensor:
        laws, total = forwards(Rows(*rows), split)
        ctx.split = split
        ctx.save_for_backward(*rows, *(f for law in laws for f in law))
        return total

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        rows, flat = Rows(*saved[: len(Rows._fields)]), saved[len(Rows._fields) :]
        if torch.is_grad_enabled():
            return None, *differentiable_score(rows, ctx.split, weight)
        found = score(rows, ctx.split, list(zip(flat[::2], flat[1::2])), weight)
        return None, *(None if f is found.c else f for f in found)


def differentiable_score(rows: Rows, split: Split, weight: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of the evidence by way of a graph, for derivatives of the gradient itself."""
    wanted = [f for f in rows if f.requires_grad]
    _, total = forwards(rows, split)
    found = iter(torch.autograd.grad(total, wanted, weight, create_graph=True, allow_unused=True))
    return tuple(next(found) if f.requires_grad else None for f in rows)


def score(rows: Rows, split: Split, laws: list[Tensors], weight: Tensor) -> Rows:
    """weight' d evidence / d rows."""
    out = Rows(*(torch.empty_like(f, memory_format=torch.contiguous_format) for f in rows))
    out.s.copy_(weight[..., None].expand_as(out.s))
    r_behind, N_behind = nothing(rows)
    A_behind = torch.zeros_like(rows.P0)
    for i, start in reversed(list(enumerate(starts(rows, split)))):
        p = pieces(rows, start, start + split.chunk)
        m, P = laws[i]
        m_start, P_start = (f[..., -1:] for f in laws[i - 1]) if i else nothing(rows)
        m_before, P_before = behind(m_start, m), behind(P_start, P)
        A_next = ahead(p.A, A_behind)

        m_predicted, P_predicted = predict(m_before, P_before, p)
        X = inverse(one_plus(matmul(P_predicted, p.J)))
        E = transpose(matmul(A_next, X))
        pull = matvec(transpose(X), p.h - matvec(p.J, m_predicted - p.c))
        L = symmetric(matmul(p.J, X))
        r, N = accumulate(
            combine_affine, affine, (E, pull, L), (r_behind, N_behind), True, split.backend
        )

        w = weight[..., None]
        curvature = (outer(r, r) - N) / 2
        write(out.Q, start, w * curvature)
        AP = matmul(p.A, P_before)
        write(out.A, start, w * (outer(r, m_before) + 2 * matmul(curvature, AP)))
        write(out.b, start, w * r)
        AP = matmul(A_next, P)
        mean = m - p.c + matvec(transpose(AP), ahead(r, r_behind))
        cov = P - sandwich(transpose(AP), ahead(N, N_behind))
        write(out.h, start, w * mean)
        write(out.J, start, w * (outer(mean, mean) + cov) / -2)
        r_behind, N_behind, A_behind = r[..., :1], N[..., :1], p.A[..., :1]
    for target, of_first_row in ((out.P0, out.Q), (out.m0, out.b)):
        target.copy_(of_first_row[..., :1])
    for of_steps in (out.A, out.Q, out.b):
        of_steps[..., 0] = 0.0
    return out


def write(out: Tensor, start: int, values: Tensor) -> None:
    """`values`, summed over the chains that share a row of `out`."""
    target = out[..., start : start + values.shape[-1]]
    target.copy_(values.sum_to_size(target.shape))
