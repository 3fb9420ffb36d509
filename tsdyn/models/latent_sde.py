"""A latent neural SDE and its posterior: what is seen is a noisy look at a diffusion.

[1] Li, Wong, Chen & Duvenaud. Scalable gradients for stochastic differential equations. AISTATS 2020.
[2] Roeder, Wu & Duvenaud. Sticking the landing: simple, lower-variance gradient estimators for
    variational inference. NeurIPS 2017.
[3] Burda, Grosse & Salakhutdinov. Importance weighted autoencoders. ICLR 2016.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..batch import Paths, merge, query
from ..errors import ConfigError
from ..maths.grid import Grid, grid, increments
from ..maths.near import near
from ..maths.pull import Pull, conditioned, divergence, landing, log_ratio, pulled, spread
from ..maths.sde import Langevin
from ..maths.solve import require_finite, solve
from ..nets import local_features, mlp
from .base import Model
from .bounds import two_bounds

Bound = Literal["elbo", "iwae"]
SMALLEST = 0.01  # diffusion, and standard deviations of an observation and of z at the start
LARGEST_LOG = 12.0  # of the precision of a pull
QUICK = 4.0  # scales may have to move by orders of magnitude; Adam moves all parameters at one pace
MOST_STATES = 4_000_000  # of one solve in `sample`: draws x series x steps


class _Latent(NamedTuple):
    """n latent paths of B series at the ends of N steps; the start is a step from nowhere."""

    z: Tensor  # (n, B, N + 1, H)
    mean: Tensor  # (n, B, N + 1, H)  where the prior's step would end on average
    std: Tensor  # (B, N + 1, H)  of the prior's step
    e: Tensor  # (n, B, N + 1, H)  the standard normal it was drawn with; 0 for a step of no length
    pull: Pull  # (B, N + 1, H)
    stops: tuple[int, ...]  # (T,)  which of the states belong to the asked times

    @property
    def asked(self) -> Tensor:
        """The states at the asked times: (n, B, T, H)."""
        return self.z[:, :, list(self.stops)]


class LatentSDE(Model):
    """x(t) ~ N(A z(t) + b, s^2), with z a diffusion; prior and posterior share kappa, r and sigma  [1]:

        prior      dz = (-kappa z + r(z, t)) dt + sigma dW,   z(0) ~ N(mu, s0^2)
        posterior  dz = (-kappa z + r(z, t) + sigma theta(z, t, c)) dt + sigma dW

    |r| < 1 + kappa by tanh, so the drift is confining and no solution explodes; sigma is diagonal, at
    least .01, and does not depend on z: where sigma_i depends on z_i, a change of that coordinate takes
    the dependence out. t enters r through the phase of `periods` alone; without any, the law of what
    follows does not depend on the time of day.

    sigma theta is Doob's transform towards a pseudo-observation of z at the end of each step, whose
    place and precision a network makes from c(t): the nearest observations on both sides of that
    time, with their distances (`tsdyn.maths.pull`). After the last observation nothing pulls, and
    the posterior is the prior; without observations it is so everywhere. The precision is diagonal.
    Where r is constant and coordinates are seen one by one, the exact posterior is of this form, for
    steps of any length; elsewhere the form leaves out how coordinates hang together given the future.

    The loss is the negative evidence bound of [1], in nats per observed value, given and wanted alike:

        elbo   mean_k  log p(x | z_k) - sum over steps of KL(pulled || prior)(z_k)
        iwae   log mean_k  p(x | z_k) p(z_k) / q(z_k),   tighter as K grows  [3]

    where the sum of divergences is 1/2 ∫ |theta|^2 dt in closed form, and log q / p adds the
    stochastic integral: 1/2 ∫ |theta|^2 dt + ∫ theta dW. It is the mean of two bounds: of log p(given,
    want) with the posterior seeing both, and of log p(given) with the posterior seeing what it will
    see when asked. A series counts as many times as it has wanted values. Do not compare the loss with
    -log p(want | given) of other models; compare scores of draws.

    With `sticking_the_landing` [2] the stochastic integral is kept in the cost, and the gradient
    through the parameters of theta in it is dropped, for short steps

        1/2 ∫ |theta|^2 dt + ∫ theta* dW,   * held constant except in z:

    same mean gradient, as ∫ theta* dW is a martingale; no variance of the posterior's gradient where it
    is exact. It is for "elbo" only, as importance weights make it biased.

    Draws are joint over time: the posterior path up to the last given time, the prior's after.

    Works in standard units: wrap it in `Scaled`. Choose it where observations are noisy, or when the law
    itself is asked for, as by `prior_sample`.

    Args:
        dim: coordinates of the series, D.
        latent: coordinates of z, H; at least D unless the channels say the same.
        hidden: width of the networks.
        depth: their hidden layers.
        neighbours: observations used on either side of each channel, k.
        periods: of seasons, in units of t (of the median gap, inside `Scaled`).
        draws: latent paths per series in training, K.
        bound: "elbo" or "iwae".
        sticking_the_landing: see above.
        dt: longest solver step, in units of t; None for one step from each time to the next. A drift
            learned in steps too long for it is right for such steps only: where the dynamics are fast,
            or questions lie farther apart than the observations, set it before training.
        checkpoint: as in `solve`, for series so long that their gradient does not fit in memory.

    Raises:
        ConfigError: X01 for "iwae" with sticking_the_landing.
    """

    def __init__(
        self,
        dim: int,
        latent: int = 8,
        hidden: int = 64,
        depth: int = 2,
        neighbours: int = 4,
        periods: Sequence[float] = (),
        draws: int = 2,
        bound: Bound = "elbo",
        sticking_the_landing: bool = False,
        dt: float | None = None,
        checkpoint: int = 0,
    ):
        super().__init__()
        if bound == "iwae" and sticking_the_landing:
            raise ConfigError(
                "X01",
                "LatentSDE got bound='iwae' with sticking_the_landing",
                "one of them: together their gradient is biased",
                "Drop sticking_the_landing, or set bound='elbo'",
            )
        self.latent, self.neighbours, self.draws, self.dt = latent, neighbours, draws, dt
        self.bound, self.sticking_the_landing = bound, sticking_the_landing
        self.checkpoint, self.periods = checkpoint, tuple(periods)
        phase = 2 * len(self.periods)
        self.residual = mlp(latent + phase, hidden, latent, depth)
        self.kappa = nn.Parameter(torch.full((latent,), -2.0))  # softplus: .13 per unit of time
        self.log_sigma = nn.Parameter(torch.full((latent,), math.log(0.3) / QUICK))
        self.start_mean = nn.Parameter(torch.zeros(latent))
        self.log_start_std = nn.Parameter(torch.zeros(latent))
        self.log_noise = nn.Parameter(torch.full((dim,), math.log(0.3) / QUICK))
        self.encoder = mlp((6 * neighbours + 1) * dim + phase, hidden, 2 * latent, depth)
        self.level = nn.Linear(dim, latent, bias=False)
        self.readout = nn.Linear(latent, dim)
        with torch.no_grad():  # the first coordinates of z start as the channels themselves
            self.level.weight.copy_(torch.eye(latent, dim))
            self.readout.weight.copy_(torch.eye(dim, latent) + 0.1 * torch.randn(dim, latent))
            self.readout.bias.zero_()

    def prior(self) -> Langevin:
        """The equation of z; the phase of the seasons, if there are any, is computed beforehand."""
        kappa, diffusion = softplus(self.kappa), _scale(self.log_sigma)

        def residual(t: Tensor, z: Tensor, *phase: Tensor) -> Tensor:
            return (1 + kappa) * torch.tanh(self.residual(torch.cat([z, *phase], -1)))

        def sigma(t: Tensor, *phase: Tensor) -> Tensor:
            return diffusion

        return Langevin(kappa, residual, sigma)

    def pull(self, seen: Paths, at: Tensor) -> Pull:
        """The pseudo-observations of z at times (B, Q): (B, Q, H), of no precision where none follows."""
        found = near(seen.t, seen.x, seen.mask, at, self.neighbours)
        features = torch.cat([local_features(found), *self._phase(at)], -1)
        shift, raw = self.encoder(features).chunk(2, -1)
        precision = torch.exp(LARGEST_LOG * torch.tanh((raw + 1) / LARGEST_LOG))
        last = seen.t.where(seen.mask.any(-1), -torch.inf).amax(1)[:, None, None]
        return Pull(self.level(found.level) + shift, precision.where(at[..., None] <= last, 0.0))

    def posterior_paths(self, seen: Paths, at: Tensor, n: int) -> _Latent:
        """n paths of z given what was seen, from the first of the times (B, T) to the last."""
        steps = grid(at, self.dt)
        B, N, H = len(at), len(steps.t), self.latent
        ends = torch.cat([steps.t[1:], at[None, :, -1:].expand(min(N, 1), B, 1)])  # (N, B, 1)
        pull = self.pull(seen, torch.cat([at[:, :1], ends[..., 0].T], 1))  # (B, N + 1, H)
        target, precision = (f.transpose(0, 1).repeat(1, n, 1) for f in pull)  # (N + 1, n B, H)
        mean, std = self.start_mean, _scale(self.log_start_std)
        e = torch.randn_like(target[0])
        z = conditioned(mean, std, Pull(target[0], precision[0]), e)

        many = Grid(steps.t.repeat(1, n, 1), steps.h.repeat(1, n, 1), tuple(range(N + 1)))
        noise, sde = increments(many, z), self.prior()
        phase = tuple(f.transpose(0, 1) for f in self._phase(many.t[..., 0].T))
        step = pulled(sde, Pull(target[1:], precision[1:]))
        states = solve(
            step, torch.cat([z, mean.expand_as(z)], -1), many, noise, phase, self.checkpoint
        )
        z, means = require_finite(states, many).view(n, B, N + 1, 2 * H).chunk(2, -1)
        spreads = spread(torch.as_tensor(sde.kappa), sde.sigma(steps.t), steps.h).transpose(0, 1)
        es = torch.cat([e[None], noise.dw / many.h.sqrt().where(many.h > 0, 1.0)])
        return _Latent(
            z,
            means,
            torch.cat([std.expand(B, 1, H), spreads], 1),
            es.view(N + 1, n, B, H).permute(1, 2, 0, 3),
            pull,
            steps.stops,
        )

    def log_weights(self, seen: Paths) -> Tensor:
        """log p(x | z_k) - cost_k of K posterior paths: (K, B), in nats.

        The mean over k is the ELBO. With bound="iwae" the cost is log q / p itself, else its
        conditional mean, or with `sticking_the_landing` a number of the same value as log q / p.
        """
        path = self.posterior_paths(seen, seen.t, self.draws)
        mean, std = self.observe(path.asked)
        u = (seen.x.where(seen.mask, 0.0) - mean) / std
        density = -0.5 * u.square() - std.log() - 0.5 * math.log(2 * math.pi)
        law = path.mean, path.std, path.pull
        if self.bound == "iwae":
            cost = log_ratio(*law, path.e)
        else:
            cost = landing(*law, path.e) if self.sticking_the_landing else divergence(*law)
        return density.where(seen.mask, 0.0).sum((-2, -1)) - cost.sum((-2, -1))

    def evidence(self, seen: Paths) -> Tensor:
        """A random number whose mean is at most log p(seen): (B,), in nats. Rows are in order of time."""
        weights = self.log_weights(seen)
        if self.bound == "elbo":
            return weights.mean(0)
        return weights.logsumexp(0) - math.log(len(weights))

    def observe(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., D) and standard deviation (D,) of what is seen of z (..., H)."""
        return self.readout(z), _scale(self.log_noise)

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return two_bounds(self.evidence, given, want)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        given = Paths(given.t, given.x, given.mask)
        both, where = merge(given, query(at.to(given.t.dtype), given))
        most = max(MOST_STATES // both.t.numel(), 1)
        parts = []
        for first in range(0, n, most):
            z = self.posterior_paths(both, both.t, min(most, n - first)).asked
            mean, std = self.observe(z.take_along_dim(where[None, ..., None], 2))
            parts.append(mean + std * torch.randn_like(mean))
        return torch.cat(parts)

    def prior_sample(self, at: Tensor, n: int) -> Tensor:
        """n unconditional draws of the observations at times (B, T), started at the first: (n, B, T, D)."""
        x = self.readout.weight.new_zeros(*at.shape, len(self.log_noise))
        return self.sample(Paths(at.to(x.dtype), x, torch.zeros_like(x, dtype=torch.bool)), at, n)

    def _phase(self, t: Tensor) -> tuple[Tensor, ...]:
        """Cosine and sine of every season at times (B, Q): (B, Q, 2 P), or nothing without seasons."""
        if not self.periods:
            return ()
        angle = 2 * math.pi * t[..., None] / t.new_tensor(self.periods)
        return (torch.cat([angle.cos(), angle.sin()], -1),)


def _scale(raw: Tensor) -> Tensor:
    return SMALLEST + torch.exp(QUICK * raw)
