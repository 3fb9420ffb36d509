"""Steps of an SDE that are drawn to pseudo-observations, and what leaving the prior costs.

Over a step of length h a Langevin equation with its residual held at r has a Gaussian transition,

    z' ~ N(mean, std²),  mean = z e^{-kappa h} + r (1 - e^{-kappa h}) / kappa,
                         std² = sigma² (1 - e^{-2 kappa h}) / (2 kappa).

Conditioned on a pseudo-observation N(target; z', 1 / precision) it is

    z' ~ N(mean + K (target - mean), (1 - K) std²),  K = std² precision / (1 + std² precision):

the end of a step of the SDE with the same diffusion and with Doob's transform of the drift [1, 2]

    f(t, z) + sigma² d/dz log E[N(target; z', 1 / precision) | z(t) = z].

Given its end, a step of either law is the same bridge. So the divergence of the two ends is the
divergence of the two paths, 1/2 E ∫ |theta|² dt of Girsanov's theorem, in closed form and for a step of
any length. What a Gaussian prior with linear drift becomes when it is seen through Gaussian noise is of this form.

[1] Rogers & Williams. Diffusions, Markov processes and martingales. Vol. 2, 2nd ed., Cambridge 2000,
    section IV.39.
[2] Archambeau, Cornford, Opper & Shawe-Taylor. Gaussian process approximations of stochastic
    differential equations. JMLR W&CP 1 (2007).
[3] Roeder, Wu & Duvenaud. Sticking the landing: simple, lower-variance gradient estimators for
    variational inference. NeurIPS 2017.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .sde import Langevin
from .steps import Noise, Step


class Pull(NamedTuple):
    """A pseudo-observation of z at the end of a step; precision 0 draws to nothing."""

    target: Tensor  # (..., H)
    precision: Tensor  # (..., H), >= 0, in 1 / units of z²


def spread(kappa: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
    """std of a step, sigma ((1 - e^{-2 kappa h}) / 2 kappa)^{1/2}; its gradient is finite at h = 0."""
    a = 2 * kappa * h
    return sigma * h.sqrt() * _phi(a).sqrt()


def pulled(sde: Langevin, pull: Pull) -> Step:
    """mean + K (target - mean) + (1 - K)^{1/2} std dW / h^{1/2}; the state is [z, mean], (B, 2 H).

    r is the mean of the residual at z and at where z would go with it and without noise (Heun's rule):
    order 2 in the drift. Euler's r would make a path spiral outwards that should circle, and a drift
    fitted with steps of one length would be wrong for others.

    The second half of the state is where the prior's step would have gone on average, from which the
    functions below find the cost. It has to start there too.

    Args:
        sde: the prior. kappa > 0 and sigma(t, *u) broadcast with (N, B, H).
        pull: for each step, (N, B, H).
    """
    kappa, residual, sigma, _ = sde
    kappa = torch.as_tensor(kappa)

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        a = kappa * h
        s = sigma(t, *u)
        keep = 1 / (1 + spread(kappa, s, h).square() * pull.precision)
        shift = (1 - keep) * pull.target
        shift = torch.addcmul(shift, s * (_phi(2 * a) * keep).sqrt(), noise.dw)
        return torch.exp(-a), h * _phi(a), keep, shift

    def advance(
        t: Tensor,
        x: Tensor,
        u: tuple[Tensor, ...],
        decay: Tensor,
        gain: Tensor,
        keep: Tensor,
        shift: Tensor,
    ) -> Tensor:
        z = x[:, : keep.shape[-1]]
        still = z * decay
        r = residual(t, z, *u)
        ahead = residual(t, torch.addcmul(still, r, gain), *u)
        mean = torch.addcmul(still, r + ahead, gain, value=0.5)
        return torch.cat([torch.addcmul(shift, mean, keep), mean], -1)

    return Step(prepare, advance)


def conditioned(mean: Tensor, std: Tensor, pull: Pull, e: Tensor) -> Tensor:
    """mean + K (target - mean) + (1 - K)^{1/2} std e: a draw of N(mean, std²) pulled, e ~ N(0, 1)."""
    keep = 1 / (1 + std.square() * pull.precision)
    return torch.lerp(pull.target, mean, keep) + std * keep.sqrt() * e


def divergence(mean: Tensor, std: Tensor, pull: Pull) -> Tensor:
    """KL(pulled || prior) of each coordinate of a step, in nats:

    1/2 (g² - K - log(1 - K)),  g = K (target - mean) / std.
    """
    g, excess = _standard(mean, std, pull)
    return 0.5 * (g.square() - excess / (1 + excess) + torch.log1p(excess))


def log_ratio(mean: Tensor, std: Tensor, pull: Pull, e: Tensor) -> Tensor:
    """log q(z') / p(z') of the draw that e ~ N(0, 1) made, coordinate by coordinate:

    1/2 (a² - e² - log(1 - K)),  a = (z' - mean) / std = g + (1 - K)^{1/2} e.

    Its mean over e is `divergence`.
    """
    g, excess = _standard(mean, std, pull)
    a = g + e * torch.rsqrt(1 + excess)
    return 0.5 * (a.square() - e.square() + torch.log1p(excess))


def landing(mean: Tensor, std: Tensor, pull: Pull, e: Tensor) -> Tensor:
    """`log_ratio`, with no gradient through the pull inside log q  [3]:

    1/2 (a² - b² - log(1 - K*)),  b = (a - g*) (1 - K*)^{-1/2},

    where the star marks what is made from the pull as a constant; in value, b = e. What is left out is
    the gradient of log q(z') with z' held, whose mean is zero, so the mean gradient is that of
    `divergence`. Where the pulled law is the exact posterior, what draws z' from its place in log q,
    log p and the likelihood cancels draw by draw. For short steps it is Girsanov's

        1/2 ∫ |theta|² dt + ∫ theta* dW.
    """
    g, excess = _standard(mean, std, pull)
    a = g + e * torch.rsqrt(1 + excess)
    still, held = _standard(mean, std, Pull(pull.target.detach(), pull.precision.detach()))
    b = (a - still) * (1 + held).sqrt()
    return 0.5 * (a.square() - b.square() + torch.log1p(held))


def _standard(mean: Tensor, std: Tensor, pull: Pull) -> tuple[Tensor, Tensor]:
    """g = K (target - mean) / std, and K / (1 - K)."""
    excess = std.square() * pull.precision
    return std * pull.precision / (1 + excess) * (pull.target - mean), excess


def _phi(a: Tensor) -> Tensor:
    """(1 - e^{-a}) / a, and 1 at a = 0."""
    still = a == 0
    return torch.where(still, 1 - a / 2, -torch.expm1(-a) / a.where(~still, 1.0))
