"""What is observed of the states of a chain, as sites: H x_k plus a Gaussian error.

    log N(y; H x, R) = s + h' (x - c) - (x - c)' J (x - c) / 2,   J = H' R⁻¹ H,  h = H' R⁻¹ (y - H c)

with c such that H c is y, or near it where no state gives y.
"""

import math

import torch
from torch import Tensor

from .components import last
from .kalman import Sites, not_positive, require_positive

RIDGE = 1e-12  # next to the size of H H'


def observe(H: Tensor, R: Tensor, y: Tensor, mask: Tensor | None = None) -> Sites:
    """y_k = H x_k + e_k with independent e_k ~ N(0, diag R): the sites of M observations per row.

    With them `log_z` is the log density of y.

    Args:
        H: (M, S), or (..., N, M, S), where N may be 1.
        R: variances, positive; anything that broadcasts to y.
        y: (..., N, M); not read where the mask is False.
        mask: (..., N, M), True where y was observed. Where series share it they share J.

    Raises:
        ModelError: M04 if a variance is not positive.
    """
    require_positive(R)
    H, R, y = H.double(), R.double(), y.double()
    seen = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
    weight = R.reciprocal().where(seen, 0.0)  # (..., N, M)
    c, rest = centred(H, y.where(seen, 0.0))
    rest = rest.where(seen, 0.0)
    s = -((rest * rest * weight) + (2 * torch.pi * R).log().where(seen, 0.0)).sum(-1) / 2
    if H.ndim > 2:
        h = ((weight * rest)[..., None, :] @ H)[..., 0, :]
        return Sites(h, H.mT @ (weight[..., None] * H), s, c)
    # components outermost in memory, as they are read
    squares = (H[:, :, None] * H[:, None, :]).movedim(0, -1)  # (S, S, M)
    J = torch.tensordot(squares, weight.movedim(-1, 0), 1)  # (S, S, ..., N)
    h = torch.tensordot(H.mT, (weight * rest).movedim(-1, 0), 1)
    return Sites(h.movedim(0, -1), last(J), s, c)


def observe_jointly(H: Tensor, R: Tensor, y: Tensor, mask: Tensor | None = None) -> Sites:
    """y_k = H x_k + e_k with e_k ~ N(0, R): the sites of M observations per row whose errors correlate.

    Args:
        H: (M, S), or (..., N, M, S), where N may be 1.
        R: (M, M), or (..., N, M, M), where N may be 1; positive definite.
        y, mask: (..., N, M) as in `observe`.

    Raises:
        ModelError: M04 if R is not positive definite.
    """
    H, R, y = H.double(), R.double(), y.double()
    seen = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
    y = y.where(seen, 0.0)
    both = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    L, info = torch.linalg.cholesky_ex(torch.where(both, R, eye))  # (..., N, M, M)
    if info.any():
        raise not_positive("the covariance R of the observations", info.nonzero()[0].tolist())
    H = H.where(seen[..., None], 0.0)  # (..., N, M, S)
    c, rest = centred(H, y)
    white = torch.linalg.solve_triangular(L, torch.cat([H, rest[..., None]], -1), upper=False)
    H, rest = white[..., :-1], white[..., -1:]
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    s = -((rest * rest).sum((-2, -1)) + log_det + math.log(2 * math.pi) * seen.sum(-1)) / 2
    return Sites((H.mT @ rest)[..., 0], H.mT @ H, s, c)


def centred(H: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A state c with H c near y, without gradient, and y - H c."""
    with torch.no_grad():
        square = H @ H.mT  # (..., M, M)
        size = square.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(H.shape[-2], dtype=H.dtype, device=H.device)
        # any c will do: the ridge makes room for observations that say the same
        ridge = (size * RIDGE).where(size > 0, 1.0)
        back = torch.linalg.solve(square + ridge * eye, H).mT  # (..., S, M)
        c = (back @ y[..., None])[..., 0]
        c = c + (back @ (y - (H @ c[..., None])[..., 0])[..., None])[..., 0]
    return c, y - (H @ c[..., None])[..., 0]
