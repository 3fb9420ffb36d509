"""A toy of protein folding: a walk in five dimensions that is near the centre (folded) or far from it.

    x_{k+1} = x_k - h U'(r) x_k / r + √(2 h) z,   r = |x_k|
    U(r) = -5/2 (r - 3)² for r < 3,   (r - 3)³ / 2 - (r - 3)² beyond

Energies are in units of kT, and so is the diffusion constant one. What is published is the walk with
h = 0.1, where steps are too coarse for the diffusion: the force at the centre throws it out again, and without
that the folded state would hold nearly everything. The label r > c is not a Markov chain, because a walk just
across the threshold comes back soon: time scales of labels grow with the lag, up to that of the walk.

References:
    [1] Mardt, Pasquali, Wu & Noé. VAMPnets for deep learning of molecular kinetics. Nature Communications 9, 2018.
    [2] Berghaus, Cvejoski, Seifner, Ojeda & Sánchez. Foundation inference models for Markov jump processes.
        NeurIPS 2024: labels of the walk.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.special import ive
from torch import Tensor

from ..batch import Clock, Names, Paths
from ..errors import ConfigError
from ..maths.markov_state_model import time_scales
from ..maths.rate_matrix import stationary

DIM = 5
FARTHEST = 14.0  # radius that is never reached: U is above 500 there
NODES = 200  # of each side of the threshold


class RadialChain(NamedTuple):
    """The radius of the stationary walk, a Markov chain of its own, at the nodes of a quadrature."""

    r: Tensor  # (N,)  those of labels 0 before those of labels 1
    law: Tensor  # (N,)  sums to one
    T: Tensor  # (N, N)  from row to column in one step; rows sum to one


class FoldingTruth(NamedTuple):
    """What a fit should find."""

    unfolded: float  # P(r > c)
    relaxation: float  # slowest of the walk, in its unit of time


def potential(r: Tensor) -> Tensor:
    """U(r) in kT."""
    d = r - 3
    return torch.where(d < 0, -2.5 * d**2, 0.5 * d**3 - d**2)


def force(r: Tensor) -> Tensor:
    """-U'(r), outwards."""
    d = r - 3
    return torch.where(d < 0, 5 * d, (2 - 1.5 * d) * d)


def radial_chain(step: float = 0.1, threshold: float = 2.5) -> RadialChain:
    """The radius from step to step, |m e + √(2 h) z| for m = r + h force(r): noncentral chi.

    No node lies on the threshold. Exact to about 1e-10 for steps from 0.02 to 0.15.
    """
    r, weight = _quadrature(threshold)
    m = (r + step * force(r)).abs().clamp(min=1e-9)[:, None]
    bessel = torch.from_numpy(ive(DIM / 2 - 1, (r * m / (2 * step)).numpy()))
    peak = torch.exp(-((r - m) ** 2) / (4 * step))
    T = weight * r * (r / m) ** (DIM / 2 - 1) / (2 * step) * peak * bessel
    T = T / T.sum(1, keepdim=True)
    return RadialChain(r, stationary(T - torch.eye(len(r), dtype=T.dtype)), T)


def _quadrature(threshold: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on both sides of the threshold: (N,), (N,)"""
    x, w = (torch.from_numpy(f) for f in np.polynomial.legendre.leggauss(NODES))
    below, above = threshold / 2, (FARTHEST - threshold) / 2
    r = torch.cat([(1 + x) * below, threshold + (1 + x) * above])
    return r, torch.cat([w * below, w * above])


@dataclasses.dataclass(frozen=True)
class ProteinFolding:
    """n stationary walks, each seen at rows that are evenly apart.

    Args:
        n: series.
        rows: observations of each.
        every: steps from one row to the next.
        step: h, in the unit of time.
        seen: "label", 1 where r > threshold and else 0; "radius", r itself.
        threshold: c.
        seed: of all that is drawn.
    """

    n: int = 1000
    rows: int = 100
    every: int = 1
    step: float = 0.1
    seen: Literal["label", "radius"] = "label"
    threshold: float = 2.5
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            min(self.n, self.rows, self.every) < 1
            or not 0.02 <= self.step <= 0.15
            or not 0 < self.threshold < FARTHEST
            or self.seen not in ("label", "radius")
        ):
            raise ConfigError(
                "X01",
                f"ProteinFolding got n={self.n}, rows={self.rows}, every={self.every}, step={self.step}, "
                f"threshold={self.threshold}, seen={self.seen!r}",
                f"whole numbers of at least 1, a step in [0.02, 0.15], a threshold in (0, {FARTHEST:g}), "
                'seen one of "label", "radius"',
                "Change what lies outside",
            )

    def __call__(self) -> Paths:
        r = self.radii()
        x = (r > self.threshold if self.seen == "label" else r).float()[..., None]
        t = torch.arange(self.rows, dtype=torch.float64) * (self.every * self.step)
        names = Names(tuple(range(self.n)), (self.seen,), Clock("float"))
        return Paths(t.repeat(self.n, 1), x, torch.ones_like(x, dtype=torch.bool), names=names)

    def radii(self) -> Tensor:
        """r of every series and row: (n, rows), in double precision."""
        g = torch.Generator().manual_seed(self.seed)
        chain = self.chain()
        begin = chain.r[torch.multinomial(chain.law, self.n, replacement=True, generator=g)]
        direction = torch.randn(self.n, DIM, generator=g, dtype=torch.float64)
        x = begin[:, None] * direction / direction.norm(dim=1, keepdim=True)
        found = []
        for k in range(1 + (self.rows - 1) * self.every):
            # the first step spreads the nodes of the quadrature to the law they stand for
            x = self._moved(x, g)
            if k % self.every == 0:
                found.append(x.norm(dim=1))
        return torch.stack(found, 1)

    def chain(self) -> RadialChain:
        """The law of what is drawn."""
        return radial_chain(self.step, self.threshold)

    def truth(self) -> FoldingTruth:
        """Share of the label 1, and the slowest time scale of the walk."""
        chain = self.chain()
        unfolded = chain.law[chain.r > self.threshold].sum()
        return FoldingTruth(float(unfolded), float(time_scales(chain.T, self.step)[0]))

    def label_transitions(self, lag: int) -> Tensor:
        """P(label j, `lag` rows after label i): (2, 2), what a Markov state model of endless labels finds.

        Its time scale grows with the lag, towards that of the walk.
        """
        r, law, T = self.chain()
        one = torch.nn.functional.one_hot((r > self.threshold).long(), 2).to(T)  # (N, 2)
        ahead = torch.linalg.matrix_power(T, lag * self.every) @ one
        joint = (law[:, None] * one).mT @ ahead
        found: Tensor = joint / joint.sum(1, keepdim=True)
        return found

    def _moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        r = x.norm(dim=1, keepdim=True)
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        moved: Tensor = x + self.step * force(r) * x / r + math.sqrt(2 * self.step) * z
        return moved
