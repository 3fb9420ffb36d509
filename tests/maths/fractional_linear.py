"""A linear equation with fractional noise, four observations of it, and their evidence by the chain."""

import torch

from tsdyn.maths.fractional_chain import (
    Linear,
    Potentials,
    chain,
    guide,
    log_evidence,
    motion,
)
from tsdyn.maths.grid import grid

T = 4.0
TIMES = torch.tensor([0.3, 0.9, 2.5, 4.0], dtype=torch.float64)
NOISE = 0.01


def linear(kappa=0.0, sigma=1.0, mean=0.0, std=0.0):
    return Linear(*(torch.tensor([v], dtype=torch.float64) for v in (kappa, sigma, mean, std)))


def potentials(steps, y, variance=NOISE):
    target = torch.zeros(len(steps.h) + 1, 1, 1, dtype=torch.float64)
    precision = torch.zeros_like(target)
    for stop, value in zip(steps.stops, y, strict=True):
        target[stop], precision[stop] = value, 1 / variance
    return Potentials(target, precision)


def evidence(approximation, law, y, times=TIMES, dt=None):
    steps = grid(times, dt, t0=0.0)
    moving = motion(approximation, steps)
    seen = potentials(steps, y)
    found = guide(chain(moving, law), seen)
    return log_evidence(found, seen.precision)[0]


def draws(seed=1):
    return torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
