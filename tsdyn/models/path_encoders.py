"""What is known of one path of labels, as a vector: by an LSTM in both directions, or by a transformer.

Paths come with their observations at the front, of six states at most.

[1] Berghaus, Cvejoski, Seifner, Ojeda & Sánchez. Foundation inference models for Markov jump processes. NeurIPS 2024:
    the encoders, and the code that `published=True` follows.
[2] Shukla & Marlin. Multi-time attention networks for irregularly sampled time series. ICLR 2021: sines of time.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

STATES = 6


class Observed(NamedTuple):
    """N paths, their observations at the front."""

    t: Tensor  # (N, L)
    state: Tensor  # (N, L)
    length: Tensor  # (N,)  observations of each, at least one

    @property
    def mask(self) -> Tensor:
        """(N, L) True where there is an observation."""
        place = torch.arange(self.t.shape[1], device=self.t.device)
        return place < self.length[:, None]


def observed(t: Tensor, state: Tensor, mask: Tensor) -> Observed:
    """What was seen of paths (N, L), without what was not: L becomes the largest number of observations, of at least one."""
    order = (~mask).to(torch.int8).sort(dim=-1, stable=True).indices
    length = mask.sum(-1)
    order = order[:, : max(int(length.max()), 1)]
    found = Observed(t.gather(-1, order), state.gather(-1, order), length)
    return found._replace(
        t=found.t.where(found.mask, 0.0), state=found.state.long().where(found.mask, 0)
    )


class PathLSTM(nn.Module):
    """Last states of an LSTM in both directions, of (t, gap, state): (N, 2 width).

    Args:
        width: of each direction.
        published: cells start from one, not from zero, and the direction that runs backwards is read after one
            observation, the last, not after all.
    """

    def __init__(self, width: int, published: bool):
        super().__init__()
        self.width, self.published = width, published
        # two, each of which starts at the front: packed sequences of many lengths are ten times slower on CPUs
        self.onward, self.homeward = (
            nn.LSTM(2 + STATES, width, batch_first=True) for _ in range(2)
        )
        for name, p in self.named_parameters():
            nn.init.orthogonal_(p) if "weight" in name else nn.init.zeros_(p)

    @property
    def size(self) -> int:
        """Of what is known of a path."""
        return 2 * self.width

    def forward(self, paths: Observed) -> Tensor:
        gap = paths.t.diff(dim=1, prepend=paths.t[:, :1])
        x = torch.cat([paths.t[..., None], gap[..., None], _one_hot(paths)], -1)
        last = paths.length - 1
        place = (last[:, None] - torch.arange(x.shape[1], device=x.device)).clamp(min=0)
        turned = x.take_along_dim(place[..., None], 1)
        if self.published:
            turned, back = turned[:, :1], torch.zeros_like(last)
        else:
            back = last
        return torch.cat(
            [self._after(self.onward, x, last), self._after(self.homeward, turned, back)], -1
        )

    def _after(self, lstm: nn.LSTM, x: Tensor, last: Tensor) -> Tensor:
        """(N, width) after the observation of this number, (N,); what comes later is not seen."""
        h = x.new_zeros(1, len(x), self.width)
        every, _ = lstm(x, (h, torch.ones_like(h) if self.published else h))
        found: Tensor = every.take_along_dim(last[:, None, None], 1)[:, 0]
        return found


class PathTransformer(nn.Module):
    """First token of a transformer, of (a t + b, sin(ω t + φ), state): (N, width)  [2]

    Args:
        width: of a token.
        layers, heads, hidden: of the transformer, whose norms come after the sums.
        dropout: in it.
        published: the first observation is masked, and the second token is taken. Paths need two observations.
    """

    def __init__(
        self, width: int, layers: int, heads: int, hidden: int, dropout: float, published: bool
    ):
        super().__init__()
        self.width, self.published = width, published
        self.line, self.waves = nn.Linear(1, 1), nn.Linear(1, width - STATES - 1)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for p in self.layers.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)  # else all layers would start from the same draw

    @property
    def size(self) -> int:
        """Of what is known of a path."""
        return self.width

    def forward(self, paths: Observed) -> Tensor:
        t = paths.t[..., None]
        x = torch.cat([self.line(t), self.waves(t).sin(), _one_hot(paths)], -1)
        hidden = ~paths.mask
        if self.published:
            hidden = hidden.index_fill(1, hidden.new_zeros(1, dtype=torch.long), True)
        out: Tensor = self.layers(x, src_key_padding_mask=hidden)
        return out[:, 1 if self.published else 0]


def _one_hot(paths: Observed) -> Tensor:
    """(N, L, 6)"""
    return nn.functional.one_hot(paths.state, STATES).to(paths.t)
