"""Problems for networks that read rates off paths: simulated when a minibatch asks for them, and stored nowhere.

One row of the dataset is the number of a problem. A minibatch simulates as many as it holds: one number of
states, of paths and of observations for all of them, other chains each.

[1] Berghaus et al. Foundation inference models for Markov jump processes. NeurIPS 2024: grids and noise, here with more of
    everything.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..maths.jump_prior import Chains, RatePrior
from ..maths.jump_simulation import gillespie_grid
from ..maths.rate_matrix import stationary
from .jump_data import JumpData, JumpTargets, Problems
from .jump_systems import flashing_ratchet
from .split import Cut, Parts

PATHS = 12_000  # in a minibatch
PRIOR = RatePrior()
POTENTIALS = (0.0, 1.0, 2.0)  # of the ratchets that judge a network


@dataclasses.dataclass(frozen=True)
class Numbered:
    """So many problems in an epoch.

    Args:
        count: of problems.
    """

    count: int = 25_600

    def __call__(self) -> Problems:
        return Problems(torch.arange(self.count))


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A minibatch of problems: chains from the prior, paths by Gillespie, thinned, with labels misread.

    Half of the minibatches have 30 to 300 paths, 30 % fewer (log-uniform from 1 to 60), the rest 300. 40 % are seen at
    all of 100 times, 30 % at every second to fifth, 30 % at random. A quarter has no noise, a quarter 1 % of
    labels drawn anew, the others up to `noise`.

    Args:
        prior: of the chains.
        states: least and most states.
        noise: largest share of labels that are drawn anew.
        horizon: length of the paths; with the scale of the prior it decides the number of jumps.
        times: of the finest grid.
    """

    prior: RatePrior = PRIOR
    states: tuple[int, int] = (2, 8)
    noise: float = 0.15
    horizon: float = 10.0
    times: int = 100

    def __post_init__(self) -> None:
        low, high = self.states
        if not 2 <= low <= high or not 0 <= self.noise < 1 or self.times < 3:
            raise ConfigError(
                "X01",
                f"Simulated got states={self.states}, noise={self.noise}, times={self.times}",
                "2 <= least <= most, noise in [0, 1), three times at least",
                "",
            )

    def __call__(
        self, problems: Problems, generator: torch.Generator | None = None
    ) -> tuple[JumpData, JumpTargets]:
        low, high = self.states
        n = _integer(low, high, generator)
        K = self._paths(generator)
        M = min(len(problems.number), max(1, PATHS // K))
        chains = self.prior.sample(M, n, generator)
        t = torch.linspace(0, self.horizon, self.times, dtype=torch.float64)
        state = gillespie_grid(chains.rates, chains.initial, K, t, generator).long()
        state = misread(state, n, self._noise(generator), generator)
        data = JumpData(t.expand(state.shape), state, self._mask(state.shape, generator), n)
        return data, JumpTargets(*chains)

    def _paths(self, g: torch.Generator | None) -> int:
        kind = _share(g)
        if kind < 0.5:
            return _integer(30, 300, g)
        return int(math.exp(_share(g) * math.log(60))) if kind < 0.8 else 300

    def _noise(self, g: torch.Generator | None) -> float:
        kind = _share(g)
        return 0.0 if kind < 0.25 else 0.01 if kind < 0.5 else self.noise * _share(g)

    def _mask(self, shape: torch.Size, g: torch.Generator | None) -> Tensor:
        kind = _share(g)
        if kind >= 0.7:
            return torch.rand(shape, generator=g) < 0.1 + 0.5 * _share(g)
        step = 1 if kind < 0.4 else _integer(2, 5, g)
        return (torch.arange(shape[-1]) % step == 0).expand(shape)


@dataclasses.dataclass(frozen=True)
class JudgedByRatchets:
    """Everything is trained on; flashing ratchets, which the prior never draws, are for validation.

    A loss over the prior can fall while the rates of a chain outside of it go wrong: a checkpoint is to be chosen by these.

    Args:
        paths: of each problem, 100 times in 2.5.
        problems: of each of three potentials and each of three ways of seeing them: at all times, at half of
            the times at random, and so with 10 % of labels drawn anew.
        seed: of all of them.
    """

    paths: int = 300
    problems: int = 10
    seed: int = 0

    def __call__(self, problems: Problems, cut: Cut) -> Parts:
        return Parts(problems, ratchets(self.paths, self.problems, self.seed), None)


def ratchets(paths: int, problems: int, seed: int) -> tuple[JumpData, JumpTargets]:
    """The problems of `JudgedByRatchets`: 9 times `problems` of them."""
    g = torch.Generator().manual_seed(seed)
    Q = torch.stack([flashing_ratchet(V) for V in POTENTIALS]).repeat_interleave(problems, 0)
    t = torch.linspace(0, 2.5, 100, dtype=torch.float64)
    made: list[Any] = []
    for noise, kept in ((0.0, 1.0), (0.0, 0.5), (0.1, 0.5)):
        state = gillespie_grid(Q, stationary(Q), paths, t, g).long()
        made.append((misread(state, 6, noise, g), torch.rand(state.shape, generator=g) < kept))
    state, mask = (torch.cat(parts) for parts in zip(*made, strict=True))
    chains = Chains(Q.repeat(3, 1, 1), stationary(Q).repeat(3, 1))
    return JumpData(t.expand(state.shape), state, mask, 6), JumpTargets(*chains)


def misread(state: Tensor, states: int, noise: float, generator: torch.Generator | None) -> Tensor:
    """Labels of which a share is drawn anew from all states."""
    if not noise:
        return state
    wrong = torch.rand(state.shape, generator=generator) < noise
    return torch.where(wrong, torch.randint(0, states, state.shape, generator=generator), state)


def _share(g: torch.Generator | None) -> float:
    return float(torch.rand((), generator=g))


def _integer(low: int, high: int, g: torch.Generator | None) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))
