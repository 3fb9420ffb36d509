"""Gaussian processes in time whose parameters are uncertain: answers are mixtures over their posterior.

    log theta ~ N(log first value, spread^2),   p(x | given) = ∫ p(x | given, theta) dp(theta | data)

by Hamiltonian Monte Carlo on the exact marginal likelihood, which a state-space kernel gives with its
gradient in linear time.

[1] Hoffman & Gelman. The No-U-Turn sampler. Journal of Machine Learning Research 15, 2014.
[2] Lalchand & Rasmussen. Approximate inference for fully Bayesian Gaussian process regression. AABI 2020.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ..batch import Gaussian, Paths, compact, merge, query
from ..errors import ConfigError
from ..maths.minimise import minimise
from .base import Model, require_fitted
from .gp import StateSpaceGP
from .kernels import LearnedKernel
from .likelihoods import Likelihood
from .mean_functions import MeanFunction

FARTHEST = 10.0  # of the mode from the prior's median, in spreads
DIFFERENCE = 1e-3  # of parameters, for curvatures


class BayesianGP(Model):
    """x(t) = m(t) + f(t) + e,  f ~ GP(0, k_theta),  e ~ N(0, theta),  theta uncertain  [2]

    Lengthscales, variances, periods, noise: every learned positive parameter has a log-normal prior with
    its first value as the median, and the posterior given the whole training set is sampled as the first
    epoch starts, by the No-U-Turn sampler  [1]. Nothing is learned by gradients afterwards. Means and
    variances are those of the mixture over the draws, and each path is drawn from one of them.

    Values that are left open (kernel, noise) have medians from moments of the training data; better
    state what is believed. Coefficients of the mean and mixings of outputs stay at their first values.

    Args:
        dim, kernel, likelihood, mean, memory: as in `StateSpaceGP`.
        draws: of the parameters, kept for predictions.
        warmup: steps before them, in which the sampler adapts its step. It starts at the mode, in units
            of the curvature there.
        spread: standard deviation of the prior of log theta; with 1, theta is within a factor of 7 of
            its median for 95 %.
        depth: at most 2^depth gradients per draw.

    Raises:
        ConfigError: X01 where there is nothing to be uncertain about.
        DataError, ModelError: as `StateSpaceGP`.
    """

    draws: Tensor
    centre: Tensor
    fitted: Tensor

    def __init__(
        self,
        dim: int,
        kernel: LearnedKernel | None = None,
        likelihood: Likelihood | None = None,
        mean: MeanFunction | Literal["constant", "zero"] = "constant",
        draws: int = 100,
        warmup: int = 50,
        spread: float = 1.0,
        depth: int = 6,
        memory: float = 8.0,
    ):
        super().__init__()
        self.gp = StateSpaceGP(dim, kernel, likelihood, mean, memory)
        self.uncertain = tuple(
            name
            for name, p in self.gp.named_parameters()
            if p.requires_grad and name.rpartition(".")[2].startswith("log_")
        )
        if not self.uncertain or draws < 1 or warmup < 1 or not spread > 0:
            raise ConfigError(
                "X01",
                f"BayesianGP of {len(self.uncertain)} uncertain parameters, draws={draws}, "
                f"warmup={warmup}, spread={spread}",
                "at least one parameter, draw and step of warmup, and a positive spread",
                "Parameters in `fixed` are taken as known; where all are, use StateSpaceGP",
            )
        self.gp.requires_grad_(False)
        self.warmup, self.spread, self.depth = warmup, spread, depth
        size = sum(p.numel() for p in self.parameters_drawn())
        self.register_buffer("draws", torch.zeros(draws, size, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def loss(self, given: Paths, want: Paths) -> Tensor:
        both = merge(given, want)[0]
        gain = self._each(lambda: self.gp.evidence(both) - self.gp.evidence(given))  # (S, B)
        mixture = gain.logsumexp(0) - torch.tensor(float(len(gain))).log()
        return -mixture.sum() / want.mask.sum().clamp(min=1)

    def posterior(self, given: Paths, at: Tensor, latent: bool = False) -> Gaussian:
        """Mean and variance of every value at times (B, T); the law is a mixture of Gaussians."""
        laws = self._each(lambda: torch.stack(self.gp.posterior(given, at, latent)))
        means, variances = laws.unbind(1)  # (S, B, T, D)
        return Gaussian(means.mean(0), variances.mean(0) + means.var(0, correction=0))

    def sample(self, given: Paths, at: Tensor, n: int, latent: bool = False) -> Tensor:
        require_fitted(self.fitted, "BayesianGP")
        chosen = torch.randint(len(self.draws), (n,))
        counts = torch.bincount(chosen, minlength=len(self.draws))
        parts = []
        for row in counts.nonzero()[:, 0].tolist():
            count = int(counts[row])
            with self._at(self.draws[row]):
                parts.append(self.gp.sample(given, at, count, latent))
        return torch.cat(parts)[torch.randperm(n)]

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        if self.fitted:
            return
        self.gp.on_epoch(epoch, train)
        self.centre.copy_(flat(self.parameters_drawn()))
        seen = compact(merge(*train)[0])
        self.draws.copy_(self._posterior_draws(seen))
        self.fitted.fill_(True)

    def fit(self, paths: Paths) -> Self:
        """Draws from the posterior of the parameters given all paths."""
        self.fitted.fill_(False)
        self.on_epoch(0, (query(paths.t[:, :0], paths), paths))
        if paths.names is not None:
            self.channels = paths.names.channels
        return self

    def parameters_drawn(self) -> list[nn.Parameter]:
        """The uncertain parameters, in the order of the columns of `draws`."""
        return [self.gp.get_parameter(name) for name in self.uncertain]

    def values(self) -> dict[str, Tensor]:
        """The draws of every uncertain parameter, without logarithm: name -> (S, ...)."""
        require_fitted(self.fitted, "BayesianGP")
        sizes = [p.numel() for p in self.parameters_drawn()]
        columns = torch.split(self.draws.exp(), sizes, -1)
        return {
            name.replace("log_", ""): column.view(len(column), *p.shape)
            for name, column, p in zip(self.uncertain, columns, self.parameters_drawn())
        }

    def _posterior_draws(self, seen: Paths) -> Tensor:
        """Draws of log theta given everything seen: (S, P)."""

        def energy(z: Tensor) -> Tensor:
            """-log p(theta, x) at z = (log theta - centre) / spread, up to a constant."""
            theta = self.centre + self.spread * z.to(self.centre)
            fit: Tensor = _Evidence.apply(theta, self, seen)  # type: ignore[no-untyped-call]
            return z.square().sum() / 2 - fit.to(z)

        mode, root = laplace(energy, self.draws.shape[1])
        u = no_u_turn(lambda u: energy(mode + root @ u), mode, *self._effort())
        return self.centre + self.spread * (mode + u @ root.T).to(self.centre)

    def _effort(self) -> tuple[int, int, int]:
        return len(self.draws), self.warmup, self.depth

    @contextmanager
    def _at(self, theta: Tensor) -> Iterator[list[nn.Parameter]]:
        """Inside, the parameters are these; then as before."""
        own = self.parameters_drawn()
        before = flat(own)
        put(theta, own)
        try:
            yield own
        finally:
            put(before, own)

    def _each(self, ask: Callable[[], Tensor]) -> Tensor:
        """An answer under every draw: (S, ...)."""
        require_fitted(self.fitted, "BayesianGP")
        answers = []
        for theta in self.draws:
            with self._at(theta):
                answers.append(ask())
        return torch.stack(answers)


class _Evidence(torch.autograd.Function):
    """log p(x | theta), whose gradient comes with its value."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, model: BayesianGP, seen: Paths) -> Tensor:
        with torch.enable_grad(), model._at(theta) as own:
            for p in own:
                p.requires_grad_(True)
            value = model.gp.evidence(seen).sum()
            gradient = torch.autograd.grad(value, own)
            for p in own:
                p.requires_grad_(False)
        ctx.save_for_backward(flat(gradient))
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None


def laplace(energy: Callable[[Tensor], Tensor], size: int) -> tuple[Tensor, Tensor]:
    """The mode of exp(-energy) near zero, and a root of the inverse of its curvature there: (P,), (P, P).

    In directions in which the curvature is below 1, that of the prior, it is taken to be 1.
    """
    mode = torch.zeros(size, dtype=torch.float64).requires_grad_()
    far = torch.full_like(mode, FARTHEST).detach()
    minimise(lambda: energy(mode), [mode], [-far], [far])

    def slope(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(energy(at), at)[0]

    steps = DIFFERENCE * torch.eye(size, dtype=torch.float64)
    rows = [(slope(mode + e) - slope(mode - e)) / (2 * DIFFERENCE) for e in steps]
    curvature = torch.stack(rows)
    values, axes = torch.linalg.eigh((curvature + curvature.T) / 2)
    return mode.detach(), axes / values.clamp(min=1.0).sqrt()


def no_u_turn(
    energy: Callable[[Tensor], Tensor], like: Tensor, draws: int, warmup: int, depth: int
) -> Tensor:
    """Draws (S, P) from exp(-energy(u)), which is near N(0, I); after a warmup, from torch's generator."""
    from pyro.infer.mcmc import MCMC, NUTS

    kernel: Any = NUTS(  # type: ignore[no-untyped-call]
        potential_fn=lambda values: energy(values["u"]),
        adapt_mass_matrix=False,
        max_tree_depth=depth,
    )
    start = {"u": torch.zeros_like(like)}
    chain: Any = MCMC(kernel, draws, warmup, initial_params=start, disable_progbar=True)  # type: ignore[no-untyped-call]
    chain.run()
    drawn: Tensor = chain.get_samples()["u"]
    return drawn


def flat(tensors: Any) -> Tensor:
    """All numbers in one row, without graph and apart from the tensors."""
    return torch.cat([f.detach().double().flatten() for f in tensors])


@torch.no_grad()
def put(values: Tensor, parameters: list[nn.Parameter]) -> None:
    """The inverse of `flat`."""
    own = torch.split(values.detach(), [p.numel() for p in parameters])
    for p, value in zip(parameters, own, strict=True):
        p.copy_(value.view(p.shape))
