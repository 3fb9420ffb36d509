"""Nodes and weights of Gauss and Legendre: exact for polynomials of degree 2 n - 1."""

import torch
from torch import Tensor


def gauss_legendre(span: float, n: int) -> tuple[Tensor, Tensor]:
    """(t (n,), w (n,)) with Σ w f(t) ≈ ∫ f over (0, span), in double precision."""
    from scipy.special import roots_legendre  # scipy is slow to load

    x, w = roots_legendre(n)
    return torch.from_numpy(x + 1) * (span / 2), torch.from_numpy(w) * (span / 2)
