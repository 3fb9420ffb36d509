"""Handwritten digits from strokes: a pixel at distance d from the path of a pen of half-width w has the shade

    max(0, min(w, d + 1/2) - max(-w, d - 1/2)),

lengths in pixels: the part of it that the stroke covers.

A digit is a few lines and elliptic arcs in a frame of height 1, x to the right and y down, made higher, wider, slanted
and thicker by its style.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Point = tuple[float, float]

# height, width, slant, pen: of a picture of 28 pixels, 15 to 18 high and a stroke of 1.8 to 3.2
RANGES = ((15 / 28, 18 / 28), (0.8, 1.15), (-0.15, 0.35), (0.9 / 28, 1.6 / 28))


class Style(NamedTuple):
    """How digits are written: every field (...)."""

    height: Tensor  # of the middle of the stroke, in sides of the picture
    width: Tensor  # over that of the plain form
    slant: Tensor  # to the right, per height
    pen: Tensor  # half the thickness of the stroke, in sides of the picture


def random_style(*shape: int) -> Style:
    """Uniform on `RANGES`, from torch's generator: fields of this shape."""
    u = torch.rand(len(RANGES), *shape, dtype=torch.float64)
    return Style(*(low + (high - low) * each for (low, high), each in zip(RANGES, u, strict=True)))


def draw(digit: Tensor, style: Style, side: int) -> Tensor:
    """Pictures of digits 0 to 9, ink 1 on 0, the mean of the stroke in the middle: (...) -> (..., side, side), float32."""
    ends = (side * _styled(SEGMENTS[digit], style) + side / 2).float()  # (..., S, 2, 2)
    pixels = torch.arange(side, dtype=torch.float32) + 0.5
    grid = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), -1).flatten(0, 1)
    d = _distance(grid, ends).reshape(*digit.shape, side, side)
    w = (side * style.pen).float()[..., None, None]
    return (torch.minimum(w, d + 0.5) - torch.maximum(-w, d - 0.5)).clamp(min=0.0)


def _styled(segments: Tensor, style: Style) -> Tensor:
    """Segments (..., S, 2, 2) of the plain form, written in a style, their centre of mass at 0."""
    x, y = segments.unbind(-1)
    height, width, slant = (f[..., None, None] for f in style[:3])
    ends = height[..., None] * torch.stack([width * x - slant * y, y], -1)
    along = ends[..., 1, :] - ends[..., 0, :]
    length = along.square().sum(-1, keepdim=True).sqrt()
    centre = (length * ends.mean(-2)).sum(-2) / length.sum(-2)
    return ends - centre[..., None, None, :]


def _distance(points: Tensor, segments: Tensor) -> Tensor:
    """From each point (P, 2) to the nearest of segments (..., S, 2, 2): (..., P)."""
    x, y = points.unbind(-1)
    least = segments.new_full((*segments.shape[:-3], len(points)), torch.inf)
    # one at a time: all together would hold S times as much in memory
    for segment in segments.unbind(-3):
        start, along = segment[..., 0, :], segment[..., 1, :] - segment[..., 0, :]  # (..., 2)
        u, v = along[..., 0, None], along[..., 1, None]
        right, down = x - start[..., 0, None], y - start[..., 1, None]  # (..., P)
        # a segment of length 0, which only fills up, is its start
        share = ((right * u + down * v) / (u**2 + v**2).clamp(min=1e-12)).clamp(0.0, 1.0)
        least = torch.minimum(least, (right - share * u) ** 2 + (down - share * v) ** 2)
    return least.sqrt()


def _arc(x: float, y: float, a: float, b: float, first: float, last: float) -> list[Point]:
    """Of the ellipse of half-axes a, b about (x, y), from one angle to another: in degrees, clockwise from the right."""
    steps = max(2, round(abs(last - first) / 20))
    angles = [math.radians(first + (last - first) * k / steps) for k in range(steps + 1)]
    return [(x + a * math.cos(angle), y + b * math.sin(angle)) for angle in angles]


SIX = _arc(0.2, 0.2, 0.49, 0.7, -90, -180) + _arc(0.0, 0.2, 0.29, 0.3, 180, 540)

STROKES: list[list[list[Point]]] = [
    [_arc(0.0, 0.0, 0.3, 0.5, 0, 360)],
    [[(-0.17, -0.3), (0.03, -0.5), (0.03, 0.5)]],
    [[*_arc(0.0, -0.22, 0.29, 0.28, -170, 40), (-0.3, 0.5), (0.32, 0.5)]],
    [_arc(-0.02, -0.25, 0.28, 0.25, -150, 90) + _arc(-0.02, 0.25, 0.31, 0.25, -90, 150)],
    [[(0.12, 0.5), (0.12, -0.5), (-0.32, 0.2), (0.34, 0.2)]],
    [[(0.28, -0.5), (-0.22, -0.5), (-0.26, -0.06), *_arc(0.0, 0.18, 0.31, 0.32, -150, 145)]],
    [SIX],
    [[(-0.3, -0.5), (0.3, -0.5), (-0.08, 0.5)], [(-0.18, 0.08), (0.26, 0.08)]],
    [_arc(0.0, -0.26, 0.24, 0.24, 0, 360), _arc(0.0, 0.25, 0.3, 0.25, 0, 360)],
    [[(-x, -y) for x, y in SIX]],
]


def _segments() -> Tensor:
    """Both ends of the segments of every digit, the last one repeated up to the longest: (10, S, 2, 2)."""
    each = [[[a, b] for line in strokes for a, b in pairwise(line)] for strokes in STROKES]
    most = max(len(found) for found in each)
    still = [[found[-1][1]] * 2 for found in each]
    filled = [found + [end] * (most - len(found)) for found, end in zip(each, still, strict=True)]
    return torch.tensor(filled, dtype=torch.float64)


SEGMENTS = _segments()
