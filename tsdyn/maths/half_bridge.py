"""Schrödinger bridges by iterative proportional fitting of drifts, each a Gaussian process regression.

    half bridge: paths of one drift from one end; their drift in reversed time, from the other end, is the next

    b(x, t) = K((x, t), Z) (K(Z, Z) + (σ² / h + 10⁻⁶) I)⁻¹ V,   K(z, z') = exp(-|z - z'|) / h

where Z are the places and times of all paths but their last, and V their increments per step h  [1]. One
Cholesky factorisation of all rows of all paths for each half bridge: O(n³). This is the published method,
kept for comparison; the plans of `transport` give the same bridge without regression, faster and nearer.

References:
    [1] Vargas, Thodoroff, Lamacraft & Lawrence. Solving Schrödinger bridges via maximum likelihood. Entropy 2021.
    [2] Shen, Berlinghieri & Broderick. Multi-marginal Schrödinger bridges with iterative reference
        refinement. AISTATS 2025: the settings.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

JITTER = 1e-6
Drift = Callable[[Tensor, Tensor], Tensor]  # x (N, D), t () -> (N, D)


class Process(NamedTuple):
    """The mean of a Gaussian process with the exponential kernel of length 1 over places and times together."""

    inputs: Tensor  # (n, D + 1)
    weights: Tensor  # (n, D)
    variance: float


class HalfBridges(NamedTuple):
    """Drifts between two snapshots; backward time runs from the later one, from zero too."""

    forward: Process
    backward: Process


def fit(x: Tensor, t: Tensor, velocity: Tensor, sigma: float, step: float) -> Process:
    """The regression of velocity (n, D) on x (n, D) and t (n,), without a prior mean."""
    inputs = torch.cat([x, t[:, None]], 1)
    cov = torch.cdist(inputs, inputs).neg_().exp_().div_(step)
    cov.diagonal().add_(sigma**2 / step + JITTER)
    root = torch.linalg.cholesky(cov)
    return Process(inputs, torch.cholesky_solve(velocity, root), 1 / step)


def mean(process: Process, x: Tensor, t: Tensor) -> Tensor:
    """b at x (N, D) and time t (): (N, D)."""
    at = torch.cat([x, t.expand(len(x), 1)], 1)
    cov = torch.cdist(at, process.inputs).neg_().exp_()
    return process.variance * (cov @ process.weights)


def euler(
    drift: Drift,
    x: Tensor,
    span: float,
    step: float,
    sigma: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Paths of dX = b dt + σ dW from x (N, D): times since the start (S + 1,), X (N, S + 1, D).

    S is the span in steps, rounded up; all steps are equal.
    """
    count = math.ceil(span / step - 1e-9)
    t = torch.linspace(0, span, count + 1, dtype=x.dtype, device=x.device)
    h, paths = span / count, [x]
    for k in range(count):
        kick = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        paths.append(paths[-1] + h * drift(paths[-1], t[k]) + sigma * math.sqrt(h) * kick)
    return t, torch.stack(paths, 1)


def reversed_drift(t: Tensor, paths: Tensor, sigma: float) -> Process:
    """The drift of paths (N, S + 1, D) run backwards, with time since their end."""
    back = paths.flip(1)
    step = float(t[1] - t[0])
    velocity = back.diff(dim=1) / step
    times = t[:-1].expand(len(paths), -1)
    return fit(back[:, :-1].flatten(0, 1), times.flatten(), velocity.flatten(0, 1), sigma, step)


def half_bridges(
    reference: Drift,
    x: Tensor,
    y: Tensor,
    span: float,
    *,
    step: float,
    sigma: float,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> HalfBridges:
    """Forward and backward drift of the bridge from cells x (N, D) to cells y (M, D).

    The reference is seen once, in the first paths; every fit after it falls back to zero, not to the
    reference, where there are no paths.

    Args:
        reference: its drift; the time is since x.
        step: length of an Euler step, at most.
        iterations: pairs of half bridges.
    """
    t, paths = euler(reference, x, span, step, sigma, generator)
    backward = reversed_drift(t, paths, sigma)
    for _ in range(iterations):
        _, paths = euler(along(backward), y, span, step, sigma, generator)
        forward = reversed_drift(t, paths, sigma)
        _, paths = euler(along(forward), x, span, step, sigma, generator)
        backward = reversed_drift(t, paths, sigma)
    return HalfBridges(forward, backward)


def along(process: Process) -> Drift:
    """b of the process as a drift to walk along."""
    return lambda x, t: mean(process, x, t)
