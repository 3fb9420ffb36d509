"""Gaussian processes in time through their states at M inducing times: cost N + M, and any part of the data.

    q(x) = p(x | u) q(u),   u the states at times z,   q(u) = p(u) exp(h' u - u' J u / 2) / Z

Between two inducing times the state depends on the two beside it alone. So what a value y(t) says is a site
of one pair (x_m, x_m+1), to which all values between them add, and the chain of pairs is Gaussian Markov
again. Natural gradients of the bound are sums over values, so that a minibatch estimates them.

With inducing times at all times of the data the law is that of `approximate.variational`, and the bound
with fewer is never above it.

[1] Adam, Eleftheriadis, Artemev, Durrande & Hensman. Doubly sparse variational Gaussian processes.
    AISTATS 2020.
[2] Wilkinson, Solin & Adam. Sparse algorithms for Markovian Gaussian processes. AISTATS 2021.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .approximate import (
    STEPS,
    TOLERANCE,
    Approximation,
    Look,
    Natural,
    Observed,
    blend,
    climb,
    expected_log_prob,
    guessed,
    paired,
    pulled,
    without_graph,
)
from .blocks import block_diagonal, carry, given_later
from .kalman import LinearGaussian, Moments, Sites, log_z, smoothed
from .kernels import Kernel, chain

CHUNK = 1 << 16  # values worked on at once


class Projection(NamedTuple):
    """f(t) = weight (x_row-1, x_row) + e, e ~ N(0, var): exact, whatever the states are."""

    row: Tensor  # (..., N)  of the chain of pairs
    weight: Tensor  # (..., N, O, 2 S)
    var: Tensor  # (..., N, O)


def pairs(kernel: Kernel, z: Tensor) -> LinearGaussian:
    """The chain of (x_m-1, x_m) at inducing times z (..., M), non-decreasing: M rows of 2 S coordinates.

    Before the first state stands one that is surely zero and that nothing depends on.
    """
    A, Q, P0 = chain(kernel, z)[:3]
    zero, eye = torch.zeros_like(A), torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    above = torch.cat([zero, eye.expand_as(A)], -1)
    step = torch.cat([above, torch.cat([zero, A], -1)], -2)
    still = torch.zeros_like(P0)
    return LinearGaussian(step, block_diagonal([zero, Q]), block_diagonal([still, P0]))


def project(kernel: Kernel, z: Tensor, t: Tensor) -> Projection:
    """f at times t (..., N), in any order, given the states at z (..., M)."""
    t, z = t.double(), z.double()
    lead = torch.broadcast_shapes(t.shape[:-1], z.shape[:-1])  # type: ignore[no-untyped-call]
    t, z = (f.expand(*lead, -1).contiguous() for f in (t, z))
    row = torch.searchsorted(z, t, side="right")  # inducing times at or before: 0, ..., M
    last = z.shape[-1] - 1
    before, behind = ((row == n)[..., None, None] for n in (0, last + 1))
    left = z.gather(-1, (row - 1).clamp(min=0)).minimum(t)
    right = z.gather(-1, row.clamp(max=last)).maximum(t)
    A, Q = (rows(f, t) for f in kernel.transition(left, t))
    A_next, Q_next = (rows(f, t) for f in kernel.transition(t, right))
    A_back, Q_back = (rows(f, t) for f in kernel.backward(t, right))
    # x(t) = (A - G A_next A) x_left + G x_right between two, one of them alone at the ends
    G, V = given_later(Q, A_next, Q_next)
    from_left = torch.where(before | behind, 0.0, A - G @ A_next @ A)
    from_right = torch.where(behind, A, torch.where(before, A_back, G))
    V = torch.where(behind, Q, torch.where(before, Q_back, V))
    weight = torch.cat([from_left, from_right], -1)
    H = kernel.H[..., None, :, :].to(t.device)
    var = carry(H, V).diagonal(dim1=-2, dim2=-1).clamp(min=0.0)
    return Projection(row.clamp(max=last), H @ weight, var)


def marginals(at: Projection, moments: Moments) -> tuple[Tensor, Tensor]:
    """Mean and variance of f at the times of a projection, without offset: (..., N, O)"""
    mean = moments.mean.take_along_dim(at.row[..., None], -2)
    cov = moments.cov.take_along_dim(at.row[..., None, None], -3)
    spread = ((at.weight @ cov) * at.weight).sum(-1)
    return (at.weight @ mean[..., None])[..., 0], spread + at.var


def law(kernel: Kernel, z: Tensor, moments: Moments, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of f at any times (..., N), without offset: (..., N, O)"""
    parts = torch.split(t, CHUNK, -1)
    means, variances = zip(*(marginals(project(kernel, z, part), moments) for part in parts))
    return torch.cat(means, -2), torch.cat(variances, -2)


def variational(
    kernel: Kernel,
    z: Tensor,
    t: Tensor,
    seen: Observed,
    rate: float = 1.0,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
) -> Approximation:
    """The best law of the states at inducing times, from all values at once, in chunks.

    Sites, moments and the bound are those of `pairs`; arguments and errors as in
    `approximate.variational`. Where parameters are learned, the graph of the bound holds every value:
    with millions of them use `step` and `bound`.

    Args:
        z: (..., M) inducing times, non-decreasing.
        t: (..., N) times of the values, in any order.
    """
    seen.likelihood.require(seen.y, seen.mask)
    fixed = without_graph(pairs(kernel, z))
    with torch.no_grad():
        parts = [(project(kernel, z, u), part) for u, part in chunks(t, seen)]
        look = looking(parts, z.shape[-1])
        start = nothing(fixed, parts[0][0])
        for at, part in parts:
            more = gather(at, guessed(part), z.shape[-1])
            start = Sites(start.h + more.h, start.J + more.J)
    found = climb(fixed, start, look, rate, tolerance, steps)
    return found._replace(bound=bound(kernel, z, t, seen, found.sites, found.moments))


def bound(
    kernel: Kernel,
    z: Tensor,
    t: Tensor,
    seen: Observed,
    sites: Sites,
    moments: Moments | None = None,
    total: float | None = None,
) -> Tensor:
    """The bound on log p(y) of every chain, (...), differentiable at fixed sites.

    Args:
        t, seen: all values, or some of them.
        moments: of `pairs` seen through the sites; made where None.
        total: how many values there are where only some are given, which then stand for all.
    """
    law_of_pairs = pairs(kernel, z)
    if moments is None:
        moments = smoothed(without_graph(law_of_pairs), sites)
    value = torch.zeros_like(moments.log_z)
    for u, part in chunks(t, seen):
        f = marginals(project(kernel, z, u), moments)
        value = value + expected_log_prob(part, *f).sum((-2, -1))
    rest = log_z(law_of_pairs, sites) - paired(sites, moments).sum(-1)
    return share(seen, total) * value + rest


@torch.no_grad()
def step(
    kernel: Kernel,
    z: Tensor,
    t: Tensor,
    seen: Observed,
    sites: Sites | None,
    rate: float,
    total: float,
) -> Sites:
    """One natural gradient step from some of the values, which stand for all: sites of `pairs`.

    Args:
        sites: from the step before; None to begin with.
        rate: in (0, 1]; with 1 what earlier values said is forgotten. Should fall to zero as steps go on.
        total: how many values there are.

    Raises:
        DataError: D14 for values that the likelihood does not give.
    """
    seen.likelihood.require(seen.y, seen.mask)
    fixed = pairs(kernel, z)
    parts = [(project(kernel, z, u), part) for u, part in chunks(t, seen)]
    old = nothing(fixed, parts[0][0]) if sites is None else sites
    target = looking(parts, z.shape[-1])(smoothed(fixed, old)).target
    weight = share(seen, total)
    every = torch.full_like(old.h[..., 0, 0], rate)
    return Sites(
        blend(old.h, weight[..., None, None] * target.h, every),
        blend(old.J, weight[..., None, None, None] * target.J, every),
    )


def looking(parts: list[tuple[Projection, Observed]], M: int) -> Callable[[Moments], Look]:
    """What values at fixed projections say of the pairs."""

    def look(moments: Moments) -> Look:
        value = torch.zeros_like(moments.log_z)
        h, J = torch.zeros_like(moments.mean), torch.zeros_like(moments.cov)
        for at, seen in parts:
            said, site = pulled(seen, *marginals(at, moments))
            more = gather(at, site, M)
            value, h, J = value + said, h + more.h, J + more.J
        return Look(value, Sites(h, J))

    return look


def gather(at: Projection, site: Natural, M: int) -> Sites:
    """Sites of values as sums over the pairs that they are seen through: (..., M, 2 S)"""
    w = at.weight
    h = (site.h[..., None, :] @ w)[..., 0, :]  # (..., N, 2 S)
    J = w.mT @ (site.precision[..., None] * w)
    lead = torch.broadcast_shapes(at.row.shape[:-1], h.shape[:-2])  # type: ignore[no-untyped-call]
    row = at.row.expand(*lead, -1)
    h, J = h.expand(*lead, *h.shape[-2:]), J.expand(*lead, *J.shape[-3:])
    sums = h.new_zeros(*lead, M, h.shape[-1])
    squares = J.new_zeros(*lead, M, *J.shape[-2:])
    return Sites(
        sums.scatter_add(-2, row[..., None].expand_as(h), h),
        squares.scatter_add(-3, row[..., None, None].expand_as(J), J),
    )


def chunks(t: Tensor, seen: Observed) -> Iterator[tuple[Tensor, Observed]]:
    """Times (..., N) and values (..., N, O), some at a time."""
    likelihood, y, mask, offset = seen
    length = max(CHUNK // max(y[..., 0, :].numel() // y.shape[-1], 1), 1)
    for start in range(0, y.shape[-2], length):
        some = slice(start, start + length)
        here = offset
        if isinstance(offset, Tensor) and offset.ndim > 1 and offset.shape[-2] > 1:
            here = offset[..., some, :]
        yield t[..., some], Observed(likelihood, y[..., some, :], mask[..., some, :], here)


def share(seen: Observed, total: float | None) -> Tensor:
    """By how much the values of each chain that are given stand for more: (...)"""
    count = seen.mask.sum((-2, -1)).double().clamp(min=1.0)
    return torch.ones_like(count) if total is None else total / count


def nothing(fixed: LinearGaussian, at: Projection) -> Sites:
    """Nothing is seen of any pair, for as many chains as there are."""
    lead = torch.broadcast_shapes(fixed.A.shape[:-3], at.weight.shape[:-3], at.row.shape[:-1])  # type: ignore[no-untyped-call]
    M, S = fixed.A.shape[-3], fixed.A.shape[-1]
    return Sites(fixed.A.new_zeros(*lead, M, S), fixed.A.new_zeros(*lead, M, S, S))


def rows(f: Tensor, t: Tensor) -> Tensor:
    """Matrices that may be the same at all times (..., N), at each of them."""
    return f.expand(*f.shape[:-3], t.shape[-1], *f.shape[-2:])
