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
    first epoch shows: it needs no `Scaled`. Covariates go to the encoder as they are.

    Args:
        dim: coordinates of the series, D.
        classes: how many there are.
        encoder: "sde" (an `SDEEncoder`), "cde" (a `CDEEncoder`) or "gru" (a `GRUEncoder`).
        hidden: size of the state of the encoder, H.
        weights: how much a label of each class counts in the loss; "balanced" lets each class count as
            much as any other, and a label 1 on average; None counts every label once.
        options: further arguments of the encoder, by name.
    """

    mean: Tensor
    std: Tensor
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
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.classes, self.balanced = classes, weights == "balanced"
        fixed = None if weights is None or isinstance(weights, str) else [float(w) for w in weights]
        if fixed is not None and len(fixed) != classes:
            raise ValueError(f"{len(fixed)} weights for {classes} classes: give one for each.")
        self.encoder = ENCODERS[encoder](dim, hidden, **(options or {}))
        self.head = mlp(hidden, hidden, classes, depth=1)
        self.register_buffer("weight", torch.tensor(fixed or [1.0] * classes))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def log_probabilities(self, given: Paths) -> Tensor:
        """log P(y | x): (B, classes)."""
        require_fitted(self.fitted, "Classifier")
        t = ((given.t - given.t[:, :1]) / self.unit).to(self.mean.dtype)
        inside = given._replace(t=t, x=(given.x - self.mean) / self.std)
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
        seen = rows.x.double().where(rows.mask, torch.nan)
        mean = seen.nanmean((0, 1)).nan_to_num()  # zero for a channel never seen
        std = (seen - mean).square().nanmean((0, 1)).sqrt().nan_to_num()
        self.mean.copy_(mean)
        self.std.copy_(std.where(std > 1e-7 * mean.abs().clamp(min=1e-30), 1.0))
        length = rows.t[:, -1].double() - rows.t[:, 0]
        if bool((length > 0).any()):
            self.unit.copy_(length[length > 0].median())
        if self.balanced:
            count = torch.bincount(want.y.long(), minlength=self.classes)
            present = (count > 0).sum()
            self.weight.copy_(len(want.y) / (present * count.clamp(min=1)))
        self.fitted.fill_(True)
