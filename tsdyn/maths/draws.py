"""Draws on the generator's device, so that a CPU generator gives the same numbers on every device."""

import torch
from torch import Tensor


def uniform(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """In [0, 1), in the shape, dtype and on the device of `like`."""
    return _blank(like, generator).uniform_(generator=generator).to(like.device)


def exponential(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Of mean one, in the shape, dtype and on the device of `like`."""
    return _blank(like, generator).exponential_(generator=generator).to(like.device)


def poisson(mean: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Whole numbers of mean `mean`, in its shape and dtype."""
    device = mean.device if generator is None else generator.device
    return torch.poisson(mean.to(device), generator=generator).to(mean.device)


def choose(ladder: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Numbers with probabilities in the steps of `ladder` (..., n), which grows from zero: (...) long.

    The ladder is a cumulative sum of weights of any size; a step of zero is never chosen. Where all
    steps are zero the answer is n.
    """
    level = uniform(ladder[..., :1], generator) * ladder[..., -1:]
    # u < 1, and u times the top is below the top even when rounded
    return (ladder <= level).sum(-1)


def _blank(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like, device=like.device if generator is None else generator.device)
