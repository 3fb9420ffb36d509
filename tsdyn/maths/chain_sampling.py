"""Draws of a whole Gaussian Markov chain, before and after what is seen of it.

    x_k = A_k x_{k-1} + b_k + L_k z_k,   L_k L_k' = Q_k,   z_k ~ N(0, I)

All draws are made at once, by a scan. They are differentiable, and use torch's generator.

[1] Frühwirth-Schnatter. Data augmentation and dynamic linear models. Journal of Time Series
    Analysis 15, 1994: one pass gathers what is seen, a second in the other direction draws.
[2] Durbin & Koopman. A simple and efficient simulation smoother. Biometrika 89, 2002; in geostatistics
    Matheron's rule.
"""

import torch
from torch import Tensor

from .chain_scan import nothing, pieces, starts
from .components import factor, first, matmul, matvec
from .kalman import (
    LinearGaussian,
    Sites,
    about_zero,
    common,
    dtype_of,
    posterior,
    smoothed,
    split,
    to_rows,
)
from .scan import Tensors, accumulate


def sample_prior(chain: LinearGaussian, n: int) -> Tensor:
    """n paths of the chain: (n, ..., N, S)"""
    rows = to_rows(chain, unseen(chain))
    noise = torch.randn(
        *(rows.A.shape[-1], len(rows.A), n, *rows.s.shape[:-1]),
        dtype=rows.A.dtype,
        device=rows.A.device,
    )  # (N, S, n, ...): what is drawn for a row does not depend on the rows behind it
    how = split(rows._replace(s=rows.s.expand(n, *rows.s.shape)), "scan", None)
    at, paths = nothing(rows)[0][:, None].expand(-1, n, *rows.m0.shape[1:]), []
    for start in starts(rows, how):
        p = pieces(rows, start, start + how.chunk)
        L = factor(p.Q)
        drawn = noise[start : start + how.chunk].movedim(0, -1)
        step = p.A[:, :, None], p.b[:, None] + matvec(L[:, :, None], drawn)
        (path,) = accumulate(combine_steps, follow, step, (at,))
        at = path[..., -1:]
        paths.append(path)
    return torch.cat(paths, -1).movedim(0, -1).to(chain.A.dtype)


def sample_posterior(chain: LinearGaussian, sites: Sites, n: int) -> Tensor:
    """n paths of the chain given everything seen: (n, ..., N, S)

    What is seen is gathered from the last row to the first, and the chain drawn from the first to
    the last  [1], in this direction because no covariance is inverted then.
    """
    return sample_prior(posterior(chain, sites), n).to(dtype_of(chain, sites))


def sample_matheron(chain: LinearGaussian, sites: Sites, n: int) -> Tensor:
    """x + E(x | y) - E(x | y'), where x are n paths of the prior and y' is drawn from them: (n, ..., N, S)  [2]

    The same law as that of `sample_posterior`, from one smoothing of n chains that share covariances.
    """
    h, J = about_zero(sites)[:2]
    b = h.new_zeros(()) if chain.b is None else chain.b
    every = common(
        h.shape, J.shape[:-1], b.shape
    )  # series that share a chain have paths of their own
    paths = sample_prior(chain._replace(b=b.expand(every)), n).double()
    root = factor(first(J)).movedim((0, 1), (-2, -1))
    seen = J @ paths[..., None] + root @ torch.randn_like(paths)[..., None]
    centred = chain._replace(m0=None, b=None)
    change = smoothed(centred, Sites(h - seen[..., 0], J)).mean
    return (paths + change).to(dtype_of(chain, sites))


def unseen(chain: LinearGaussian) -> Sites:
    """Nothing is seen of any row."""
    zero = chain.A.new_zeros(())
    rows = (chain.A.shape[-3], chain.Q.shape[-3], 1 if chain.b is None else chain.b.shape[-2])
    N, S = max(rows), chain.A.shape[-1]
    return Sites(zero.expand(N, S), zero.expand(N, S, S))


def combine_steps(earlier: Tensors, later: Tensors) -> Tensors:
    """x -> A x + v twice."""
    (A1, v1), (A2, v2) = earlier, later
    return matmul(A2, A1), matvec(A2, v1) + v2


def follow(x: Tensors, step: Tensors) -> Tensors:
    """(A x + v,)"""
    return (matvec(step[0], x[0]) + step[1],)
