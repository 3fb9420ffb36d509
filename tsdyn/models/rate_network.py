"""Rates of a Markov jump process from its paths in one pass of a network that has seen many other processes.

    p(q_ij | paths) ≈ N(m_ij, s_ij²),   (m, s) = network(statistics of the paths)

[1] Berghaus, Cvejoski, Seifner, Ojeda & Sánchez. Foundation inference models for Markov jump processes. NeurIPS 2024.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.jump_data import JumpData, JumpTargets
from ..maths.jump_features import jump_features
from .base import Model
from .jump_network import StatisticsNetwork, rate_loss


class RatePosterior(NamedTuple):
    """Of M processes, per unit of time."""

    mean: Tensor  # (M, n, n)  zero on the diagonal
    deviation: Tensor  # (M, n, n)
    link: Tensor  # (M, n, n)  probability that the rate is not zero
    initial: Tensor  # (M, n)


class RateNetwork(Model):
    """The network of [1] on sums over paths, for any number of states and paths; relabelling states relabels the answer.

    Exact methods are better where they apply: `MarkovJump` is, given enough paths. This one needs milliseconds, says how
    sure it is, and is a start for them.

    Args:
        width, hidden, layers: of `StatisticsNetwork`.
    """

    def __init__(self, width: int = 64, hidden: int = 128, layers: int = 4):
        super().__init__()
        self.network = StatisticsNetwork(width, hidden, layers)

    def posterior(self, data: JumpData) -> RatePosterior:
        """The laws of the rates of every process."""
        features = jump_features(data.t, data.state, data.mask, data.states)
        law = self.network(features)
        off = 1 - torch.eye(data.states, dtype=law.mean.dtype, device=law.mean.device)
        unit = features.unit.to(law.mean)[:, None, None]
        return RatePosterior(
            law.mean / unit * off,
            law.deviation / unit * off,
            law.link.sigmoid() * off,
            law.initial.softmax(-1),
        )

    def loss(self, given: JumpData, want: JumpTargets) -> Tensor:
        """`rate_loss` in units of the mean time between two changes of label, a mean over problems."""
        features = jump_features(given.t, given.state, given.mask, given.states)
        rates = want.rates * features.unit[:, None, None]
        return rate_loss(self.network(features), rates, want.initial).mean()

    def sample(self, given: JumpData, at: Tensor, n: int) -> Tensor:
        """n draws of the rates, none below zero: (n, M, states, states). There is no time to ask about: `at` is not read."""
        return rate_draws(self.posterior(given), n)


def rate_draws(found: RatePosterior, n: int) -> Tensor:
    """n draws of the rates, none below zero: (n, M, states, states)."""
    z = torch.randn((n, *found.mean.shape), dtype=found.mean.dtype, device=found.mean.device)
    return (found.mean + found.deviation * z).clamp(min=0)
