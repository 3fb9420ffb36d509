"""Draws from the posterior of a Markov jump process that is seen at any times: rates, noise and whole paths.

    path | Q, y:   ticks of rate r > max |Q_ii| in the path, those that move and others that do not;
                   states between ticks by the chain M = 1 + Q / r, given what is seen there  [1]
    Q | path:      q_ij ~ Gamma(shape_ij + N_ij, rate_i + R_i)   N_ij jumps, R_i time spent in i

in turn. Given a path, moves of its ticks are lost but their times are not, and ticks that do not move
come anew at the rate r - |Q_ii| of the state i in which they fall; so no exponential of a matrix is
needed, and no draw is thrown away. Series stand side by side; loops run over ticks.

[1] Rao & Teh. Fast MCMC sampling for Markov jump processes and extensions. JMLR 14, 2013.
[2] Gelman et al. Bayesian data analysis. 3rd edition, 2013: conjugate laws (3.6), of means and
    covariances; effective sizes (11.5).
[3] Geyer. Practical Markov chain Monte Carlo. Statistical Science 7, 1992.
"""

from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ModelError
from .draws import choose, poisson, uniform
from .emissions import Categorical, Emission, Gaussian, Misread, log_densities
from .hidden_jump import clock, filtered
from .hidden_scan import updated
from .jump_em import Hidden
from .jump_exposure import exposure
from .jump_likelihood import GammaRates, complete_log_likelihood, draw, posterior
from .jump_simulation import JumpPaths, bridge, states_at
from .rate_matrix import from_rates, transition

E = TypeVar("E", bound=Emission)
E_co = TypeVar("E_co", bound=Emission, covariant=True)

TICKS = 2.0  # their rate, as a multiple of that of the state which is left fastest  [1]


class EmissionPrior(Protocol[E_co]):
    """What is believed of an emission, such that draws given the states are direct."""

    def drawn(self, y: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> E_co:
        """An emission given y (B, T, ...), in states of weight (B, T, n): one, or zero where nothing is seen."""
        ...


class BetaError(NamedTuple):
    """error ~ Beta(wrong, right), as if so many readings had been checked."""

    wrong: float
    right: float

    def drawn(self, y: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Misread:
        right = weight.gather(-1, y.long()[..., None]).sum()
        found = torch.stack([self.wrong + weight.sum() - right, self.right + right])
        return Misread(_dirichlet(found, generator)[0], weight.shape[-1])


class DirichletTable(NamedTuple):
    """Each state's probabilities of symbols ~ Dirichlet(seen_i), as if seen so often."""

    seen: Tensor  # (n, K)

    def drawn(
        self, y: Tensor, weight: Tensor, generator: torch.Generator | None = None
    ) -> Categorical:
        found = self.seen.mT.clone().index_add_(0, y.long().flatten(), weight.flatten(0, 1))
        return Categorical(_dirichlet(found.mT, generator))


class NormalInverseWishart(NamedTuple):
    """covariance_i ~ W⁻¹(scale, degrees), mean_i ~ N(mean, covariance_i / weight), of each state alike  [2]"""

    mean: Tensor  # (D,)
    weight: float  # of the mean, in observations
    scale: Tensor  # (D, D)  (degrees - D - 1) times the expected covariance
    degrees: float  # above D - 1

    def drawn(
        self, y: Tensor, weight: Tensor, generator: torch.Generator | None = None
    ) -> Gaussian:
        y, weight = y.flatten(0, -2).to(self.mean), weight.flatten(0, -2)
        total = weight.sum(0)  # (n,)
        share = weight / total.where(total > 0, 1.0)
        centre = share.mT @ y  # (n, D)
        apart = y[:, None] - centre
        scatter = torch.einsum("kn,knd,kne->nde", weight, apart, apart)
        count = self.weight + total
        shift = centre - self.mean
        bend = (self.weight * total / count)[:, None, None] * shift[..., None] * shift[:, None]
        root = _inverse_wishart_root(self.scale + scatter + bend, self.degrees + total, generator)
        middle = (self.weight * self.mean + total[:, None] * centre) / count[:, None]
        z = _normal(centre, generator) / count.sqrt()[:, None]
        return Gaussian(middle + (root @ z[..., None])[..., 0], root @ root.mT)


class Prior(NamedTuple, Generic[E]):
    """What is believed before anything is seen."""

    rates: GammaRates  # a shape of zero holds the rate at zero
    first: Tensor  # (n,)  the law of the first state ~ Dirichlet(first)
    emission: EmissionPrior[E] | None = None  # None: it stays as it starts


class JumpDraws(NamedTuple, Generic[E]):
    """S draws, one after each sweep that is kept."""

    Q: Tensor  # (S, n, n)
    first: Tensor  # (S, n)
    emission: tuple[E, ...]  # S of them
    jumps: Tensor  # (S, n, n)  in all paths
    time: Tensor  # (S, n)  spent in each state, in all paths
    log_joint: Tensor  # (S,)  log density of paths and all that is seen, given the draws of Q, first, emission
    law: Tensor  # (B, T, n)  share of the draws in which each series is in each state at each row


def gibbs(
    start: Hidden[E],
    t: Tensor,
    y: Tensor,
    mask: Tensor,
    prior: Prior[E],
    sweeps: int = 1000,
    burn: int = 100,
    generator: torch.Generator | None = None,
) -> JumpDraws[E]:
    """Draws of rates, first law and emission given everything seen; paths go with them.

    Args:
        start: where the chain of draws begins, best the most likely one, of `hidden_em`. The first
            paths are drawn given it.
        t: (B, T) non-decreasing; padding repeats the last time. A path runs from the first row to the last.
        y: (B, T, ...) what the emission reads; mask: (B, T) True where it was observed.
        sweeps: that are kept, after `burn` that are not.

    Raises:
        ConfigError: X01 for a prior that is none, or no sweeps.
        DataError: D07 for times that decrease, D10 for a single row.
        ModelError: M02 where the start makes impossible what was seen.
    """
    _require_prior(prior, sweeps, burn)
    if t.shape[-1] < 2:
        raise DataError(
            "D10", f"{t.shape[-1]} rows came", "at least two, with time between them", "Add rows"
        )
    since = (t - t[:, :1]).double()
    linked = prior.rates.shape > 0
    chain = start._replace(Q=from_rates(start.Q.where(linked, 0.0)))
    seen = log_densities(chain.emission, y, mask)
    paths = first_paths(chain, since, seen, generator)
    law = torch.zeros_like(seen)
    kept: list[tuple[Hidden[E], Tensor, Tensor, Tensor]] = []
    for sweep in range(-burn, sweeps):
        paths = redrawn_paths(chain, paths, since, seen, generator)
        chain = redrawn_chain(chain, paths, since, y, mask, prior, generator)
        seen = log_densities(chain.emission, y, mask)
        if sweep >= 0:
            state = states_at(paths, since)
            law.scatter_add_(-1, state[..., None], torch.ones_like(law))
            N, R = exposure(paths, len(chain.Q))
            kept.append((chain, N, R, _log_joint(chain, paths, N, R, state, seen)))
    return JumpDraws(
        torch.stack([c.Q for c, _, _, _ in kept]),
        torch.stack([c.first for c, _, _, _ in kept]),
        tuple(c.emission for c, _, _, _ in kept),
        torch.stack([N for _, N, _, _ in kept]),
        torch.stack([R for _, _, R, _ in kept]),
        torch.stack([value for _, _, _, value in kept]),
        law / sweeps,
    )


def first_paths(
    chain: Hidden[Any], t: Tensor, log_density: Tensor, generator: torch.Generator | None = None
) -> JumpPaths:
    """Paths given all that is seen, independent of any before: states at rows, then bridges between them.

    An exponential for every gap, which the sweeps do without.

    Args (here and below):
        t: (B, T) from zero; log_density: (B, T, n), zero where nothing was observed.

    Raises:
        ModelError: M02 where the chain makes impossible what was seen.
    """
    rows = clock(t)
    found = filtered(chain.Q, chain.first, rows, log_density)
    if not bool(found.log_likelihood.isfinite().all()):
        raise _impossible(int((~found.log_likelihood.isfinite()).nonzero()[0]))
    into = transition(chain.Q, rows.gaps).mT.contiguous()  # (G, to, from)
    state = [choose(found.law[:, -1].cumsum(-1), generator)]
    for k in range(t.shape[1] - 2, -1, -1):
        weight = found.law[:, k] * into[rows.group[:, k], state[-1]]
        state.append(choose(weight.cumsum(-1), generator))
    states = torch.stack(state[::-1], 1)  # (B, T)
    found_between = bridge(chain.Q, states[:, :-1], states[:, 1:], t.diff(), generator)
    after = found_between.state[..., 1:]
    place = torch.arange(after.shape[-1], device=t.device)
    real = (place < found_between.jumps[..., None]).flatten(1)
    time = (t[:, :-1, None] + found_between.t[..., 1:]).flatten(1)
    return _packed(states[:, 0], time, after.flatten(1), real, t[:, -1])


def redrawn_paths(
    chain: Hidden[Any],
    paths: JumpPaths,
    t: Tensor,
    log_density: Tensor,
    generator: torch.Generator | None = None,
) -> JumpPaths:
    """Paths given all that is seen, and given the times of the jumps before: one step of the sampler  [1]"""
    Q = chain.Q
    rate = TICKS * -Q.diagonal().amin()
    M = torch.eye(len(Q), dtype=Q.dtype, device=Q.device)
    if float(rate) > 0:  # else nothing moves
        M = M + Q / rate
    ticks = _ticks(Q, paths, rate, generator)  # (B, K), infinite behind the last
    stretch = torch.searchsorted(ticks, t.contiguous(), right=True)  # (B, T) ticks before each row
    weight = log_density.new_zeros(len(t), ticks.shape[1] + 1, len(Q))
    weight.scatter_add_(1, stretch[..., None].expand_as(log_density), log_density)
    states = _drawn_states(M, chain.first, weight, ticks.isfinite(), generator)
    return _packed(states[:, 0], ticks, states[:, 1:], states.diff() != 0, paths.end)


def redrawn_chain(
    chain: Hidden[E],
    paths: JumpPaths,
    t: Tensor,
    y: Tensor,
    mask: Tensor,
    prior: Prior[E],
    generator: torch.Generator | None = None,
) -> Hidden[E]:
    """Rates, first law and emission given paths and all that is seen."""
    n = len(prior.first)
    N, R = exposure(paths, n)
    rates = draw(posterior(prior.rates, N, R), 1, generator)[0]
    Q = from_rates(rates.where(prior.rates.shape > 0, 0.0))
    first = _dirichlet(prior.first + paths.state[:, 0].bincount(minlength=n), generator)
    if prior.emission is None:
        return chain._replace(Q=Q, first=first)
    one = torch.nn.functional.one_hot(states_at(paths, t), n).to(Q) * mask[..., None]
    blank = mask.view(*mask.shape, *(1,) * (y.ndim - 2))
    return Hidden(Q, first, prior.emission.drawn(y.where(blank, 0), one, generator))


def effective_size(draws: Tensor) -> Tensor:
    """S / (1 + 2 Σ ρ_k): how many independent draws tell as much of a mean, for draws (S, ...): (...)

    Correlations ρ_k are summed in pairs of lags, which are positive and decrease, until rounding and
    noise make one negative  [3]. Not a number where draws do not vary.
    """
    S = len(draws)
    centred = (draws - draws.mean(0)).double()
    power = torch.fft.rfft(centred, 2 * S, 0).abs().square()
    covariance = torch.fft.irfft(power, 2 * S, 0)[:S]
    rho = covariance / covariance[0].where(covariance[0] > 0, torch.nan)
    pairs = rho[: S - S % 2].unflatten(0, (-1, 2)).sum(1)  # (S // 2, ...)
    positive = (pairs > 0).cumprod(0)
    total: Tensor = 2 * (pairs.cummin(0).values * positive).sum(0) - 1
    return S / total.clamp(min=1 / S)


def _ticks(Q: Tensor, paths: JumpPaths, rate: Tensor, generator: torch.Generator | None) -> Tensor:
    """Times of the jumps, and of ticks that come at `rate` less that of leaving: (B, K) increasing, then infinite."""
    held = torch.cat([paths.t, paths.end[:, None]], 1).diff()
    idle = rate + Q.diagonal()[paths.state]  # (B, 1 + J) rate of ticks that do not move
    reached = (idle * held).cumsum(1)  # expected number of them
    count = poisson(reached[:, -1], generator)
    place = torch.arange(int(count.amax()), device=Q.device)
    u = uniform(reached.new_empty(len(reached), len(place)), generator) * reached[:, -1:]
    k = torch.searchsorted(reached, u, right=True).clamp(max=held.shape[1] - 1)
    back = (reached.gather(1, k) - u) / idle.gather(1, k).where(idle.gather(1, k) > 0, 1.0)
    time = (paths.t + held).gather(1, k) - back
    moves = torch.arange(paths.t.shape[1] - 1, device=Q.device) < paths.jumps[:, None]
    ticks: Tensor = torch.cat(
        [
            paths.t[:, 1:].where(moves, torch.inf),
            time.where(place < count[:, None], torch.inf),
        ],
        1,
    )
    most = int(ticks.isfinite().sum(1).amax())
    return ticks.sort(1).values[:, :most].contiguous()


def _drawn_states(
    M: Tensor,
    first: Tensor,
    log_weight: Tensor,
    real: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """States before, between and behind ticks: filtered forwards, drawn backwards: (B, 1 + K)

    Args:
        M: (n, n) law of the state behind a tick; real: (B, K) ticks, not padding.
        log_weight: (B, 1 + K, n) of what is seen in each stretch.
    """
    law, _ = updated(first.to(M).expand_as(log_weight[:, 0]), log_weight[:, 0])
    laws = [law]
    for k in range(real.shape[1]):
        law, _ = updated((law @ M).where(real[:, k, None], law), log_weight[:, k + 1])
        laws.append(law)
    lost = ~(law.sum(-1) > 0)
    if bool(lost.any()):
        raise _impossible(int(lost.nonzero()[0]))
    into = M.mT.contiguous()
    state = choose(law.cumsum(-1), generator)
    states = [state]
    for k in range(real.shape[1] - 1, -1, -1):
        before = choose((laws[k] * into[state]).cumsum(-1), generator)
        state = before.where(real[:, k], state)
        states.append(state)
    return torch.stack(states[::-1], 1)


def _packed(start: Tensor, t: Tensor, after: Tensor, real: Tensor, end: Tensor) -> JumpPaths:
    """Paths of those jumps (B, K) that are real, to states `after`; jumps are in order."""
    count = real.sum(1)
    order = (~real).to(torch.int8).sort(dim=1, stable=True).indices
    most = int(count.amax()) if len(count) else 0
    order = order[:, :most]
    place = torch.arange(1 + most, device=t.device)
    times = torch.cat([torch.zeros_like(end)[:, None], t.gather(1, order)], 1)
    states = torch.cat([start[:, None], after.gather(1, order)], 1)
    states = states.gather(1, torch.minimum(place, count[:, None]))
    return JumpPaths(times.where(place <= count[:, None], end[:, None]), states, count, end)


def _log_joint(
    chain: Hidden[Any], paths: JumpPaths, N: Tensor, R: Tensor, state: Tensor, log_density: Tensor
) -> Tensor:
    """log p(paths, y | Q, first, emission): ()"""
    seen = log_density.gather(-1, state[..., None]).sum()
    return (
        complete_log_likelihood(chain.Q, N, R) + chain.first.log()[paths.state[:, 0]].sum() + seen
    )


def _dirichlet(count: Tensor, generator: torch.Generator | None) -> Tensor:
    """Laws (..., n) with these counts, drawn on the generator's device."""
    device = count.device if generator is None else generator.device
    drawn: Tensor = torch._sample_dirichlet(count.to(device).contiguous(), generator)
    return drawn.to(count.device)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    z = torch.randn(like.shape, dtype=like.dtype, device=device, generator=generator)
    return z.to(like.device)


def _inverse_wishart_root(
    scale: Tensor, degrees: Tensor, generator: torch.Generator | None
) -> Tensor:
    """A with A A' ~ W⁻¹(scale, degrees), for scales (n, D, D): C B'⁻¹ of C C' = scale, B Bartlett's triangle."""
    D = scale.shape[-1]
    C = torch.linalg.cholesky(scale)
    half = (degrees[:, None] - torch.arange(D, device=scale.device)) / 2
    size = (2 * torch._standard_gamma(half.to(scale), generator)).sqrt()
    B = _normal(scale, generator).tril(-1) + torch.diag_embed(size)
    root: Tensor = torch.linalg.solve_triangular(B.mT, C, upper=True, left=False)
    return root


def _require_prior(prior: Prior[Any], sweeps: int, burn: int) -> None:
    shape, rate = prior.rates
    off = ~torch.eye(len(prior.first), dtype=torch.bool, device=shape.device)
    sound = bool((shape[off] >= 0).all()) and bool((rate > 0).all())
    if not sound or not bool((prior.first > 0).all()) or sweeps < 1 or burn < 0:
        raise ConfigError(
            "X01",
            f"a prior with least shape {float(shape[off].min()):g}, rate {float(rate.min()):g} and weight "
            f"{float(prior.first.min()):g} of a first state, {sweeps} sweeps and burn = {burn}",
            "shapes of at least zero, rates and weights above zero, at least one sweep",
            "A law of rates with rate zero is no law: say how long a time the belief is worth",
        )


def _impossible(path: int) -> ModelError:
    return ModelError(
        "M02",
        f"what was seen of path {path} is impossible under the rates of the start",
        "rates and an emission under which it is possible",
        "Start from rates that link more states, or allow for states that are misread",
    )
