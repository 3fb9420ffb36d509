"""Filtering, smoothing and likelihood of a Gaussian Markov chain, in time linear in its length.

    x_0 ~ N(m0, P0),   x_k = A_k x_{k-1} + b_k + e_k,   e_k ~ N(0, Q_k),   k < N
    seen through   ∏_k exp(s_k + h_k' x_k - x_k' J_k x_k / 2)

Every observation, Gaussian or approximated by one, is a site (h, J): several at one row add up,
none is a site of zeros. No covariance is ever inverted, so that A, Q, P0 and J may be singular (a
repeated time, a component without noise, a row without observation).

All rows are worked on together by an associative scan over elements (A, b, C, η, J): given x_{k-1},
row k has the law N(A x_{k-1} + b, C), and what is seen there weighs x_{k-1} with
exp(η' x - x' J x / 2)  [1]. Forwards they carry the law of x_k given the rows up to k, backwards what
the rows behind k say about x_k  [2]. Inside, everything is in double precision.

[1] Särkkä & García-Fernández. Temporal parallelization of Bayesian smoothers. IEEE Transactions on
    Automatic Control 66, 2021.
[2] Fraser & Potter. The optimum linear smoother as a combination of two optimum linear filters.
    IEEE Transactions on Automatic Control 14, 1969.
[3] Koopman & Shephard. Exact score for time series models in state space form. Biometrika 79, 1992;
    Bryson & Frazier 1963: the adjoint recursion.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from .chain_scan import Evidence, Rows, Split, ahead, backwards, forwards, pieces
from .components import (
    first,
    inverse,
    last,
    matmul,
    matvec,
    one_plus,
    sandwich,
    semidefinite,
    symmetric,
    transpose,
)
from .scan import Backend, Tensors

# measured on CPU
CHUNK = 1 << 14  # rows times chains worked on at once: about what the caches of a core hold
SHORTEST_CHUNK = 16
SHORT = 8  # a loop over as many rows is faster than a scan,
WIDE = 3000  # and a loop over rows with as many entries of covariances


class LinearGaussian(NamedTuple):
    """x_0 ~ N(m0, P0), x_k = A_k x_{k-1} + b_k + e_k, e_k ~ N(0, Q_k): a Gaussian Markov chain of N rows.

    Leading axes are free and broadcast, here and against those of the sites. Covariances that many
    chains share are worked on once.
    """

    A: Tensor  # (..., N, S, S)  row 0 is not read
    Q: Tensor  # (..., N, S, S)  row 0 is not read
    P0: Tensor  # (..., S, S)
    m0: Tensor | None = None  # (..., S)     zero where None
    b: Tensor | None = None  # (..., N, S)  zero where None; row 0 is not read


class Sites(NamedTuple):
    """exp(s_k + h_k' d - d' J_k d / 2), d = x_k - c_k: what is seen of each row; zeros where nothing is.

    The point c about which a site is written is free. What was observed is a good one: then h is
    small, and so are rounding errors where the observation is much sharper than the state is large.
    No gradient passes through c.
    """

    h: Tensor  # (..., N, S)
    J: Tensor  # (..., N, S, S)
    s: Tensor | None = None  # (..., N)  zero where None
    c: Tensor | None = None  # (..., N, S)  zero where None


class Filtered(NamedTuple):
    """The law of x_k given rows 0, ..., k, and log ∫ ∏ sites dp(x)."""

    mean: Tensor  # (..., N, S)
    cov: Tensor  # (..., N, S, S)
    log_z: Tensor  # (...)


class Messages(NamedTuple):
    """What both sides say about each row: the law given rows up to it, and what is seen behind it."""

    chain: LinearGaussian
    sites: Sites
    past: Filtered
    future: Sites  # row k: everything seen at rows k+1, ..., N-1, as a function of x_k, about 0


class Moments(NamedTuple):
    """The law of x_k given all rows."""

    mean: Tensor  # (..., N, S)
    cov: Tensor  # (..., N, S, S)
    cross: Tensor  # (..., N, S, S)  Cov(x_k, x_{k+1}); zero at the last row
    log_z: Tensor  # (...)


def about_zero(sites: Sites) -> Sites:
    """The same h and J with c = 0, in double precision; what does not depend on x is left out."""
    h, J = sites.h.double(), sites.J.double()
    if sites.c is not None:
        h = h + (J @ sites.c.detach().double()[..., None])[..., 0]
    return Sites(h, J)


def log_z(
    chain: LinearGaussian, sites: Sites, backend: Backend | None = None, chunk: int | None = None
) -> Tensor:
    """log ∫ ∏_k site_k(x_k) dp(x): (...), the log likelihood of what is seen.

    The gradient is the exact score, from one more scan and without a graph  [3]; beyond arguments and
    gradients the memory is that of the filtered laws. Derivatives of the gradient go through the scans.

    Args:
        backend: "scan" over the rows, or a "loop", which pays for many chains; chosen by size.
        chunk: rows worked on at once.

    Raises:
        ModelError: M04 if Q or P0 is not positive semi-definite.
    """
    rows = checked(to_rows(chain, sites), dtype_of(chain, sites))
    value: Tensor = Evidence.apply(split(rows, backend, chunk), *rows)  # type: ignore[no-untyped-call]
    return value.to(dtype_of(chain, sites))


def filtered(
    chain: LinearGaussian, sites: Sites, backend: Backend | None = None, chunk: int | None = None
) -> Filtered:
    """The law of each row given what is seen up to it. Arguments as in `log_z`."""
    rows = checked(to_rows(chain, sites), dtype_of(chain, sites))
    mean, cov, value = past(rows, split(rows, backend, chunk))
    return Filtered(*finished(mean, [cov], value, dtype_of(chain, sites)))


def smoothed(
    chain: LinearGaussian, sites: Sites, backend: Backend | None = None, chunk: int | None = None
) -> Moments:
    """The law of each row given everything seen. Arguments as in `log_z`."""
    mean, cov, cross, value = moments(messages(chain, sites, backend, chunk))
    return Moments(*finished(mean, [cov, cross], value, dtype_of(chain, sites)))


def posterior(
    chain: LinearGaussian, sites: Sites, backend: Backend | None = None, chunk: int | None = None
) -> LinearGaussian:
    """The chain given everything seen, which is a Gaussian Markov chain again.

    In double precision. Arguments as in `log_z`.
    """
    rows = checked(to_rows(chain, sites), dtype_of(chain, sites))
    future = backwards(rows, split(rows, backend, chunk))
    return given_future(rows, future)


def messages(
    chain: LinearGaussian, sites: Sites, backend: Backend | None = None, chunk: int | None = None
) -> Messages:
    """What past and future say about each row, in double precision. Arguments as in `log_z`."""
    rows = checked(to_rows(chain, sites), dtype_of(chain, sites))
    how = split(rows, backend, chunk)
    h, J = backwards(rows, how)
    return Messages(chain, sites, past(rows, how), Sites(h.movedim(0, -1), last(J)))


def moments(known: Messages) -> Moments:
    """The law of each row from what its past and its future say, in double precision  [2]"""
    m, P = known.past.mean.movedim(-1, 0), first(known.past.cov)
    h, J = known.future.h.movedim(-1, 0), first(known.future.J)
    mean, cov = weighed(m, P, h, J)
    step = first(given_future(to_rows(known.chain, known.sites), (h, J)).A)
    step = ahead(step, torch.zeros_like(step[..., :1]))
    cross = matmul(cov, transpose(step))
    return Moments(mean.movedim(0, -1), last(cov), last(cross), known.past.log_z)


def weighed(m: Tensor, P: Tensor, h: Tensor, J: Tensor) -> tuple[Tensor, Tensor]:
    """N(m, P) weighed with exp(h' x - x' J x / 2), components first: mean and covariance."""
    X = inverse(one_plus(matmul(P, J)))
    # P (I + J P)⁻¹ as a sum of squares: no variance comes out negative
    return matvec(X, m + matvec(P, h)), sandwich(X, P) + sandwich(matmul(X, P), J)


def given_future(rows: Rows, future: Tensors) -> LinearGaussian:
    """The steps of the chain when everything at and behind the row they lead to is known."""
    steps = pieces(rows, 0, rows.A.shape[-1])
    h, J = steps.total + future[0], steps.J + future[1]
    X = inverse(one_plus(matmul(steps.Q, J)))
    A = last(matmul(X, steps.A))
    Q = last(symmetric(matmul(X, steps.Q)))
    b = matvec(X, steps.b + matvec(steps.Q, h)).movedim(0, -1)
    return LinearGaussian(A, Q, Q[..., 0, :, :], b[..., 0, :], b)


def past(rows: Rows, how: Split) -> Filtered:
    """The law of every row given the rows up to it, components last again."""
    laws, value = forwards(rows, how)
    m, P = (torch.cat(f, -1) for f in zip(*laws))
    return Filtered(m.movedim(0, -1), last(P), value)


def to_rows(chain: LinearGaussian, sites: Sites, dtype: torch.dtype = torch.float64) -> Rows:
    """Components first, rows last, of one precision, batch axes aligned."""
    N, S = sites.h.shape[-2:]
    zero = chain.A.new_zeros(())
    m0 = zero.expand(S) if chain.m0 is None else chain.m0
    b = zero.expand(N, S) if chain.b is None else chain.b
    s = zero.expand(N) if sites.s is None else sites.s
    c = zero.expand(N, S) if sites.c is None else sites.c.detach()
    matrices = (chain.A, chain.Q, chain.P0[..., None, :, :], sites.J)
    vectors = (m0[..., None, :], b, sites.h, c)
    shared = common(*(f.shape[:-3] for f in matrices))
    batch = common(shared, *(f.shape[:-2] for f in vectors), s.shape[:-1])
    shared = torch.Size((1,) * (len(batch) - len(shared)) + tuple(shared))

    def components(f: Tensor, lead: torch.Size, rows: int, axes: int) -> Tensor:
        whole = f.to(dtype).expand(*lead, rows, *(S,) * axes)
        return first(whole) if axes == 2 else whole.movedim(-1, 0)

    A, Q, P0, J = (components(f, shared, n, 2) for f, n in zip(matrices, (N, N, 1, N)))
    m0, b, h, c = (components(f, batch, n, 1) for f, n in zip(vectors, (1, N, N, N)))
    return Rows(A, Q, P0, m0, b, h, J, c, s.to(dtype).expand(*batch, N))


def common(*shapes: torch.Size) -> torch.Size:
    """The shape that all of them broadcast to."""
    return torch.broadcast_shapes(*shapes)  # type: ignore[no-any-return,no-untyped-call]


def split(rows: Rows, backend: Backend | None, chunk: int | None) -> Split:
    """What was asked for, and else what is fastest."""
    chains = max(rows.s[..., 0].numel(), 1)
    if backend is None:
        wide = chains * len(rows.P0) ** 2 >= WIDE
        backend = "loop" if wide or rows.A.shape[-1] <= SHORT else "scan"
    return Split(backend, chunk or max(CHUNK // chains, SHORTEST_CHUNK))


def dtype_of(chain: LinearGaussian, sites: Sites) -> torch.dtype:
    """The precision in which answers are handed out."""
    return torch.result_type(chain.A, sites.h)


def finished(
    mean: Tensor, covariances: list[Tensor], log_z: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """In the precision of what came in, with the covariances of every chain where chains share them."""
    whole = [f.expand(*mean.shape, -1) for f in covariances]
    return [f.to(dtype) for f in (mean, *whole, log_z)]


@torch.no_grad()
def checked(rows: Rows, dtype: torch.dtype) -> Rows:
    """The rows themselves, or M04 with the first whose Q is not positive semi-definite in this precision."""
    require_semidefinite(rows.P0, rows.P0, dtype, "The covariance P0 of the first row")
    for start in range(0, rows.Q.shape[-1], CHUNK):
        begin = max(start, 1)
        Q = rows.Q[..., begin : start + CHUNK]
        require_semidefinite(Q, rows.P0, dtype, "The covariance Q of a step", begin)
    return rows


def require_semidefinite(
    P: Tensor, P0: Tensor, dtype: torch.dtype, what: str, row: int = 0
) -> None:
    """M04 where P is negative by more than rounding of its own elimination, or of differences of P0."""
    eps = torch.finfo(dtype).eps
    own, first_row = (f.diagonal(dim1=0, dim2=1).movedim(-1, 0).abs() for f in (P, P0))
    good = semidefinite(P, math.sqrt(eps) * own + 1e3 * eps * first_row)  # (..., N)
    if not good.all():
        *series, at = (~good).nonzero()[0].tolist()
        raise not_positive(what, [*series, row + at])


def require_positive(variances: Tensor) -> None:
    """M04 unless every variance of an observation is above zero."""
    good = variances > 0
    if not good.all():
        raise not_positive("The variance R of an observation", (~good).nonzero()[0].tolist() or [0])


def not_positive(what: str, index: list[int]) -> ModelError:
    """M04 with the row, and the chain where there are several."""
    return ModelError(
        "M04",
        f"{what} is negative in some direction, or not a number, at row {index[-1]}"
        + (f" of chain {tuple(index[:-1])}" if index[:-1] else ""),
        "covariances without negative eigenvalues, variances of observations above zero",
        "Look at the parameters that made it, and for repeated or decreasing times",
    )
