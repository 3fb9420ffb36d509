import pytest
import torch

import tsdyn


def test_the_same_seed_gives_the_same_draws_and_leaves_no_trace():
    before = torch.get_rng_state()
    with tsdyn.seed(3):
        first = torch.rand(4)
    with tsdyn.seed(3):
        second = torch.rand(4)
    with tsdyn.seed(4):
        third = torch.rand(4)
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert torch.equal(before, torch.get_rng_state())


def test_an_error_inside_leaves_no_trace_either():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), tsdyn.seed(0):
        torch.rand(4)
        raise ZeroDivisionError
    assert torch.equal(before, torch.get_rng_state())


def test_draws_on_the_device_are_seeded_too(device):
    draws = []
    for _ in range(2):
        with tsdyn.seed(1, torch.device(device)):
            draws.append(torch.rand(4, device=device))
    assert torch.equal(*draws)
