"""Filter and smoother that carry factors of covariances, P = U U', in the precision of what comes in.

    U (I + U' Z Z' U)^{-1/2} = U R⁻¹,   R from the QR decomposition of [Z' U; I]

is N(0, U U') weighed with exp(-x' Z Z' x / 2). The same formula updates a law, carries what is seen
across a step, and lets both meet, so no variance is ever a difference. One row after the other: for
single precision, and for observations of almost no error, where covariances lose half their digits.

[1] Bierman. Factorization methods for discrete sequential estimation. Academic Press 1977.
[2] Yaghoobi, Corenflos, Hassan & Särkkä. Parallel square-root statistical linear regression for
    inference in nonlinear state space models. arXiv:2207.00426, 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .chain_scan import pieces
from .components import factor, last
from .kalman import LinearGaussian, Sites, dtype_of, to_rows


class Factored(NamedTuple):
    """The law of each row, its covariance F F', and the log likelihood of what is seen."""

    mean: Tensor  # (..., N, S)
    factor: Tensor  # (..., N, S, S)
    log_z: Tensor  # (...)


class Step(NamedTuple):
    """A row and how it is reached."""

    A: Tensor  # (..., S, S)
    root: Tensor  # (..., S, S)  root root' = Q
    b: Tensor  # (..., S)
    h: Tensor  # (..., S)
    Z: Tensor  # (..., S, S)  Z Z' = J
    c: Tensor  # (..., S)
    s: Tensor  # (...)


def filtered(chain: LinearGaussian, sites: Sites) -> Factored:
    """The law of each row given what is seen up to it."""
    return forwards(steps(chain, sites))


def smoothed(chain: LinearGaussian, sites: Sites) -> Factored:
    """The law of each row given everything seen."""
    rows = steps(chain, sites)
    mean, root, log_z = forwards(rows)
    h, Z = backwards(rows)
    law = weigh(root, Z)[0]
    return Factored(mean + project(law, h - project(Z, mean)), law, log_z)


def forwards(rows: list[Step]) -> Factored:
    """Mean and root of the covariance of each row given the rows up to it, and the evidence."""
    means, roots = [], []
    mean, root = torch.zeros_like(rows[0].b), torch.zeros_like(rows[0].root)
    total = torch.zeros_like(rows[0].s)
    for row in rows:
        mean = (row.A @ mean[..., None])[..., 0] + row.b
        root = square(row.A @ root, row.root)
        distance = mean - row.c
        misfit = (weigh(row.Z, root)[0].mT @ distance[..., None])[..., 0]
        root, R = weigh(root, row.Z)
        known, steep = project(root, row.h), project(row.Z, distance)
        half_log_det = R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        exponent = row.h * (distance + known / 2) - known * steep - misfit**2 / 2
        total = total + row.s + exponent.sum(-1) - half_log_det
        mean = mean + project(root, row.h - steep)
        means.append(mean)
        roots.append(root)
    return Factored(torch.stack(means, -2), torch.stack(roots, -3), total)


def backwards(rows: list[Step]) -> tuple[Tensor, Tensor]:
    """h (..., N, S) and Z (..., N, S, S), with Z Z' = J, of all that is seen behind each row."""
    h, Z = torch.zeros_like(rows[0].h), torch.zeros_like(rows[0].Z)
    hs, Zs = [h], [Z]
    for row in reversed(rows[1:]):
        h, Z = h + row.h + project(row.Z, row.c), square(Z, row.Z)
        h = h - project(Z, row.b)
        Z = weigh(Z, row.root)[0]
        h = (row.A.mT @ (h - project(Z, project(row.root, h)))[..., None])[..., 0]
        Z = row.A.mT @ Z
        hs.append(h)
        Zs.append(Z)
    return torch.stack(hs[::-1], -2), torch.stack(Zs[::-1], -3)


def weigh(root: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
    """U R⁻¹ and R, with R' R = I + U' Z Z' U."""
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device).expand_as(root)
    R: Tensor = torch.linalg.qr(torch.cat([Z.mT @ root, eye], -2), mode="r").R
    return torch.linalg.solve_triangular(R, root, upper=True, left=False), R


def square(left: Tensor, right: Tensor) -> Tensor:
    """The triangular U with U U' = left left' + right right'."""
    R: Tensor = torch.linalg.qr(torch.cat([left, right], -1).mT, mode="r").R
    return R.mT


def project(root: Tensor, x: Tensor) -> Tensor:
    """U U' x"""
    return (root @ (root.mT @ x[..., None]))[..., 0]


def steps(chain: LinearGaussian, sites: Sites) -> list[Step]:
    """The rows of the chain; the first steps from nowhere, with Q = P0 and b = m0."""
    rows = to_rows(chain, sites, dtype_of(chain, sites))
    p = pieces(rows, 0, rows.A.shape[-1])
    lead = p.s.shape  # (..., N)
    A, root, Z = (last(f).expand(*lead, -1, -1).unbind(-3) for f in (p.A, factor(p.Q), factor(p.J)))
    b, h, c = (f.movedim(0, -1).unbind(-2) for f in (p.b, p.h, p.c))
    return list(map(Step, A, root, b, h, Z, c, p.s.unbind(-1)))
