"""Convolutions from frames to features and back, for square frames of 8, 16, 32, 64, ... pixels along each side.

Sizes halve and double as in Radford, Metz & Chintala, Unsupervised representation learning with deep convolutional
generative adversarial networks, ICLR 2016; group norm (Wu & He, ECCV 2018) in place of batch norm, so that a frame's
features depend on that frame alone.
"""

from itertools import pairwise

from torch import Tensor, nn

from .errors import ConfigError

COARSEST = 4  # pixels along each side, where convolutions meet the linear layer
GROUPS = 4


class FrameEncoder(nn.Module):
    """Every frame as a vector: (..., size, size) -> (..., features).

    Args:
        size: pixels along each side, a power of 2 from 8 on.
        features: numbers that describe a frame.
        channels: after the first convolution, a multiple of 4; they double with each halving, up to fourfold.

    Raises:
        ConfigError: X01 for another size or other channels.
    """

    def __init__(self, size: int, features: int = 64, channels: int = 16):
        super().__init__()
        self.size = size
        widths = _widths(size, channels)
        layers = [m for a, b in pairwise([1, *widths]) for m in (_down(a, b), _norm(b), nn.SiLU())]
        flat = widths[-1] * COARSEST**2
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features))

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.net(frames.reshape(-1, 1, self.size, self.size))
        return features.reshape(*frames.shape[:-2], features.shape[-1])


class FrameDecoder(nn.Module):
    """A frame from every vector: (..., latent) -> (..., size, size), logits of the shades in [0, 1].

    Args:
        size: pixels along each side, a power of 2 from 8 on.
        latent: numbers that a frame is made from.
        channels: before the last convolution, as of `FrameEncoder`.

    Raises:
        ConfigError: X01 for another size or other channels.
    """

    def __init__(self, size: int, latent: int, channels: int = 16):
        super().__init__()
        self.size = size
        widths = _widths(size, channels)[::-1]
        first = nn.Linear(latent, widths[0] * COARSEST**2)
        layers = [m for a, b in pairwise(widths) for m in (_up(a, b), _norm(b), nn.SiLU())]
        self.net = nn.Sequential(
            first,
            nn.Unflatten(1, (widths[0], COARSEST, COARSEST)),
            _norm(widths[0]),
            nn.SiLU(),
            *layers,
            _up(widths[-1], 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.net(z.reshape(-1, z.shape[-1]))
        return logits.reshape(*z.shape[:-1], self.size, self.size)


def _widths(size: int, channels: int) -> list[int]:
    """Channels at sizes size / 2, size / 4, ..., 4."""
    if size < 2 * COARSEST or size & (size - 1) or channels < GROUPS or channels % GROUPS:
        raise ConfigError(
            "X01",
            f"frames of {size} x {size} pixels, {channels} channels",
            f"a power of 2 from {2 * COARSEST} on, and a multiple of {GROUPS}",
            "Crop or fill up the frames, or change the channels",
        )
    halvings = (size // COARSEST).bit_length() - 1
    return [channels * min(2**k, 4) for k in range(halvings)]


def _down(a: int, b: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 4, stride=2, padding=1)


def _up(a: int, b: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)
