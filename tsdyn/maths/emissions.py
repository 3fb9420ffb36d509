"""What is seen of a hidden state: densities b_i(y) and their most likely parameters given the states.

Each is an `Emission`: any other type with its two methods will do as well. Weights are the probabilities
of the states, zero where nothing was observed; y is zero there.

[1] Rabiner. A tutorial on hidden Markov models. Proceedings of the IEEE 77, 1989.
[2] Jackson. Multi-state models for panel data: the msm package for R. Journal of Statistical Software 38,
    2011: states that are misread.
"""

import math
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)


class Emission(Protocol):
    """The law of an observation in each of n states."""

    def log_density(self, y: Tensor) -> Tensor:
        """log b_i(y): (B, T, n)"""
        ...

    def fitted(self, y: Tensor, weight: Tensor) -> Self:
        """That which maximises Σ weight_i(k) log b_i(y_k), for weights (B, T, n)."""
        ...


E = TypeVar("E", bound=Emission)


def log_densities(emission: Emission, y: Tensor, mask: Tensor) -> Tensor:
    """log b_i(y), zero where nothing was observed: (B, T, n)

    Args (of both):
        y: (B, T, ...); mask: (B, T).
    """
    return emission.log_density(_readable(y, mask)).where(mask[..., None], 0.0)


def fitted(emission: E, y: Tensor, mask: Tensor, law: Tensor) -> E:
    """The most likely emission given the laws (B, T, n) of the states."""
    return emission.fitted(_readable(y, mask), law.where(mask[..., None], 0.0))


class Categorical(NamedTuple):
    """P(y = o | i) = probability_io, symbols y (B, T) of 0 ... K - 1  [1]"""

    probability: Tensor  # (n, K)

    def log_density(self, y: Tensor) -> Tensor:
        return self.probability.log().mT[y.long()]

    def fitted(self, y: Tensor, weight: Tensor) -> "Categorical":
        K = self.probability.shape[-1]
        found = weight.new_zeros(K, weight.shape[-1])
        found.index_add_(0, y.long().flatten(), weight.flatten(0, 1))
        total = found.sum(0)
        # a state that is never visited keeps its law
        share = torch.where(total > 0, found / total, self.probability.mT)
        return Categorical(share.mT)


class Misread(NamedTuple):
    """The state is seen, but with probability `error` another one, each alike; y (B, T)  [2]"""

    error: Tensor  # ()
    n: int

    def log_density(self, y: Tensor) -> Tensor:
        right = torch.eye(self.n, dtype=torch.bool, device=y.device)[y.long()]
        return torch.where(right, 1 - self.error, self.error / (self.n - 1)).log()

    def fitted(self, y: Tensor, weight: Tensor) -> "Misread":
        right = weight.gather(-1, y.long()[..., None]).sum()
        return Misread((1 - right / weight.sum()).clamp(min=0), self.n)


class Gaussian(NamedTuple):
    """y | i ~ N(mean_i, covariance_i), y (B, T, D)  [1]"""

    mean: Tensor  # (n, D)
    covariance: Tensor  # (n, D, D)
    floor: float = 0.0  # least variance in any direction, in squared units of y

    def log_density(self, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(self.covariance)
        apart = y.flatten(0, -2).mT - self.mean[..., None]  # (n, D, B T)
        white = torch.linalg.solve_triangular(factor, apart, upper=False)
        square = white.square().sum(1).mT.reshape(*y.shape[:-1], -1)
        size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log: Tensor = -0.5 * square - size - 0.5 * y.shape[-1] * LOG_2_PI
        return log

    def fitted(self, y: Tensor, weight: Tensor) -> "Gaussian":
        y, weight = y.flatten(0, 1), weight.flatten(0, 1)
        seen = weight.sum(-1) > 0
        y, weight = y[seen], weight[seen]
        total = weight.sum(0)
        visited = (total > 0)[:, None]
        share = weight / total.where(total > 0, 1.0)
        mean = torch.where(visited, share.mT @ y, self.mean)
        apart = y[:, None] - mean  # (N, n, D)
        covariance = torch.einsum("kn,knd,kne->nde", share, apart, apart)
        covariance = torch.where(visited[..., None], covariance, self.covariance)
        return Gaussian(mean, _at_least(covariance, self.floor), self.floor)


def _readable(y: Tensor, mask: Tensor) -> Tensor:
    """y with zero where nothing was observed."""
    return y.where(mask.view(*mask.shape, *(1,) * (y.ndim - 2)), 0)


def _at_least(covariance: Tensor, floor: float) -> Tensor:
    """With no eigenvalue below the floor: the most likely one among such."""
    values, vectors = torch.linalg.eigh(covariance)
    raised: Tensor = (vectors * values.clamp(min=floor)[..., None, :]) @ vectors.mT
    return raised
