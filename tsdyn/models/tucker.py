"""Entries of a tensor indexed by real numbers: products of functions, one set of them for each mode.

[1] Fang et al. Functional Bayesian Tucker decomposition for continuous-indexed tensor data. ICLR 2024.
[2] Kolda & Bader. Tensor decompositions and applications. SIAM Review 51, 2009: CP and Tucker.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..batch import Entries, Gaussian
from ..errors import ConfigError, DataError
from ..maths import tucker
from ..maths.chain_sampling import sample_posterior
from ..maths.interpolation import interpolate
from ..maths.kalman import Sites, messages
from ..maths.kernels import Kernel
from ..maths.tucker import Factor, Full, Noise, Superdiagonal, Terms
from .base import Model, renewed, require_fitted
from .kernels import LearnedKernel
from .tucker_fit import Rules, State, learn, prior_of


class Levels(LearnedKernel):
    """A mode of categories: nothing about one level tells about another. See `maths.tucker.levels`.

    Args:
        variance: of f.
        fixed: names of parameters that are not learned.
    """

    def __init__(self, variance: float = 1.0, fixed: Sequence[str] = ()):
        super().__init__(fixed, variance=variance)

    def kernel(self) -> Kernel:
        return tucker.levels(self.value("variance"))


class FunctionalTucker(Model):
    """y(i) ~ N(vec(W)' (u_1(i_1) (x) ... (x) u_M(i_M)), 1 / tau), u_k: R_k independent Gaussian processes  [1]

    tau ~ Gamma. CP: W is one on the superdiagonal and zero elsewhere, so that y is a sum of R products;
    Tucker: W ~ N(0, I). The posterior is a mean field, q(tau) q(W) prod_k q(u_k), learned by rounds of
    exact updates, all of them as the first epoch starts; kernels take a step up the bound in
    every round. Of several starts the one of the best bound is kept; each starts with one function per
    mode and gets more on the way, which finds better bounds than all at once. A round costs N R^(2 (M - 1))
    for Tucker and N R^2 for CP, and (R S)^3 for each distinct index of a mode, S states in its kernel.

    What is known is the posterior given the entries of training: `given` is not read again. Inside, y
    is in units of its standard deviation, and the indices of each mode go from 0 to 1: lengthscales
    are parts of the span seen in training. `bounds` are those of every round, in nats of all of y.

    Args:
        kernels: one for each of the M modes, with which it starts; `Levels()` for categories.
        rank: R of CP, or (R_1, ..., R_M) of Tucker; one number for all modes alike.
        core: "cp" or "tucker".
        centred: the mean of y is taken off first. A product of functions is one no more without its mean.
        rounds: with all R functions.
        growth: rounds for each smaller number of functions; 0 starts with all of them.
        starts: how many are tried.
        rate: of Adam, on the logarithms of the kernels' parameters; 0 leaves them alone.
        damping, core_damping, noise_damping: part of the old natural parameters kept in an update of
            the modes, the core and the noise; an early certainty about the noise harms.
        noise_prior: (a, b) of tau ~ Gamma(a, b).
        updates: "variational", as above; "published", what the code of [1] does: a second prior N(0, I) at
            every observed index, a drawn prior mean at the first, no prior of the core, whose
            uncertainty the other updates leave out, one start, no growth, kernels that stay.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor
    noise: Tensor
    core_mean: Tensor
    core_cov: Tensor
    bounds: Tensor
    fitted: Tensor

    def __init__(
        self,
        kernels: Sequence[LearnedKernel],
        rank: int | Sequence[int] = 3,
        core: Literal["cp", "tucker"] = "cp",
        centred: bool = True,
        rounds: int = 60,
        growth: int = 15,
        starts: int = 2,
        rate: float = 0.1,
        damping: float = 0.0,
        core_damping: float = 0.0,
        noise_damping: float = 0.9,
        noise_prior: tuple[float, float] = (1e-3, 1e-3),
        updates: Literal["variational", "published"] = "variational",
    ):
        super().__init__()
        modes = len(kernels)
        self.ranks = (rank,) * modes if isinstance(rank, int) else tuple(rank)
        _require_ranks(self.ranks, modes, core)
        self.core_kind, self.centred, self.rounds = core, centred, rounds
        published = updates == "published"
        self.growth, self.starts = (0, 1) if published else (growth, starts)
        self.rules = Rules(Noise(*noise_prior), damping, core_damping, noise_damping, rate=rate)
        if published:
            self.rules = self.rules._replace(
                core_precision=0.0,
                extra=1.0,
                first=1e-3,
                random_start=True,
                certain_core=True,
                rate=0.0,
            )
        # they learn in `on_epoch`, by the bound: no gradient of `loss` is for them
        self.kernels = nn.ModuleList(renewed(k) for k in kernels).requires_grad_(False)
        self._keep("low", torch.zeros(modes))
        self._keep("span", torch.ones(modes))
        self._keep("mean", torch.zeros(()))
        self._keep("std", torch.ones(()))
        self._keep("noise", torch.ones(2))
        self._keep("core_mean", torch.zeros(self.ranks if core == "tucker" else ()))
        self._keep("core_cov", torch.zeros(0, 0))
        self._keep("bounds", torch.zeros(0))
        self.register_buffer("fitted", torch.tensor(False))
        for k, R in enumerate(self.ranks):
            self._keep(f"grid_{k}", torch.zeros(0))
            self._keep(f"start_{k}", torch.zeros(0))
            self._keep(f"h_{k}", torch.zeros(0, R))
            self._keep(f"J_{k}", torch.zeros(0, R, R))

    def loss(self, given: Entries, want: Entries) -> Tensor:
        mean, var = self._law(want.index)
        error = want.y.double() - mean
        each = 0.5 * (error.square() / var + (2 * math.pi * var).log())
        weights = torch.ones_like(each) if want.weights is None else want.weights.double()
        return ((weights * each).sum() / weights.sum()).to(want.y.dtype)

    def posterior(self, given: Entries, index: Tensor) -> Gaussian:
        """Mean and variance of an entry at each index (N, M), its noise included, without draws."""
        return Gaussian(*(f.to(given.y.dtype) for f in self._law(index)))

    def sample(self, given: Entries, at: Tensor, n: int) -> Tensor:
        """n draws at indices (N, M), jointly: (n, N)."""
        rows, levels = self._levels(at)
        factors = [self._draw(k, t, n)[:, r] for k, (t, r) in enumerate(zip(levels, rows.T))]
        core = self._core()
        if isinstance(core, Full):
            weights = tucker.draw(core, n)  # (n, R_1, ..., R_M)
            z = torch.stack([tucker.tensor(w, u) for w, *u in zip(weights, *factors)])
        else:
            z = math.prod(factors[1:], start=factors[0]).sum(-1)
        a, b = self.noise
        tau = torch.distributions.Gamma(a, b).sample((n, 1))
        y = z + torch.randn_like(z) / tau.sqrt()
        return (self.mean + self.std * y).to(given.y.dtype)

    def factor(self, k: int, index: Tensor) -> Factor:
        """The law of the functions of mode k at indices (n,) of that mode: R_k of them, in units of z."""
        require_fitted(self.fitted, "FunctionalTucker")
        return self._factor(k, (index.double() - self.low[k]) / self.span[k])

    @torch.no_grad()
    def on_epoch(self, epoch: int, train: tuple[Entries, Entries]) -> None:
        if self.fitted:
            return
        index, y, weights = train[0]
        weight = torch.ones_like(y).double() if weights is None else weights.double()
        self._require_index(index)
        self._fit_units(index.double(), y.double(), weight)
        rows, grids = self._levels(index, known=False)
        seen = tucker.group(rows, (y.double() - self.mean) / self.std, weight)
        kernels = [self._learned(k) for k in range(len(grids))]
        full, schedule = self.core_kind == "tucker", self._schedule()
        found = [
            learn(kernels, grids, seen, full, self.rules, schedule) for _ in range(self.starts)
        ]
        self._take(max(found, key=lambda state: state.bounds[-1]), seen.size)

    def _law(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (N,) of entries in the units of the data, in double precision."""
        rows, levels = self._levels(index)
        factors = [self._factor(k, t) for k, t in enumerate(levels)]
        mean, var = tucker.contract(self._core(), factors, rows)
        noise = Noise(*self.noise.tolist()).variance
        return self.mean + self.std * mean, self.std.square() * (var + noise)

    def _factor(self, k: int, t: Tensor) -> Factor:
        kernel, H, grid, prior, sites = self._mode(k)
        law = interpolate(
            messages(prior, sites),
            grid,
            t,
            kernel.transition,
            None if kernel.stationary else lambda at: _unseen(kernel, at),
        )
        return Factor(law.mean @ H.T, H @ law.cov @ H.T)

    def _draw(self, k: int, t: Tensor, n: int) -> Tensor:
        """n draws of the functions of mode k at times t: (n, len(t), R_k)."""
        _, H, grid, _, sites = self._mode(k)
        every = torch.cat([grid, t]).unique()  # type: ignore[no-untyped-call]
        at = torch.searchsorted(every, grid)
        S = H.shape[1]
        sites = Sites(
            sites.h.new_zeros(len(every), S).index_copy(0, at, sites.h),
            sites.J.new_zeros(len(every), S, S).index_copy(0, at, sites.J),
        )
        prior, _ = prior_of(self._learned(k), every, self.ranks[k], self._start(k))
        return sample_posterior(prior, sites, n)[:, torch.searchsorted(every, t)] @ H.T

    def _mode(self, k: int) -> tuple[Kernel, Tensor, Tensor, Any, Sites]:
        """The kernel of all functions, what is seen of their state, and the chain at the known indices."""
        grid, R = self.get_buffer(f"grid_{k}"), self.ranks[k]
        prior, H = prior_of(self._learned(k), grid, R, self._start(k))
        terms = Terms(self.get_buffer(f"h_{k}"), self.get_buffer(f"J_{k}"))
        kernel = tucker.side_by_side(self._learned(k).kernel(), R)
        return kernel, H, grid, prior, tucker.state_sites(H, terms)

    def _learned(self, k: int) -> LearnedKernel:
        kernel: Any = self.kernels[k]
        return kernel  # type: ignore[no-any-return]

    def _start(self, k: int) -> Tensor | None:
        start = self.get_buffer(f"start_{k}")
        return start if len(start) else None

    def _core(self) -> tucker.Core:
        if self.core_kind == "cp":
            return Superdiagonal(self.ranks[0])
        return Full(self.core_mean, self.core_cov)

    def _schedule(self) -> list[tuple[tuple[int, ...], int]]:
        """How many functions the modes have for how many rounds."""
        largest = max(self.ranks)
        first = 1 if self.growth else largest
        return [
            (tuple(min(R, r) for R in self.ranks), self.growth if r < largest else self.rounds)
            for r in range(first, largest + 1)
        ]

    def _keep(self, name: str, value: Tensor) -> None:
        """A buffer in double precision."""
        self.register_buffer(name, value.double())

    def _fit_units(self, index: Tensor, y: Tensor, weight: Tensor) -> None:
        """Indices from 0 to 1, values of mean 0 and variance 1."""
        span = index.amax(0) - index.amin(0)
        self.low = index.amin(0)
        self.span = span.where(span > 0, 1.0)
        if self.centred:
            self.mean = (weight * y).sum() / weight.sum()
        std = ((weight * (y - self.mean).square()).sum() / weight.sum()).sqrt()
        self.std = std.where(std > 0, 1.0)

    def _levels(self, index: Tensor, known: bool = True) -> tuple[Tensor, list[Tensor]]:
        """The distinct indices of each mode, from 0 to 1, and which of them each entry has: (N, M)."""
        if known:
            require_fitted(self.fitted, "FunctionalTucker")
            self._require_index(index)
        columns = ((index.double() - self.low) / self.span).unbind(1)
        found = [c.unique(return_inverse=True) for c in columns]  # type: ignore[no-untyped-call]
        levels, rows = zip(*found)
        if known:
            for k, t in enumerate(levels):
                self._require_level(k, t)
        return torch.stack(rows, 1), list(levels)

    def _require_index(self, index: Tensor) -> None:
        """D13 for another number of modes, D14 for an index that is no number."""
        modes = len(self.kernels)
        if index.ndim != 2 or index.shape[1] != modes:
            raise DataError(
                "D13",
                f"an index of shape {tuple(index.shape)}",
                f"(N, {modes}): one column for each of the {modes} modes of the model",
                "Give the model one kernel for each mode of the data",
            )
        bad = (~index.isfinite()).nonzero()
        if len(bad):
            row, mode = bad[0].tolist()
            raise DataError(
                "D14",
                f"the index of mode {mode} is {float(index[row, mode])} in entry {row}",
                "finite numbers",
                "Leave out entries whose index is unknown",
            )

    def _require_level(self, k: int, t: Tensor) -> None:
        """D14 for a category that training did not hold."""
        if not isinstance(self.kernels[k], Levels):
            return
        new = t[~torch.isin(t, self.get_buffer(f"grid_{k}"))]
        if len(new):
            value = float(new[0] * self.span[k] + self.low[k])
            raise DataError(
                "D14",
                f"category {value:g} of mode {k} was not seen in training",
                "categories that were",
                "Use a kernel with a lengthscale where neighbouring indices tell about new ones",
            )

    def _take(self, state: State, count: float) -> None:
        """What was learned, as buffers."""
        for k, mode in enumerate(state.modes):
            start = self.low[:0] if mode.start is None else mode.start
            learned = {"grid": mode.t, "start": start, "h": mode.sites.h, "J": mode.sites.J}
            for name, value in learned.items():
                setattr(self, f"{name}_{k}", value)
            self.kernels[k].load_state_dict(mode.kernel.state_dict())
        if isinstance(state.core, Full):
            self.core_mean, self.core_cov = state.core
        self.noise = self.low.new_tensor(state.noise)
        self.bounds = self.low.new_tensor(state.bounds) - count * self.std.log()
        self.fitted = torch.ones_like(self.fitted)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # sizes follow the data
        for name, buffer in self.named_buffers(recurse=False):
            stored = state.get(prefix + name)
            if stored is not None and stored.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state, prefix, *rest)


def _unseen(kernel: Kernel, at: Tensor) -> tuple[Tensor, Tensor]:
    """The prior of the state at times (n,)."""
    cov = kernel.covariance(at)
    cov = cov.expand(*at.shape, *cov.shape[-2:])
    return torch.zeros_like(cov[..., 0]), cov


def _require_ranks(ranks: Sequence[int], modes: int, core: str) -> None:
    """X01 for ranks that no model has."""
    if len(ranks) != modes or modes < 2 or min(ranks) < 1:
        raise ConfigError(
            "X01",
            f"{modes} kernels and ranks {list(ranks)}",
            "two modes or more, with a kernel and a positive rank each",
            "",
        )
    if core == "cp" and len(set(ranks)) > 1:
        raise ConfigError(
            "X01", f"CP with ranks {list(ranks)}", "one rank for all modes", "Use core='tucker'"
        )
    if core not in ("cp", "tucker"):
        raise ConfigError("X01", f"core={core!r}", "cp or tucker", "")
