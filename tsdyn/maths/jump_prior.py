"""Random rate matrices, on which networks that read rates off paths are trained.

    q_ij = s · r_ij on the edges of a random graph,   r ~ 0.48 Beta(0.88, 1.07) + 0.52 Beta(1.16, 4.96)

Half of the graphs are complete, the others are directed random graphs that are strongly connected. The scale s
of a matrix is log-uniform; in a share of the matrices r is log-uniform over 2.5 decades instead.

[1] Berghaus et al. Foundation inference models for Markov jump processes. NeurIPS 2024: the prior, whose rates the mixture
    above was fitted to. Scales, log-uniform rates and flat initial laws widen it.
"""

import dataclasses
import math
from typing import NamedTuple

import torch
from scipy.special import betaincinv, gammaincinv
from torch import Tensor

from ..errors import ConfigError
from .rate_matrix import from_rates, stationary

MIXTURE = ((0.48, 0.88, 1.07), (0.52, 1.16, 4.96))  # share, and the two parameters of the Beta law
DECADES = 2.5


class Chains(NamedTuple):
    """M chains of n states."""

    rates: Tensor  # (M, n, n)  Q, whose rows sum to zero
    initial: Tensor  # (M, n)


@dataclasses.dataclass(frozen=True)
class RatePrior:
    """The law of a chain.

    Args:
        complete: share of graphs with every edge.
        edge: probability of an edge in the others, which are drawn again until strongly connected.
        scale: least and largest s, per unit of time.
        decades: share of matrices with log-uniform rates.
        stationary: share of chains that start from their stationary law.
        flat: share that starts from Dirichlet(1); the rest starts from Dirichlet(50), near uniform.
    """

    complete: float = 0.5
    edge: float = 0.5
    scale: tuple[float, float] = (0.3, 3.0)
    decades: float = 0.2
    stationary: float = 0.5
    flat: float = 0.2

    def __post_init__(self) -> None:
        low, high = self.scale
        shares = (self.complete, self.edge, self.decades, self.stationary, self.flat)
        if not 0 < low <= high or any(not 0 <= p <= 1 for p in shares) or self.edge == 0:
            raise ConfigError(
                "X01",
                f"RatePrior got scale={self.scale} and shares {shares}",
                "0 < low <= high, and shares between zero and one, edge above zero",
                "",
            )

    def sample(self, count: int, states: int, generator: torch.Generator | None = None) -> Chains:
        """`count` chains of so many states."""
        rates = self._rates(count, states, generator) * self._edges(count, states, generator)
        Q = from_rates(rates)
        return Chains(Q, self._initial(Q, generator))

    def _rates(self, count: int, n: int, g: torch.Generator | None) -> Tensor:
        u = _uniform((4, count, n, n), g)
        (share, *first), (_, *second) = MIXTURE
        one, two = (torch.from_numpy(betaincinv(*p, u[0].numpy())) for p in (first, second))
        rates = torch.where(u[1] < share, one, two)
        wide = u[2, :, :1, :1] < self.decades
        rates = torch.where(wide, torch.exp(-DECADES * math.log(10) * u[0]), rates)
        low, high = (math.log(s) for s in self.scale)
        scale: Tensor = torch.exp(low + (high - low) * u[3, :, :1, :1])
        return rates * scale

    def _edges(self, count: int, n: int, g: torch.Generator | None) -> Tensor:
        off = 1 - torch.eye(n, dtype=torch.float64)
        edges = off.expand(count, n, n).clone()
        missing = _uniform((count,), g) >= self.complete
        while bool(missing.any()):
            drawn = off * (_uniform((int(missing.sum()), n, n), g) < self.edge)
            edges[missing] = drawn
            missing[missing.clone()] = ~strongly_connected(drawn)
        return edges

    def _initial(self, Q: Tensor, g: torch.Generator | None) -> Tensor:
        count, n, _ = Q.shape
        kind = _uniform((count, 1), g)
        u = _uniform((count, n), g).numpy()
        flat, even = (torch.from_numpy(gammaincinv(a, u)) for a in (1.0, 50.0))
        drawn = torch.where(kind < self.stationary + self.flat, flat, even)
        drawn = drawn / drawn.sum(-1, keepdim=True)
        return torch.where(kind < self.stationary, stationary(Q), drawn)


def strongly_connected(edges: Tensor) -> Tensor:
    """(M,) whether every state leads to every other, for graphs (M, n, n) of zeros and ones."""
    n = edges.shape[-1]
    reach = ((edges + torch.eye(n, dtype=edges.dtype)) > 0).double()
    for _ in range(math.ceil(math.log2(max(n, 2)))):
        reach = ((reach @ reach) > 0).double()
    return reach.flatten(1).all(1)


def _uniform(shape: tuple[int, ...], g: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64)
