"""A network that reads the rates of a Markov jump process off paths of labels, one path after the other.

    h_k = encoder(path k),   a = attention of learned queries over h_1 ... h_K,   (log m, log s, log π₀) = heads(a, K / 100)

The encoder is an LSTM of both directions or a transformer; the heads are for six states, of which a process may have
fewer. The order of the paths means nothing, the names of the states do: other names, another answer.

[1] Berghaus, Cvejoski, Seifner, Ojeda & Sánchez. Foundation inference models for Markov jump processes. NeurIPS 2024:
    section 3 and its code. `published=True` is what that code does; else what it says is done as meant.
[2] Klambauer, Unterthiner, Mayr & Hochreiter. Self-normalizing neural networks. NeurIPS 2017: SELU, and its first weights.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Part
from .jump_network import RateLaw
from .path_encoders import STATES, PathLSTM, PathTransformer, observed

HEAD = (128, 128)  # hidden layers of the heads
LEAST = 0.2  # deviation of a rate, per τ, which is ten times the unit of `jump_network` or so
TYPICAL = (1.0, 1.0, 2.0)  # log-mean and log-deviation of a rate at first, per τ; logit of a link
PAIRS = STATES * (STATES - 1)
CERTAIN = float("inf")  # logit of a link where the network does not ask whether there is one


class QueryAttention(nn.Module):
    """softmax(q kᵀ / √d) v over the paths, by learned q: (M, K, size) -> (M, outputs).

    Args:
        size: of what is known of a path.
        queries, heads, key: numbers of them, and the width of all heads' keys together.
        project: whether a linear map mixes the heads, back to `size`.
        last_only: only the last query is kept.
    """

    def __init__(
        self, size: int, queries: int, heads: int, key: int, project: bool, last_only: bool
    ):
        super().__init__()
        self.heads, self.last_only = heads, last_only
        self.query = nn.Parameter(torch.randn(heads, queries, key // heads))
        self.key, self.value = nn.Linear(size, key, bias=False), nn.Linear(size, key, bias=False)
        self.mix = nn.Linear(key, size, bias=False) if project else nn.Identity()
        self.outputs = (1 if last_only else queries) * (size if project else key)

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """h (M, K, size), zero where there (M, K) is False."""
        k, v = (
            f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.key, self.value)
        )
        scores = self.query @ k.mT / k.shape[-1] ** 0.5  # (M, heads, queries, K)
        lowest = torch.finfo(scores.dtype).min  # not -inf: a problem may have no path at all
        weight = scores.masked_fill(~there[:, None, None], lowest).softmax(-1)
        found: Tensor = self.mix((weight @ v).transpose(1, 2).flatten(2))  # (M, queries, ...)
        return found[:, -1] if self.last_only else found.flatten(1)


class PathNetwork(Part):
    """Paths of labels -> `RateLaw` of six states, of which only the first n mean anything.

    The sizes are those of the LSTM of [1]; its transformer has key=256, heads=4, project=True and dropout=0.1.

    Args:
        encoder: of a path.
        width: of the encoder.
        queries, key, heads, project: of the attention over paths; a transformer has as many heads inside.
        layers, hidden: of a transformer.
        dropout: in a transformer, and in the heads after each hidden layer.
        published: as the code of [1]. The encoders say what differs there; a projected attention keeps its last query
            only; the heads are not told the number of states and say nothing of links, and deviations may be
            as small as they like; all weights of the heads are drawn alike, so that first answers may be anything.

    Raises:
        ConfigError: X01 for heads that do not divide the widths.
    """

    def __init__(
        self,
        encoder: Literal["lstm", "transformer"] = "lstm",
        width: int = 256,
        queries: int = 16,
        key: int = 128,
        heads: int = 1,
        project: bool = False,
        layers: int = 4,
        hidden: int = 1024,
        dropout: float = 0.0,
        published: bool = False,
    ):
        super().__init__()
        if key % heads or (encoder == "transformer" and (width % heads or width < STATES + 2)):
            raise ConfigError(
                "X01",
                f"PathNetwork got width={width}, key={key} and heads={heads}",
                "heads that divide both, and a width of eight at least",
                "",
            )
        self.published = published
        self.least = 2 if published and encoder == "transformer" else 1  # observations of a path
        self.encoder = (
            PathLSTM(width, published)
            if encoder == "lstm"
            else PathTransformer(width, layers, heads, hidden, dropout, published)
        )
        self.attention = QueryAttention(
            self.encoder.size, queries, heads, key, project, published and project
        )
        known = self.attention.outputs + (1 if published else 2)
        self.rates = _head(known, (2 if published else 3) * PAIRS, dropout)
        self.start = _head(known, STATES, dropout)
        if not published:
            _start_near(self.rates, TYPICAL)

    def forward(self, t: Tensor, state: Tensor, mask: Tensor, states: int) -> RateLaw:
        """t (M, K, L) between zero and one, state (M, K, L), mask (M, K, L); n."""
        h, there = self._paths(t.to(self.attention.query), state, mask)
        facts = [self.attention(h, there), there.sum(1, keepdim=True) / 100]
        if not self.published:
            facts.append(torch.full_like(facts[1], states / STATES))
        a = torch.cat(facts, -1)
        level, spread, *link = (_square(part) for part in self.rates(a).split(PAIRS, -1))
        floor = 0.0 if self.published else LEAST
        return RateLaw(
            level.exp(),
            spread.exp() + floor,
            link[0] if link else torch.full_like(level, CERTAIN),
            self.start(a),
        )

    def _paths(self, t: Tensor, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of every path (M, K, size), zero where there are too few observations, and where not: (M, K)."""
        there = mask.sum(-1) >= self.least
        h = t.new_zeros(*there.shape, self.encoder.size)
        if bool(there.any()):
            paths = observed(t[there], state[there], mask[there])
            h = h.index_put((there,), self.encoder(paths).to(h))  # autocast may have halved it
        return h, there


def _start_near(head: nn.Sequential, values: tuple[float, ...]) -> None:
    """Says little else at first, of every pair: an exponential that starts far too low hardly ever rises again."""
    last = head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data.mul_(0.1)
    last.bias.data.copy_(torch.tensor(values).repeat_interleave(PAIRS))


def _square(pairs: Tensor) -> Tensor:
    """Values of the pairs i != j, row after row, as (M, 6, 6), zero on the diagonal."""
    off = ~torch.eye(STATES, dtype=torch.bool, device=pairs.device)
    return pairs.new_zeros(len(pairs), STATES, STATES).masked_scatter(off, pairs)


def _head(size: int, outputs: int, dropout: float) -> nn.Sequential:
    """Hidden layers with SELU, then a linear one; weights of variance 1 / inputs  [2]"""
    layers: list[nn.Module] = []
    for hidden in HEAD:
        layers += [nn.Linear(size, hidden), nn.SELU(), nn.Dropout(dropout)]
        size = hidden
    layers.append(nn.Linear(size, outputs))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
