"""What fractional Brownian motion keeps of the time before zero: a few smooth random curves.

    G(t) = 1/Γ(α) ∫_0^∞ [(t + v)^{α-1} - v^{α-1}] dV(v),   α = H + 1/2,   V a Brownian motion

A fractional Brownian motion with stationary increments is one of Riemann and Liouville plus an
independent G  [1]. G is smooth behind zero, so that the first functions of its Karhunen-Loève expansion
over (0, T) hold nearly all of it: G(t) ≈ Σ_m φ_m(t) ξ_m with ξ ~ N(0, 1).

The integral over log v is a trapezoid, with steps that widen to both sides as the integrand decays.
Everything is differentiable in H any number of times, also at H = 1/2, where G vanishes.

[1] Mandelbrot & van Ness. Fractional Brownian motions, fractional noises and applications. SIAM Review 10, 1968.
[2] Berrut & Trefethen. Barycentric Lagrange interpolation. SIAM Review 46, 2004.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .quadrature import gauss_legendre

STEP, WIDEST = 0.1, 6.6  # log v = sinh(u), |u| < 6.6: up to e^±367
TABLE = 96  # times of a table that many times share
EARLIEST = 1e-12  # of them, in the largest
NODES = 32  # in time, cubed: dense near zero, where G behaves like t^H


class Past(NamedTuple):
    """φ(t) = `modes(past, t)`, of the times in units of the horizon."""

    hurst: Tensor  # (...)
    basis: Tensor  # (..., Q, M)  orthonormal columns, in the space of the increments of V
    error: Tensor  # (...)  ∫_0^1 E(G - Σ φ ξ)² dt


def past(hurst: Tensor, count: int) -> Past:
    """The first `count` functions of Karhunen and Loève over (0, 1), for indices (...)."""
    x, w = gauss_legendre(1.0, NODES)
    t, w = (x**3).to(hurst.device), (3 * x**2 * w).to(hurst.device)
    curves = w.sqrt()[:, None] * _curves(hurst[..., None], t)  # (..., NODES, Q)
    variances, times = torch.linalg.eigh(curves @ curves.mT)
    kept, times = variances[..., -count:], times[..., -count:].flip(-1)
    # an eigenvector has no sign of its own; without one, paths would jump as H moves. None ends on zero
    times = times * torch.sign(times[..., -1:, :]).detach()
    basis = curves.mT @ times / kept.flip(-1).sqrt()[..., None, :]
    left = curves.square().sum((-2, -1)) - kept.sum(-1)
    return Past(hurst, basis, _scale(hurst).square() * left.clamp(min=0.0))


def modes(past: Past, t: Tensor) -> Tensor:
    """φ_1(t), ..., φ_M(t): (..., M) for times that broadcast with the indices; zero at t = 0.

    Many times share a table: in log t the curves are smooth, and Chebyshev's interpolation of them is exact to about 1e-10 of
    their size; below the first time of the table they are as t^{2H}, or as t for
    H > 1/2.
    """
    shared = all(size == 1 for size in t.shape[max(t.ndim - past.hurst.ndim, 0) :])
    if t.numel() <= 2 * TABLE or (past.hurst.ndim and not shared):  # an index of its own for a time
        return _modes(past, t)
    high = t.amax().clamp(min=torch.finfo(torch.float64).tiny)
    low = high * EARLIEST
    k = torch.arange(TABLE, dtype=torch.float64, device=t.device)
    node = torch.cos((k + 0.5) * (math.pi / TABLE))
    place = high * torch.exp((node - 1) / 2 * -math.log(EARLIEST))  # (TABLE,)
    table = _modes(
        past._replace(hurst=past.hurst[..., None], basis=past.basis[..., None, :, :]), place
    )
    x = 1 - 2 * torch.log(high / t.clamp(min=low)) / -math.log(EARLIEST)
    found = (_barycentric(x, node)[..., None, :] @ table)[..., 0, :]
    early = (t / low).clamp(max=1.0) ** (2 * past.hurst).clamp(max=1.0)
    return found * early[..., None]


def _modes(past: Past, t: Tensor) -> Tensor:
    curves = _curves(past.hurst, t)  # (..., Q)
    return _scale(past.hurst)[..., None] * (curves[..., None, :] @ past.basis)[..., 0, :]


def _barycentric(x: Tensor, node: Tensor) -> Tensor:
    """Weights of Chebyshev's nodes (n,) at x (...): (..., n), of sum one  [2]"""
    n = len(node)
    k = torch.arange(n, dtype=node.dtype, device=node.device)
    own = (1 - 2 * (k % 2)) * torch.sin((k + 0.5) * (math.pi / n))
    apart = x[..., None] - node
    hit = apart == 0
    weight = torch.where(hit.any(-1, keepdim=True), hit.to(x), own / apart.where(~hit, 1.0))
    return weight / weight.sum(-1, keepdim=True)


def _scale(hurst: Tensor) -> Tensor:
    """(H - 1/2) / Γ(H + 1/2), which `_curves` leaves out: they stay apart at H = 1/2."""
    return (hurst - 0.5) * torch.exp(-torch.lgamma(hurst + 0.5))


def _curves(hurst: Tensor, t: Tensor) -> Tensor:
    """√(dv) [(t + v)^{α-1} - v^{α-1}] / (α - 1) at all nodes v: (...) -> (..., Q)

    With l = log v and r = log(1 + t / v) that is e^{H l} r (e^{(α-1) r} - 1) / ((α - 1) r) √(dl).
    """
    u = torch.arange(-WIDEST, WIDEST + STEP / 2, STEP, dtype=torch.float64, device=hurst.device)
    log_v = torch.sinh(u)
    r = torch.log1p(t[..., None] * torch.exp(-log_v))
    power = torch.exp(hurst[..., None] * log_v) * (STEP * torch.cosh(u)).sqrt()
    return power * r * _growth((hurst[..., None] - 0.5) * r)


def _growth(y: Tensor) -> Tensor:
    """(e^y - 1) / y, and 1 at y = 0."""
    near = y.abs() < 0.5
    small = y.where(near, 0.0)
    series = torch.ones_like(y)
    for n in range(16, 0, -1):
        series = 1 + small * series / (n + 1)
    return torch.where(near, series, torch.expm1(y) / y.where(~near, 1.0))
