"""Any model, working in standard units inside and in the data's units outside."""

import torch
from torch import Tensor

from ..batch import Paths, compact, merge
from .base import Model, require_fitted


class Scaled(Model):
    """z = (x - mean) / std and s = (t - origin) / unit inside; draws come back as x = mean + std z.

    mean, std (of each coordinate and covariate), origin (the first time) and unit (the median gap
    between observed rows) come from the training part alone, once, and travel with the weights.
    Time is shifted and scaled in float64 and only then becomes float32. A constant coordinate keeps
    std = 1.

    Args:
        model: what to wrap.
        dim: coordinates of the series, D.
        covariates: time-varying covariates, C.
    """

    mean: Tensor
    std: Tensor
    covariate_mean: Tensor
    covariate_std: Tensor
    origin: Tensor
    unit: Tensor
    fitted: Tensor

    def __init__(self, model: Model, dim: int, covariates: int = 0):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("covariate_mean", torch.zeros(covariates))
        self.register_buffer("covariate_std", torch.ones(covariates))
        self.register_buffer("origin", torch.zeros((), dtype=torch.float64))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def inside_time(self, t: Tensor) -> Tensor:
        """Times in units of the median gap since the first time of the training part, in float32."""
        return ((t.double() - self.origin) / self.unit).to(self.mean.dtype)

    def inside(self, paths: Paths) -> Paths:
        """The same paths in standard units."""
        covariates = paths.covariates
        if covariates is not None:
            covariates = (covariates - self.covariate_mean) / self.covariate_std
        return paths._replace(
            t=self.inside_time(paths.t), x=(paths.x - self.mean) / self.std, covariates=covariates
        )

    def loss(self, given: Paths, want: Paths) -> Tensor:
        require_fitted(self.fitted, "Scaled")
        share = want.mask.sum((0, 1)) / want.mask.sum().clamp(min=1)  # (D,)
        return (
            self.model.loss(self.inside(given), self.inside(want)) + (share * self.std.log()).sum()
        )

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        require_fitted(self.fitted, "Scaled")
        return self.mean + self.std * self.model.sample(self.inside(given), self.inside_time(at), n)

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        given, want = train
        if not self.fitted:
            self._fit(merge(given, want)[0])
        self.model.on_epoch(epoch, (self.inside(given), self.inside(want)))

    def _fit(self, seen: Paths) -> None:
        """Moments and gaps of everything observed in training."""
        rows = compact(seen)
        mean, std = _moments(rows.x.double(), rows.mask)
        self.mean.copy_(mean)
        self.std.copy_(std)
        if seen.covariates is not None:
            known = torch.ones_like(seen.covariates, dtype=torch.bool)
            mean, std = _moments(seen.covariates.double(), known)
            self.covariate_mean.copy_(mean)
            self.covariate_std.copy_(std)
        t = rows.t.double()
        gaps = t.diff(dim=1)
        self.origin.copy_(t.min())
        if (gaps > 0).any():
            self.unit.copy_(gaps[gaps > 0].median())
        self.fitted.fill_(True)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate over what was observed; std 1 where it would be 0."""
    count = mask.sum((0, 1)).clamp(min=1)
    mean = x.where(mask, 0.0).sum((0, 1)) / count
    std = ((x - mean).where(mask, 0.0).square().sum((0, 1)) / count).sqrt()
    return mean, std.where(std > 1e-7 * mean.abs().clamp(min=1e-30), 1.0)
