"""Chance of one's own: torch's generators, seeded for a while and then put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seed(n: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, draws are those of seed n; outside, torch's generators go on as if nothing was drawn.

    `with tsdyn.seed(0): model = StableSDE(3)` makes the same first weights every time.

    Args:
        n: the seed.
        device: the device that draws besides the CPU; None for every GPU. A process of several
            should name its own, and leave those of others asleep.
    """
    every = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    cuda = every if device is None else [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(n)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(n)
        yield
