"""What stands between a latent process and what is seen of it: encoders that say where it may be, decoders that show it.

An encoder turns rows into Gaussian potentials on the latent coordinates,

    exp(-(x(t_i) - target_i)² precision_i / 2),

one for every row with an observation, as recognition networks do in structured variational autoencoders  [1], and may add
numbers about the series as a whole, its content, which do not move.

[1] Johnson, Duvenaud, Wiltschko, Datta & Adams. Composing graphical models with neural networks for structured representations
    and fast inference. NeurIPS 2016.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..batch import Paths
from ..frames_net import FrameDecoder, FrameEncoder
from ..maths.near import near
from ..nets import local_features, mlp
from .base import Part
from .fractional_prior import QUICK, scale

LARGEST_LOG = 8.0  # of a precision


class Encoding(NamedTuple):
    target: Tensor  # (B, T, L)
    precision: Tensor  # (B, T, L)  zero at rows without an observation
    content: Tensor  # (B, C)


class Encoder(Protocol):
    """Rows of B series -> potentials on L latent coordinates."""

    def __call__(self, seen: Paths) -> Encoding: ...


class Decoder(Protocol):
    """x (n, B, T, L), content (B, C) -> mean (n, B, T, D), standard deviation that broadcasts with it."""

    def __call__(self, x: Tensor, content: Tensor) -> tuple[Tensor, Tensor]: ...


class LocalEncoder(Part):
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
        self.neighbours = neighbours
        self.network = mlp((6 * neighbours + 1) * dim, hidden, 2 * latent, depth)
        self.level = nn.Linear(dim, latent, bias=False)
        with torch.no_grad():  # the first coordinates start as the channels themselves
            self.level.weight.copy_(torch.eye(latent, dim))

    def forward(self, seen: Paths) -> Encoding:
        found = near(seen.t, seen.x, seen.mask, seen.t, self.neighbours)
        shift, raw = self.network(local_features(found)).chunk(2, -1)
        there = seen.mask.any(-1, keepdim=True)
        return Encoding(
            self.level(found.level) + shift,
            _precision(raw, there),
            seen.x.new_zeros(len(seen.x), 0),
        )


class LinearDecoder(Part):
    """mean = A x + b, with a standard deviation for every channel.

    Args:
        latent: L.
        dim: D.
    """

    def __init__(self, latent: int, dim: int):
        super().__init__()
        self.readout = nn.Linear(latent, dim)
        self.log_noise = nn.Parameter(torch.full((dim,), math.log(0.3) / QUICK))
        with torch.no_grad():
            self.readout.weight.copy_(torch.eye(dim, latent) + 0.1 * torch.randn(dim, latent))
            self.readout.bias.zero_()

    def forward(self, x: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        return self.readout(x), scale(self.log_noise)


class VideoEncoder(Part):
    """Potentials from frames by convolutions and a recurrent network in both directions of time; content from their mean.

    Args:
        size: pixels along each side.
        latent: L.
        content: C.
        features: numbers that describe a frame.
        channels: of the first convolution.
    """

    def __init__(
        self, size: int, latent: int, content: int = 64, features: int = 64, channels: int = 16
    ):
        super().__init__()
        self.size, self.content = size, content
        self.frames = FrameEncoder(size, features, channels)
        self.through = nn.GRU(features + 1, features, batch_first=True, bidirectional=True)
        self.place = nn.Linear(2 * features, 2 * latent)
        self.about = mlp(features, features, content, 1)

    def forward(self, seen: Paths) -> Encoding:
        there = seen.mask.any(-1, keepdim=True)
        known = there[..., 0]
        shown = self.frames(seen.x[known].view(-1, self.size, self.size))
        found = shown.new_zeros(*known.shape, shown.shape[-1])
        found[known] = shown
        both, _ = self.through(torch.cat([found, there.to(found.dtype)], -1))
        target, raw = self.place(both).chunk(2, -1)
        mean = found.sum(1) / there.sum(1).clamp(min=1)
        return Encoding(target, _precision(raw, there), self.about(mean))


class VideoDecoder(Part):
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
        self.frames = FrameDecoder(size, latent + content, channels)
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise) / QUICK))

    def forward(self, x: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        known = content[:, None].expand(*x.shape[:-1], content.shape[-1])
        shades = self.frames(torch.cat([x, known], -1)).sigmoid().flatten(-2)
        return shades, scale(self.log_noise)


def _precision(raw: Tensor, there: Tensor) -> Tensor:
    """Positive numbers from any, 1 from 0, and zero where nothing was seen."""
    return torch.exp(LARGEST_LOG * torch.tanh(raw / LARGEST_LOG)).where(there, 0.0)
