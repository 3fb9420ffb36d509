"""Gaussian processes in time seen through counts, labels, or values with outliers.

    x(t) ~ p(x | m(t) + f(t)),   f a Gaussian process with a kernel that has a finite state

Each likelihood makes Gaussian sites of what is seen, by variational inference or by expectation
propagation (`tsdyn.maths.approximate`); all else is that of `StateSpaceGP`, which takes them too.
"""

import abc
import warnings
from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from ..batch import Gaussian, Paths, query
from ..errors import ConfigError
from ..maths import likelihoods as laws
from ..maths.approximate import Observed, complaint, propagated, variational
from ..maths.kalman import LinearGaussian, Sites
from .base import Model
from .gp import StateSpaceGP
from .kernels import LearnedKernel
from .likelihoods import Likelihood, Seen
from .mean_functions import MeanFunction

Method = Literal["variational", "propagation"]
LABEL_LAWS: dict[str, type[laws.Likelihood]] = {"probit": laws.Probit, "logit": laws.Logit}


class ApproximatedLikelihood(Likelihood):
    """p(y | f) that is not Gaussian in f.

    Args:
        method: "variational", the law that maximises a bound on the evidence, which never diverges; or
            expectation "propagation", whose variances and evidence are nearer to the truth.

    A `UserWarning` tells where the iteration has not come to rest, and what to do.
    """

    def __init__(self, method: Method = "variational"):
        super().__init__()
        if method not in ("variational", "propagation"):
            raise ConfigError(
                "X01", f"`method={method!r}` is unknown", "It is variational or propagation", ""
            )
        self.method = method

    @abc.abstractmethod
    def law(self, *shape: int) -> laws.Likelihood:
        """At the current values of the parameters, those of channels (D,) in this shape."""

    def sites(self, chain: LinearGaussian, seen: Seen) -> Sites:
        _, C, _, O = seen.y.shape
        values = Observed(self.law(C, 1, O), seen.y, seen.mask, seen.mean)
        infer = variational if self.method == "variational" else propagated
        found = infer(chain, seen.H, values)
        late = complaint(found)
        if late:
            warnings.warn(late, stacklevel=2)
        return found.sites

    def values(self, f: Gaussian) -> Gaussian:
        return Gaussian(*self.law(-1).predicted(f.mean, f.var))

    def draw(self, f: Tensor) -> Tensor:
        return self.law(-1).draw(f)

    def latent(self, paths: Paths) -> Paths:
        """The paths with values of f that would have made them likely, to start parameters from."""
        y = paths.x.where(paths.mask, 0.0)
        return paths._replace(x=self.law(-1).guess(y).where(paths.mask, 0.0))


class PoissonCounts(ApproximatedLikelihood):
    """y ~ Poisson(exp f)

    Args:
        method: as in `ApproximatedLikelihood`.
    """

    def law(self, *shape: int) -> laws.Poisson:
        return laws.Poisson()


class NegativeBinomialCounts(ApproximatedLikelihood):
    """Counts of mean mu = exp f and variance mu + mu^2 / size: more spread than Poisson's.

    Args:
        dim: coordinates of the series, D.
        size: one for all channels or one each; large ones make Poisson counts.
        fixed: it is not learned.
        method: as in `ApproximatedLikelihood`.
    """

    def __init__(
        self,
        dim: int,
        size: float | Sequence[float] = 5.0,
        fixed: bool = False,
        method: Method = "variational",
    ):
        super().__init__(method)
        self.log_size = positive("size", size, dim, fixed)

    def law(self, *shape: int) -> laws.NegativeBinomial:
        return laws.NegativeBinomial(self.log_size.double().exp().view(*shape))


class StudentNoise(ApproximatedLikelihood):
    """y = f + scale e, e of Student's t law: values of which a few lie far off.

    Args:
        dim: coordinates of the series, D.
        df: degrees of freedom, not learned; at or below 2 the variance of y is infinite.
        scale: one for all channels or one each; None starts at a third of the deviation of the data.
        fixed: the scale is not learned.
        method: as in `ApproximatedLikelihood`.
    """

    additive = True

    def __init__(
        self,
        dim: int,
        df: float = 4.0,
        scale: float | Sequence[float] | None = None,
        fixed: bool = False,
        method: Method = "variational",
    ):
        super().__init__(method)
        if not df > 0:
            raise ConfigError("X01", f"StudentNoise(df={df})", "a positive number", "")
        self.df, self.from_data = df, scale is None
        self.log_scale = positive("scale", 1.0 if scale is None else scale, dim, fixed)

    def law(self, *shape: int) -> laws.StudentT:
        return laws.StudentT(self.df, self.log_scale.double().exp().view(*shape))

    def latent(self, paths: Paths) -> Paths:
        return paths

    @torch.no_grad()
    def start(self, variance: Tensor) -> None:
        if self.from_data:
            self.log_scale.copy_((variance / 10).log() / 2)


class BinaryLabels(ApproximatedLikelihood):
    """y in 0, 1 with P(y = 1) a function of f that rises from 0 to 1.

    Args:
        link: "probit", the distribution function of N(0, 1), or "logit", 1 / (1 + exp(-f)).
        method: as in `ApproximatedLikelihood`.
    """

    def __init__(self, link: Literal["probit", "logit"] = "probit", method: Method = "propagation"):
        super().__init__(method)
        if link not in LABEL_LAWS:
            raise ConfigError("X01", f"`link={link!r}` is unknown", "It is probit or logit", "")
        self.link = link

    def law(self, *shape: int) -> laws.Likelihood:
        return LABEL_LAWS[self.link]()


class ApproximateGP(Model):
    """x(t) ~ p(x | m(t) + f(t)),  f ~ GP(0, k)

    A `StateSpaceGP` whose likelihood is not Gaussian. The loss is the difference of two approximations
    of the log evidence, per observed value of `want`; where nothing is given it is a bound, by which
    parameters are best chosen (`Forecasting(fraction=0.0)`, or `fit`). The inference starts anew with
    every call. Means of counts are modelled as logarithms: m and f have no units. Counts and labels are
    used as they are, without `Scaled`.

    Args:
        dim: coordinates of the series, D.
        likelihood: p(x | m + f).
        kernel: of one output, or of as many as divide D; None is a Matérn-3/2 of each channel's own.
        mean: "constant", "zero", or a function of time.
        memory: most gigabytes that a call may take, about.

    Raises:
        DataError: D14 for values that the likelihood does not give, besides those of `StateSpaceGP`.
        ModelError: as `StateSpaceGP`; M02 where the bound is not finite.
    """

    def __init__(
        self,
        dim: int,
        likelihood: ApproximatedLikelihood,
        kernel: LearnedKernel | None = None,
        mean: MeanFunction | Literal["constant", "zero"] = "constant",
        memory: float = 8.0,
    ):
        super().__init__()
        self.gp = StateSpaceGP(dim, kernel, likelihood, mean, memory)

    @property
    def likelihood(self) -> ApproximatedLikelihood:
        return cast(ApproximatedLikelihood, self.gp.likelihood)

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return self.gp.loss(given, want)

    def posterior(self, given: Paths, at: Tensor, latent: bool = False) -> Gaussian:
        """Mean and variance of every value at times (B, T); with `latent` of m + f.

        Of the true law of x as the approximate law of f gives it; only m + f is Gaussian.
        """
        return self.gp.posterior(given, at, latent)

    def sample(self, given: Paths, at: Tensor, n: int, latent: bool = False) -> Tensor:
        return self.gp.sample(given, at, n, latent)

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        given, want = train
        self.gp.on_epoch(epoch, (self.likelihood.latent(given), self.likelihood.latent(want)))

    def fit(self, paths: Paths, steps: int = 200) -> Self:
        """Moves the parameters to the largest bound on the evidence of all paths, by L-BFGS.

        Args:
            paths: everything to learn from.
            steps: most iterations.
        """
        self.on_epoch(0, (query(paths.t[:, :0], paths), paths))
        self.gp.fit(paths, steps)
        self.channels = self.gp.channels
        return self


def positive(name: str, value: float | Sequence[float], dim: int, fixed: bool) -> nn.Parameter:
    """The logarithm of a positive parameter of each channel: (D,)."""
    first = torch.tensor(value, dtype=torch.float64).expand(dim)
    if not bool(((first > 0) & first.isfinite()).all()):
        raise ConfigError("X01", f"`{name}={value}`", "positive numbers", "")
    return nn.Parameter(first.log(), requires_grad=not fixed)
