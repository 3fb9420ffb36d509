"""The most likely rates of a Markov jump process that is seen at times, with or without noise, by EM.

    q_cd <- E[N_cd | all that is seen] / E[R_c | all that is seen]

with the expected jumps from c to d and times in c under the present rates. No step lowers the
likelihood; a rate that is zero stays zero, which is how links are left out. With a Gamma prior it climbs
the posterior density.

[1] Bladt & Sørensen. Statistical inference for discretely observed Markov jump processes. JRSS B 67, 2005.
[2] Liu, Li, Li, Song & Rehg. Efficient learning of continuous-time hidden Markov models. NeurIPS 2015.
[3] Hobolth & Jensen. Statistical inference in evolutionary models of DNA sequences via the EM algorithm.
    Statistical Applications in Genetics and Molecular Biology 4, 2005.
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from .emissions import Emission, Gaussian, Misread, fitted, log_densities
from .hidden_jump import clock, smoothed
from .jump_counts import counts, crude_rates
from .jump_likelihood import GammaRates, log_prior, mode, seen_log_likelihood
from .jump_statistics import summed, transitions
from .minimise import minimise
from .rate_matrix import from_rates

E = TypeVar("E", bound=Emission)
State = TypeVar("State")

SPREAD = 12.0  # log rates of a search by gradient stay this near to their mean


class Fit(NamedTuple):
    """Rates and how the search for them went."""

    Q: Tensor  # (n, n)
    jumps: Tensor  # (n, n)  expected in all the data
    values: Tensor  # (steps,)  log likelihood, with a prior log posterior density up to a constant
    converged: bool


class Hidden(NamedTuple, Generic[E]):
    """A Markov jump process and what is seen of it."""

    Q: Tensor  # (n, n)
    first: Tensor  # (n,)  law of the state at the first row
    emission: E


class HiddenFit(NamedTuple, Generic[E]):
    """A hidden process and how the search for it went."""

    chain: Hidden[E]
    jumps: Tensor  # (n, n)  expected in all the data
    values: Tensor  # (steps,)  as those of `Fit`
    converged: bool


F = TypeVar("F", Fit, HiddenFit[Any])


def em(
    gaps: Tensor,
    C: Tensor,
    start: Tensor | None = None,
    prior: GammaRates | None = None,
    tolerance: float = 1e-6,
    steps: int = 10_000,
) -> Fit:
    """Rates from transitions C over gaps, of `counts`: those that are most likely  [1]

    Args:
        gaps: (G,); C: (G, n, n).
        start: (n, n); by default crude rates between all states.
        prior: climbs to the mode of the posterior.
        tolerance: the search ends with a step that gains less than this in log likelihood.
        steps: most steps.

    Raises:
        DataError: D10 without any transition.
        ModelError: M02 where the start makes impossible what was seen.
    """
    _require_transitions(C)

    def step(Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        P = transitions(Q, gaps)
        W = (C / P).where(C > 0, 0.0)
        G = summed(Q, gaps, W)
        return updated_rates(Q, G, prior), _with_prior(seen_log_likelihood(P, C), prior, Q), Q * G

    first = started(gaps, C) if start is None else start
    return Fit(*_climbed(step, first, tolerance, steps))


def hidden_em(
    start: Hidden[E],
    t: Tensor,
    y: Tensor,
    mask: Tensor,
    prior: GammaRates | None = None,
    tolerance: float = 1e-4,
    steps: int = 1000,
    gap_tolerance: float = 1e-6,
) -> HiddenFit[E]:
    """Rates, first law and emission that are most likely, seen through noise  [2]

    Args:
        start: where the search begins; several starts and `best` where there may be several summits.
        t: (B, T) non-decreasing; padding repeats the last time.
        y: (B, T, ...) what the emission reads; mask: (B, T) True where it was observed.
        prior: of the rates.
        tolerance, steps: as in `em`.
        gap_tolerance: gaps that differ by less, relatively, count as one; 1e-3 changes next to nothing
            and saves time where all gaps differ.

    Raises:
        DataError: D11 without any observation.
        ModelError: M02 where the start makes impossible what was seen.
    """
    if not bool(mask.any()):
        raise DataError("D11", "nothing was observed", "at least one observation", "Check the mask")
    rows = clock(t, gap_tolerance)

    def step(chain: Hidden[E]) -> tuple[Hidden[E], Tensor, Tensor]:
        found = smoothed(chain.Q, chain.first, rows, log_densities(chain.emission, y, mask))
        G = summed(chain.Q, rows.gaps, found.W)
        value = _with_prior(found.log_likelihood.sum(), prior, chain.Q)
        emission = fitted(chain.emission, y, mask, found.law)
        new = Hidden(updated_rates(chain.Q, G, prior), found.law[:, 0].mean(0), emission)
        return new, value, chain.Q * G

    return HiddenFit(*_climbed(step, start, tolerance, steps))


def best(fits: Iterable[F]) -> F:
    """The fit of the greatest value, of several starts."""
    return max(fits, key=lambda fit: float(fit.values[-1]))


def refined(
    Q: Tensor, log_likelihood: Callable[[Tensor], Tensor], steps: int = 200
) -> tuple[Tensor, float]:
    """Rates that maximise a function by its gradient, and its value there; zeros stay zero.

    Quicker than EM near the summit and lost far from it: start from a few steps of EM. Log rates are
    held within SPREAD of their mean, where exponentials are finite.

    Args:
        Q: (n, n) the start.
        log_likelihood: a scalar of Q, differentiable; for a posterior add `log_prior`.
        steps: most iterations of L-BFGS-B.
    """
    free = Q > 0
    theta = Q.detach()[free].log()
    middle = theta.mean()
    theta = theta.clamp(middle - SPREAD, middle + SPREAD).requires_grad_()

    def moved() -> Tensor:
        return from_rates(torch.zeros_like(Q.detach()).masked_scatter(free, theta.exp()))

    lower, upper = (torch.full_like(theta, float(middle) + s) for s in (-SPREAD, SPREAD))
    least = minimise(lambda: -log_likelihood(moved()), [theta], [lower], [upper], steps)
    return moved().detach(), -least


def started(gaps: Tensor, C: Tensor, links: Tensor | None = None) -> Tensor:
    """Crude rates, with a tenth of a mean jump added to every pair of states: (n, n)

    Args:
        links: (n, n) False where a rate is held at zero.
    """
    moved = C.sum(0).fill_diagonal_(0.0).sum()
    time = 0.1 * float((gaps * C.sum((-2, -1))).sum() / moved.clamp(min=1))
    Q = crude_rates(gaps, C, 0.1, time)
    return Q if links is None else from_rates(Q.where(links, 0.0))


def misread_start(
    t: Tensor, state: Tensor, mask: Tensor, n: int, error: float = 0.05
) -> Hidden[Misread]:
    """Rates as if no state were misread, slowed down by that share of jumps which misreading explains.

    Args:
        t, state, mask: (B, T); n: number of states.
        error: probability of misreading.
    """
    gaps, C = counts(t, state, mask, n)
    _require_transitions(C)
    jumps = C.sum() - C.diagonal(dim1=-2, dim2=-1).sum()
    # a misread state looks like a jump there and a jump back
    true = (1 - 2 * error * C.sum() / jumps.clamp(min=1)).clamp(min=0.1)
    first = gaps.new_full((n,), 1 / n)
    emission = Misread(gaps.new_tensor(error), n)
    return Hidden(started(gaps, C) * true, first, emission)


def gaussian_start(
    t: Tensor, y: Tensor, mask: Tensor, n: int, generator: torch.Generator | None = None
) -> Hidden[Gaussian]:
    """Clusters of the observations as states, and crude rates between them; random, so try several.

    Centres are drawn far apart (k-means++) and moved to the means of their clusters. Covariances are
    that of the clusters together; none falls below 1e-6 of the least variance of y.

    Args:
        t, mask: (B, T); y: (B, T, D).
    """
    seen = y[mask].double()
    mean = _centres(seen, n, generator)
    for _ in range(10):
        near = torch.cdist(seen, mean).argmin(-1)
        one = torch.nn.functional.one_hot(near, n).to(seen.dtype)
        size = one.sum(0)[:, None]
        mean = torch.where(size > 0, one.mT @ seen / size.clamp(min=1), mean)
    apart = seen - mean[near]
    floor = 1e-6 * float(seen.var(0).min())
    least = floor * torch.eye(seen.shape[-1], dtype=seen.dtype, device=seen.device)
    covariance = apart.mT @ apart / len(seen) + least
    states = torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, near)
    gaps, C = counts(t, states, mask, n)
    first = torch.full_like(mean[:, 0], 1 / n)
    emission = Gaussian(mean, covariance.expand(n, -1, -1), floor)
    return Hidden(started(gaps, C), first, emission)


def updated_rates(Q: Tensor, G: Tensor, prior: GammaRates | None) -> Tensor:
    """q_cd G_cd / G_cc, or the mode of the posterior with these expected jumps and times  [1]"""
    jumps, time = Q * G, G.diagonal()
    if prior is not None:
        found = mode(GammaRates(prior.shape + jumps, prior.rate + time))
        return from_rates(found.where(Q > 0, 0.0))
    # a state where no time is spent keeps its rates
    return from_rates(torch.where(time[:, None] > 0, jumps / time[:, None], Q))


def _climbed(
    step: Callable[[State], tuple[State, Tensor, Tensor]],
    state: State,
    tolerance: float,
    steps: int,
) -> tuple[State, Tensor, Tensor, bool]:
    """The last state whose value is known, its expected jumps, all values, whether the climb ended."""
    values: list[Tensor] = []
    for _ in range(steps):
        new, value, jumps = step(state)
        _require_possible(value, len(values))
        values.append(value)
        if len(values) > 1 and float(value - values[-2]) < tolerance:
            return state, jumps, torch.stack(values), True
        last, state = state, new
    return last, jumps, torch.stack(values), False


def _with_prior(value: Tensor, prior: GammaRates | None, Q: Tensor) -> Tensor:
    return value if prior is None else value + log_prior(prior, Q)


def _centres(seen: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Observations that are drawn in proportion to their squared distance from those drawn before."""
    chance = torch.ones_like(seen[:, 0])
    rows: list[Tensor] = []
    for _ in range(n):
        rows.append(seen[torch.multinomial(chance, 1, generator=generator)])
        distance = torch.cdist(seen, torch.cat(rows)).amin(-1).square()
        chance = distance.where(distance.sum() > 0, torch.ones_like(distance))
    return torch.cat(rows)


def _require_transitions(C: Tensor) -> None:
    if not bool(C.sum() > 0):
        raise DataError(
            "D10",
            "no path was seen twice",
            "paths with at least two observations",
            "Add observations, or take the rates from a prior",
        )


def _require_possible(value: Tensor, done: int) -> None:
    if not bool(value.isfinite()):
        raise ModelError(
            "M02",
            f"the log likelihood is {value.item()} after {done} steps",
            "rates under which what was seen is possible",
            "Start from rates that link more states, or allow for states that are misread",
        )
