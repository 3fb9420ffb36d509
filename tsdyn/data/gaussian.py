"""p(x(at) | y(t)) for a Gaussian process seen through noise, by conditioning the joint Gaussian.

    mean = m(at) + K(at, t) [K(t, t) + noise^2 I]^-1 (y - m(t))
    cov  = K(at, at) - K(at, t) [K(t, t) + noise^2 I]^-1 K(t, at)

Dense and exact, in float64 whatever the data are in: cost (rows)^3 per series and channel, meant for
the short series of a synthetic system. Rasmussen & Williams (2006), chapter 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Gaussian, Paths

Mean = Callable[[Tensor], Tensor]  # t (B, T) -> (B, T)
Covariance = Callable[[Tensor, Tensor], Tensor]  # s (B, S, 1), t (B, 1, T) -> (B, S, T)


class Joint(NamedTuple):
    """All rows of each series and channel together."""

    mean: Tensor  # (B, D, T)
    cov: Tensor  # (B, D, T, T)

    def marginal(self) -> Gaussian:
        """Row by row: (B, T, D)."""
        var = self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0.0)
        return Gaussian(self.mean.mT, var.mT)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n joint draws (n, B, T, D). Rows that are known exactly, or asked twice, are no trouble."""
        values, vectors = torch.linalg.eigh(self.cov)
        root: Tensor = vectors * values.clamp(min=0.0).sqrt()[..., None, :]
        normal = torch.randn(
            (n, *self.mean.shape), generator=generator, dtype=root.dtype, device=root.device
        )
        return (self.mean + (root @ normal[..., None]).squeeze(-1)).mT


def condition(
    mean: Mean, covariance: Covariance, given: Paths, at: Tensor, noise: float = 0.0
) -> Joint:
    """The law of the noiseless process at times `at` (B, Q), given the rows of `given`.

    Every channel is its own process with this mean and covariance.
    """
    t, at = given.t.double(), at.double()
    seen = given.mask.mT  # (B, D, T)
    miss = (given.x.double() - mean(t)[..., None]).where(given.mask, 0.0).mT  # (B, D, T)
    prior = covariance(at[..., :, None], at[..., None, :])[:, None]  # (B, 1, Q, Q)
    cross = covariance(at[..., :, None], t[..., None, :])[:, None]  # (B, 1, Q, T)
    cross = cross.where(seen[..., None, :], 0.0)  # (B, D, Q, T)
    within = covariance(t[..., :, None], t[..., None, :])[:, None]
    within = within.where(seen[..., None, :] & seen[..., :, None], 0.0)  # (B, D, T, T)
    # rows not seen stand apart with variance one; the last term keeps a row that is known beforehand,
    # or seen twice, from making the matrix singular
    scale = within.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(seen, scale + noise**2 + 1e-12 * (scale.amax(-1, True) + 1e-12), 1.0)
    within = within.diagonal_scatter(scale, dim1=-2, dim2=-1)
    root = torch.linalg.cholesky(within)
    gain = torch.cholesky_solve(cross.mT, root).mT  # (B, D, Q, T)
    return Joint(
        mean(at)[:, None] + (gain @ miss[..., None]).squeeze(-1),
        prior - gain @ cross.mT,
    )
