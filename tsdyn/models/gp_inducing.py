"""Gaussian processes in time through their states at a few times: for millions of observations.

    q(x) = p(x | u) q(u),   u the states at M inducing times,   log p(y) >= E_q log p(y | x) - KL(q(u), p(u))

The law of the values between two inducing times needs the two states beside them alone, so that the
states are a Gaussian Markov chain and every value is worked on by itself. The mathematics is that of
`tsdyn.maths.inducing`.

[1] Adam, Eleftheriadis, Artemev, Durrande & Hensman. Doubly sparse variational Gaussian processes.
    AISTATS 2020.
[2] Wilkinson, Solin & Adam. Sparse algorithms for Markovian Gaussian processes. AISTATS 2021.
[3] Titsias. Variational learning of inducing variables in sparse Gaussian processes. AISTATS 2009.
"""

import functools
from typing import Literal, NamedTuple, Self, cast

import torch
from torch import Tensor

from ..batch import Gaussian, Paths, compact, merge, query
from ..errors import ConfigError
from ..maths import likelihoods as laws
from ..maths.approximate import Approximation, Observed
from ..maths.chain_sampling import sample_prior
from ..maths.inducing import law, pairs, project, variational
from ..maths.kalman import LinearGaussian, posterior
from ..maths.kernels import Kernel, chain
from .base import Model, require_fitted
from .gp import StateSpaceGP, maximise
from .kernels import LearnedKernel
from .likelihoods import GaussianNoise
from .mean_functions import MeanFunction
from .process import require_memory, require_times, to_chains, to_channels


class Told(NamedTuple):
    """What values say of the states of a kernel at inducing times z."""

    kernel: Kernel
    z: Tensor  # (B, 1, M)
    found: Approximation  # of `inducing.pairs`: (B, C, M)


class InducingGP(Model):
    """x(t) = m(t) + f(t) + e,  f ~ GP(0, k),  e ~ N(0, noise^2), known through M states of f  [1, 2]

    A `StateSpaceGP` whose observations are gathered at M inducing times of each series: N values cost
    N S^3, as there, but are worked on some at a time, and once they are, answers cost M and the times
    asked for. The inducing times are quantiles of the times at which a series was observed. Where there
    are as many as distinct times the law is that of `StateSpaceGP`; with fewer the evidence is the
    largest bound below it that the states allow  [3]. The bound loses little where the law of f between
    two states is narrow next to the noise of the values there taken together: M wants to be several per
    lengthscale, more for rough kernels.

    The loss is the difference of two such bounds, with the same inducing times; where nothing is given
    it lies above that of `StateSpaceGP`, and parameters are best chosen by it
    (`Forecasting(fraction=0.0)`, or `fit`). Gradients go through the loss and the evidence alone.

    Args:
        dim: coordinates of the series, D.
        inducing: states of each series, M.
        kernel, mean: as in `StateSpaceGP`.
        likelihood: None is `GaussianNoise` of each channel's own size.
        memory: most gigabytes that a call may take for its states, about, and for the gradient of all
            values where one is asked for; draws come on top.

    Raises:
        ConfigError: X01 for fewer than one state.
        DataError, ModelError: as `StateSpaceGP`.
    """

    def __init__(
        self,
        dim: int,
        inducing: int,
        kernel: LearnedKernel | None = None,
        likelihood: GaussianNoise | None = None,
        mean: MeanFunction | Literal["constant", "zero"] = "constant",
        memory: float = 8.0,
    ):
        super().__init__()
        if inducing < 1:
            raise ConfigError("X01", f"inducing={inducing}", "one state or more", "")
        self.gp = StateSpaceGP(dim, kernel, likelihood, mean, memory)
        self.inducing = inducing

    @property
    def likelihood(self) -> GaussianNoise:
        return cast(GaussianNoise, self.gp.likelihood)

    def loss(self, given: Paths, want: Paths) -> Tensor:
        both, known = compact(merge(given, want)[0]), compact(given)
        z = spread(both.t, self.inducing)
        gain = self._told(both, z).found.bound - self._told(known, z).found.bound
        return -gain.sum() / want.mask.sum().clamp(min=1)

    def evidence(self, seen: Paths) -> Tensor:
        """The bound on log p(x) of everything observed of each series: (B,), in nats."""
        rows = compact(seen)
        return self._told(rows, spread(rows.t, self.inducing)).found.bound.sum(1)

    def at(self, given: Paths) -> "Sparse":
        """The law of x given what is observed, to be asked for any times: `model.at(given)(times)`."""
        return Sparse(self, given)

    def posterior(self, given: Paths, at: Tensor, latent: bool = False) -> Gaussian:
        """Mean and variance of every value at times (B, T), in any order; with `latent` of m + f."""
        answer = self.at(given)(at, latent)
        return Gaussian(answer.mean.to(given.x.dtype), answer.var.to(given.x.dtype))

    def sample(self, given: Paths, at: Tensor, n: int, latent: bool = False) -> Tensor:
        f = self.at(given).draw(at, n)
        return (f if latent else self.likelihood.draw(f)).to(given.x.dtype)

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        self.gp.on_epoch(epoch, train)

    def fit(self, paths: Paths, steps: int = 200) -> Self:
        """Moves the parameters to the largest bound on the evidence of all paths, by L-BFGS.

        Args:
            paths: everything to learn from.
            steps: most iterations.
        """
        self.on_epoch(0, (query(paths.t[:, :0], paths), paths))
        maximise(self.evidence, paths, list(self.gp.bounded()), steps)
        if paths.names is not None:
            self.channels = paths.names.channels
        return self

    def _told(self, seen: Paths, z: Tensor) -> Told:
        """What rows say of the states at z (B, M)."""
        require_fitted(self.gp.fitted, "InducingGP")
        require_times(seen.t)
        kernel = self.gp.kernel.kernel()
        outputs, size = kernel.H.shape[-2:]
        chains = self.gp.dim // outputs
        require_memory(z.numel() * chains, 2 * size, self.gp.memory)
        if torch.is_grad_enabled():
            require_memory(seen.t.numel() * chains, size, self.gp.memory)
        noise = laws.Gaussian(self.likelihood.variance.view(chains, 1, outputs))
        level, y, mask = (to_chains(f, chains) for f in (self.gp.level(seen.t), seen.x, seen.mask))
        t, z = seen.t.double()[:, None], z[:, None]
        found = variational(kernel, z, t, Observed(noise, y, mask, level))
        return Told(kernel, z, found)


class Sparse:
    """p(x | given) of an `InducingGP`, without gradients; what is given is worked through once.

    Args:
        model: with the parameters of the moment.
        given: what is observed.
    """

    def __init__(self, model: InducingGP, given: Paths):
        self.model, self.given = model, given

    @torch.no_grad()
    def __call__(self, times: Tensor, latent: bool = False) -> Gaussian:
        """Mean and variance (B, T, D) at times (T,) or (B, T), in any order; of m + f if latent."""
        at = times.expand(len(self.given.t), -1)
        require_times(at, ordered=False)
        kernel, z, found = self._told
        mean, var = law(kernel, z, found.moments, at.double()[:, None])
        f = Gaussian(to_channels(mean) + self.model.gp.level(at), to_channels(var))
        return f if latent else self.model.likelihood.values(f)

    @torch.no_grad()
    def draw(self, at: Tensor, n: int) -> Tensor:
        """n joint draws of m + f at times (B, T), in any order: (n, B, T, D).

        f + W (u - v): f and v a draw of the prior, u one of the states given what is seen, and W u the
        mean of f(at) given u.
        """
        require_times(at, ordered=False)
        kernel, z, found = self._told
        C, T = found.moments.mean.shape[1], at.shape[-1]
        times = at.double()[:, None]
        every, order = torch.cat([times, z], -1).sort(dim=-1, stable=True)
        place = order.argsort(-1)[..., None]  # (B, 1, T + M, 1)
        # draws of channels that share a kernel are each their own
        drawn = sample_prior(chain(kernel, every.expand(-1, C, -1)), n)  # (n, B, C, T + M, S)
        drawn = drawn.take_along_dim(place[None], -2)
        free, v = drawn[..., :T, :], drawn[..., T:, :]
        u = sample_prior(singles(posterior(pairs(kernel, z), found.sites)), n)  # (n, B, C, M, S)
        at_pairs = project(kernel, z, times)
        gap = in_pairs(u - v).take_along_dim(at_pairs.row[None, ..., None], -2)
        f = free @ kernel.H.mT + (at_pairs.weight @ gap[..., None])[..., 0]
        return to_channels(f) + self.model.gp.level(at)

    @functools.cached_property
    def _told(self) -> Told:
        rows = compact(self.given)
        return self.model._told(rows, spread(rows.t, self.model.inducing))


def spread(t: Tensor, most: int) -> Tensor:
    """Quantiles of the distinct times of each row, all of them where they are no more than `most`.

    (B, N), non-decreasing -> (B, M) in double precision, the first and the last among them where M > 1;
    a row with fewer than M distinct times has some of them twice.
    """
    t = t.double()
    new = torch.cat([torch.ones_like(t[:, :1]), t.diff(dim=1)], 1) > 0
    count = new.sum(1)
    M = min(most, int(count.max()))
    share = torch.linspace(0, 1, M, dtype=t.dtype, device=t.device)
    chosen = (share * (count[:, None] - 1)).round().long()
    distinct = (~new).to(torch.int8).sort(dim=1, stable=True).indices
    return t.gather(1, distinct.gather(1, chosen))


def in_pairs(x: Tensor) -> Tensor:
    """States x_m (..., M, S) as (x_m-1, x_m), zero before the first: (..., M, 2 S)."""
    before = torch.cat([torch.zeros_like(x[..., :1, :]), x[..., :-1, :]], -2)
    return torch.cat([before, x], -1)


def singles(chain: LinearGaussian) -> LinearGaussian:
    """The chain of x_m, of one of (x_m-1, x_m)."""
    S = chain.A.shape[-1] // 2
    m0, b = (f if f is None else f[..., S:] for f in (chain.m0, chain.b))
    A, Q, P0 = (f[..., S:, S:] for f in chain[:3])
    return LinearGaussian(A, Q, P0, m0, b)
