"""How likely the rates of a Markov chain are: from complete paths, and from states seen at times.

    complete:  log L = Σ_{i≠j} (N_ij log q_ij - q_ij R_i)   N_ij jumps, R_i time spent in i
    seen at times:  log L = Σ_g Σ_ij C^g_ij log [exp(Q g)]_ij   C^g_ij transitions over gaps g  [1]

both given the first states. Rates are per time, Q_ij from i to j, and rows of Q sum to zero. Errors are
those of log rates, so that an interval of a rate holds no negative ones.

[1] Kalbfleisch & Lawless. The analysis of panel data under a Markov assumption. JASA 80, 1985.
[2] Albert. Estimating the infinitesimal generator of a continuous time, finite state Markov process.
    Annals of Mathematical Statistics 33, 1962: complete paths.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from .jump_statistics import uniformised, uniformised_transition
from .rate_matrix import from_rates, transition

LEAST_EIGENVALUE = 1e-12  # of the information, scaled to a unit diagonal: rounding below
FEWEST_JUMPS = 1e-2  # expected in all the data: a rate of fewer is on the boundary


class GammaRates(NamedTuple):
    """Independent rates q_ij ~ Gamma(shape_ij, rate_i), which stay so when complete paths are seen."""

    shape: Tensor  # (..., n, n)  the diagonal is not read
    rate: Tensor  # (..., n)  a time


class Information(NamedTuple):
    """Minus the second derivatives of log L in the log rates, or their mean."""

    free: Tensor  # (n, n)  True for the K rates that are meant, in the order of rows
    matrix: Tensor  # (K, K)


def complete_log_likelihood(Q: Tensor, N: Tensor, R: Tensor) -> Tensor:
    """Σ_{i≠j} (N_ij log q_ij - q_ij R_i): (...)  [2]

    Args (here and below):
        Q: (..., n, n); N: (..., n, n) jumps, its diagonal is not read; R: (..., n) holding times.
    """
    off = _off_diagonal(Q)
    jumps = _times_log(N.where(off, 0.0), Q).sum((-2, -1))
    return jumps + (Q.diagonal(dim1=-2, dim2=-1) * R).sum(-1)


def complete_rates(N: Tensor, R: Tensor) -> Tensor:
    """The most likely rates q_ij = N_ij / R_i: (..., n, n)  [2]

    Raises:
        DataError: D10 for a state in which no time was spent.
    """
    if not bool((R > 0).all()):
        state = int((R <= 0).nonzero()[0, -1])
        raise DataError(
            "D10",
            f"no time was spent in state {state}",
            "paths that visit every state",
            "Leave the state out, or use `posterior`, which has a prior for it",
        )
    return from_rates(N / R[..., None])


def complete_errors(N: Tensor, R: Tensor) -> Tensor:
    """Standard errors √N_ij / R_i of `complete_rates`: (..., n, n); not a number on the diagonal."""
    return (N.sqrt() / R[..., None]).where(_off_diagonal(N), torch.nan)


def posterior(prior: GammaRates, N: Tensor, R: Tensor) -> GammaRates:
    """q_ij | N, R ~ Gamma(shape_ij + N_ij, rate_i + R_i)"""
    return GammaRates(prior.shape + N, prior.rate + R)


def mean(rates: GammaRates) -> Tensor:
    """Q of the mean rates, shape / rate: (..., n, n)"""
    return from_rates(rates.shape / rates.rate[..., None])


def mode(rates: GammaRates) -> Tensor:
    """Q of the most likely rates, (shape - 1) / rate and zero for shapes below one: (..., n, n)"""
    return from_rates((rates.shape - 1).clamp(min=0) / rates.rate[..., None])


def draw(rates: GammaRates, draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws of Q: (draws, ..., n, n)"""
    shape = rates.shape.where(_off_diagonal(rates.shape), 1.0)
    unit = torch._standard_gamma(shape.expand(draws, *shape.shape), generator)
    return from_rates(unit / rates.rate[..., None])


def log_prior(prior: GammaRates, Q: Tensor) -> Tensor:
    """Σ ((shape_ij - 1) log q_ij - rate_i q_ij) over the positive rates, up to a constant: (...)"""
    shape = (prior.shape - 1).where(_off_diagonal(Q) & (Q > 0), 0.0)
    held = prior.rate.expand(Q.shape[:-1])
    return _times_log(shape, Q).sum((-2, -1)) + (Q.diagonal(dim1=-2, dim2=-1) * held).sum(-1)


def log_likelihood(Q: Tensor, gaps: Tensor, C: Tensor) -> Tensor:
    """Σ_g Σ_ij C^g_ij log [exp(Q g)]_ij, differentiable: ()  [1]

    Minus infinity where something was seen that Q makes impossible.

    Args (here and below):
        Q: (n, n); gaps: (G,) positive; C: (G, n, n), of `counts`.
    """
    return seen_log_likelihood(transition(Q, gaps), C)


def seen_log_likelihood(P: Tensor, C: Tensor) -> Tensor:
    """Σ_g Σ_ij C^g_ij log P^g_ij for P^g = exp(Q g), both (G, n, n): ()"""
    return _times_log(C, P).sum()


def observed_information(
    log_likelihood: Callable[..., Tensor],
    Q: Tensor,
    free: Tensor,
    others: Tensor | None = None,
) -> Information:
    """-d²/dθ² log L at the most likely rates, θ = log q of the free ones.

    With other unknowns φ it is what is left when those are unknown too: I_θθ - I_θφ I_φφ⁻¹ I_φθ.

    Args:
        log_likelihood: a scalar of Q, or of Q and φ, twice differentiable.
        free: (n, n) True for the rates that vary; the others stay as they are.
        others: φ (M,) at its most likely value, inside of its range.
    """
    count = int(free.sum())
    phi = Q.new_zeros(0) if others is None else others.detach().to(Q)
    at = torch.cat([Q.detach()[free].log(), phi]).requires_grad_()
    with torch.enable_grad():
        rates = from_rates(Q.detach().masked_scatter(free, at[:count].exp()))
        value = log_likelihood(rates) if others is None else log_likelihood(rates, at[count:])
        (slope,) = torch.autograd.grad(value, at, create_graph=True)
    whole = -torch.stack([torch.autograd.grad(s, at, retain_graph=True)[0] for s in slope])
    own, cross, rest = whole[:count, :count], whole[:count, count:], whole[count:, count:]
    return Information(free, own - cross @ torch.linalg.solve(rest, cross.mT))


def expected_information(Q: Tensor, gaps: Tensor, C: Tensor, free: Tensor) -> Information:
    """Σ_g Σ_i C^g_i· Σ_j (dP_ij / dθ)(dP_ij / dθ)' / P_ij: that of data from the same states and gaps  [1]

    Never indefinite. By dP_ab / dlog q_cd = q_cd (I_abcd - I_abcc) with the integrals of `between`.
    """
    n = len(Q)
    ends = torch.eye(n * n, dtype=Q.dtype, device=Q.device).view(n, n, n, n)
    I = uniformised(Q, gaps[:, None, None], ends)  # (G, n, n, n, n)
    slope = (Q * (I - I.diagonal(dim1=-2, dim2=-1)[..., None]))[..., free]  # (G, n, n, K)
    P = uniformised_transition(Q, gaps)
    weight = (C.sum(-1, keepdim=True) / P).where(P > 0, 0.0)
    return Information(free, torch.einsum("gab,gabk,gabl->kl", weight, slope, slope))


def standard_errors(Q: Tensor, information: Information) -> Tensor:
    """q_ij √[information⁻¹]_ij,ij: (n, n); not a number for rates that are not free.

    Raises:
        ModelError: M04 where the data do not tell the rates apart.
    """
    scale = information.matrix.diagonal().clamp(min=1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * information.matrix * scale)
    if not bool((values > LEAST_EIGENVALUE).all()):
        raise ModelError(
            "M04",
            "the information about the rates is not positive definite",
            "rates at their most likely values, that the data tell apart",
            "Fit to the end, hold some rates at zero, or shorten the gaps between observations",
        )
    errors = (vectors.square() / values).sum(-1).sqrt() * scale * Q[information.free]
    return torch.full_like(Q, torch.nan).masked_scatter(information.free, errors)


def inner(Q: Tensor, jumps: Tensor) -> Tensor:
    """Rates with expected jumps (n, n) enough to have an error, off the boundary at zero: (n, n)"""
    return _off_diagonal(Q) & (Q > 0) & (jumps >= FEWEST_JUMPS)


def _off_diagonal(Q: Tensor) -> Tensor:
    return ~torch.eye(Q.shape[-1], dtype=torch.bool, device=Q.device)


def _times_log(count: Tensor, p: Tensor) -> Tensor:
    """count log p, zero where the count is, with gradients that are zero there too."""
    used = count != 0
    return count * p.clamp(min=0).where(used, 1.0).log()
