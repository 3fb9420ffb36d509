"""A network that reads the rates of a Markov jump process off paths of labels, for any number of states and paths.

It sees sums over the paths (`maths.jump_features`) and turns with the names of the states: entry (i, j) of what it
gives depends on the pair, on means over rows and columns, and on the diagonal, by the same weights for all
pairs. What it adds to the crude rate starts at zero.

[1] Zaheer et al. Deep sets. NeurIPS 2017; Hartford et al. Deep models of interactions across sets. ICML 2018: layers
    that turn with the order of rows and columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..maths.jump_features import NODE, PAIR, WHOLE, Features
from .base import Part

LEAST = 0.02  # deviation of a rate, per τ


class RateLaw(NamedTuple):
    """Gaussian laws of the rates, in units of 1 / τ, and what goes with them."""

    mean: Tensor  # (M, n, n)  positive; the diagonal means nothing
    deviation: Tensor  # (M, n, n)
    link: Tensor  # (M, n, n)  logit that the rate is not zero
    initial: Tensor  # (M, n)  logits of the initial law


class _Layer(nn.Module):
    """e_ij += f(e_ij, e_ji, row and column means of both, e_ii, e_jj)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.f = nn.Sequential(nn.Linear(7 * width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, e: Tensor) -> Tensor:
        x = self.norm(e)
        row, column = x.mean(2, keepdim=True), x.mean(1, keepdim=True)
        diagonal = x.diagonal(dim1=1, dim2=2).mT  # (M, n, width)
        seen = [
            x,
            x.transpose(1, 2),
            row.expand_as(x),
            column.expand_as(x),
            row.transpose(1, 2).expand_as(x),
            diagonal[:, :, None].expand_as(x),
            diagonal[:, None].expand_as(x),
        ]
        moved: Tensor = e + self.f(torch.cat(seen, -1))
        return moved


class StatisticsNetwork(Part):
    """Features of the paths -> `RateLaw`.

    Args:
        width: of what is known of a pair of states.
        hidden: of the layers inside.
        layers: how often pairs look at each other.
    """

    def __init__(self, width: int = 64, hidden: int = 128, layers: int = 4):
        super().__init__()
        self.enter = nn.Linear(PAIR + 2 * NODE + WHOLE, width)
        self.layers = nn.ModuleList([_Layer(width, hidden) for _ in range(layers)])
        last = nn.Linear(width, 3)
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(torch.tensor([0.0, -1.0, 2.0]))
        self.leave, self.start = _head(width, last), _head(width, nn.Linear(width, 1))

    def forward(self, features: Features) -> RateLaw:
        kind = self.enter.weight.dtype
        pair, node, whole, crude, first, _ = (f.to(kind) for f in features)
        M, n = node.shape[:2]
        seen = [
            pair,
            node[:, :, None].expand(-1, -1, n, -1),
            node[:, None].expand(-1, n, -1, -1),
            whole[:, None, None].expand(M, n, n, -1),
        ]
        e = self.enter(torch.cat(seen, -1))
        for layer in self.layers:
            e = layer(e)
        level, spread, link = self.leave(e).unbind(-1)
        mean = torch.exp(crude.log() + level)
        deviation = torch.exp(spread + 0.5 * torch.log(mean.detach() + 0.05)) + LEAST
        begin = self.start(e.diagonal(dim1=1, dim2=2).mT)[..., 0]
        return RateLaw(mean, deviation, link, begin + torch.log(first + 0.5 / n))


def rate_loss(law: RateLaw, rates: Tensor, initial: Tensor) -> Tensor:
    """-log N(rates; mean, deviation²) + cross-entropy of the initial law / 5 + of links / 10, means per rate: (M,).

    Args:
        rates: (M, n, n) in units of 1 / τ; their diagonal is not read. initial: (M, n).
    """
    n = rates.shape[-1]
    off = ~torch.eye(n, dtype=torch.bool, device=rates.device)
    truth = rates[:, off].to(law.mean)
    z = (truth - law.mean[:, off]) / law.deviation[:, off]
    likelihood = (0.5 * z**2 + law.deviation[:, off].log()).mean(-1)
    begin = -(initial.to(law.initial) * law.initial.log_softmax(-1)).sum(-1)
    links = nn.functional.binary_cross_entropy_with_logits(
        law.link[:, off], (truth > 0).to(law.link), reduction="none"
    ).mean(-1)
    return likelihood + 0.2 * begin + 0.1 * links


def _head(width: int, last: nn.Linear) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), last)
