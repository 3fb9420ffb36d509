"""From latent draws to values: the law of a value given a latent path, and what to train it on.

K latent paths give K laws of every value; the predictive law is their mixture.

References:
    [1] Gneiting & Raftery. Strictly proper scoring rules, prediction, and estimation. JASA 2007.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Paths
from ..maths import score
from ..maths.score import masked_mean

LossName = Literal["nll", "crps", "energy", "mse"]


class Law(NamedTuple):
    """x ~ mean + scale e, e standard normal, or Student's t with `dof` degrees of freedom."""

    mean: Tensor  # (K, B, T, D)
    scale: Tensor  # (K, B, T, D)
    dof: Tensor | None = None  # (D,)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x | path k) of values (B, T, D): (K, B, T, D)."""
        square = ((x - self.mean) / self.scale).square()
        if self.dof is None:
            return -0.5 * (square + math.log(2 * math.pi)) - self.scale.log()
        v = self.dof
        peak = torch.lgamma((v + 1) / 2) - torch.lgamma(v / 2) - 0.5 * (math.pi * v).log()
        return peak - self.scale.log() - 0.5 * (v + 1) * torch.log1p(square / v)

    def draw(self) -> Tensor:
        """One value for every path, reparametrised in mean and scale: (K, B, T, D)."""
        e = torch.randn_like(self.mean)
        if self.dof is not None:
            half = (0.5 * self.dof.detach()).expand_as(e)
            e = e * (half / torch._standard_gamma(half)).sqrt()
        return self.mean + self.scale * e


def nll(law: Law, want: Paths) -> Tensor:
    """-log 1/K sum_k p(x | path k) of every single value: nats per observed value.

    The logarithmic score of the mixture of each value by itself: it asks for the right marginal laws,
    and spreads the paths where one law cannot; a squared error would let their noise die.
    """
    each = law.log_prob(want.x.where(want.mask, 0.0)).logsumexp(0)
    return masked_mean(math.log(len(law.mean)) - each, want.mask)


def crps(law: Law, want: Paths) -> Tensor:
    """E|X - x| - 1/2 E|X - X'| from one draw per path: robust to outliers; in units of x  [1]."""
    x = want.x.where(want.mask, 0.0)
    return masked_mean(score.crps(law.draw(), x), want.mask)


def energy(law: Law, want: Paths) -> Tensor:
    """E||X - x|| - 1/2 E||X - X'|| across the channels of a time: sees their dependence  [1]."""
    values = score.energy_score(law.draw(), want.x, want.mask)
    return masked_mean(values, want.mask.any(-1))


def mse(law: Law, want: Paths) -> Tensor:
    """(E X - x)^2: for means alone. The spread is not trained, and the noise of the paths dies."""
    x = want.x.where(want.mask, 0.0)
    return masked_mean((law.mean.mean(0) - x).square(), want.mask)


LOSSES: dict[LossName, Callable[[Law, Paths], Tensor]] = {
    "nll": nll,
    "crps": crps,
    "energy": energy,
    "mse": mse,
}
