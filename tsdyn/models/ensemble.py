"""Several models alike but for their first weights, asked together."""

from typing import Any

import torch
from torch import Tensor, nn

from .base import Model, fresh


class Ensemble(Model):
    """p(want | given) = 1/M sum_m p_m(want | given), all members trained at once.

    The loss is the mean of the members' losses: each gets the gradient it would get alone, and by
    Jensen's inequality it bounds the loss of the mixture from above. Draws are shared out among the
    members. Members disagree where the data say little, so the intervals widen there. Costs M times
    as much.

    Args:
        model: the first member; the others have the same arguments and weights of their own.
        members: how many, M.

    Source: Lakshminarayanan, Pritzel & Blundell. Simple and scalable predictive uncertainty
    estimation using deep ensembles. NeurIPS 2017 (without adversarial examples).
    """

    def __init__(self, model: Model, members: int = 4):
        super().__init__()
        self.members = nn.ModuleList([model, *(fresh(model) for _ in range(members - 1))])

    def loss(self, given: Any, want: Any) -> Tensor:
        return torch.stack([m.loss(given, want) for m in self._all()]).mean()

    def sample(self, given: Any, at: Tensor, n: int) -> Tensor:
        shares = [len(share) for share in torch.arange(n).tensor_split(len(self.members))]
        draws = [m.sample(given, at, k) for m, k in zip(self._all(), shares, strict=True) if k]
        return torch.cat(draws)

    def on_epoch(self, epoch: int, train: tuple[Any, Any]) -> None:
        for member in self._all():
            member.on_epoch(epoch, train)

    def _all(self) -> list[Model]:
        return [m for m in self.members if isinstance(m, Model)]
