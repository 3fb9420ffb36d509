"""What stands between a latent process and what is seen of it: encoders that say where it may be, decoders that show it.

An encoder turns rows into Gaussian potentials on the latent coordinates,

    exp(-(x(t_i) - target_i)² precision_i / 2),

one for every row with an observation, as recognition networks do in structured variational autoencoders  [1], and may add
numbers about the series as a whole that do not move, its content c: p(c) = N(0, I) and q(c) = N(content, content_std²).

[1] Johnson, Duvenaud, Wiltschko, Datta & Adams. Composing graphical models with neural networks for structured representations
    and fast inference. NeurIPS 2016.
"""

import abc
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..batch import Paths
from ..errors import DataError
from ..frames_net import FrameDecoder, FrameEncoder
from ..maths.near import near
from ..nets import local_features, mlp
from .base import Part
from .fractional_prior import QUICK, scale

LARGEST_LOG = 8.0  # of a precision


class Encoding(NamedTuple):
    """Potentials on L coordinates and the law of the content."""

    target: Tensor  # (B, T, L)
    precision: Tensor  # (B, T, L)  zero at rows without an observation
    content: Tensor  # (B, C)  means
    content_std: Tensor  # (B, C)


class Encoder(Part):
    """Rows of B series -> potentials on `latent` coordinates, and `content` numbers about each series."""

    latent: int
    content: int

    @abc.abstractmethod
    def forward(self, seen: Paths) -> Encoding:
        """What the observed values say; rows without any have no say in it."""


class Decoder(Part):
    """x (n, B, T, latent), c (n, B, content) -> mean (n, B, T, D), standard deviation that broadcasts with it."""

    latent: int
    content: int

    @abc.abstractmethod
    def forward(self, x: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """The law of what is seen of x."""


class LocalEncoder(Encoder):
    """Potentials from the nearest observations on both sides of each row; no content.

    Args:
        dim: coordinates of the series, D.
        latent: L.
        hidden, depth: of the network.
        neighbours: observations on either side of each channel.
    """

    content = 0

    def __init__(
        self, dim: int, latent: int, hidden: int = 64, depth: int = 2, neighbours: int = 4
    ):
        super().__init__()
        self.latent, self.neighbours = latent, neighbours
        self.network = mlp((6 * neighbours + 1) * dim, hidden, 2 * latent, depth)
        self.level = nn.Linear(dim, latent, bias=False)
        with torch.no_grad():  # the first coordinates start as the channels themselves
            self.level.weight.copy_(torch.eye(latent, dim))

    def forward(self, seen: Paths) -> Encoding:
        found = near(seen.t, seen.x, seen.mask, seen.t, self.neighbours)
        shift, raw = self.network(local_features(found)).chunk(2, -1)
        there = seen.mask.any(-1, keepdim=True)
        none = seen.x.new_zeros(len(seen.x), 0)
        return Encoding(self.level(found.level) + shift, _precision(raw, there), none, none)


class LinearDecoder(Decoder):
    """mean = A x + b, with a standard deviation for every channel.

    Args:
        latent: L.
        dim: D.
    """

    content = 0

    def __init__(self, latent: int, dim: int):
        super().__init__()
        self.latent = latent
        self.readout = nn.Linear(latent, dim)
        self.log_noise = nn.Parameter(torch.full((dim,), math.log(0.3) / QUICK))
        with torch.no_grad():
            self.readout.weight.copy_(torch.eye(dim, latent) + 0.1 * torch.randn(dim, latent))
            self.readout.bias.zero_()

    def forward(self, x: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        return self.readout(x), scale(self.log_noise)


class VideoEncoder(Encoder):
    """Potentials from frames by convolutions and a recurrent network in both directions of time; content from their mean.

    The recurrent network goes from observed frame to observed frame and knows how far apart they are. Pixels that are not
    observed are black.

    Args:
        size: pixels along each side.
        latent: L.
        content: C.
        features: numbers that describe a frame.
        channels: of the first convolution.

    Raises:
        DataError: D13, when called, for series of other than size² coordinates.
    """

    def __init__(
        self, size: int, latent: int, content: int = 64, features: int = 64, channels: int = 16
    ):
        super().__init__()
        self.size, self.latent, self.content = size, latent, content
        self.frames = FrameEncoder(size, features, channels)
        self.through = nn.GRU(features + 2, features, batch_first=True, bidirectional=True)
        self.place = nn.Linear(2 * features, 2 * latent)
        self.about = mlp(features, features, 2 * content, 1)

    def forward(self, seen: Paths) -> Encoding:
        if seen.x.shape[-1] != self.size**2:
            raise DataError(
                "D13",
                f"frames of {seen.x.shape[-1]} pixels",
                f"{self.size} x {self.size} = {self.size**2} coordinates, row after row",
                "Give VideoEncoder and VideoDecoder the size of the frames",
            )
        there = seen.mask.any(-1)  # (B, T)
        shown = self.frames(seen.x.where(seen.mask, 0.0)[there].view(-1, self.size, self.size))
        found = shown.new_zeros(*there.shape, shown.shape[-1]).masked_scatter(
            there[..., None], shown
        )
        target, raw = self.place(self._in_time(seen.t, found, there)).chunk(2, -1)
        mean = found.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        content, spread = self.about(mean).chunk(2, -1)
        precision = _precision(raw, there[..., None])
        return Encoding(target, precision, content, torch.sigmoid(spread - 1))

    def _in_time(self, t: Tensor, found: Tensor, there: Tensor) -> Tensor:
        """What comes out of the recurrent network at every row; nothing that means anything where none was seen."""
        count = there.sum(1)
        order = (~there).to(torch.int8).sort(dim=1, stable=True).indices  # observed rows first
        gaps = t.gather(1, order).diff(dim=1).to(found.dtype)
        real = torch.arange(1, t.shape[1], device=t.device) < count[:, None]
        gaps = gaps.where(real, 0.0).log1p()
        features = [
            found.take_along_dim(order[..., None], 1),
            nn.functional.pad(gaps, (1, 0))[..., None],
            nn.functional.pad(gaps, (0, 1))[..., None],
        ]
        packed = pack_padded_sequence(
            torch.cat(features, -1),
            count.clamp(min=1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        both, _ = pad_packed_sequence(
            self.through(packed)[0], batch_first=True, total_length=t.shape[1]
        )
        return both.take_along_dim(order.argsort(1)[..., None], 1)


class VideoDecoder(Decoder):
    """Frames by convolutions from x and the content, shades in (0, 1), with one standard deviation for all pixels.

    Args:
        size: pixels along each side.
        latent: L.
        content: C.
        channels: before the last convolution.
        noise: standard deviation of a pixel at first.
    """

    def __init__(
        self, size: int, latent: int, content: int = 64, channels: int = 16, noise: float = 0.2
    ):
        super().__init__()
        self.latent, self.content = latent, content
        self.frames = FrameDecoder(size, latent + content, channels)
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise) / QUICK))

    def forward(self, x: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        known = content[:, :, None].expand(*x.shape[:-1], content.shape[-1])
        shades = self.frames(torch.cat([x, known], -1)).sigmoid().flatten(-2)
        return shades, scale(self.log_noise)


def _precision(raw: Tensor, there: Tensor) -> Tensor:
    """Positive numbers from any, 1 from 0, and zero where nothing was seen."""
    return torch.exp(LARGEST_LOG * torch.tanh(raw / LARGEST_LOG)).where(there, 0.0)
