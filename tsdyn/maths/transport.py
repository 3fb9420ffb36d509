"""Entropic optimal transport between weighted points, by Sinkhorn's iteration.

    min_P  Σ P_ij C_ij + ε KL(P | a bᵀ) + λ_a KL(P 1 | a) + λ_b KL(Pᵀ 1 | b),   λ = ε τ / (1 - τ)

    P_ij = a_i b_j exp((f_i + g_j - C_ij) / ε)
    f_i = -ε τ_a log Σ_j b_j exp((g_j - C_ij) / ε),   g_j = -ε τ_b log Σ_i a_i exp((f_i - C_ij) / ε)

With τ = 1 a marginal is kept exactly; below one, mass may be made and lost at the price λ per unit of
relative entropy  [3]. KL counts mass: KL(p | q) = Σ p log(p / q) - p + q. To compare with another
measure than a bᵀ, add ε log(a_i / ρ_i) to the costs of the i-th source; likewise for targets. That
matters only where mass is not kept.

The plan is never stored: a `Coupling` holds the duals. Costs are computed anew, a few rows at a time,
unless exp((f + g - C) / ε) fits into `memory`: then it is kept, and an iteration is two products of
a matrix and a vector until the duals have moved far from where it was made  [2].

[1] Cuturi. Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS 2013.
[2] Schmitzer. Stabilized sparse scaling algorithms for entropy regularized transport problems. SIAM
    Journal on Scientific Computing 41, 2019: absorption of the scalings, scaling of ε.
[3] Chizat, Peyré, Schmitzer & Vialard. Scaling algorithms for unbalanced optimal transport problems.
    Mathematics of Computation 87, 2018.
"""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from . import cost as costs
from .anderson import Anderson
from .cost import Cost

MEMORY = 256e6


class Coupling(NamedTuple):
    """P_ij = a_i b_j exp((f_i + g_j - C_ij) / ε), known by its duals."""

    cost: Cost
    a: Tensor  # (..., N)
    b: Tensor  # (..., M)
    f: Tensor  # (..., N)  in units of the cost; zero where a is
    g: Tensor  # (..., M)  zero where b is
    epsilon: float
    tau: tuple[float, float]
    error: Tensor  # (...)  Σ_j |column sum of P - what it should be| / Σ_j b_j
    iterations: int


class _Problem(NamedTuple):
    cost: Cost
    a: Tensor
    b: Tensor
    epsilon: float
    tau: tuple[float, float]


class _Kernel(NamedTuple):
    """K = exp((f + g - C) / ε) where the duals were when it was made."""

    values: Tensor  # (..., N, M)
    f: Tensor
    g: Tensor


class _Half(NamedTuple):
    """What follows from g."""

    f: Tensor  # (..., N)  the best for g
    log: Tensor  # (..., M)  log Σ_i a_i exp((f_i - C_ij) / ε)


def sinkhorn(
    cost: Cost,
    a: Tensor | None = None,
    b: Tensor | None = None,
    epsilon: float = 1.0,
    *,
    tau: tuple[float, float] = (1.0, 1.0),
    start: Tensor | None = None,
    tolerance: float = 1e-4,
    steps: int = 10_000,
    shrink: float = 0.25,
    memory: float = MEMORY,
    dtype: torch.dtype = torch.float64,
) -> Coupling:
    """The optimal plan of every problem, to an error of the marginals of `tolerance`.

    Args:
        cost: of (..., N, M); problems side by side are iterated until the last one is done.
        a, b: weights (..., N) and (..., M), zero for padding; None is 1 / N and 1 / M. Their sums are
            equal where both marginals are kept.
        epsilon: in units of the cost.
        tau: (τ_a, τ_b) in (0, 1].
        start: g (..., M) of a similar problem; else ε comes down from the mean cost in steps.
        tolerance: of `Coupling.error`. The other marginal is exact.
        steps: most iterations for each ε; a warning tells where they do not suffice.
        shrink: factor between one ε and the next, in (0, 1).
        memory: bytes that exp((f + g - C) / ε) may take.
        dtype: of all numbers inside; single precision halves time and memory, and reaches an error of
            about 1e-5.

    Raises:
        DataError: D14 where weights are negative, empty or of different sums.
    """
    problem = _checked(cost, a, b, epsilon, tau, dtype)
    g = torch.zeros_like(problem.b) if start is None else start.to(problem.b)
    iterations = 0
    for stage in _stages(problem, shrink) if start is None else [epsilon]:
        last = stage == epsilon
        own = problem._replace(epsilon=stage, tau=_at(stage, epsilon, tau))
        half, g, error, used = _iterate(own, g, tolerance if last else 0.03, steps, memory)
        iterations += used
    late = error > tolerance
    if bool(late.any()):
        _report(error, late, tolerance, steps)
    g = g.where(problem.b > 0, 0.0)
    return Coupling(problem.cost, problem.a, problem.b, half.f, g, epsilon, tau, error, iterations)


def _checked(
    cost: Cost,
    a: Tensor | None,
    b: Tensor | None,
    epsilon: float,
    tau: tuple[float, float],
    dtype: torch.dtype,
) -> _Problem:
    lead, n, m = costs.size(cost)
    like = cost[0].detach()
    a = like.new_full((*lead, n), 1 / n, dtype=dtype) if a is None else a.detach().to(dtype)
    b = like.new_full((*lead, m), 1 / m, dtype=dtype) if b is None else b.detach().to(dtype)
    for name, weights in (("sources", a), ("targets", b)):
        if not bool((weights >= 0).all() & (weights.sum(-1) > 0).all()):
            raise DataError(
                "D14",
                f"weights of {name} are negative, not a number or all zero",
                "weights of at least zero, one of them positive in every problem",
                "Give padding the weight zero and leave problems without points out",
            )
    if tau == (1.0, 1.0) and not torch.allclose(a.sum(-1), b.sum(-1), rtol=1e-5, atol=0.0):
        gap = float((a.sum(-1) / b.sum(-1) - 1).abs().max())
        raise DataError(
            "D14",
            f"weights of sources and targets have sums that differ by up to {gap:.2%}",
            "equal sums, because both marginals are kept",
            "Divide each by its sum, or let mass be made and lost: tau below one",
        )
    kept = costs.only(costs.cast(cost, dtype), a > 0, b > 0)
    return _Problem(type(kept)(*(part.detach() for part in kept)), a, b, epsilon, tau)


def _stages(problem: _Problem, shrink: float) -> list[float]:
    """Decreasing ε from the mean cost of independent pairs down to the one that is wanted."""
    a, b = (w / w.sum(-1, keepdim=True) for w in (problem.a, problem.b))
    level = costs.mean(problem.cost, a, b).abs().max().item()
    count = math.ceil(math.log(max(level / problem.epsilon, 1.0)) / -math.log(shrink))
    return [problem.epsilon * shrink**-k for k in range(count, -1, -1)]


def _at(stage: float, epsilon: float, tau: tuple[float, float]) -> tuple[float, float]:
    """The exponents of the same λ at another ε: λ / (λ + ε)."""
    first, second = (t * epsilon / (t * epsilon + (1 - t) * stage) for t in tau)
    return first, second


def _report(error: Tensor, late: Tensor, tolerance: float, steps: int) -> None:
    stopped = ModelError(
        "M06",
        f"transport stopped after {steps} iterations with {int(late.sum())} of {late.numel()} "
        f"problems at an error of their marginals of up to {float(error.max()):.1e}",
        f"at most {tolerance:.1e}",
        "Allow more `steps`, a larger `epsilon` or a larger `tolerance`",
    )
    warnings.warn(str(stopped), stacklevel=3)


def _iterate(
    problem: _Problem, g: Tensor, tolerance: float, steps: int, memory: float
) -> tuple[_Half, Tensor, Tensor, int]:
    """g until its marginal fits: (what follows from g, g, error, number of iterations)."""
    kernel, anderson = None, Anderson(problem.b)
    small = problem.a.numel() * problem.b.shape[-1] * problem.a.element_size() <= memory
    for step in range(1, steps + 1):
        quick = None if kernel is None else _scaled(problem, kernel, g)
        kernel = None if quick is None else kernel
        half = quick or _streamed(problem, g)
        proposal = (-problem.epsilon * problem.tau[1] * half.log).where(problem.b > 0, 0.0)
        error = _error(problem, g, proposal)
        if step == steps or bool((error <= tolerance).all()):
            break
        following = anderson.mix(g, proposal, error)
        if kernel is None and small and _drift(problem, following - g) < 0.5:
            kernel = _kernel(problem, half.f, g)
        g = following
    return half, g, error, step


def _error(problem: _Problem, g: Tensor, proposal: Tensor) -> Tensor:
    """Σ_j |column sum - b_j exp(-g_j / λ)| / Σ_j b_j: at the optimum the two are equal."""
    tau = problem.tau[1]
    wanted = torch.exp(-g * (1 - tau) / (tau * problem.epsilon))
    found = torch.exp((g - proposal / tau) / problem.epsilon)
    return (problem.b * (found - wanted).abs()).sum(-1) / problem.b.sum(-1)


def _streamed(problem: _Problem, g: Tensor) -> _Half:
    """Both half steps in one pass over the rows of C: every number is exponentiated once."""
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    there = g.where(b > 0, -torch.inf)[..., None, :]
    f, column = torch.empty_like(a), torch.zeros_like(b)
    for start, stop in costs.stretches(problem.cost):
        part = costs.matrix(costs.rows(problem.cost, start, stop))
        scores = (there - part).div_(epsilon)
        top = scores.amax(-1, keepdim=True)
        _exp(scores.sub_(top))
        log = (scores @ b[..., None]).log() + top  # (..., rows, 1)
        own = a[..., start:stop, None]
        dual = (-epsilon * problem.tau[0] * log).where(own > 0, 0.0)
        f[..., start:stop] = dual[..., 0]
        weight = (own.log() + dual / epsilon + top).exp()
        column += (weight.mT @ scores)[..., 0, :]
    if _lost(column, b):
        return _Half(f, _log_sums(costs.transposed(problem.cost), f, a, epsilon))
    return _Half(f, column.log() - g / epsilon)


def _log_sums(cost: Cost, dual: Tensor, weights: Tensor, epsilon: float) -> Tensor:
    """log Σ_j w_j exp((dual_j - C_ij) / ε) for every row i, whatever the size of the terms."""
    there = (dual / epsilon + weights.log())[..., None, :]
    return torch.cat(
        [
            (there - costs.matrix(costs.rows(cost, start, stop)) / epsilon).logsumexp(-1)
            for start, stop in costs.stretches(cost)
        ],
        -1,
    )


def _lost(sums: Tensor, weights: Tensor) -> bool:
    """Whether a sum was too small or too large for its precision."""
    limits = torch.finfo(sums.dtype)
    fine = (sums > limits.tiny / limits.eps) & (sums < limits.max * limits.eps)
    return not bool((fine | (weights == 0)).all())


def _exp(x: Tensor) -> Tensor:
    """exp in place, with zero for what is too small to be a normal number: those are slow to work with."""
    least = math.log(torch.finfo(x.dtype).tiny)
    return torch.nn.functional.threshold(x, least, -math.inf, inplace=True).exp_()


def _kernel(problem: _Problem, f: Tensor, g: Tensor) -> _Kernel:
    """K at (f, g), zero at padding, filled by rows so that no second matrix is needed."""
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    high = f.where(a > 0, -torch.inf)[..., None] / epsilon
    wide = g.where(b > 0, -torch.inf)[..., None, :] / epsilon
    values = a.new_empty((*a.shape, b.shape[-1]))
    for start, stop in costs.stretches(problem.cost):
        part = costs.matrix(costs.rows(problem.cost, start, stop))
        filled = values[..., start:stop, :]
        _exp(torch.add(high[..., start:stop, :], wide, out=filled).sub_(part / epsilon))
    return _Kernel(values, f, g)


def _scaled(problem: _Problem, kernel: _Kernel, g: Tensor) -> _Half | None:
    """Both half steps by K; None where the duals are too far from its own."""
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    if _drift(problem, g - kernel.g) > 1:
        return None
    right = b * ((g - kernel.g) / epsilon).exp()
    row = (kernel.values @ right[..., None])[..., 0]
    f = (-problem.tau[0] * (epsilon * row.log() - kernel.f)).where(a > 0, 0.0)
    if _lost(row, a) or _drift(problem, f - kernel.f) > 1:
        return None
    left = a * ((f - kernel.f) / epsilon).exp()
    column = (left[..., None, :] @ kernel.values)[..., 0, :]
    return None if _lost(column, b) else _Half(f, column.log() - kernel.g / epsilon)


def _drift(problem: _Problem, change: Tensor) -> float:
    """How far duals have moved, as a share of what the precision allows: e^±20 in single, e^±160 in double."""
    allowed = -math.log(torch.finfo(change.dtype).tiny) * 0.23 * problem.epsilon
    return float(change.abs().max()) / allowed
