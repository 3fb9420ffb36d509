"""Oracles: centres of mass, conserved ink, folded straight lines, the law of a bounce, the Hurst index of pushes."""

import dataclasses
import math

import pytest
import torch
from scipy.ndimage import label
from torch import Tensor
from torch.testing import assert_close

from tsdyn.data.moving_digits import VIDEOS_AT_ONCE, MovingDigits, fold, render
from tsdyn.errors import ConfigError
from tsdyn.maths.hurst import hurst


def small(**fields) -> MovingDigits:
    return MovingDigits(**{"n": 6, "frames": 8, "size": 32, **fields})


def within(draws: Tensor, expected: float, errors: float = 4.5) -> None:
    """The mean of independent draws lies within so many of its standard errors of what is expected."""
    error = float(draws.std()) / math.sqrt(len(draws))
    assert abs(float(draws.mean()) - expected) <= errors * error


def video(source: MovingDigits) -> Tensor:
    """(n, frames, size, size)"""
    return source().x.unflatten(-1, (source.size, source.size))


# ---- what comes out


def test_gives_paths():
    source = small(frames=25, dt=0.2)
    t, x, mask, *rest = source()
    assert x.shape == mask.shape == (6, 25, 32 * 32) and mask.all()
    assert x.dtype == t.dtype == torch.float32 and rest == [None] * 5
    assert x.min() == 0 and 0.8 < x.max() <= 1
    assert_close(t, (0.2 * torch.arange(25).double()).float().expand(6, 25))


def test_seed_decides_everything_and_global_generator_nothing():
    source = small(impulses=0.2, hurst=0.8)
    state = torch.get_rng_state()
    first = source()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(source().x, first.x)
    assert not torch.equal(dataclasses.replace(source, seed=1)().x, first.x)
    assert torch.equal(source.positions(), source.scenes().position)
    assert len({tuple(x.tolist()) for x in first.x.flatten(1)}) == 6  # six different videos


@pytest.mark.parametrize(
    "bad",
    [
        {"n": 0},
        {"frames": 0},
        {"digits": 0},
        {"size": 15},
        {"dt": 0.0},
        {"speed": -1.0},
        {"impulses": -1.0},
        {"hurst": 1.0},
        {"bounce": "stop"},
    ],
)
def test_impossible_fields_are_named(bad):
    with pytest.raises(ConfigError, match="TSD-X01"):
        MovingDigits(**bad)


@pytest.mark.parametrize("frames", [1, 2])
def test_few_frames(frames):
    source = small(frames=frames, impulses=0.1)
    assert source().x.shape == (6, frames, 32 * 32) and source().x.isfinite().all()


# ---- frames


@pytest.mark.parametrize("size", [16, 20, 32, 64])
def test_the_centre_of_mass_of_a_single_digit_is_its_position(size):
    """And all of its ink is there, at the walls too."""
    source = MovingDigits(n=60, frames=12, size=size, digits=1, speed=2.0, impulses=0.5)
    scenes, frames = source.scenes(), video(source).double()
    pixels = torch.arange(size).double() + 0.5
    ink = frames.sum((-2, -1))
    assert_close(
        ink, scenes.picture.double().sum((-3, -2, -1))[:, None].expand(-1, 12), rtol=1e-5, atol=0
    )
    found = torch.stack([frames.sum(-2) @ pixels, frames.sum(-1) @ pixels], -1) / ink[..., None]
    assert_close(found, scenes.position[:, :, 0], rtol=0, atol=1e-4)


def test_a_shift_by_whole_pixels_is_a_copy_and_by_half_a_pixel_a_mean():
    picture = torch.rand(1, 1, 7, 7)
    picture[..., [0, -1]] = picture[..., [0, -1], :] = 0.0
    pixels = torch.arange(7).double() + 0.5
    mass = picture[0, 0].double()
    centre = torch.stack([mass.sum(0) @ pixels, mass.sum(1) @ pixels]) / mass.sum()
    corners = torch.tensor([[3.0, 5.0], [3.5, 5.0]]).double()
    whole, half = render(picture, (corners + centre).view(1, 2, 1, 2), 16)[0]
    copy = torch.zeros(16, 16)
    copy[5:12, 3:10] = picture[0, 0]
    assert_close(whole, copy, rtol=0, atol=1e-5)
    assert_close(half, (copy + copy.roll(1, 1)) / 2, rtol=0, atol=1e-5)


def test_digits_add_up_to_at_most_1():
    source = small(n=20, digits=3)
    scenes = source.scenes()
    alone = [render(scenes.picture[:, [k]], scenes.position[:, :, [k]], 32) for k in range(3)]
    total = torch.stack(alone).sum(0)
    assert (total > 1.2).any()  # where they cross
    assert_close(video(source), total.clamp(max=1), rtol=0, atol=1e-5)


def test_two_digits_apart_are_two_pieces_of_ink():
    source = MovingDigits(n=40, frames=10)
    apart = source.positions().diff(dim=2)[:, :, 0].abs().amax(-1) > source.side
    pieces = [label(frame > 0, torch.ones(3, 3))[1] for frame in video(source)[apart].numpy()]
    assert len(pieces) > 20 and set(pieces) == {2}


def test_parts_of_a_dataset_are_rendered_like_the_whole():
    source = small(n=VIDEOS_AT_ONCE + 3, frames=3)
    scenes = source.scenes()
    assert_close(video(source), render(scenes.picture, scenes.position, 32), rtol=0, atol=1e-6)


def test_every_digit_is_drawn_as_often():
    """Counts of 4000 draws, each binomial with p = 1/10."""
    count = MovingDigits(n=2000, frames=1, size=16).scenes().digit.flatten().bincount(minlength=10)
    assert (count - 400).abs().max() < 4.5 * math.sqrt(4000 * 0.1 * 0.9)


# ---- motion


@pytest.mark.parametrize("bounce", ["random", "mirror"])
def test_motion_stays_inside_the_walls_and_comes_to_them(bounce):
    source = MovingDigits(n=100, frames=100, speed=2.0, impulses=1.0, hurst=0.3, bounce=bounce)
    p, (low, high) = source.positions(), source.walls
    assert (low, high) == (14.0, 50.0)
    assert low <= p.min() < low + 0.1 and high - 0.1 < p.max() <= high


def test_starts_are_uniform_between_the_walls():
    p = MovingDigits(n=2000, frames=1).positions().flatten()
    within(p, 32.0)
    within((p - 32) ** 2, 36**2 / 12)


def test_fold_is_reflection_again_and_again():
    ways = 30 * torch.randn(200, dtype=torch.float64)
    places, crossed = fold(ways, 2.0, 5.0)
    for way, place, count in zip(ways.tolist(), places.tolist(), crossed.tolist()):
        mirrors, first = 0, math.copysign(1, way - 2)
        while not 2 <= way <= 5:
            mirrors += 1
            way = 10 - way if way > 5 else 4 - way
        assert math.isclose(way, place, abs_tol=1e-9) and count == first * mirrors


@pytest.mark.parametrize("index", [0.3, 0.8])
def test_mirrors_fold_the_free_path(index):
    """p(0) + v t + s B_H(t) folded; v from a first step too short for a wall, B_H from pushes too weak for one."""
    source = MovingDigits(n=20, frames=40, bounce="mirror", impulses=1.0, hurst=index, speed=1.0)
    still = dataclasses.replace(source, dt=1e-6, impulses=0.0, frames=2).positions()
    weak = dataclasses.replace(source, speed=0.0, impulses=1e-6).positions()
    v = still.diff(dim=1) / 1e-6
    pushes = (weak - weak[:, :1]) / 1e-6
    t = 0.1 * torch.arange(40).double()[:, None, None]
    free = weak[:, :1] + v * t + pushes
    assert (free < 14).any() and (free > 50).any()
    # differences of numbers near 50 known to 1e-14, over 1e-6
    assert_close(source.positions(), fold(free, *source.walls)[0], rtol=0, atol=1e-6)


def test_a_bounce_draws_a_velocity_away_from_the_wall():
    """Uniform on [1/4, 1] of the speed; between bounces the way is straight."""
    source = MovingDigits(n=300, frames=60, digits=1)
    p = source.positions()[:, :, 0]  # (300, 60, 2)
    step, most = p.diff(dim=1), 64 * 0.625 * 0.1
    assert step.abs().max() <= most + 1e-9
    straight = (step.diff(dim=1).abs() < 1e-9).all(-1)  # (300, 58)  steps k and k + 1 are alike
    low, high = source.walls
    found = []
    # steps k - 2 and k - 1 alike give the velocity before step k, steps k + 1 and k + 2 that after it
    for k in range(2, 57):
        aim = p[:, k] + step[:, k - 1]
        clean = straight[:, k - 2] & straight[:, k + 1]
        inside = ((aim >= low) & (aim <= high)).all(-1)
        assert (step[:, k] - step[:, k - 1])[clean & inside].abs().max() < 1e-9
        wall = (aim < low).double() - (aim > high).double()
        hit = clean[:, None] & (wall != 0)
        found.append((wall * step[:, k + 1])[hit] / most)
    away = torch.cat(found)
    assert len(away) > 500 and away.min() >= 0.25 - 1e-9 and away.max() <= 1 + 1e-9
    within(away, 0.625)
    within((away - 0.625) ** 2, 0.75**2 / 12)


@pytest.mark.parametrize("index", [0.25, 0.5, 0.8])
def test_pushes_are_fractional_noise(index):
    """Positions of one long video, far from walls: its Hurst index within 3 standard errors, and its scale.

    The scale is measured by the mean square of steps, (size s)² dt^2H, whose relative error for noise of correlation
    r(k) is sqrt(2 / N sum r(k)²); that sum is below 2 for H up to 1/2, and grows with N above 3/4.
    """
    source = MovingDigits(
        n=1, frames=4097, digits=1, size=16, speed=1e-5, impulses=1e-4, hurst=index
    )
    p = source.positions()[0, :, 0].T  # (2, 4097)
    low, high = source.walls
    assert low + 0.1 < p.min() and p.max() < high - 0.1
    estimate = hurst(p)
    assert (estimate.value - index).abs().max() < 3 * estimate.standard_error.max()
    assert estimate.standard_error.max() < 0.02
    if index <= 0.5:
        square = p.diff().square().mean(-1) / (16 * 1e-4 * 0.1**index) ** 2
        assert (square - 1).abs().max() < 4.5 * math.sqrt(2 * 2 / 4096)


def test_pushes_of_axes_and_digits_are_independent():
    source = MovingDigits(n=1, frames=4097, size=16, speed=0.0, impulses=1e-4)
    steps = source.positions()[0].diff(dim=0).flatten(1).T  # (4, 4096)
    apart = torch.corrcoef(steps) - torch.eye(4)
    assert apart.abs().max() < 4.5 / math.sqrt(4096)
