"""Oracles: dense points on the strokes, the length of an ellipse, and digits told apart by their nearest pictures."""

from itertools import pairwise

import pytest
import torch
from scipy.special import ellipe
from torch import Tensor
from torch.testing import assert_close

from tsdyn.data.glyphs import RANGES, SEGMENTS, STROKES, Style, draw, random_style


def middle_style(*shape: int) -> Style:
    return Style(*(torch.full(shape, (low + high) / 2).double() for low, high in RANGES))


def points(digit: int) -> Tensor:
    """Dense on the plain strokes, evenly on each straight piece: (P, 2)."""
    share = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None]
    lines = [torch.tensor(line, dtype=torch.float64) for line in STROKES[digit]]
    return torch.cat([a + share * (b - a) for line in lines for a, b in pairwise(line)])


@pytest.mark.parametrize("digit", range(10))
def test_shade_is_the_covered_part_at_the_distance_of_the_nearest_point(digit):
    style = Style(*(f[0] for f in random_style(1)))
    side = 32
    plain = points(digit)
    x = style.height * (style.width * plain[:, 0] - style.slant * plain[:, 1])
    path = side * torch.stack([x, style.height * plain[:, 1]], -1)
    pieces = path.unflatten(0, (-1, 400))
    lengths = (pieces[:, -1] - pieces[:, 0]).norm(dim=-1, keepdim=True)
    path = path - (lengths * pieces.mean(1)).sum(0) / lengths.sum() + side / 2
    pixels = torch.arange(side).double() + 0.5
    grid = torch.cartesian_prod(pixels, pixels).flip(-1)  # row after row, as (column, row)
    d, w = torch.cdist(grid, path).amin(1).view(side, side), side * style.pen
    covered = (torch.minimum(w, d + 0.5) - torch.maximum(-w, d - 0.5)).clamp(min=0)
    drawn = draw(torch.tensor(digit), style, side)
    # of the samples the nearest is up to 1/800 of a straight piece, 20 pixels at most, off the foot
    assert_close(drawn.double(), covered, rtol=0, atol=0.03)
    assert drawn.dtype == torch.float32 and drawn.max() == 1


def test_the_ink_of_a_zero_is_the_length_of_an_ellipse_times_the_thickness():
    """2 w L, exact for a smooth closed line; eighteen chords of an ellipse are 0.5 % shorter than it."""
    style, side = middle_style(1), 280
    a, b = style.width * 0.3, torch.tensor(0.5)
    assert style.slant.abs() < 0.11  # slanted by so little, an ellipse keeps its length within 2 %
    length = side * style.height * 4 * b * float(ellipe(1 - (a / b) ** 2))
    ink = draw(torch.tensor([0]), style, side).sum((-2, -1))
    assert_close(ink.double(), 2 * side * style.pen * length, rtol=0.03, atol=0)


def test_ink_stays_clear_of_the_edge():
    """Bilinear shifts spread ink by a pixel, and it must not reach beyond the walls of the canvas."""
    digit = torch.arange(10).repeat(300, 1)
    ink = draw(digit, random_style(300, 10), 28)
    rim = torch.ones(28, 28, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert (ink[..., rim] == 0).all() and (ink >= 0).all() and (ink <= 1).all()


def test_leading_dimensions_are_free():
    digit, style = torch.randint(10, (3, 4)), random_style(3, 4)
    every = draw(digit, style, 20)
    one = draw(digit[1, 2], Style(*(f[1, 2] for f in style)), 20)
    assert every.shape == (3, 4, 20, 20) and SEGMENTS.shape[0] == 10
    assert_close(every[1, 2], one)


@pytest.mark.parametrize("side, least", [(28, 0.99), (14, 0.99), (7, 0.97)])
def test_digits_are_told_apart_by_the_nearest_picture_in_the_middle_style(side, least):
    """Of 5000 in random styles 99.9 %, 99.9 % and 99.4 % at the three sizes."""
    templates = draw(torch.arange(10), middle_style(10), side).flatten(1)
    digit = torch.arange(10).repeat(200)
    asked = draw(digit, random_style(len(digit)), side).flatten(1)
    right = torch.cdist(asked, templates).argmin(1) == digit
    assert right.double().mean() >= least
