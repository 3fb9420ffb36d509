"""Markov jump processes whose rates are known, as sources of `Paths`: x holds the number of a state, or what is seen of it.

References:
    [1] Ajdari & Prost. Mouvement induit par un potentiel périodique de basse symétrie. CRAS 1992: the flashing
        ratchet; discrete as in Berghaus et al., NeurIPS 2024.
    [2] Colquhoun & Hawkes. The principles of the stochastic interpretation of ion-channel mechanisms. 1995.
"""

import abc
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Paths
from ..errors import ConfigError
from ..maths.jump_simulation import skeleton
from ..maths.rate_matrix import from_rates, stationary


class JumpTruth(NamedTuple):
    """What a fit should find."""

    Q: Tensor  # (n, n)
    first: Tensor  # (n,)  law of the state at the start


def flashing_ratchet(V: float = 1.0, r: float = 1.0, b: float = 1.0) -> Tensor:
    """Rates of six states: 0, 1, 2 in a potential that is on, 3, 4, 5 where it is off: (6, 6)  [1]

    q_ij = exp(-V (j - i) / 2) between states that are on, b between those that are off, r to switch.
    """
    place = torch.arange(3, dtype=torch.float64)
    rates = torch.zeros(6, 6, dtype=torch.float64)
    rates[:3, :3] = torch.exp(-V / 2 * (place - place[:, None]))
    rates[3:, 3:] = b
    rates[:3, 3:] = rates[3:, :3] = r * torch.eye(3, dtype=torch.float64)
    return from_rates(rates)


@dataclasses.dataclass(frozen=True)
class JumpSystem(abc.ABC):
    """n series of a chain, each seen at times of its own.

    Args:
        n: series.
        rows: observations of each.
        span: time from the first to the last.
        irregular: times uniform in the span, each series its own; else evenly apart.
        seed: of all that is drawn.
    """

    n: int = 300
    rows: int = 100
    span: float = 2.5
    irregular: bool = False
    seed: int = 0

    def __call__(self) -> Paths:
        g = torch.Generator().manual_seed(self.seed)
        t = torch.linspace(0, self.span, self.rows, dtype=torch.float64).repeat(self.n, 1)
        if self.irregular:
            t = self.span * torch.rand(self.n, self.rows, generator=g, dtype=torch.float64)
            t = t.sort(1).values
        state = skeleton(*self.truth(), t, g)
        x = self.observed(state, g).float()
        return Paths(t, x, torch.ones_like(x, dtype=torch.bool))

    @abc.abstractmethod
    def truth(self) -> JumpTruth:
        """Rates and initial law."""

    def observed(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """What is seen of states (n, rows): (n, rows, D). Here the states."""
        return state[..., None]


@dataclasses.dataclass(frozen=True)
class FlashingRatchet(JumpSystem):
    """`flashing_ratchet` from its stationary law, each label replaced by a random one with probability `noise`.

    Args:
        V, r, b: of the rates.
        noise: probability that a label is drawn anew from all six.
    """

    V: float = 1.0
    r: float = 1.0
    b: float = 1.0
    noise: float = 0.0

    def truth(self) -> JumpTruth:
        Q = flashing_ratchet(self.V, self.r, self.b)
        return JumpTruth(Q, stationary(Q))

    def observed(self, state: Tensor, generator: torch.Generator) -> Tensor:
        wrong = torch.rand(state.shape, generator=generator) < self.noise
        return torch.where(wrong, torch.randint(0, 6, state.shape, generator=generator), state)[
            ..., None
        ]


@dataclasses.dataclass(frozen=True)
class IonChannel(JumpSystem):
    """A channel that is closed for long, closed for short, or open, seen as a current with Gaussian noise  [2]

    Two states look alike: only how long they last tells them apart.

    Args:
        current: pA when open.
        noise: standard deviation of the current, in pA.
    """

    n: int = 20
    rows: int = 500
    span: float = 1.0
    current: float = 5.0
    noise: float = 0.8

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ConfigError("X01", f"IonChannel got noise={self.noise}", "a positive number", "")

    def truth(self) -> JumpTruth:
        """Closed for long, closed for short, open; per second."""
        Q = from_rates(torch.tensor([[0.0, 20.0, 0.0], [30.0, 0.0, 150.0], [0.0, 80.0, 0.0]]))
        return JumpTruth(Q, stationary(Q))

    def observed(self, state: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(state.shape, generator=generator, dtype=torch.float64)
        return (self.current * (state == 2) + self.noise * z)[..., None]
