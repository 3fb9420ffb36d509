"""Mean-field rounds of the functional Tucker model: what is learned, and in which order.

One round updates q of each mode, then of the core, then of the noise, each to its optimum given the
others, or a part of the way there. Whatever the part, the bound on log p(y) rises in every round while
kernels stay as they are: q moves along natural parameters, on which the divergence from the optimum falls.
Kernels move by d log Z / d theta at fixed sites, which is the gradient of the bound.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..maths import tucker
from ..maths.kalman import LinearGaussian, log_z
from ..maths.kernels import chain
from ..maths.tucker import Core, Factor, Full, Noise, Seen, Superdiagonal, Terms
from .base import renewed
from .kernels import LearnedKernel

FIRST = 5  # rounds before kernels move: until then the factors are those of the draw
SPREAD = 0.01  # variance of a function that has just been added


class Rules(NamedTuple):
    """How q is updated.

    Args:
        prior: of the noise.
        damping: part of the old natural parameters of each mode that is kept.
        core_damping, noise_damping: the same of the core and of the noise.
        core_precision: of the prior of the core.
        extra: precision of a second prior N(0, I / extra) at every index that was observed.
        first: precision of what each entry is taken to say at the start, of each mode and of the core.
        random_start: the prior mean of each mode at its first index is drawn, instead of zero.
        certain_core: the core counts as known where other parts are updated, and all of it is drawn first.
        rate: of Adam, on the logarithms of what kernels learn; 0 leaves them alone.
    """

    prior: Noise
    damping: float = 0.0
    core_damping: float = 0.0
    noise_damping: float = 0.0
    core_precision: float = 1.0
    extra: float = 0.0
    first: float = 0.0
    random_start: bool = False
    certain_core: bool = False
    rate: float = 0.1


class Mode:
    """q of the functions of one mode, and the kernel they share."""

    def __init__(self, kernel: LearnedKernel, t: Tensor, factor: Factor, start: Tensor | None):
        self.kernel, self.t, self.factor, self.start = kernel, t, factor, start
        self.sites = Terms(torch.zeros_like(factor.mean), torch.zeros_like(factor.cov))
        self.log_z = 0.0
        learned = [p for p in kernel.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(learned, lr=0.0) if learned else None

    def update(self, sites: Terms) -> None:
        """q for these sites and the kernel of the moment."""
        self.sites = sites
        rank = self.factor.mean.shape[1]
        prior, H = prior_of(self.kernel, self.t, rank, self.start)
        self.factor, self.log_z = tucker.smooth(prior, H, sites)

    def learn(self, sites: Terms, rate: float) -> None:
        """A step of the kernel up the bound."""
        if self.adam is None:
            return
        self.adam.param_groups[0]["lr"] = rate
        with torch.enable_grad():
            prior, H = prior_of(self.kernel, self.t, self.factor.mean.shape[1], self.start)
            value = -log_z(prior, tucker.state_sites(H, sites))
        self.adam.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self.adam.step()

    def divergence(self) -> float:
        """KL(q || p)."""
        return tucker.factor_divergence(self.factor, self.sites, self.log_z)


def prior_of(
    kernel: LearnedKernel, t: Tensor, rank: int, start: Tensor | None = None
) -> tuple[LinearGaussian, Tensor]:
    """The chain of states of `rank` functions at t (n,), and H (rank, S) with u = H x."""
    both = tucker.side_by_side(kernel.kernel(), rank)
    return chain(both, t)._replace(m0=start), both.H.to(t.device)


class State:
    """q of everything, in the midst of learning."""

    def __init__(self, modes: list[Mode], core: Core, rules: Rules):
        self.modes, self.core, self.rules = modes, core, rules
        self.noise = Noise(rules.prior.a, rules.prior.a)  # E tau = 1: y has unit variance
        self.seen_of_core: Terms | None = None
        self.bounds: list[float] = []

    @torch.no_grad()
    def round(self, seen: Seen) -> None:
        """One update of everything."""
        core = self.core_as_seen()
        last = len(self.modes) - 1
        for k, mode in enumerate(self.modes):
            sums = tucker.gather(core, [m.factor for m in self.modes], seen, k)
            sites = self.sites(mode, core.terms(sums, k), seen, k)
            if self.rules.rate and len(self.bounds) >= FIRST:
                mode.learn(sites, self.rules.rate)
            mode.update(sites)
        terms = core.about_core(sums, self.modes[last].factor)
        self.update_core(terms)
        error = tucker.expected_square(seen, self.core_as_seen(), terms)
        self.update_noise(seen.size, error)
        if self.rules.certain_core:
            error = tucker.expected_square(seen, self.core, terms)
        self.bounds.append(self.bound(seen, error))

    def expect(self, seen: Seen) -> None:
        """What entries are taken to say before the first update: 1/2, whose precision the rules give."""

        def half(J: Tensor) -> Terms:
            return Terms(J.diagonal(dim1=-2, dim2=-1) / 2, J)

        for k, mode in enumerate(self.modes):
            here = torch.zeros_like(mode.t).index_add(0, seen.rows[:, k], seen.weight)
            eye = torch.eye(mode.factor.mean.shape[1], dtype=here.dtype, device=here.device)
            mode.sites = half(self.rules.first * here[:, None, None] * eye)
        if isinstance(self.core, Full):
            eye = torch.eye(len(self.core.cov), dtype=here.dtype, device=here.device)
            self.seen_of_core = half(self.rules.first * seen.size * eye)

    def bound(self, seen: Seen, error: float) -> float:
        """On log p(y), in nats; error is the expected square of all errors."""
        return (
            tucker.expected_log_density(seen, self.noise, error)
            - sum(mode.divergence() for mode in self.modes)
            - self.core.divergence()
            - self.noise.divergence(self.rules.prior)
        )

    def core_as_seen(self) -> Core:
        """The core, without its uncertainty where the rules leave it out."""
        if self.rules.certain_core and isinstance(self.core, Full):
            return self.core._replace(cov=torch.zeros_like(self.core.cov))
        return self.core

    def sites(self, mode: Mode, terms: Terms, seen: Seen, k: int) -> Terms:
        """What the entries say about mode k, a part of the way from what they said before."""
        kept, tau = self.rules.damping, self.noise.precision
        h, J = tau * terms.h, tau * terms.J
        if self.rules.extra:
            here = torch.zeros(len(h), dtype=h.dtype, device=h.device)
            here[seen.rows[:, k]] = self.rules.extra
            J = J + here[:, None, None] * torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
        return Terms(torch.lerp(h, mode.sites.h, kept), torch.lerp(J, mode.sites.J, kept))

    def update_core(self, terms: Terms) -> None:
        if not isinstance(self.core, Full):
            return
        kept, tau = self.rules.core_damping, self.noise.precision
        new = Terms(tau * terms.h, tau * terms.J)
        if self.seen_of_core is not None:
            old = self.seen_of_core
            new = Terms(torch.lerp(new.h, old.h, kept), torch.lerp(new.J, old.J, kept))
        self.seen_of_core = new
        self.core = tucker.update_core(new, self.core.mean.shape, self.rules.core_precision)

    def update_noise(self, count: float, error: float) -> None:
        a, b = self.rules.prior
        a, b = a + count / 2, b + error / 2
        kept = self.rules.noise_damping
        self.noise = Noise(a, kept * a / self.noise.precision + (1 - kept) * b)


Schedule = Sequence[tuple[Sequence[int], int]]  # functions of each mode, and for how many rounds


def learn(
    kernels: Sequence[LearnedKernel],
    t: Sequence[Tensor],
    seen: Seen,
    full: bool,
    rules: Rules,
    schedule: Schedule,
) -> State:
    """From a start that torch's generator draws, through all rounds.

    Args:
        t: (n_k,) distinct indices of each mode, increasing.
        full: whether the core is learned.
    """
    state = first_state(kernels, t, schedule[0][0], full, rules)
    if rules.first:
        state.expect(seen)
    for ranks, rounds in schedule:
        grow(state, ranks)
        for _ in range(rounds):
            state.round(seen)
    return state


def first_state(
    kernels: Sequence[LearnedKernel],
    t: Sequence[Tensor],
    ranks: Sequence[int],
    full: bool,
    rules: Rules,
) -> State:
    """Functions and core as torch's generator draws them."""
    modes = []
    for kernel, at, rank in zip(kernels, t, ranks):
        own = renewed(kernel).to(at.device)
        mean = torch.rand(len(at), rank, dtype=at.dtype, device=at.device)
        cov = torch.eye(rank, dtype=at.dtype, device=at.device).repeat(len(at), 1, 1)
        start = None
        if rules.random_start:
            start = torch.randn(prior_of(own, at, rank)[1].shape[1], dtype=at.dtype).to(at)
        modes.append(Mode(own, at, Factor(mean, cov), start))
    if not full:
        return State(modes, Superdiagonal(ranks[0]), rules)
    core = first_core(ranks, t[0])
    if rules.certain_core:
        core = core._replace(mean=torch.rand_like(core.mean))
    return State(modes, core, rules)


def first_core(ranks: Sequence[int], like: Tensor) -> Full:
    """Near the superdiagonal: what can be told apart by CP is told apart from the start."""
    mean = 0.05 * torch.randn(*ranks, dtype=like.dtype, device=like.device)
    diagonal = torch.arange(min(ranks), device=like.device)
    mean[(diagonal,) * len(ranks)] += 1.0
    return Full(mean, 0.01 * torch.eye(mean.numel(), dtype=like.dtype, device=like.device))


def grow(state: State, ranks: Sequence[int]) -> None:
    """More functions in each mode, drawn, beside those that are known."""
    for mode, rank in zip(state.modes, ranks):
        old = mode.factor
        more = rank - old.mean.shape[1]
        if not more:
            continue
        drawn = torch.rand(len(old.mean), more, dtype=old.mean.dtype).to(old.mean)
        cov = pad(old.cov, (0, more, 0, more))
        cov.diagonal(dim1=1, dim2=2)[:, rank - more :] = SPREAD
        mode.factor = Factor(torch.cat([old.mean, drawn], 1), cov)
        mode.sites = Terms(pad(mode.sites.h, (0, more)), pad(mode.sites.J, (0, more, 0, more)))
    if not isinstance(state.core, Full):
        state.core = Superdiagonal(ranks[0])
    elif state.core.mean.shape != tuple(ranks):
        larger = first_core(ranks, state.core.mean)
        larger.mean[tuple(slice(R) for R in state.core.mean.shape)] = state.core.mean
        state.core, state.seen_of_core = larger, None
