"""What every reconstruction of populations must beat: copies of the neighbours, and the way in between.

None of them is trained, and none has a density: all of it comes from the snapshots that are given.
"""

import abc

import torch
from torch import Tensor

from ..batch import Snapshots
from ..errors import DataError, ModelError
from ..maths.assignment import exact
from ..maths.resample import systematic
from .base import Model


class _FromNeighbours(Model):
    """A population made of the given ones next to it in time."""

    def loss(self, given: Snapshots, want: Snapshots) -> Tensor:
        raise ModelError(
            "M05",
            f"{type(self).__name__} has no density: it repeats cells",
            "scores of its draws",
            "Compare populations with `tsdyn.evaluate`",
        )

    def sample(self, given: Snapshots, at: Tensor, n: int) -> Tensor:
        return torch.stack([self.population(given, float(t), n) for t in at], 1)

    @abc.abstractmethod
    def population(self, given: Snapshots, t: float, n: int) -> Tensor:
        """n cells at time t: (n, D)."""


class CopyPrevious(_FromNeighbours):
    """The cells of the last snapshot before t; of the first where there is none."""

    def population(self, given: Snapshots, t: float, n: int) -> Tensor:
        return _cells(given, max(_before(given, t), 0), n)


class CopyNext(_FromNeighbours):
    """The cells of the first snapshot after t; of the last where there is none."""

    def population(self, given: Snapshots, t: float, n: int) -> Tensor:
        return _cells(given, min(_before(given, t) + 1, len(given.t) - 1), n)


class TransportMidpoint(_FromNeighbours):
    """(1 - s) X + s Y at the share s of the way, (X, Y) the optimal plan for |x - y|²: McCann's interpolation.

    Outside of the snapshots it copies the nearest one. The plan is exact; at most a few thousand cells (M05).

    [1] McCann. A convexity principle for interacting gases. Advances in Mathematics 1997.
    """

    def population(self, given: Snapshots, t: float, n: int) -> Tensor:
        k = _before(given, t)
        if not 0 <= k < len(given.t) - 1:
            return _cells(given, min(max(k, 0), len(given.t) - 1), n)
        (x, a), (y, b) = _weighted(given, k), _weighted(given, k + 1)
        equal = given.weights is None  # an assignment, which is much faster than a linear program
        weights = (None, None) if equal else (a / a.sum(), b / b.sum())
        plan = exact(torch.cdist(x.double(), y.double()).square(), *weights)
        pairs = systematic(plan.mass, n)
        span = float(given.t[k + 1] - given.t[k])
        share = (t - float(given.t[k])) / span
        middle: Tensor = torch.lerp(x[plan.i[pairs]], y[plan.j[pairs]], share)
        return middle


def _before(given: Snapshots, t: float) -> int:
    """Number of the last snapshot strictly before t, -1 if there is none."""
    if not len(given.t):
        raise DataError("D20", "no snapshot is given", "at least one", "")
    return int((given.t < t).sum()) - 1


def _weighted(given: Snapshots, k: int) -> tuple[Tensor, Tensor]:
    """The cells of a snapshot (N_k, D) and their weights (N_k,)."""
    real = given.mask[k]
    weights = torch.ones_like(given.x[k, :, 0]) if given.weights is None else given.weights[k]
    return given.x[k][real], weights[real].double()


def _cells(given: Snapshots, k: int, n: int) -> Tensor:
    x, weights = _weighted(given, k)
    return x[systematic(weights, n)]
