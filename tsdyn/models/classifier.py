"""Which class a series belongs to.

[1] Kidger, Morrill, Foster & Lyons. Neural controlled differential equations for irregular time
    series. NeurIPS 2020.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from ..batch import Paths, compact
from ..data.tasks import Labels
from ..nets import mlp
from .base import Model, require_fitted
from .gru import GRUEncoder
from .neural_cde import CDEEncoder
from .sde_encoder import SDEEncoder

ENCODERS: dict[str, Any] = {  # (dim, hidden, **options)
    "sde": SDEEncoder,
    "cde": CDEEncoder,
    "gru": GRUEncoder,
}


class Classifier(Model):
    """P(y | x) = mean_k softmax(head(z_k)), z_k the last states of an encoder of the series  [1]

    An "sde" gives K of them, drawn anew each time; "cde" and "gru" give one. The loss is the cross-entropy
    -log P(y | x) in nats per label; who knows nothing scores log(classes). Coordinates
    are standardised, and time is counted from the first row in median lengths of a series, by what the
    first epoch shows, covariates are standardised too: it needs no `Scaled`.

    Args:
        dim: coordinates of the series, D.
        classes: how many there are.
        encoder: "sde" (an `SDEEncoder`), "cde" (a `CDEEncoder`) or "gru" (a `GRUEncoder`).
        hidden: size of the state of the encoder, H.
        weights: how much a label of each class counts in the loss; "balanced" lets each class count as
            much as any other, and a label 1 on average; None counts every label once.
        covariates: time-varying covariates, C, known at every row.
        options: further arguments of the encoder, by name.
    """

    mean: Tensor
    std: Tensor
    covariate_mean: Tensor
    covariate_std: Tensor
    unit: Tensor
    weight: Tensor
    fitted: Tensor

    def __init__(
        self,
        dim: int,
        classes: int,
        encoder: Literal["sde", "cde", "gru"] = "cde",
        hidden: int = 32,
        weights: Sequence[float] | Literal["balanced"] | None = None,
        covariates: int = 0,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.classes, self.balanced = classes, weights == "balanced"
        fixed = None if weights is None or isinstance(weights, str) else [float(w) for w in weights]
        if fixed is not None and len(fixed) != classes:
            raise ValueError(f"{len(fixed)} weights for {classes} classes: give one for each.")
        self.encoder = ENCODERS[encoder](dim, hidden, covariates=covariates, **(options or {}))
        self.head = mlp(hidden, hidden, classes, depth=1)
        self.register_buffer("weight", torch.tensor(fixed or [1.0] * classes))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("covariate_mean", torch.zeros(covariates))
        self.register_buffer("covariate_std", torch.ones(covariates))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def log_probabilities(self, given: Paths) -> Tensor:
        """log P(y | x): (B, classes)."""
        require_fitted(self.fitted, "Classifier")
        t = ((given.t - given.t[:, :1]) / self.unit).to(self.mean.dtype)
        extra = given.covariates
        if extra is not None:
            extra = (extra - self.covariate_mean) / self.covariate_std
        inside = given._replace(t=t, x=(given.x - self.mean) / self.std, covariates=extra)
        z = self.encoder(inside)  # (B, H) or (K, B, H)
        each = self.head(z).log_softmax(-1).view(-1, len(t), self.classes)
        return each.logsumexp(0) - math.log(len(each))  # type: ignore[no-any-return]

    def probabilities(self, given: Paths) -> Tensor:
        """P(y | x): (B, classes)."""
        return self.log_probabilities(given).exp()

    def loss(self, given: Paths, want: Labels) -> Tensor:
        y = want.y.long()
        nats = nll_loss(self.log_probabilities(given), y, reduction="none")
        return (self.weight[y] * nats).mean()

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        """n draws of the number of the class of each series: (n, B). A class has no time: `at` is not read."""
        return torch.multinomial(self.probabilities(given), n, replacement=True).T

    def on_epoch(self, epoch: int, train: tuple[Paths, Labels]) -> None:
        if not self.fitted:
            self._fit(*train)

    def _fit(self, given: Paths, want: Labels) -> None:
        """Moments of the coordinates, the median length, and how frequent each class is."""
        rows = compact(given)
        for x, mask, mean, std in (
            (rows.x, rows.mask, self.mean, self.std),
            (given.covariates, None, self.covariate_mean, self.covariate_std),
        ):
            if x is not None:
                center, scale = _moments(x if mask is None else x.where(mask, torch.nan))
                mean.copy_(center)
                std.copy_(scale)
        length = rows.t[:, -1].double() - rows.t[:, 0]
        if bool((length > 0).any()):
            self.unit.copy_(length[length > 0].median())
        if self.balanced:
            count = torch.bincount(want.y.long(), minlength=self.classes)
            present = (count > 0).sum()
            self.weight.copy_(len(want.y) / (present * count.clamp(min=1)))
        self.fitted.fill_(True)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every column (B, T, D) without its NaN; 0 and 1 where there is none."""
    x = x.double()
    mean = x.nanmean((0, 1)).nan_to_num()
    std = (x - mean).square().nanmean((0, 1)).sqrt().nan_to_num()
    return mean, std.where(std > 1e-7 * mean.abs().clamp(min=1e-30), 1.0)
