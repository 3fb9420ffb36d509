"""Gaussian processes in time, in time linear in the number of observations.

    x(t) = m(t) + f(t) + noise,   f a Gaussian process with a kernel that has a finite state

[1] Hartikainen & Särkkä. Kalman filtering and smoothing solutions to temporal Gaussian process
    regression models. MLSP 2010.
[2] Rasmussen & Williams. Gaussian processes for machine learning. MIT Press 2006, chapters 2 and 5.
[3] Álvarez, Rosasco & Lawrence. Kernels for vector-valued functions: a review. 2012.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, Self

import torch
from torch import Tensor, nn

from ..batch import Gaussian, Paths, compact, merge
from ..errors import ConfigError, ModelError
from ..maths.chain_sampling import sample_prior
from ..maths.kalman import log_z
from ..maths.kernels import chain
from ..maths.minimise import minimise
from .base import Model, require_fitted
from .conditioned import Conditioned
from .kernels import LearnedKernel, Matern, QuasiPeriodic, SquaredExponential
from .likelihoods import GaussianNoise, Likelihood, Seen
from .mean_functions import MeanFunction
from .process import Process, require_memory, require_times, to_chains, to_channels

SHORTEST, LONGEST = 1e-3, 1e2  # lengthscales, in spans of the training times
FACTOR = 1e6  # by which `fit` changes any positive parameter at most
# the parameter, in the units of t, that says how long a kernel remembers
REMEMBERS: dict[type, str] = {
    Matern: "log_lengthscale",
    SquaredExponential: "log_lengthscale",
    QuasiPeriodic: "log_decay",
}


Bounded = tuple[nn.Parameter, Tensor, Tensor]  # a parameter, its least and its largest value


class StateSpaceGP(Model):
    """x(t) = m(t) + f(t) + e,  f ~ GP(0, k),  e ~ N(0, noise^2)  [1]

    Series are independent draws of this law with the same parameters, seen at times of their own, with
    any values missing; rows at one time are several looks at the same f. Channels are independent of
    each other, with one kernel for all of them or, where its parameters are lists of D numbers, one
    each; a kernel of D outputs mixes them from common processes (`Coregionalized`  [3]). Everything is
    computed in double precision and exact for Gaussian noise, at cost N S^3 for N rows and states of
    S coordinates.

    The loss is -log p(want | given), the difference of two evidences. Where nothing is given it is the
    negative log marginal likelihood of all that is wanted, by which parameters are best chosen  [2]:
    train with `Forecasting(fraction=0.0)`, which gives nothing and wants everything, or with `fit`,
    which takes no task.

    Lengthscales stay between a thousandth and a hundred spans of the training times. What is left open
    (kernel, likelihood, coefficients of the mean) starts from moments of the training data. Units are
    those of the data, or standard units inside `Scaled`.

    Args:
        dim: coordinates of the series, D.
        kernel: of one output, or of as many as divide D; None is a Matérn-3/2 of each channel's own.
        likelihood: p(x | m + f); None is `GaussianNoise` of each channel's own size.
        mean: "constant", "zero", or a function of time.
        memory: most gigabytes that the covariances of a call may take, about; draws come on top.

    Raises:
        DataError: D04 where a time is not finite, D07 where times decrease.
        ModelError: M01 where something was left open and no data were seen, M04 where a variance is
            not positive, M05 where a call would take more memory.
    """

    fitted: Tensor
    span: Tensor

    def __init__(
        self,
        dim: int,
        kernel: LearnedKernel | None = None,
        likelihood: Likelihood | None = None,
        mean: MeanFunction | Literal["constant", "zero"] = "constant",
        memory: float = 8.0,
    ):
        super().__init__()
        self.dim, self.memory, self.open_kernel = dim, memory, kernel is None
        self.kernel = kernel or Matern(1.5, [1.0] * dim, [1.0] * dim)
        self.likelihood = likelihood or GaussianNoise(dim)
        self.mean: MeanFunction | None
        if isinstance(mean, str):
            self.mean = MeanFunction(dim) if mean == "constant" else None
        else:
            self.mean = mean
        outputs = self.kernel.kernel().H.shape[-2]
        if dim % outputs:
            raise ConfigError(
                "X01",
                f"a kernel of {outputs} outputs for {dim} channels",
                "one output, or as many as there are channels",
                "Set `dim`, or `outputs` of the kernel",
            )
        whole = kernel is not None and likelihood is not None and self.mean is None
        self.register_buffer("fitted", torch.tensor(whole))
        self.register_buffer("span", torch.tensor(torch.inf, dtype=torch.float64))

    def loss(self, given: Paths, want: Paths) -> Tensor:
        gain = self.evidence(merge(given, want)[0]) - self.evidence(given)
        return -gain.sum() / want.mask.sum().clamp(min=1)

    def evidence(self, seen: Paths) -> Tensor:
        """log p(x) of everything observed of each series: (B,), in nats, in double precision."""
        process = self.process(compact(seen))
        return log_z(process.chain, process.sites).sum(1)

    def at(self, given: Paths) -> Conditioned:
        """The law of x given what is observed, to be asked for any times: `model.at(given)(times)`."""
        return Conditioned(self, given)

    def posterior(self, given: Paths, at: Tensor, latent: bool = False) -> Gaussian:
        """Mean and variance of every value at times (B, T), in any order, without draws.

        With `latent` of m + f, else of what would be observed.
        """
        answer = self.at(given)(at, latent)
        return Gaussian(answer.mean.to(given.x.dtype), answer.variance.to(given.x.dtype))

    def sample(self, given: Paths, at: Tensor, n: int, latent: bool = False) -> Tensor:
        kept, place = self.at(given).chain(at)
        f = to_channels(sample_prior(kept, n) @ self.kernel.kernel().H.mT)  # (n, B, T, D)
        f = f.take_along_dim(place[None, ..., None], -2) + self.level(at)
        return (f if latent else self.likelihood.draw(f)).to(given.x.dtype)

    def fit(self, paths: Paths, steps: int = 200) -> Self:
        """Moves the parameters to the largest marginal likelihood of all paths, by L-BFGS between bounds.

        From where they are: the maximum is a local one. Positive parameters change by a factor of a
        million at most.

        Args:
            paths: everything to learn from.
            steps: most iterations.
        """
        self._start(paths)
        maximise(self.evidence, paths, list(self.bounded()), steps)
        if paths.names is not None:
            self.channels = paths.names.channels
        return self

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        self._start(merge(*train)[0])
        with torch.no_grad():
            for p, lower, upper in self.bounded():
                p.clamp_(lower.to(p.device), upper.to(p.device))

    def level(self, t: Tensor) -> Tensor:
        """m at times (B, T): (B, T, D)."""
        zero = torch.zeros(*t.shape, self.dim, dtype=torch.float64, device=t.device)
        return zero if self.mean is None else zero + self.mean(t)

    def process(self, seen: Paths) -> Process:
        """The states at the rows of every series, and what is seen of them."""
        require_fitted(self.fitted, "StateSpaceGP")
        require_times(seen.t)
        kernel = self.kernel.kernel()
        outputs, size = kernel.H.shape[-2:]
        chains = self.dim // outputs
        require_memory(seen.t.numel() * chains, size, self.memory)
        t = seen.t.double()[:, None]  # (B, 1, N)
        prior = chain(kernel, t)
        parts = (to_chains(f, chains) for f in (self.level(seen.t), seen.x, seen.mask))
        return Process(kernel, t, prior, self.likelihood.sites(prior, Seen(kernel.H, *parts)))

    @torch.no_grad()
    def _start(self, seen: Paths) -> None:
        """What depends on the training data, once."""
        if self.span.isfinite():
            return
        rows = compact(seen)
        require_times(rows.t)
        span = (rows.t[:, -1] - rows.t[:, 0]).max().double()
        self.span.copy_(span.where(span > 0, 1.0))
        if self.mean is not None:
            self.mean.start(rows)
        rest = (rows.x.double() - self.level(rows.t)).where(rows.mask, 0.0)
        variance = rest.square().sum((0, 1)) / rows.mask.sum((0, 1)).clamp(min=1)
        variance = variance.where(variance > 0, 1.0)
        self.likelihood.start(variance)
        if self.open_kernel:
            gaps = rows.t.double().diff(dim=1)
            gap = gaps[gaps > 0].median() if (gaps > 0).any() else self.span
            self.kernel.get_parameter("log_lengthscale").fill_((gap * self.span).log() / 2)
            self.kernel.get_parameter("log_variance").copy_(variance.log())
        self.fitted.fill_(True)

    def bounded(self) -> Iterator[Bounded]:
        """Everything learned, and between what."""
        memories = {
            m.get_parameter(REMEMBERS[type(m)])
            for m in self.kernel.modules()
            if type(m) in REMEMBERS
        }
        for name, p in self.named_parameters():
            if not p.requires_grad:
                continue
            value = p.detach()
            if p in memories:
                low, high = ((self.span * f).log().expand_as(p) for f in (SHORTEST, LONGEST))
                yield p, low, high
            elif name.rpartition(".")[2].startswith("log_"):
                yield p, value - math.log(FACTOR), value + math.log(FACTOR)
            else:
                yield p, torch.full_like(p, -torch.inf), torch.full_like(p, torch.inf)


def maximise(
    evidence: Callable[[Paths], Tensor], paths: Paths, bounded: list[Bounded], steps: int
) -> None:
    """Moves parameters, within their bounds, to the largest evidence of all paths, by L-BFGS.

    Where rounding makes a covariance impossible, the search turns back.
    """
    count = paths.mask.sum().clamp(min=1)

    def objective() -> Tensor:
        try:
            return -evidence(paths).sum() / count
        except ModelError as error:
            if error.code != "TSD-M04":
                raise
            return count * torch.nan  # rounding at parameters that are far out

    if bounded:
        learned, lower, upper = zip(*bounded)
        minimise(objective, learned, lower, upper, steps)
