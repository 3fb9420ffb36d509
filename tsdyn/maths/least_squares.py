"""Least squares in a few numbers θ, from sums over any number of rows.

    θ = argmin Σ_p w_p |y_p - Φ_p θ|²,   G = Σ w Φᵀ Φ (F, F),   r = Σ w Φᵀ y (F, R): G θ = r

Sums are of squares, so that of singular values of Φ which differ by more than 10⁶ the smaller is lost.

[1] Golub & Pereyra. The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate. SIAM Journal on Numerical Analysis 10, 1973.
[2] Marquardt. An algorithm for least-squares estimation of nonlinear parameters. Journal of the SIAM 11,
    1963.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError

SMALLEST = 1e-12  # share of the largest eigenvalue of G below which rounding decides


class Expansion(NamedTuple):
    """Σ w ρ(θ + δ)² = loss + 2 slopeᵀ δ + δᵀ gram δ, with ρ linear in δ as Gauss and Newton have it."""

    loss: Tensor  # ()  Σ w ρ²
    slope: Tensor  # (F,)  Σ w Jᵀ ρ, with J = dρ / dθ
    gram: Tensor  # (F, F)  Σ w Jᵀ J


def ridge_solution(gram: Tensor, right: Tensor, ridge: float = 0.0) -> Tensor:
    """(G + ridge · diagonal of G) θ = r, for r (F, R): (F, R).

    Where G leaves directions open, the θ that is zero along them, each coordinate in units of its 1 / √G_kk.
    """
    scale, values, vectors = scaled_eigh(gram)
    kept = values > SMALLEST * values.amax() if len(values) else values > 0
    inverse = (values + ridge).reciprocal().where(kept, 0.0)
    found: Tensor = vectors @ (inverse[:, None] * (vectors.mT @ (scale[:, None] * right)))
    return scale[:, None] * found


def scaled_eigh(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s (F,), and eigenvalues (F,) and vectors (F, F) of s G s, whose diagonal is one, or zero where that of G is."""
    diagonal = gram.diagonal()
    scale = diagonal.rsqrt().where(diagonal > 0, 0.0)
    values, vectors = torch.linalg.eigh(scale[:, None] * gram * scale)
    return scale, values, vectors


def not_negative(gram: Tensor, right: Tensor) -> Tensor:
    """argmin θᵀ G θ / 2 - rᵀ θ over θ >= 0, for r (F,): the best of all choices of what is zero, for F up to ten."""
    best, least = torch.zeros_like(right), 0.0
    for choice in itertools.product((False, True), repeat=len(right)):
        kept = torch.tensor(choice, device=right.device)
        theta = torch.zeros_like(right)
        theta[kept] = ridge_solution(gram[kept][:, kept], right[kept, None])[:, 0]
        value = float(theta @ gram @ theta / 2 - right @ theta)
        if value < least and bool((theta >= 0).all()):
            best, least = theta, value
    return best


def levenberg_marquardt(
    expand: Callable[[Tensor], Expansion],
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    steps: int = 100,
) -> tuple[Tensor, float]:
    """A local minimum θ (F,) of a sum of squares between bounds, and the sum there  [2]

    Steps solve (G + λ · diagonal of G) δ = -slope; λ falls with every step that lowers the sum and grows with
    every one that does not, also where the sum is not finite. Of coordinates at a bound only those move that
    move inside. The search ends where neither θ nor the sum changes by more than rounding does.

    Args:
        expand: θ (F,) -> the sum of squares about it.
        start: (F,), between lower and upper (F,), which may be infinite.

    Raises:
        ModelError: M02 if the sum is not finite at the start.
    """
    theta, damping = start.clamp(lower, upper), 1e-3
    now = expand(theta)
    if not _finite(now):
        raise ModelError(
            "M02",
            f"the sum of squares is {now.loss.item()} at {[round(s, 6) for s in start.tolist()]}",
            "a finite value where the search starts",
            "Start from other parameters, or look for infinite values among the data",
        )
    for _ in range(steps):
        moved = (theta - _step(now, theta, lower, upper, damping)).clamp(lower, upper)
        size = float((moved - theta).abs().max() / (1 + theta.abs().max()))
        if size <= 1e-12:
            break
        ahead = expand(moved)
        if not (_finite(ahead) and bool(ahead.loss < now.loss)):
            damping *= 10
            continue
        settled = bool(now.loss - ahead.loss <= 1e-13 * now.loss)
        theta, now, damping = moved, ahead, max(damping / 10, 1e-15)
        if settled:
            break
    return theta, float(now.loss)


def _finite(found: Expansion) -> bool:
    return all(bool(f.isfinite().all()) for f in found)


def _step(now: Expansion, theta: Tensor, lower: Tensor, upper: Tensor, damping: float) -> Tensor:
    held = ((theta <= lower) & (now.slope > 0)) | ((theta >= upper) & (now.slope < 0))
    slope = now.slope.masked_fill(held, 0.0)
    gram = now.gram.masked_fill(held[:, None] | held, 0.0)
    return ridge_solution(gram, slope[:, None], damping)[:, 0]
