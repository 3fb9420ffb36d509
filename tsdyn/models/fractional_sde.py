"""Neural SDEs with memory: noise of any Hurst index, by variational inference whose linear part is exact.

[1] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
[2] Burda, Grosse & Salakhutdinov. Importance weighted autoencoders. ICLR 2016.
[3] Roeder, Wu & Duvenaud. Sticking the landing: simple, lower-variance gradient estimators for variational inference.
    NeurIPS 2017.
[4] Schauer, van der Meulen & van Zanten. Guided proposals for simulating multi-dimensional diffusion bridges. Bernoulli 23,
    2017.
"""

import math

import torch
from torch import Tensor, nn

from ..batch import Paths, merge, query
from ..errors import ConfigError
from ..maths.fractional_walk import Walk
from ..maths.near import near
from ..nets import local_features
from .base import Model
from .bounds import Bound, bounded, normal_density, two_bounds, weights
from .fractional_posterior import By, FractionalPosterior, Scene, log_evidence
from .fractional_prior import QUICK, Diffusion, FractionalPrior, Index, Kind, require_one_of, scale

SOON = 0.01  # in units of t: nearer than this to the next value the networks see no difference
MOST_STATES = 2_000_000  # of one walk in `sample`: draws x series x rows


class FractionalSDE(Model):
    """y_d(t) ~ N(l_d + x_d(t), e_d²) with x the process of a `FractionalPrior`:

        dx_d = (-κ_d x_d + r_d(t, x)) dt + σ_d g_d(x) ∘ dB_d,   B_d fractional Brownian motion of index H_d

    H < 1/2 is rough and turns back, H > 1/2 is smooth and goes on, H = 1/2 has no memory. With r = 0 and g = 1 (the default)
    everything is exact in law but for the Markov approximation of B: the evidence is that of a Gaussian process, in steps of any
    length, at a cost linear in the length of a series. Otherwise

        log p(y) >= E_q Σ log p(y_i | x) - KL(q || p),

    with q drawn by the exact posterior of the linear part [4] and a network for the rest, or, with by="network", by a
    network alone  [1]. After the last observation q is the prior. Divergences are sums over coordinates.

    The loss is `two_bounds`; "landing" has the value of a single draw of log q / p, and the gradient of [3]; "iwae" is the
    importance weighted bound [2] of `draws` paths. Works in standard units: wrap it in `Scaled`; `horizon`, `step` and `dt` are
    then in units of the median gap.

    Choose it for memory that a short state cannot hold, rough or persistent, and to ask how much: H comes with the fit. On
    Markov data `LatentSDE` and `Linear` do the same for less; on long regular series of one H alone,
    `tsdyn.maths.hurst` is quicker.

    Args:
        dim: coordinates of the series, D.
        hurst, index, kind, hidden, depth, diffusion, horizon, step, speeds: of the `FractionalPrior`.
        by: "guide" (the default where the equation is linear), "guide_and_network" (the default elsewhere) or
            "network".
        control: width of the control's networks.
        neighbours: observations that the networks see on either side of each channel.
        draws: paths per series in training.
        bound: "elbo", "landing" or "iwae".
        dt: longest step; None for one step from each time to the next.
        grading: (substeps, power) of every gap instead of dt: steps that shrink towards the next observation, which a
            control by a network alone needs where H < 1/2.

    Raises:
        ConfigError: X01 for dt with grading, and for words or numbers that are not among those above.
    """

    def __init__(
        self,
        dim: int,
        hurst: float = 0.5,
        index: Index = "learned",
        kind: Kind = "riemann_liouville",
        hidden: int = 0,
        depth: int = 2,
        diffusion: Diffusion = "constant",
        horizon: float = 100.0,
        step: float = 1.0,
        speeds: int = 7,
        by: By | None = None,
        control: int = 64,
        neighbours: int = 4,
        draws: int = 4,
        bound: Bound = "elbo",
        dt: float | None = None,
        grading: tuple[int, float] | None = None,
    ):
        super().__init__()
        require_one_of(Bound, "bound", bound)
        if dt is not None and grading is not None:
            raise ConfigError(
                "X01",
                "FractionalSDE got dt and grading",
                "one of them",
                "Drop one: both make steps",
            )
        self.prior = FractionalPrior(
            dim, hurst, index, kind, hidden, depth, diffusion, horizon, step, speeds
        )
        by = by or ("guide" if self.prior.linear_only else "guide_and_network")
        past = 3 if kind == "mandelbrot_van_ness" else 0
        context = (6 * neighbours + 2) * dim
        self.posterior = FractionalPosterior(dim, self.prior.states, context, by, control, past)
        self.exact = by == "guide" and self.prior.linear_only
        self.neighbours, self.draws, self.bound = neighbours, draws, bound
        self.dt, self.grading = dt, grading
        self.level = nn.Parameter(torch.zeros(dim))
        self.log_noise = nn.Parameter(torch.full((dim,), math.log(0.3) / QUICK))

    def hurst(self, t: Tensor | None = None) -> Tensor:
        """H of every coordinate (D,), or at times since the start (...) -> (..., 1) where it depends on them."""
        return self.prior.hurst(t)

    def paths(self, seen: Paths, draws: int) -> Walk:
        """Draws of x at all rows of `seen`, given its observations, with their costs."""
        scene, landing = self._scene(seen), self.bound == "landing"
        return self.posterior.draw(self.prior, scene, draws, self.dt, self.grading, landing)

    def evidence(self, seen: Paths) -> Tensor:
        """log p of all that is seen of each series where that is known, else a random number below it on average: (B,)"""
        if self.exact:
            return log_evidence(self.prior, self._scene(seen)).to(seen.x.dtype)
        walk = self.paths(seen, self.draws)
        return bounded(weights(self._density(seen, walk), walk, self.bound), self.bound)

    def log_evidence(self, seen: Paths, draws: int = 256) -> Tensor:
        """The importance weighted estimate of log p(seen), in nats: (B,). Exact where the equation is linear."""
        if self.exact:
            return self.evidence(seen)
        walk = self.paths(seen, draws)
        return bounded(weights(self._density(seen, walk), walk, "iwae"), "iwae")

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return two_bounds(self.evidence, given, want)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        given = Paths(given.t, given.x, given.mask)
        both, where = merge(given, query(at.to(given.t.dtype), given))
        most = max(MOST_STATES // both.t.numel(), 1)
        parts = []
        for first in range(0, n, most):
            x = self.paths(both, min(most, n - first)).x
            mean = self.level + x.take_along_dim(where[None, ..., None], 2)
            parts.append(mean + scale(self.log_noise) * torch.randn_like(mean))
        return torch.cat(parts)

    def _scene(self, seen: Paths) -> Scene:
        """Every observation is a Gaussian potential; the networks see what is near."""
        precision = seen.mask / scale(self.log_noise).square()

        def context(at: Tensor) -> Tensor:
            found = near(seen.t, seen.x, seen.mask, at, self.neighbours)
            left = torch.log(found.ahead[..., 0] + SOON).where(found.has_after[..., 0], 0.0)
            return torch.cat([local_features(found), left], -1)  # a gain is steep before a value

        return Scene(seen.t, seen.x.where(seen.mask, 0.0) - self.level, precision, context)

    def _density(self, seen: Paths, walk: Walk) -> Tensor:
        """log p(y | x): (n, B)"""
        return normal_density(seen.x, seen.mask, self.level + walk.x, scale(self.log_noise))
