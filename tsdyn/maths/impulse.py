"""The noise that a linear system gathers, from its response to one impulse."""

from collections.abc import Callable

import torch
from scipy.special import roots_legendre
from torch import Tensor

from .blocks import carry

NODES, WEIGHTS = (torch.tensor(f, dtype=torch.float64) / 2 for f in roots_legendre(16))


def gathered(
    response: Callable[[Tensor], Tensor], u: Tensor, short: Tensor, A: Tensor, P: Tensor
) -> Tensor:
    """Q(u) = int_0^u response(s) response(s)' ds = P - A(u) P A(u)': (..., N, S, S).

    Where `short`, by 16 Gauss points: positive by its form, and precise in every entry, however small.
    Elsewhere as the difference, which loses nothing once the past is partly forgotten.

    Args:
        response: times (..., M) -> (..., M, S), of the state to an impulse of the driving white noise.
        u: gaps (..., N).
        short: (..., N), where a polynomial of degree 31 follows the product of responses over (0, u).
        A: (..., N, S, S).
        P: the stationary covariance, broadcast against A.
    """
    span = u.where(short, 0.0)[..., None]  # (..., N, 1)
    at = span * (NODES + 0.5).to(u.device)  # (..., N, 16)
    x = response(at.flatten(-2)).reshape(*at.shape, -1)  # (..., N, 16, S)
    by_points = (x * (span * WEIGHTS.to(u.device))[..., None]).mT @ x
    return torch.where(short[..., None, None], by_points, P - carry(A, P))
