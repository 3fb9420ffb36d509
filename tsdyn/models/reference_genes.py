"""Drifts of gene circuits: production that other genes switch, and decay.

[1] Elowitz & Leibler. A synthetic oscillatory network of transcriptional regulators. Nature 2000.
[2] Golub & Pereyra. The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate. SIAM Journal on Numerical Analysis 10, 1973; and Kaufman, BIT 15, 1975.
[3] Pratapa, Jalihal, Law, Bharadwaj & Murali. Benchmarking algorithms for gene regulatory network inference
    from single-cell transcriptomic data. Nature Methods 2020: Boolean networks made continuous.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..maths.least_squares import (
    Expansion,
    levenberg_marquardt,
    not_negative,
    ridge_solution,
)
from .reference_base import LinearByCoordinate, Reference, moments, require

LEAST = 1e-8  # of a concentration, where its logarithm is taken
STEEPNESS = (0.2, 20.0)  # bounds of n
STARTS_N = (1.0, 2.0, 3.0, 5.0)
STARTS_K = (0.1, 0.3, 1.0, 3.0)  # in units of the mean level


class Repressilator(Reference):
    """dx_i/dt = β / (1 + (x_{i-1} / k)ⁿ) - γ x_i, around a ring of genes  [1]

    Given n and k it is linear in β and γ, which are not negative, so that a fit searches for two numbers only
    (variable projection [2]): from several starts the first time, later from where it was. β and k are hard to
    tell apart where repression is nearly complete: then only β kⁿ is seen.

    Args:
        genes: D.
        beta, n, k, gamma: before the first fit; n between 0.2 and 20.
    """

    theta: Tensor

    def __init__(
        self,
        genes: int = 3,
        beta: float = 0.0,
        n: float = 1.0,
        k: float = 1.0,
        gamma: float = 0.0,
    ):
        super().__init__(genes)
        require(beta >= 0 and gamma >= 0, "Repressilator", f"rates {beta, gamma}", "zero or more")
        require(STEEPNESS[0] <= n <= STEEPNESS[1], "Repressilator", f"n={n}", "0.2 to 20")
        require(k > 0, "Repressilator", f"k={k}", "a positive concentration")
        self.register_buffer("theta", torch.tensor([beta, n, k, gamma], dtype=torch.float64))

    def drift(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        beta, n, k, gamma = self.theta.to(x)
        made: Tensor = beta * torch.sigmoid(n * (k.log() - _log_before(x)))
        decayed: Tensor = gamma * x
        return made - decayed

    def jacobian(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        beta, n, k, gamma = self.theta.to(x)
        before = x.roll(1, -1)
        on = torch.sigmoid(n * (k.log() - _log_before(x)))
        slope = -beta * n * on * (1 - on) / before.clamp(min=LEAST) * (before > LEAST)
        found: Tensor = -gamma * torch.eye(x.shape[-1]).to(x).repeat(len(x), 1, 1)
        gene = torch.arange(x.shape[-1], device=x.device)
        found[:, gene, gene - 1] += slope  # the first gene is repressed by the last
        return found

    def parameters_by_name(self) -> dict[str, Tensor]:
        return dict(zip(self.parameter_names(), self.theta.clone(), strict=True))

    def parameter_names(self) -> tuple[str, ...]:
        return ("beta", "n", "k", "gamma")

    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        beta, n, k, _ = self.theta
        made, turn = _production(_log_before(x), n, k, beta)
        by_theta = torch.stack([made, turn[0] / n, turn[1] / k, -x], -1).flatten(0, 1)  # (P D, 4)
        heavy = by_theta * weights.repeat_interleave(x.shape[1])[:, None]
        return heavy.mT @ by_theta

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        rows = _Rows(x, _log_before(x), velocity, share[:, None])
        level = float((share @ x.clamp(min=LEAST)).mean().log())
        bounds = torch.tensor([[math.log(n), level + s] for n, s in zip(STEEPNESS, (-7, 7))]).to(x)
        if bool(self.theta[0] > 0):
            starts = [self.theta[1:3].log()]
        else:
            grid = [(math.log(n), level + math.log(k)) for n in STARTS_N for k in STARTS_K]
            starts = sorted(x.new_tensor(grid), key=lambda u: float(_projected(rows, u)[0].loss))[
                :3
            ]
        found = [levenberg_marquardt(lambda u: _projected(rows, u)[0], u, *bounds) for u in starts]
        best, _ = min(found, key=lambda pair: pair[1])
        beta, gamma = _projected(rows, best)[1]
        self.theta.copy_(torch.stack([beta, *best.exp(), gamma]))


class _Rows(NamedTuple):
    """What a fit of a ring of genes reads."""

    x: Tensor  # (P, D)
    log_before: Tensor  # (P, D)
    velocity: Tensor  # (P, D)
    share: Tensor  # (P, 1)


def _projected(rows: _Rows, u: Tensor) -> tuple[Expansion, Tensor]:
    """The sum of squares about u = (log n, log k), where β and γ are the best for each u; and these  [2]"""
    made, turn = _production(rows.log_before, u[0].exp(), u[1].exp(), u.new_ones(()))
    features = torch.stack([made, -rows.x])  # (2, P, D)
    heavy = (rows.share * features).flatten(1)
    gram = heavy @ features.flatten(1).mT
    rates = not_negative(gram, heavy @ rows.velocity.flatten())
    off = torch.tensordot(rates, features, 1) - rows.velocity
    turn = (rates[0] * turn).flatten(1)
    pulled = heavy @ turn.mT * (rates > 0)[:, None]  # a rate held at zero does not follow u
    seen = ridge_solution(gram * (rates > 0)[:, None] * (rates > 0), pulled)
    root = rows.share.expand_as(rows.x).flatten()
    own = (root * turn) @ turn.mT - pulled.mT @ seen
    slope = (root * turn) @ off.flatten()
    return Expansion((rows.share * off.square()).sum(), slope, own), rates


def _production(log_before: Tensor, n: Tensor, k: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """h = 1 / (1 + (x_{i-1} / k)ⁿ) (P, D), and β times its derivatives by log n and log k (2, P, D)."""
    gap = k.log() - log_before
    on = torch.sigmoid(n * gap)
    turn = beta * n * on * (1 - on)
    return on, torch.stack([turn * gap, turn])


def _log_before(x: Tensor) -> Tensor:
    """log x_{i-1}."""
    return x.clamp(min=LEAST).log().roll(1, -1)


class BooleanNetwork(LinearByCoordinate):
    """dx_i/dt = b_i + Σ_j M_ij A_ij h_j(x_j) - γ_i x_i,  h_j = 1 / (1 + exp(-4 (x_j - m_j) / s_j))  [3]

    h_j is the state of gene j, off or on, softened: m_j is its mean and s_j its deviation over the places of
    the first fit. Positive A_ij are activations, negative ones repressions. Each row is a ridge regression on
    the genes that may act on it; signs are as the data have them, also that of γ.

    Args:
        genes: D.
        mask: M (D, D): row i says with ones which genes may act on gene i; None is all on all.
        ridge: as a share of the variance of each state, and of x_i.
    """

    middle: Tensor
    spread: Tensor

    def __init__(
        self, genes: int, mask: Sequence[Sequence[float]] | None = None, ridge: float = 1e-2
    ):
        require(genes >= 1, "BooleanNetwork", f"genes={genes}", "one at least")
        rows = [[1.0] * genes] * genes if mask is None else [[*row] for row in mask]
        require(
            [len(row) for row in rows] == [genes] * genes,
            "BooleanNetwork",
            f"a mask with rows of {[len(row) for row in rows]}",
            f"{genes} rows of {genes}, where row i says which genes act on gene i",
        )
        super().__init__(torch.cat([torch.tensor(rows) != 0, torch.eye(genes).bool()], 1), ridge)
        self.register_buffer("middle", torch.zeros(genes, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(genes, dtype=torch.float64))

    def regressors(self, x: Tensor) -> Tensor:
        return torch.cat([self._states(x), -x], -1)

    def slopes(self, x: Tensor) -> Tensor:
        h = self._states(x)
        by_state = torch.diag_embed(4 / self.spread.to(x) * h * (1 - h))
        decay = -torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand_as(by_state)
        return torch.cat([by_state, decay], 1)

    def regressor_names(self) -> list[str]:
        genes = range(len(self.b))
        return [f"h{j}" for j in genes] + [f"-x{j}" for j in genes]

    def parameters_by_name(self) -> dict[str, Tensor]:
        A, decay = self.A.clone().chunk(2, 1)
        return {"A": A, "b": self.b.clone(), "gamma": decay.diagonal()}

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        if not bool(self.A.any()):
            for own, found in zip((self.middle, self.spread), moments(x, share), strict=True):
                own.copy_(found)
        super()._fit(x, velocity, share)

    def _states(self, x: Tensor) -> Tensor:
        return torch.sigmoid(4 * (x - self.middle.to(x)) / self.spread.to(x))
