"""Drifts of gene circuits: production that other genes switch, and decay.

[1] Elowitz & Leibler. A synthetic oscillatory network of transcriptional regulators. Nature 2000.
[2] Pratapa et al. Benchmarking algorithms for gene regulatory network inference from single-cell
    transcriptomic data. Nature Methods 2020: Boolean networks made continuous.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..maths.minimise import minimise
from .references import Reference, not_negative, require_dims

LEAST = 1e-8  # of a concentration
STARTS = (
    (1.0, 1.0),
    (2.0, 1.0),
    (3.0, 0.3),
    (3.0, 3.0),
)  # of n and of k in units of the mean level


class Repressilator(Reference):
    """dx_i/dt = β / (1 + (x_{i-1} / k)ⁿ) - γ x_i, around a ring of genes  [1]

    Given n and k it is linear in β and γ, so that only two numbers are searched for (variable projection).
    β and kⁿ are told apart only where repression is not complete.

    Args:
        genes: D, at least 2.
    """

    theta: Tensor

    def __init__(self, genes: int = 3):
        super().__init__()
        self.genes = genes
        start = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        self.register_buffer("theta", start)

    def drift(self, x: Tensor) -> Tensor:
        require_dims(x, self.genes, "Repressilator")
        beta, n, k, gamma = self.theta.to(x).unbind()
        return beta * _switch(x, n, k) - gamma * x.clamp(min=LEAST)

    def jacobian(self, x: Tensor) -> Tensor:
        beta, n, k, gamma = self.theta.to(x)
        open_ = _switch(x, n, k)
        before = x.roll(1, -1)
        slope = -beta * open_ * (1 - open_) * n / before.clamp(min=LEAST) * (before > LEAST)
        found = torch.diag_embed(-gamma * (x > LEAST).to(x))
        gene = torch.arange(self.genes, device=x.device)
        found[:, gene, gene - 1] += slope  # gene 0 is repressed by the last
        return found

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        own = x.clamp(min=LEAST).flatten()
        wide, target = weights.repeat_interleave(x.shape[1]), drift.flatten()

        def features(u: Tensor) -> Tensor:
            return torch.stack([_switch(x, u[0].exp(), u[1].exp()).flatten(), -own], 1)

        def sums(u: Tensor) -> tuple[Tensor, Tensor]:
            heavy = features(u) * wide[:, None]
            gram = heavy.mT @ features(u)
            return gram + 1e-12 * gram.trace() * torch.eye(2).to(gram), heavy.mT @ target

        def error(u: Tensor) -> Tensor:
            rates: Tensor = torch.linalg.solve(*sums(u))
            off: Tensor = features(u) @ rates - target
            return (wide * off**2).sum() / wide.sum()

        level = math.log(float(own.mean()))
        first = bool(self.theta[0] == 0)
        starts = (
            [(math.log(n), level + math.log(k)) for n, k in STARTS]
            if first
            else [tuple(self.theta[1:3].log().tolist())]
        )
        best = min((_minimised(error, u, level) for u in starts), key=lambda u: float(error(u)))
        beta, gamma = not_negative(*sums(best))
        self.theta.copy_(torch.stack([beta, best[0].exp(), best[1].exp(), gamma]))

    def parameters_by_name(self) -> dict[str, Tensor]:
        return dict(zip(("beta", "n", "k", "gamma"), self.theta, strict=True))


class BooleanNetwork(Reference):
    """dx_i/dt = b_i + Σ_j M_ij A_ij h_j(x_j) - γ_i x_i,  h_j = 1 / (1 + exp(-4 (x_j - m_j) / s_j))  [2]

    h_j is the softened state of gene j: on above its mean m_j, s_j its deviation, both of the first fit. Each row
    is a ridge regression on the genes that may act on it.

    Args:
        mask: M (D, D): row i says with ones which genes may act on gene i.
        ridge: as a share of the variance of a softened state.
    """

    weights: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(self, mask: Sequence[Sequence[float]], ridge: float = 1e-2):
        super().__init__()
        rows = [len(row) for row in mask]
        if rows != [len(mask)] * len(mask) or not rows:
            raise ConfigError(
                "X01",
                f"BooleanNetwork got a mask with rows of {rows}",
                "as many columns as rows",
                "Row i says with ones and zeros which genes act on gene i",
            )
        D = len(mask)
        self.allowed = torch.tensor(mask) != 0
        self.ridge = ridge
        self.register_buffer("weights", torch.zeros(D, D + 2, dtype=torch.float64))  # A, b, γ
        self.register_buffer("middle", torch.zeros(D, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(D, dtype=torch.float64))

    def drift(self, x: Tensor) -> Tensor:
        D = len(self.middle)
        require_dims(x, D, "BooleanNetwork")
        weights = self.weights.to(x)
        made: Tensor = self._states(x) @ weights[:, :D].mT + weights[:, D]
        return made - weights[:, D + 1] * x

    def jacobian(self, x: Tensor) -> Tensor:
        h = self._states(x)
        weights = self.weights.to(x)
        slope = (4 / self.spread).to(x) * h * (1 - h)
        return weights[:, : x.shape[1]] * slope[:, None] - torch.diag(weights[:, -1])

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        if not bool(self.weights.any()):
            w = (weights / weights.sum())[:, None]
            self.middle.copy_((w * x).sum(0))
            self.spread.copy_((w * (x - self.middle) ** 2).sum(0).sqrt().clamp(min=LEAST))
        h, share = self._states(x), (weights / weights.sum())[:, None]
        width = float((share * (h - (share * h).sum(0)) ** 2).sum(0).mean())
        for i, allowed in enumerate(self.allowed):
            own = torch.cat([h[:, allowed], torch.ones_like(x[:, :1]), -x[:, i : i + 1]], 1)
            heavy = own * share
            level = x.new_full((own.shape[1],), self.ridge * width)
            level[-2] = 0.0  # what is always made
            level[-1] = self.ridge * float(self.spread[i]) ** 2
            rates = torch.linalg.solve(heavy.mT @ own + torch.diag(level), heavy.mT @ drift[:, i])
            places = torch.cat([allowed, torch.ones(2, dtype=torch.bool)])
            self.weights[i] = 0.0
            self.weights[i, places] = rates

    def parameters_by_name(self) -> dict[str, Tensor]:
        D = len(self.middle)
        return {"A": self.weights[:, :D], "b": self.weights[:, D], "gamma": self.weights[:, D + 1]}

    def _states(self, x: Tensor) -> Tensor:
        return torch.sigmoid(4 * (x - self.middle.to(x)) / self.spread.to(x))


def _switch(x: Tensor, n: Tensor, k: Tensor) -> Tensor:
    """1 / (1 + (x_{i-1} / k)ⁿ)."""
    return torch.sigmoid(-n * (x.clamp(min=LEAST).roll(1, -1).log() - k.log()))


def _minimised(error: Callable[[Tensor], Tensor], start: Sequence[float], level: float) -> Tensor:
    """(log n, log k) of the least error, from a start; n in [0.2, 10], k within e^±5 of the mean level."""
    low = torch.tensor([math.log(0.2), level - 5], dtype=torch.float64)
    high = torch.tensor([math.log(10.0), level + 5], dtype=torch.float64)
    u = torch.tensor(start, dtype=torch.float64).clamp(low, high).requires_grad_()
    minimise(lambda: error(u), [u], [low], [high])
    return u.detach()
