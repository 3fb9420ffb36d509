"""Systematic draws against their definition."""

import torch

from tsdyn.maths.resample import systematic


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_equal_weights_give_every_row_once():
    for seed in range(50):
        drawn = systematic(torch.full((7,), 0.3), 7, generator(seed))
        assert drawn.sort().values.tolist() == list(range(7))


def test_counts_are_the_expected_ones_rounded():
    weights = torch.rand(50, generator=generator()) ** 3
    for seed in range(20):
        count = torch.bincount(systematic(weights, 333, generator(seed)), minlength=50)
        assert ((count - 333 * weights / weights.sum()).abs() < 1).all()


def test_the_mean_count_is_the_expected_one():
    weights, n, rounds = torch.tensor([0.0, 1.0, 2.0, 4.0, 0.0]), 3, 4000
    g = generator()
    counts = torch.stack(
        [torch.bincount(systematic(weights, n, g), minlength=5) for _ in range(rounds)]
    )
    error = counts.double().std(0) / rounds**0.5
    assert ((counts.double().mean(0) - n * weights / 7).abs() <= 4 * error).all()


def test_the_order_is_random():
    weights, g = torch.tensor([1.0, 1.0]), generator()
    first = torch.stack([systematic(weights, 10, g)[0] for _ in range(2000)]).double()
    assert abs(float(first.mean()) - 0.5) < 4 * 0.5 / 2000**0.5


def test_it_depends_on_the_generator_only():
    weights = torch.rand(20, generator=generator())
    assert torch.equal(systematic(weights, 9, generator(3)), systematic(weights, 9, generator(3)))
