"""A latent process with fractional noise behind series of any kind: many channels, nonlinear readouts, video.

[1] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
[2] Roeder, Wu & Duvenaud. Sticking the landing: simple, lower-variance gradient estimators for variational inference.
    NeurIPS 2017.
"""

import torch
from torch import Tensor

from ..batch import Paths, merge, query
from ..errors import ConfigError
from ..maths.fractional_walk import Walk
from ..maths.near import near
from .base import Model
from .bounds import Bound, bounded, normal_density, two_bounds, weights
from .fractional_posterior import By, FractionalPosterior, Scene
from .fractional_prior import Diffusion, FractionalPrior, Index, Kind, require_one_of
from .fractional_sde import MOST_STATES
from .latent_parts import Decoder, Encoder, Encoding


class LatentFractionalSDE(Model):
    """y(t) ~ N(f(x(t), c), e²),  c ~ N(0, I),  with x the process of a `FractionalPrior` and c the content of the series  [1]

    The encoder gives Gaussian potentials on x at the rows that were seen; the guide conditions the linear part of the equation
    on them exactly, and a network adds what the rest of the equation asks for. The loss is `two_bounds` of

        E_q Σ log N(y_i; f(x(t_i), c), e²) - KL(q(x) || p(x)) - KL(q(c) || p(c)),

    nats per value, divergences summed over the coordinates. In [1] c is a function of the series that costs nothing, so that
    the sum is no bound; here it is one. After the last row that was seen x follows the prior.

    Choose it where channels share fewer causes than there are channels, or are pixels. For channels with memory of their own
    `FractionalSDE` is exact where this is a bound.

    Args:
        encoder: a `LocalEncoder` or `VideoEncoder`; it decides how many coordinates x and c have.
        decoder: a `LinearDecoder` or `VideoDecoder`, for as many.
        hurst, index, kind, hidden, depth, diffusion, horizon, step, speeds: of the `FractionalPrior`, times in units of t;
            the scale of x is free, so that σ starts at one half and is learned.
        by: "guide", "guide_and_network" or "network", as of `FractionalSDE`; None for the first where the equation is linear
            and the second elsewhere.
        control: width of the control's network.
        draws: paths per series in training.
        bound: "elbo", "landing" or "iwae".
        dt: longest step; None for one step from each time to the next.

    Raises:
        ConfigError: X01 for an encoder and a decoder of different numbers of coordinates, and as `FractionalPrior`.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
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
        draws: int = 2,
        bound: Bound = "elbo",
        dt: float | None = None,
    ):
        super().__init__()
        require_one_of(Bound, "bound", bound)
        if (encoder.latent, encoder.content) != (decoder.latent, decoder.content):
            raise ConfigError(
                "X01",
                f"an encoder of latent={encoder.latent}, content={encoder.content} with a decoder of "
                f"latent={decoder.latent}, content={decoder.content}",
                "the same numbers",
                "Give both the same `latent` and `content`",
            )
        self.encoder, self.decoder = encoder, decoder
        latent = encoder.latent
        self.prior = FractionalPrior(
            latent, hurst, index, kind, hidden, depth, diffusion, horizon, step, speeds
        )
        by = by or ("guide" if self.prior.linear_only else "guide_and_network")
        past = 3 if kind == "mandelbrot_van_ness" else 0
        context = encoder.content + 2 * latent + 1
        self.posterior = FractionalPosterior(latent, self.prior.states, context, by, control, past)
        self.draws, self.bound, self.dt = draws, bound, dt

    def hurst(self, t: Tensor | None = None) -> Tensor:
        """H of every latent coordinate (L,), or at times since the start (...) -> (..., 1) where it depends on them."""
        return self.prior.hurst(t)

    def paths(self, seen: Paths, draws: int) -> tuple[Walk, Tensor]:
        """Draws of x at all rows of `seen` and of the content (n, B, C), with the costs of both."""
        found = self.encoder(seen)
        last = seen.t.where(seen.mask.any(-1), -torch.inf).amax(1, keepdim=True)

        def context(at: Tensor) -> Tensor:
            """The potentials around, linearly between rows, and the content: what a control may know."""
            there = found.precision > 0
            around = near(seen.t, found.precision.where(there, 1.0).log(), there, at).level
            level = near(seen.t, found.target, there, at).level
            left = (last - at).clamp(min=0)[..., None].log1p().to(level.dtype)
            content = found.content[:, None].expand(-1, at.shape[1], -1)
            return torch.cat([level, around, left, content], -1)

        scene = Scene(seen.t, found.target, found.precision, context)
        landing = self.bound == "landing"
        walk = self.posterior.draw(self.prior, scene, draws, self.dt, landing=landing)
        return _with_content(walk, found, draws)

    def evidence(self, seen: Paths) -> Tensor:
        """A random number below log p of all that is seen of each series on average: (B,)"""
        return self._bound(seen, self.draws, self.bound)

    def log_evidence(self, seen: Paths, draws: int = 256) -> Tensor:
        """The importance weighted bound of log p(seen), in nats: (B,)"""
        return self._bound(seen, draws, "iwae")

    def _bound(self, seen: Paths, draws: int, bound: Bound) -> Tensor:
        walk, content = self.paths(seen, draws)
        density = normal_density(seen.x, seen.mask, *self.decoder(walk.x, content))
        return bounded(weights(density, walk, bound), bound)

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return two_bounds(self.evidence, given, want)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        given = Paths(given.t, given.x, given.mask)
        both, where = merge(given, query(at.to(given.t.dtype), given))
        most = max(MOST_STATES // both.x.numel(), 1)
        parts = []
        for first in range(0, n, most):
            walk, content = self.paths(both, min(most, n - first))
            x = walk.x.take_along_dim(where[None, ..., None], 2)
            mean, std = self.decoder(x, content)
            parts.append(mean + std * torch.randn_like(mean))
        return torch.cat(parts)


def _with_content(walk: Walk, found: Encoding, draws: int) -> tuple[Walk, Tensor]:
    """Draws of the content (n, B, C), and the walk with what they cost."""
    mean, std = found.content, found.content_std
    e = torch.randn(draws, *mean.shape, dtype=mean.dtype, device=mean.device)
    c = mean + std * e
    divergence = ((mean.square() + std.square() - 1) / 2 - std.log()).sum(-1)
    log_ratio = ((c.square() - e.square()) / 2 - std.log()).sum(-1)
    held = (c - mean.detach()) / std.detach()  # e, with the gradient of [2]
    landing = ((c.square() - held.square()) / 2 - std.detach().log()).sum(-1)
    charged = walk._replace(
        divergence=walk.divergence + divergence,
        log_ratio=walk.log_ratio + log_ratio,
        landing=walk.landing + landing,
    )
    return charged, c
