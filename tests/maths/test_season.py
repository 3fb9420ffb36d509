import math

import torch

from tsdyn.maths.season import find_period, seasonality


def rows(f, n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = (torch.rand(1, n, generator=generator, dtype=torch.float64) * 40).sort(1).values
    return t, f(t, generator)[..., None], torch.ones(1, n, 1, dtype=torch.bool)


def season(t, generator):
    wave = torch.sin(2 * math.pi * t / 4.0) + 0.5 * torch.cos(4 * math.pi * t / 4.0)
    return wave + 0.1 * t + 0.1 * torch.randn(t.shape, generator=generator, dtype=t.dtype)


def test_the_period_of_irregular_data_is_found_among_others():
    assert find_period(*rows(season), candidates=[1.0, 3.0, 4.0, 7.0]) == 4.0


def test_a_straight_line_has_ratio_four_and_no_season():
    line = rows(lambda t, _: t)
    assert abs(seasonality(*line, 4.0) - 4.0) < 1e-9
    assert find_period(*line, candidates=[1.0, 3.0, 4.0]) is None


def test_a_random_walk_has_ratio_two_on_average_and_no_season():
    def walk(t, generator):
        steps = t.diff(prepend=t[:, :1]).sqrt()
        return (steps * torch.randn(t.shape, generator=generator, dtype=t.dtype)).cumsum(1)

    ratios = torch.tensor([seasonality(*rows(walk, seed=s), 2.0) for s in range(30)])
    assert abs(ratios.mean() - 2) < 4 * ratios.std() / math.sqrt(30)
    assert sum(find_period(*rows(walk, seed=s), [2.0, 4.0]) is not None for s in range(30)) <= 1


def test_too_short_for_a_season():
    assert find_period(*rows(season), candidates=[20.0]) is None
