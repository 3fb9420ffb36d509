"""Rates of a Markov jump process from its paths in one pass of a network that reads one path after the other.

    p(q_ij | paths) ≈ N(m_ij, s_ij²),   (m, s) τ = network(paths, their times over τ),   τ = largest time

Beside `RateNetwork`, which reads sums over paths: this one sees every observation, and needs far more training.

[1] Berghaus, Cvejoski, Seifner, Ojeda & Sánchez. Foundation inference models for Markov jump processes. NeurIPS 2024.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.jump_data import JumpData, JumpTargets
from ..errors import DataError
from .base import Model
from .jump_network import RateLaw, rate_loss
from .jump_posterior import JumpPosterior, combined
from .path_encoders import STATES
from .path_network import PathNetwork
from .rate_network import RatePosterior, rate_draws

PATHS = 300  # at once: more were never seen in training
SMALLEST = 1e-6  # variance of a rate in the published loss


class PathRateNetwork(Model):
    """The network of [1], for at most six states; more than 300 paths are read in parts of equal size, then combined.

    Times count from the first observation of all, in units of the last. `sample` and `posterior` take no notice of the
    order of the paths within a part, nor of rows and paths that were not observed.

    Args:
        encoder, width, queries, key, heads, project, layers, hidden, dropout: of `PathNetwork`.
        published: the network as the code of [1] has it, with its loss: see `published_loss`. Times count from zero then.
    """

    def __init__(
        self,
        encoder: Literal["lstm", "transformer"] = "lstm",
        width: int = 256,
        queries: int = 16,
        key: int = 128,
        heads: int = 1,
        project: bool = False,
        layers: int = 4,
        hidden: int = 1024,
        dropout: float = 0.0,
        published: bool = False,
    ):
        super().__init__()
        self.published = published
        self.network = PathNetwork(
            encoder, width, queries, key, heads, project, layers, hidden, dropout, published
        )

    def law(self, data: JumpData) -> tuple[RateLaw, Tensor]:
        """Of six states in units of 1 / τ, from all paths at once, and τ (M,).

        Raises:
            DataError: D14 for more than six states.
        """
        require_few_states(data.states)
        t, unit = self._clock(data)
        return self.network(t, data.state, data.mask, data.states), unit

    def posterior(self, data: JumpData) -> RatePosterior:
        """The laws of the rates of every process. A published network holds every link possible.

        Raises:
            DataError: D14 for more than six states.
        """
        data = _seen_first(data)
        count = math.ceil(data.t.shape[1] / PATHS)
        parts = [self._posterior(part) for part in _parts(data, count)]
        if count == 1:
            return parts[0]
        processes = zip(*(zip(*p, strict=True) for p in parts), strict=True)
        together = [combined([JumpPosterior(*p) for p in process]) for process in processes]
        return RatePosterior(*(torch.stack(found) for found in zip(*together, strict=True)))

    def loss(self, given: JumpData, want: JumpTargets) -> Tensor:
        """`rate_loss` in units of τ, of the states that there are, a mean over problems; or `published_loss`."""
        law, unit = self.law(given)
        if self.published:
            return published_loss(law, unit, want)
        rates = want.rates * unit[:, None, None]
        return rate_loss(_of_states(law, given.states), rates, want.initial).mean()

    def sample(self, given: JumpData, at: Tensor, n: int) -> Tensor:
        """n draws of the rates, none below zero: (n, M, states, states). There is no time to ask about: `at` is not read."""
        return rate_draws(self.posterior(given), n)

    def _clock(self, data: JumpData) -> tuple[Tensor, Tensor]:
        """Times over τ (M, K, L), and τ (M,)."""
        t = data.t.double()
        last = t.where(data.mask, -math.inf).amax((1, 2))
        first = t.where(data.mask, math.inf).amin((1, 2))
        first = torch.zeros_like(last) if self.published else first.where(first.isfinite(), 0.0)
        unit = (last - first).where(last > first, 1.0)
        elapsed = (t - first[:, None, None]) / unit[:, None, None]
        return elapsed.where(data.mask, 0.0), unit

    def _posterior(self, data: JumpData) -> RatePosterior:
        found, unit = self.law(data)
        law = _of_states(found, data.states)
        off = 1 - torch.eye(data.states, dtype=law.mean.dtype, device=law.mean.device)
        tau = unit.to(law.mean)[:, None, None]
        return RatePosterior(
            law.mean / tau * off,
            law.deviation / tau * off,
            law.link.sigmoid() * off,
            law.initial.softmax(-1),
        )


def published_loss(law: RateLaw, unit: Tensor, want: JumpTargets) -> Tensor:
    """Σ a (-log N(f; m, s²)) / Σ a + cross-entropy of the likeliest first state + τ Σ (1 - a) (m² + s²) / Σ (1 - a)  [1]

    Sums over all problems of a minibatch and over all pairs of six states, whether a process has them or not; a is one
    where there is a link. Rates are in the units of the data, not of τ.

    Args:
        law: of six states, in units of 1 / τ. unit: (M,) τ.
    """
    M, n = want.initial.shape
    rates = law.mean.new_zeros(M, STATES, STATES)
    rates[:, :n, :n] = want.rates.to(rates)
    off = ~torch.eye(STATES, dtype=torch.bool, device=rates.device)
    tau = unit.to(rates)[:, None]
    truth, m, s = rates[:, off], law.mean[:, off] / tau, law.deviation[:, off] / tau
    link = truth > 0
    surprise = nn.functional.gaussian_nll_loss(
        m, truth, s.square(), full=True, eps=SMALLEST, reduction="none"
    )
    begin = nn.functional.cross_entropy(law.initial, want.initial.argmax(-1))
    absent = tau * (m.square() + s.square())
    return _mean(surprise, link) + begin + _mean(absent, ~link)


def require_few_states(states: int) -> None:
    """At most six.

    Raises:
        DataError: D14.
    """
    if states > STATES:
        raise DataError(
            "D14",
            f"{states} states for a network of {STATES}",
            f"at most {STATES} states",
            "Use `RateNetwork` or `MarkovJump`, which take any number",
        )


def _of_states(law: RateLaw, n: int) -> RateLaw:
    """What is said of the first n states."""
    mean, deviation, link = (part[:, :n, :n] for part in law[:3])
    return RateLaw(mean, deviation, link, law.initial[:, :n])


def _seen_first(data: JumpData) -> JumpData:
    """Without paths that no problem needs: K becomes the largest number of paths that were seen, of at least one."""
    seen = data.mask.any(-1)  # (M, K)
    order = (~seen).to(torch.int8).sort(dim=1, stable=True).indices
    order = order[:, : max(int(seen.sum(1).max()), 1), None]
    t, state, mask = (part.take_along_dim(order, 1) for part in data[:3])
    return JumpData(t, state, mask, data.states)


def _parts(data: JumpData, count: int) -> list[JumpData]:
    """So many parts of the paths, whose sizes differ by one at most."""
    parts = zip(*(part.tensor_split(count, 1) for part in data[:3]), strict=True)
    return [JumpData(t, state, mask, data.states) for t, state, mask in parts]


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen values; zero where there are none."""
    return values.where(chosen, 0.0).sum() / (chosen.sum() + 1e-8)
