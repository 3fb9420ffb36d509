"""Videos of digits that move, bounce off the walls and are pushed about: generated, nothing is downloaded.

    dp = v dt + s dB_H,   p folded back into the canvas, v drawn anew at a wall

p is where a digit's centre of mass is, B_H fractional Brownian motion of unit variance at time 1, of its own on each axis
of each digit. Without pushes (s = 0) this is the stochastic moving digits of [1] with velocities from a continuous
law; with them and H other than 1/2, where a digit goes depends on all it did before.

[1] Denton & Fergus. Stochastic video generation with a learned prior. ICML 2018.
"""

import dataclasses
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Paths
from ..chance import seed
from ..errors import ConfigError
from ..maths.gaussian_paths import fractional_noise_paths
from .glyphs import draw, random_style

GLYPH = 28 / 64  # side of a digit's box, in sides of the canvas
VIDEOS_AT_ONCE = 32


class DigitScenes(NamedTuple):
    """What the videos show: digits, and where they are."""

    digit: Tensor  # (n, digits)  0 to 9
    picture: Tensor  # (n, digits, side, side)  of each, in [0, 1]
    position: Tensor  # (n, frames, digits, 2)  centre of mass, column and row in pixels from the upper left corner, float64


@dataclasses.dataclass(frozen=True)
class MovingDigits:
    """n videos as series of frames x (n, frames, size * size) in [0, 1], row after row, at times 0, dt, 2 dt, ...

    Digits add up to at most 1. Lengths are in sides of the canvas, and a digit's box is 28/64 of it; its centre of mass
    moves in the middle 36/64. The same seed gives the same videos, and torch's global generator is left alone.

    Args:
        n: videos.
        frames: of each.
        size: pixels along each side, 16 or more.
        digits: in each video.
        dt: time from frame to frame.
        speed: largest along each axis, per unit of time; 0.625 is 4 of 64 pixels in 0.1. Velocities are uniform up to it.
        bounce: at a wall, "random" draws velocity anew, away from the wall at a quarter of `speed` or more; "mirror"
            turns it round, as it does pushes.
        impulses: standard deviation of what pushes do in a unit of time.
        hurst: H of the pushes, in (0, 1): they keep on above 1/2 and take themselves back below.
        seed: of all that is drawn.
    """

    n: int = 256
    frames: int = 25
    size: int = 64
    digits: int = 2
    dt: float = 0.1
    speed: float = 0.625
    bounce: Literal["random", "mirror"] = "random"
    impulses: float = 0.0
    hurst: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        counts = min(self.n, self.frames, self.digits) >= 1 and self.size >= 16
        motion = self.dt > 0 and self.speed >= 0 and self.impulses >= 0 and 0 < self.hurst < 1
        if not (counts and motion and self.bounce in ("random", "mirror")):
            raise ConfigError(
                "X01",
                f"{self}",
                "n, frames and digits of at least 1, size of at least 16, dt > 0, speed and impulses >= 0, "
                'hurst in (0, 1), bounce "random" or "mirror"',
                "Change what lies outside",
            )

    @property
    def side(self) -> int:
        """Pixels along the box of a digit."""
        return round(GLYPH * self.size)

    @property
    def walls(self) -> tuple[float, float]:
        """The least and the largest coordinate of a position, in pixels."""
        return self.side / 2, self.size - self.side / 2

    def __call__(self) -> Paths:
        scenes = self.scenes()
        x = torch.empty(self.n, self.frames, self.size**2)
        for first in range(0, self.n, VIDEOS_AT_ONCE):
            some = slice(first, first + VIDEOS_AT_ONCE)
            video = render(scenes.picture[some], scenes.position[some], self.size)
            x[some] = video.flatten(2)
        t = (self.dt * torch.arange(self.frames, dtype=torch.float64)).float()
        return Paths(t.repeat(self.n, 1), x, torch.ones_like(x, dtype=torch.bool))

    def scenes(self) -> DigitScenes:
        """What the videos of this seed show."""
        with seed(self.seed, torch.device("cpu")):
            position = self._walk()
            digit = torch.randint(10, (self.n, self.digits))
            picture = draw(digit, random_style(self.n, self.digits), self.side)
        return DigitScenes(digit, picture, position)

    def positions(self) -> Tensor:
        """Centres of mass, column and row in pixels, without drawing anything: (n, frames, digits, 2)."""
        with seed(self.seed, torch.device("cpu")):
            return self._walk()

    def _walk(self) -> Tensor:
        """From a uniform place on: (n, frames, digits, 2), in pixels."""
        low, high = (wall / self.size for wall in self.walls)
        shape = (self.n, self.digits, 2)
        p = low + (high - low) * torch.rand(shape, dtype=torch.float64)
        v, sense = self._velocity(shape), torch.ones_like(p)
        pushes = self._pushes(shape)
        positions = [p]
        for push in pushes.unbind(-1):
            p, crossed = fold(p + self.dt * v + sense * push, low, high)
            turn = 1.0 - 2 * (crossed % 2)
            sense = sense * turn
            v = v * turn if self.bounce == "mirror" else self._bounced(v, crossed)
            positions.append(p)
        return self.size * torch.stack(positions, 1)

    def _pushes(self, shape: tuple[int, ...]) -> Tensor:
        """Between frames: (*shape, frames - 1)."""
        steps = self.frames - 1
        if steps == 0 or self.impulses == 0:
            return torch.zeros(*shape, steps, dtype=torch.float64)
        return self.impulses * fractional_noise_paths(self.hurst, steps, self.dt, shape)

    def _velocity(self, shape: tuple[int, ...]) -> Tensor:
        return self.speed * (2 * torch.rand(shape, dtype=torch.float64) - 1)

    def _bounced(self, v: Tensor, crossed: Tensor) -> Tensor:
        """Velocities (n, digits, 2) after a step that crossed walls; both axes are drawn anew where one of them did."""
        last = crossed + (crossed < 0)  # even where the last wall crossed was the lower one
        away = (1 - 2 * (last % 2)) * self.speed * (0.25 + 0.75 * torch.rand_like(v))
        anew = away.where(crossed != 0, self._velocity(v.shape))
        return anew.where((crossed != 0).any(-1, keepdim=True), v)


def fold(p: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Where a straight way to p ends between two mirrors, and how many of them it crossed: negative if downwards."""
    z = (p - low) / (high - low)
    return low + (high - low) * (1 - (1 - z % 2).abs()), z.floor()


def render(picture: Tensor, position: Tensor, size: int) -> Tensor:
    """Frames (n, T, size, size) with each picture's centre of mass at its position, shades added up to at most 1.

    Pictures shift by parts of a pixel in bilinear interpolation, which keeps mass and its centre exactly.

    Args:
        picture: (n, digits, side, side).
        position: (n, T, digits, 2), column and row in pixels from the upper left corner.
        size: pixels along each side of a frame.
    """
    corner = position - _centre(picture)[:, None]  # (n, T, digits, 2)
    columns, rows = _shift(corner, picture.shape[-1], size).unbind(3)  # (n, T, digits, size, side)
    wide = torch.einsum("ndij,ntdlj->ntdil", picture, columns)
    return torch.einsum("ntdki,ntdil->ntkl", rows, wide).clamp(max=1.0)


def _centre(picture: Tensor) -> Tensor:
    """Centre of mass (..., 2) of pictures (..., side, side), column and row, float64."""
    mass = picture.double()
    pixels = torch.arange(picture.shape[-1], dtype=torch.float64) + 0.5
    total = mass.sum((-2, -1))
    return torch.stack([mass.sum(-2) @ pixels, mass.sum(-1) @ pixels], -1) / total[..., None]


def _shift(by: Tensor, side: int, size: int) -> Tensor:
    """max(0, 1 - |i - j - by|), what pixel i of a frame takes of pixel j of a picture: (...) -> (..., size, side), float32."""
    i, j = torch.arange(size), torch.arange(side)
    apart = (i[:, None] - j).float() - by.float()[..., None, None]
    return (1 - apart.abs()).clamp(min=0.0)
