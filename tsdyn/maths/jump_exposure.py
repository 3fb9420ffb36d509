"""What complete paths of a jump process tell of its rates: how often it jumped, and how long it stayed.

Their likelihood is Π q_ij^{N_ij} e^{-q_ij R_i}: nothing else of the paths enters it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .jump_simulation import JumpPaths


class Exposure(NamedTuple):
    """All that complete paths say of rates; what `jump_likelihood.complete_rates` asks for."""

    N: Tensor  # (n, n)  jumps from row to column
    R: Tensor  # (n,)  time in each state


def exposure(paths: JumpPaths, states: int) -> Exposure:
    """N and R over all paths (..., K, 1 + J); the last dwell of each, which was cut off, counts as time only."""
    t, state = paths.t.flatten(0, -2), paths.state.flatten(0, -2)
    held = torch.cat([t[:, 1:], paths.end.flatten()[:, None]], 1) - t
    R = torch.zeros(states, dtype=torch.float64).index_add_(
        0, state.flatten(), held.flatten().double()
    )
    place = torch.arange(1, state.shape[1])
    real = place <= paths.jumps.flatten()[:, None]
    key = (state[:, :-1] * states + state[:, 1:])[real]
    return Exposure(key.bincount(minlength=states**2).view(states, states).double(), R)
